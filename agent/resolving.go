package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"

	"github.com/gridwire/gridwire/agent/config"
	"github.com/gridwire/gridwire/agent/resolver"
	"github.com/gridwire/gridwire/dns"
	"github.com/gridwire/gridwire/dns/osconf"
)

// resolving connects the name server with the machine's resolver.
type resolving struct {
	n     *node
	env   osconf.Env
	owner *resolver.Owner // nil: the machine's resolver is left alone
}

func newResolving(n *node, x *names) *resolving {
	log := n.log.With("part", "resolver")
	r := &resolving{n: n, env: osconf.System(log)}
	if n.cfg.DNS.Serve && n.cfg.DNS.Configure {
		r.owner = resolver.New(resolver.Config{
			Detect: func() (osconf.Manager, error) { return osconf.Detect(r.env) }, Helper: resolver.Reach(n.cfg.DNS.Helper), Forward: x.takeOver, Log: log,
		})
	}
	return r
}

func (r *resolving) run(ctx context.Context) error {
	if r.owner == nil {
		<-ctx.Done()
		return nil
	}
	return r.owner.Run(ctx)
}

// settle says where names are answered at the moment.
func (r *resolving) settle(here []netip.Addr) {
	if r.owner == nil {
		return
	}
	iface, err := net.InterfaceByName(r.n.cfg.Interface)
	if err != nil || len(here) == 0 {
		r.owner.Want(nil)
		return
	}
	r.owner.Want(&osconf.Settings{
		Interface: iface.Name, Index: iface.Index, Servers: here, Domain: r.n.root.Network.Domain,
		ReverseZones: dns.ReverseZones(overlayZones(r.n.root.Network)),
	})
}

// state is how it went; nothing where the machine's resolver is left alone.
func (r *resolving) state() resolver.State {
	if r.owner == nil {
		return resolver.State{}
	}
	return r.owner.State()
}

func (r *resolving) networkChanged() {
	if r.owner != nil {
		r.owner.NetworkChanged()
	}
}

// systemServers are those that this machine has without us.
func (r *resolving) systemServers() (out []netip.AddrPort) {
	for _, a := range osconf.Servers(r.env) {
		out = append(out, netip.AddrPortFrom(a, dnsPort))
	}
	return out
}

// restoreResolver puts back what an agent left that was killed. It comes before the interface is made: whose interface is there is alive.
func restoreResolver(ctx context.Context, cfg *config.Config, log *slog.Logger) {
	if !cfg.DNS.Serve || !cfg.DNS.Configure {
		return
	}
	done, err := osconf.Restore(ctx, osconf.System(log.With("part", "resolver")))
	for _, what := range done {
		log.Info("put back what a killed agent left", "what", what)
	}
	switch {
	case errors.Is(err, osconf.ErrRights): // the helper has them, and replaces what is there
		log.Debug("could not put back what a killed agent left", "err", err)
	case err != nil:
		log.Warn("could not put back all that a killed agent left", "err", err)
	}
}
