package links

import (
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/nat"
)

// roaming is the part of Core that reacts to changes of this node's own place in the internet.
type roaming struct{ *Core }

// networkChanged looks at every link anew: this machine's addresses, routes or links have changed.
func (c roaming) networkChanged(now time.Time) {
	c.natPending, c.natDeadline = true, now.Add(natGrace)
	for _, l := range c.links {
		if l.endpoint.IsValid() {
			// A fresh endpoint has no sticky source address: the one it had may be gone from this machine.
			c.do(SetEndpoint{Key: l.m.WireGuard, Endpoint: l.endpoint})
			c.life().doubt(l, now)
		}
		c.renew(l, now)
	}
}

// natChanged takes over how other members see this node. What it says is news in two ways.
//
// A session that was described without one of our mapped addresses cannot work between two NATs: the peer does not send there, so its
// router lets nothing of ours in. It starts anew with the address in its description. This happens at each join, where the first links
// are wanted before the first STUN answer, and to everybody who moves.
//
// And where there was another mapped address before, the router has a new one, so the links that go through it are in doubt.
func (c roaming) natChanged(r nat.Report, now time.Time) {
	before, cut := c.nat.Mapped, r.Type == nat.Blocked && c.nat.Type != nat.Blocked
	c.nat = r
	if len(r.Mapped) > 0 {
		c.natPending = false
	}
	fresh := slices.ContainsFunc(r.Mapped, func(a netip.AddrPort) bool { return !slices.Contains(before, a) })
	if r.Type == nat.EndpointDependent { // an address that only one member sees is of no use to others
		fresh = false
	}
	for _, l := range c.links {
		if cut && l.up { // nobody answers: what is at rest would be found dead within 25 s only, and be said to be well until then
			c.life().doubt(l, now)
		}
		switch {
		case l.ice.phase == iceHeld:
			if !c.natPending {
				c.ice().startICE(l, now)
			}
		case fresh:
			c.newlyMapped(l, len(before) > 0, now)
		}
	}
}

// newlyMapped deals with one link when this node has another mapped address; moved says that there was one before.
func (c roaming) newlyMapped(l *link, moved bool, now time.Time) {
	if l.up && moved {
		c.life().doubt(l, now)
	}
	switch {
	case l.peerNAT == nat.Open: // it lets our checks in, wherever they come from
	case l.ice.phase == iceNudged || l.ice.phase == iceSelected: // not described yet, or no longer needed
	case l.up && l.ice.phase == iceNone:
	default:
		c.renew(l, now)
	}
}

// renew is again for news about this node's addresses: a session that is just being described is no good either.
func (c roaming) renew(l *link, now time.Time) {
	l.ice.stale = l.ice.phase == iceStarting
	c.ice().again(l, now)
}

// locate asks how other members see this node, because a link that worked does not answer: the router may have a new address. Several
// links fail together, and one question is enough.
func (c roaming) locate(now time.Time) {
	if now.Sub(c.located) < locateEvery {
		return
	}
	c.located = now
	c.do(Locate{})
}
