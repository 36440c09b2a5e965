package agent

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/agent/pmtu"
	"github.com/gridwire/gridwire/mesh"
)

// newPMTU finds out how large a packet each link carries, and puts that into force.
func (n *node) newPMTU(addr netip.Addr) *pmtu.Runner {
	f := &pathForce{n: n, told: map[netip.AddrPort]time.Time{}}
	return pmtu.New(pmtu.Config{
		Interface: n.cfg.Interface, Addr: addr, MTU: n.cfg.MTU, Links: n.pmtuLinks, Passed: n.passed, Apply: f.apply,
		Name: n.memberName, Log: n.log.With("part", "pmtu"),
	})
}

// passed changes when the tunnel carries anything.
func (n *node) passed() uint64 { return n.base.tun.Packets() + n.base.sock.Counters().WireGuard }

func (n *node) memberName(id mesh.NodeID) mesh.Name {
	if m, ok := n.dir.View().Member(id); ok {
		return m.Name
	}
	return mesh.Name(id.Short())
}

func (n *node) pmtuLinks(ctx context.Context) []pmtu.Link {
	table := n.links.Snapshot(ctx)
	out := make([]pmtu.Link, 0, len(table))
	for m := range n.dir.View().Peers() {
		s, ok := table[m.ID]
		if !ok {
			continue
		}
		out = append(out, pmtu.Link{
			Peer: m.ID, Addr: m.Addrs[0], Up: s.State == links.Connected, Local: s.Path.Local, Remote: s.Path.Remote, RTT: s.RTT,
			Sent: s.TxBytes, Heard: s.RxBytes,
		})
	}
	return out
}

// pathForce puts path MTUs into force: in routes, and in the socket for those that are too small for IPv6. It runs in one goroutine.
type pathForce struct {
	n      *node
	routes map[netip.Prefix]int
	small  map[netip.AddrPort]int
	told   map[netip.AddrPort]time.Time // when the kernel was told of a small path
	failed bool                         // and said so
}

func (f *pathForce) apply(paths map[mesh.NodeID]pmtu.Path) {
	routes, small := map[netip.Prefix]int{}, map[netip.AddrPort]int{}
	view := f.n.dir.View()
	for id, p := range paths {
		m, ok := view.Member(id)
		if !ok || p.MTU >= f.n.cfg.MTU {
			continue
		}
		for _, prefix := range append(links.AllowedIPs(m), f.n.extra.of(id)...) {
			routes[prefix] = p.MTU
		}
		// While a path is being looked for, nothing may be fragmented: it would hide what the path carries.
		if p.MTU < minInside && p.Settled {
			small[p.Remote] = p.MTU + wireguardOverhead
			f.tell(m, p)
		}
	}
	maps.DeleteFunc(f.told, func(ep netip.AddrPort, _ time.Time) bool { return small[ep] == 0 })
	if !maps.Equal(small, f.small) {
		f.small = small
		f.n.base.sock.Fragment(small)
	}
	if maps.Equal(routes, f.routes) {
		return
	}
	f.routes = routes
	err := f.n.router.PeerMTU(routes)
	if err != nil {
		f.routes = nil // tried again
	}
	if err != nil && !f.failed {
		f.n.log.Warn("could not limit packets to what their path carries; connections by small paths may stall", "err", err)
	}
	f.failed = err != nil
}

// tell makes the kernel know how to fragment what is sent to a peer: as a router would, from inside.
func (f *pathForce) tell(m *mesh.Member, p pmtu.Path) {
	now := time.Now()
	if now.Sub(f.told[p.Remote]) < tellEvery {
		return
	}
	f.told[p.Remote] = now
	four := p.Remote.Addr().Is4()
	family := func(a netip.Addr) bool { return a.Is4() == four }
	us, ok := f.n.dir.View().Me()
	if !ok || !slices.ContainsFunc(us.Addrs, family) || !slices.ContainsFunc(m.Addrs, family) || four && f.n.router.IPv4Off() != "" {
		return // routers fragment IPv4 themselves
	}
	from, to := m.Addrs[slices.IndexFunc(m.Addrs, family)], us.Addrs[slices.IndexFunc(us.Addrs, family)]
	underlay := p.MTU + wireguardOverhead + 8 + 20
	if !four {
		underlay = max(underlay+20, minInside)
	}
	if err := f.n.base.tun.Inject(pmtu.TooBig(from, to, f.n.base.tun.Port(), p.Remote, underlay)); err != nil {
		f.n.log.Debug("could not tell the kernel of a small path", "peer", m.Name, "err", err)
	}
}

const (
	minInside         = 1280             // what IPv6 promises everybody (RFC 8200, 5), in the tunnel and below it
	wireguardOverhead = 32               // header and tag of a transport message
	tellEvery         = 30 * time.Second // the kernel forgets it after ten minutes, or when its routes change
)
