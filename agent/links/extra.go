package links

import (
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// Extra brings the further prefixes that each peer's packets may come from and go to, on top of AllowedIPs: networks that a member
// routes, devices that it serves. It replaces the set before as a whole. No prefix is given to two peers: WireGuard gives it to one only.
// A peer that is no member (yet) gets its prefixes when it becomes one.
type Extra struct {
	Prefixes map[mesh.NodeID][]netip.Prefix
}

func (Extra) event() {}

// extras is the part of Core that knows which prefixes lead to which peer.
type extras struct{ *Core }

func (c *Core) prefixes() extras { return extras{c} }

// allowed returns all of a member's prefixes.
func (c extras) allowed(m *mesh.Member) []netip.Prefix {
	return append(AllowedIPs(m), c.extra[m.ID]...)
}

// set takes a new set over. Peers that gain a prefix come first: one that moves is then never without a peer, because WireGuard takes it
// from the peer that had it.
func (c extras) set(ev Extra, _ time.Time) {
	old := c.extra
	c.extra = make(map[mesh.NodeID][]netip.Prefix, len(ev.Prefixes))
	for id, ps := range ev.Prefixes {
		c.extra[id] = slices.Clone(ps)
	}
	var losing []*link
	for id, l := range c.links {
		was, is := old[id], c.extra[id]
		switch gains := slices.ContainsFunc(is, func(p netip.Prefix) bool { return !slices.Contains(was, p) }); {
		case gains:
			c.do(SetAllowedIPs{Key: l.m.WireGuard, AllowedIPs: c.allowed(l.m)})
		case !equal(was, is):
			losing = append(losing, l)
		}
	}
	for _, l := range losing {
		c.do(SetAllowedIPs{Key: l.m.WireGuard, AllowedIPs: c.allowed(l.m)})
	}
}
