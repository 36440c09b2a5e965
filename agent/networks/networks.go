// Package networks chooses through which member this node reaches each network behind members.
//
// A member's certificate says which prefixes it may route. For each the Chooser picks one member, because WireGuard gives a prefix to one
// peer: the reachable one with the lowest round trip time, with some patience before it changes a choice that works. It is pure: what is
// known comes in, a Plan goes out; no socket, clock, goroutine or log.
//
// What it never does: shadow a network of this machine's own. Where two farmers both have 192.168.1.0/24, each goes on reaching his own,
// and neither believes the other's packets that claim to come from it. And while no member reaches a network, packets to it do
// not go elsewhere: they would end up at a stranger on whatever network this machine is in.
package networks

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// A choice that works is given up for one whose RTT has been lower by a quarter, and by 2 ms, for 3 s. Smaller differences are noise,
// and a change breaks the connections that go through it.
const (
	patience  = 3 * time.Second
	lowerBy   = 4 // a quarter
	lowerThan = 2 * time.Millisecond
)

// Router is another member that may route prefixes, and how this node reaches it.
type Router struct {
	ID        mesh.NodeID
	Prefixes  []netip.Prefix
	Reachable bool
	RTT       time.Duration // 0: not measured yet
}

// Foreign is a route of this machine's that is none of ours.
type Foreign struct {
	Prefix netip.Prefix
	Device string
}

// Input is what a choice depends on.
type Input struct {
	Routers []Router
	Own     []netip.Prefix // what this node's certificate says it may route
	Foreign []Foreign
	NoIPv4  bool // this node has no IPv4 address in the overlay
}

// State of a network as this node sees it.
type State string

// The states.
const (
	Active      State = "active"      // packets go to Via
	Unreachable State = "unreachable" // no member that routes it is reachable; packets to it are held back
	Local       State = "local"       // this machine reaches the prefix, or all of it, without the overlay
	Off         State = "off"         // of a family that this node has no overlay address in
)

// Network is one prefix behind members.
type Network struct {
	Prefix  netip.Prefix
	State   State
	Via     mesh.NodeID   // zero: none
	Routers []mesh.NodeID // all that may route it, the better first
	Reason  string        // why it is not active
}

// Plan is what to do.
type Plan struct {
	Peers    map[mesh.NodeID][]netip.Prefix // what WireGuard is to send to, and take from, whom
	Routes   []netip.Prefix                 // what is to be routed into the tunnel; sorted
	Networks []Network                      // sorted by prefix
	Watch    bool                           // a network has several routers: look again as RTTs change
}

// Chooser remembers its choices.
type Chooser struct{ chosen map[netip.Prefix]*choice }

type choice struct {
	via        mesh.NodeID
	rival      mesh.NodeID // who has been better
	rivalSince time.Time
}

// New returns a Chooser that has chosen nothing.
func New() *Chooser { return &Chooser{chosen: map[netip.Prefix]*choice{}} }

// Step chooses anew.
func (c *Chooser) Step(in Input, now time.Time) Plan {
	by := byPrefix(in.Routers)
	for p := range c.chosen {
		if by[p] == nil {
			delete(c.chosen, p)
		}
	}
	plan := Plan{Peers: map[mesh.NodeID][]netip.Prefix{}}
	for _, p := range sorted(by) {
		routers := by[p]
		n := Network{Prefix: p}
		for _, r := range routers {
			n.Routers = append(n.Routers, r.ID)
		}
		pieces, why := in.remaining(p)
		switch {
		case p.Addr().Is4() && in.NoIPv4:
			n.State, n.Reason = Off, "IPv4 is off on this machine"
		case len(pieces) == 0:
			n.State, n.Reason = Local, why
		default:
			n.Via = c.choose(p, routers, now)
			n.State = Active
			plan.Watch = plan.Watch || len(routers) > 1
			plan.Routes = append(plan.Routes, p)
			if !routers[0].Reachable { // the reachable come first
				n.State, n.Reason = Unreachable, "no member that routes it is reachable"
			}
			if n.State == Unreachable && covered(p, by, in) {
				n.Via, n.Reason = mesh.NodeID{}, n.Reason+"; a member that routes a larger prefix takes its packets"
			} else {
				plan.Peers[n.Via] = append(plan.Peers[n.Via], pieces...)
			}
		}
		plan.Networks = append(plan.Networks, n)
	}
	return plan
}

// byPrefix returns who routes each prefix, the better first. Default routes are left out: no member may draw all of this machine's traffic.
func byPrefix(routers []Router) map[netip.Prefix][]Router {
	out := map[netip.Prefix][]Router{}
	for _, r := range routers {
		for _, p := range r.Prefixes {
			if p.IsValid() && p.Bits() > 0 && p == p.Masked() && !p.Addr().Is4In6() && !slices.ContainsFunc(out[p], r.same) {
				out[p] = append(out[p], r)
			}
		}
	}
	for _, rs := range out {
		slices.SortFunc(rs, better)
	}
	return out
}

func (r Router) same(o Router) bool { return r.ID == o.ID }

// better orders by reachability, RTT (not measured: last) and, so that all nodes choose alike, ID.
func better(a, b Router) int {
	switch {
	case a.Reachable != b.Reachable && a.Reachable:
		return -1
	case a.Reachable != b.Reachable:
		return 1
	}
	return cmp.Or(cmp.Compare(a.rtt(), b.rtt()), a.ID.Compare(b.ID))
}

func (r Router) rtt() time.Duration {
	if r.RTT == 0 {
		return time.Hour
	}
	return r.RTT
}

func (c *Chooser) choose(p netip.Prefix, routers []Router, now time.Time) mesh.NodeID {
	best := routers[0]
	was, ok := c.chosen[p]
	if !ok {
		c.chosen[p] = &choice{via: best.ID}
		return best.ID
	}
	i := slices.IndexFunc(routers, func(r Router) bool { return r.ID == was.via })
	switch {
	case i < 0, best.Reachable && !routers[i].Reachable: // gone, or down
		*was = choice{via: best.ID}
	case !best.Reachable, best.ID == was.via, !clearly(best, routers[i]):
		was.rival = mesh.NodeID{}
	case was.rival.IsZero(): // whoever is the best from now on: two that are alike take turns at it
		was.rival, was.rivalSince = best.ID, now
	case now.Sub(was.rivalSince) >= patience:
		*was = choice{via: best.ID}
	}
	return was.via
}

// clearly reports whether a is worth a change from b.
func clearly(a, b Router) bool {
	gain := b.rtt() - a.rtt()
	return gain >= lowerThan && gain >= b.rtt()/lowerBy
}

// covered reports whether a larger prefix around p has a router that is reachable.
func covered(p netip.Prefix, by map[netip.Prefix][]Router, in Input) bool {
	for q, routers := range by {
		if q.Bits() < p.Bits() && q.Contains(p.Addr()) && routers[0].Reachable {
			pieces, _ := in.remaining(q)
			return len(pieces) > 0
		}
	}
	return false
}

// remaining returns p without what is this machine's own. If nothing remains, it says why.
func (in Input) remaining(p netip.Prefix) (pieces []netip.Prefix, why string) {
	holes := slices.Clone(in.Own)
	for _, own := range in.Own {
		if own.Bits() <= p.Bits() && own.Contains(p.Addr()) {
			why = "this node routes it itself"
		}
	}
	for _, f := range in.Foreign {
		if f.Prefix.Bits() == 0 {
			continue
		}
		holes = append(holes, f.Prefix)
		if why == "" && f.Prefix.Bits() <= p.Bits() && f.Prefix.Contains(p.Addr()) {
			why = fmt.Sprintf("this machine has a network of its own there: %v on %s", f.Prefix, f.Device)
		}
	}
	pieces = Without(p, holes)
	if len(pieces) == 0 && why == "" {
		why = "this machine has networks of its own there"
	}
	return pieces, why
}

// Without returns the prefixes that make up p except for the holes.
func Without(p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	var inside []netip.Prefix
	for _, h := range holes {
		if !h.IsValid() || !h.Overlaps(p) {
			continue
		}
		if h.Bits() <= p.Bits() {
			return nil
		}
		inside = append(inside, h)
	}
	if len(inside) == 0 {
		return []netip.Prefix{p}
	}
	low, high := halves(p)
	return append(Without(low, inside), Without(high, inside)...)
}

// halves splits a prefix that is not a single address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits()
	b := p.Addr().AsSlice()
	low = netip.PrefixFrom(p.Addr(), bits+1)
	b[bits/8] |= 0x80 >> (bits % 8)
	a, _ := netip.AddrFromSlice(b)
	return low, netip.PrefixFrom(a, bits+1)
}

func sorted(by map[netip.Prefix][]Router) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(by))
	for p := range by {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return out
}
