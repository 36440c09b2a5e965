package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/dns/osconf"
)

// Resolver is what the check of names looks at; tests hand in another one.
type Resolver struct {
	Manager func() (string, error)                                  // what is in charge of names on this machine
	Left    func() []string                                         // what killed agents left
	Restore func(context.Context) error                             // puts that back
	Ask     func(ctx context.Context, server, name string) []string // asks our server itself; returns addresses
	// Lookup asks as programs of this machine do, by way of the C library; an error says that this cannot be tried here.
	Lookup func(ctx context.Context, name string) ([]string, error)
	Helper func() bool // whether the root helper's unit is installed
	Run    func(ctx context.Context, name string, args ...string) (string, error)
	Pause  time.Duration // before what was not well is looked at again: the agent may have just started
}

const (
	looks       = 3
	lookupLimit = 6 * time.Second // glibc asks each server for up to 5 s
	helperUnit  = "gridwire-resolver.socket"
)

// SystemResolver is this machine's.
func SystemResolver(m Machine) Resolver {
	env := osconf.System(slog.New(slog.DiscardHandler))
	return Resolver{
		Manager: func() (string, error) {
			mgr, err := osconf.Detect(env)
			if err != nil {
				return "", err
			}
			return mgr.Name(), nil
		},
		Left: func() []string { return osconf.Left(env) },
		Restore: func(ctx context.Context) error {
			_, err := osconf.Restore(ctx, env)
			return err
		},
		Ask: askServer,
		Lookup: func(ctx context.Context, name string) ([]string, error) {
			out, err := m.Run(ctx, "getent", "ahosts", name)
			if err != nil && strings.TrimSpace(out) == "" && !isExit(err) {
				return nil, err
			}
			var addrs []string
			for line := range strings.Lines(out) {
				if f := strings.Fields(line); len(f) > 0 {
					addrs = append(addrs, f[0])
				}
			}
			return addrs, nil
		},
		Helper: func() bool {
			_, err := m.Run(context.Background(), "systemctl", "cat", helperUnit)
			return err == nil
		},
		Run: m.Run, Pause: time.Second,
	}
}

// isExit reports that a program ran and said no, which getent does for a name that is not found.
func isExit(err error) bool {
	var e interface{ ExitCode() int }
	return errors.As(err, &e) && e.ExitCode() > 0
}

// askLimit is for a server on this very machine: what it does not answer at once, a firewall drops.
const askLimit = 2 * time.Second

func askServer(ctx context.Context, server, name string) []string {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(server, "53"))
	}}
	addrs, _ := r.LookupNetIP(ctx, "ip6", name+".")
	var out []string
	for _, a := range addrs {
		out = append(out, a.Unmap().String())
	}
	return out
}

// Names checks that the network's names are answered, and that programs of this machine find them. status is the running agent's, nil without
// one; names asks it how names are.
func (r Resolver) Names(ctx context.Context, status *api.Status, names func(context.Context) *api.Names) []Result {
	for look := 1; ; look++ {
		n := names(ctx)
		if status == nil || n == nil || status.Network == nil {
			return []Result{r.idle()}
		}
		out := []Result{r.answers(ctx, status, n), r.finds(ctx, status, n)}
		well := !slices.ContainsFunc(out, func(r Result) bool { return r.Grade != OK })
		if well || look == looks || ctx.Err() != nil {
			return out
		}
		select {
		case <-time.After(r.Pause):
		case <-ctx.Done():
		}
	}
}

// idle is for a machine where no agent runs.
func (r Resolver) idle() Result {
	out := Result{Topic: "resolver"}
	if left := r.Left(); len(left) > 0 {
		out.Fix = r.Restore
		return fail(out, Warn, "a killed agent left its settings: "+strings.Join(left, "; "), "gridwire doctor --fix, as root, puts everything back; so does the agent when it starts")
	}
	manager, err := r.Manager()
	if err != nil {
		return fail(out, Warn, err.Error(), "")
	}
	out.Grade, out.Finding = OK, manager+" is in charge of names; nothing of gridwire's is left there"
	return out
}

// answers asks this node's own name server for this node.
func (r Resolver) answers(ctx context.Context, status *api.Status, names *api.Names) Result {
	out := Result{Topic: "names"}
	if !names.Serve {
		out.Grade, out.Finding = OK, "are not answered on this machine, as the configuration says"
		return out
	}
	if len(names.Serving) == 0 {
		return fail(out, Bad, "are not answered: another DNS server has port 53 of all addresses",
			"ss -lnp sport = :53 says who; let it listen on its own addresses only")
	}
	self := status.Self.Name + "." + names.Domain
	for _, server := range names.Serving {
		if !contains(r.Ask(ctx, server, self), status.Self.Addresses) {
			return fail(out, Bad, fmt.Sprintf("%s does not answer for %s", server, self), "a firewall on this machine may drop port 53 on "+status.Self.Interface)
		}
	}
	out.Grade, out.Finding = OK, fmt.Sprintf("of %s are answered on %s", names.Domain, strings.Join(names.Serving, " and "))
	if len(names.LeftOut) > 0 {
		return fail(out, Warn, out.Finding+"; left out: "+strings.Join(names.LeftOut, "; "), "")
	}
	return out
}

// finds asks as a program does.
func (r Resolver) finds(ctx context.Context, status *api.Status, names *api.Names) Result {
	out := Result{Topic: "resolver"}
	switch {
	case !names.Serve:
		out.Grade, out.Finding = OK, "is left alone"
		return out
	case !names.Configure:
		out.Grade, out.Finding = OK, "is left alone, as the configuration says; names have to be asked for at "+strings.Join(names.Serving, " or ")
		return out
	case !names.Configured:
		return r.unconfigured(out, names)
	}
	self := status.Self.Name + "." + names.Domain
	lctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	found, err := r.Lookup(lctx, self)
	switch {
	case err != nil:
		out.Grade, out.Finding = OK, fmt.Sprintf("%s asks this node for %s", names.Resolver, names.Domain)
	case !contains(found, status.Self.Addresses):
		return fail(out, Warn, fmt.Sprintf("%s was told to ask this node for %s, but `getent ahosts %s` finds %q", names.Resolver, names.Domain, self, found),
			"see what else is in `hosts:` of /etc/nsswitch.conf, and whether nscd runs")
	default:
		out.Grade, out.Finding = OK, fmt.Sprintf("%s asks this node for %s, and programs find %s", names.Resolver, names.Domain, self)
	}
	return out
}

func (r Resolver) unconfigured(out Result, names *api.Names) Result {
	if strings.Contains(names.Reason, osconf.ErrRights.Error()) {
		remedy := "make install brings the helper that may do it; or run the agent as root"
		if r.Helper() {
			remedy = "systemctl enable --now " + helperUnit
			out.Fix = func(ctx context.Context) error {
				_, err := r.Run(ctx, "systemctl", "enable", "--now", helperUnit)
				return err
			}
		}
		return fail(out, Warn, "programs do not find the network's names: "+names.Reason, remedy)
	}
	reason := names.Reason
	if reason == "" {
		reason = "it has not been told yet"
	}
	return fail(out, Warn, "programs do not find the network's names: "+reason, "")
}

// contains reports whether one of the addresses is among own, which are written with their length.
func contains(addrs, own []string) bool {
	for _, a := range addrs {
		for _, o := range own {
			if p, err := netip.ParsePrefix(o); err == nil && p.Addr().String() == a {
				return true
			}
		}
	}
	return false
}
