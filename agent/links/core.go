package links

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
	"github.com/gridwire/gridwire/nat"
)

// Core is the state machine of all links. It is not safe for concurrent use: Runner owns it.
type Core struct {
	self mesh.NodeID
	boot uint64
	view *mesh.View
	nat  nat.Report
	// natPending says that nat is not known, or not since the network changed; what needs it waits until natDeadline.
	natPending  bool
	natDeadline time.Time
	located     time.Time // when Locate was asked last
	counted     time.Time // when the counters were read last
	links       map[mesh.NodeID]*link
	byKey       map[mesh.WGKey]*link
	lastGood    map[mesh.NodeID]netip.AddrPort
	extra       map[mesh.NodeID][]netip.Prefix // on top of AllowedIPs
	rand        *rand.Rand
	out         []Action
}

type link struct {
	m        *mesh.Member
	endpoint netip.AddrPort
	up       bool
	shown    State
	lostAt   time.Time // since when it is wanted or down
	took     time.Duration
	reason   string
	path     Path
	peerNAT  nat.Type
	peerBoot uint64 // the highest boot number heard of
	ice      iceState
	retry    retryState
	live     liveState
}

// NewCore returns a Core for this node with what is remembered of earlier runs. The seed spreads retries of different nodes.
func NewCore(self mesh.NodeID, boot uint64, lastGood map[mesh.NodeID]netip.AddrPort, seed uint64) *Core {
	c := &Core{
		self:       self,
		boot:       boot,
		natPending: true,
		links:      map[mesh.NodeID]*link{},
		byKey:      map[mesh.WGKey]*link{},
		lastGood:   map[mesh.NodeID]netip.AddrPort{},
		rand:       rand.New(rand.NewPCG(seed, boot)),
	}
	for id, ep := range lastGood {
		c.lastGood[id] = ep
	}
	return c
}

// Core's concerns, one type and one file each.
func (c *Core) ice() negotiation { return negotiation{c} }
func (c *Core) life() liveness   { return liveness{c} }
func (c *Core) roam() roaming    { return roaming{c} }

// Step takes one event and returns what is to be done about it, in order.
func (c *Core) Step(ev Event, now time.Time) []Action {
	c.out = nil
	switch ev := ev.(type) {
	case ViewChanged:
		c.viewChanged(ev.View, now)
	case SignalArrived:
		c.ice().signalArrived(ev, now)
	case SignalSent:
		c.ice().signalSent(ev)
	case SignalFailed:
		c.ice().signalFailed(ev, now)
	case ICEStarted:
		c.ice().iceStarted(ev, now)
	case ICESelected:
		c.ice().iceSelected(ev, now)
	case ICEFailed:
		c.ice().iceFailed(ev, now)
	case Counters:
		c.life().counters(ev, now)
	case ProbeAnswered:
		c.life().probeAnswered(ev, now)
	case ProbeHeard:
		c.life().probeHeard(ev, now)
	case NetworkChanged:
		c.roam().networkChanged(now)
	case NATChanged:
		c.roam().natChanged(ev.Report, now)
	case SignalPathChanged:
		c.signalPathChanged(now)
	case Wanted:
		c.wanted(ev.Peer, now)
	case Extra:
		c.prefixes().set(ev, now)
	case Tick:
	}
	for _, l := range c.links {
		c.life().tick(l, now)
	}
	return c.out
}

func (c *Core) do(a Action) { c.out = append(c.out, a) }

// controls reports whether this node makes the offers to the peer: the smaller node ID controls.
func (c *Core) controls(l *link) bool { return c.self.Compare(l.m.ID) < 0 }

func (c *Core) viewChanged(v *mesh.View, now time.Time) {
	c.view = v
	for id, l := range c.links {
		if _, ok := v.Member(id); !ok {
			c.drop(l)
		}
	}
	for m := range v.Peers() {
		l, ok := c.links[m.ID]
		switch {
		case !ok:
			c.add(m, now)
		case l.m != m:
			c.changed(l, m, now)
		}
	}
}

// add starts a link: the last good endpoint is tried at once, before and beside ICE, so that a restart is back in one round trip; a member
// that strangers can reach is tried at what it advertises.
func (c *Core) add(m *mesh.Member, now time.Time) {
	l := &link{m: m, lostAt: now, shown: Connecting, peerNAT: nat.Type(m.NAT), peerBoot: m.Boot}
	l.live.lastRx, l.live.lastTx = now, now
	c.links[m.ID] = l
	c.byKey[m.WireGuard] = l
	l.endpoint = c.guess(m)
	c.do(SetPeer{Key: m.WireGuard, Endpoint: l.endpoint, AllowedIPs: c.prefixes().allowed(m)})
	if l.endpoint.IsValid() {
		c.life().shake(l, now)
	}
	c.ice().attempt(l, now)
}

// guess returns an endpoint worth trying before anything was negotiated, or none.
func (c *Core) guess(m *mesh.Member) netip.AddrPort {
	if ep, ok := c.lastGood[m.ID]; ok {
		return ep
	}
	if m.Reachable && len(m.Endpoints) > 0 {
		return m.Endpoints[0]
	}
	return netip.AddrPort{}
}

// AllowedIPs returns the overlay prefixes that a member's packets may come from: its block and its IPv4 address.
func AllowedIPs(m *mesh.Member) []netip.Prefix {
	out := []netip.Prefix{m.Block}
	for _, a := range m.Addrs {
		if a.Is4() {
			out = append(out, netip.PrefixFrom(a, 32))
		}
	}
	return out
}

func (c *Core) drop(l *link) {
	c.do(Gone{Peer: l.m.ID, Volume: l.live.volume()})
	c.ice().closeICE(l)
	c.do(RemovePeer{Key: l.m.WireGuard})
	delete(c.links, l.m.ID)
	delete(c.byKey, l.m.WireGuard)
	delete(c.lastGood, l.m.ID)
	c.do(Remember{Peer: l.m.ID})
}

// changed takes over a member's new record or certificate.
func (c *Core) changed(l *link, m *mesh.Member, now time.Time) {
	old := l.m
	l.m = m
	if m.NAT != "" {
		l.peerNAT = nat.Type(m.NAT)
	}
	if old.WireGuard != m.WireGuard {
		c.do(RemovePeer{Key: old.WireGuard})
		delete(c.byKey, old.WireGuard)
		c.byKey[m.WireGuard] = l
		c.do(SetPeer{Key: m.WireGuard, Endpoint: l.endpoint, AllowedIPs: c.prefixes().allowed(m)})
		c.lost(l, "the peer has a new key", now)
		return
	}
	if !equal(AllowedIPs(old), AllowedIPs(m)) { // renewed by an issuer with another part of the IPv4 pool
		c.do(SetAllowedIPs{Key: m.WireGuard, AllowedIPs: c.prefixes().allowed(m)})
	}
	rebooted := m.Boot > old.Boot
	if rebooted {
		c.rebooted(l, m.Boot, now)
	}
	moved := !equal(old.Via, m.Via) || !equal(old.Endpoints, m.Endpoints) || old.Reachable != m.Reachable
	if !l.up && (moved || rebooted) {
		// An exchange that is on its way is left alone: ending it here would leave the other side in a session of its own.
		if l.ice.phase == iceNone || rebooted {
			c.ice().again(l, now)
		}
		if !l.endpoint.IsValid() && m.Reachable && len(m.Endpoints) > 0 {
			c.moveTo(l, m.Endpoints[0])
			c.life().shake(l, now)
		}
	}
}

func equal[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// rebooted notes that the peer's boot number rose. A peer whose clock went back (a box without a battery) is refused by our TAI64N
// memory of it for ever, so a link that does not answer now is forgotten and made anew by us. A link that works is left alone.
func (c *Core) rebooted(l *link, boot uint64, now time.Time) {
	if boot <= l.peerBoot {
		return
	}
	l.peerBoot = boot
	l.live.reset = true
	c.life().doubt(l, now)
}

func (c *Core) moveTo(l *link, ep netip.AddrPort) {
	if l.endpoint == ep {
		return
	}
	l.endpoint = ep
	c.do(SetEndpoint{Key: l.m.WireGuard, Endpoint: ep})
}

// signalPathChanged tries again what nobody could carry, and what is still being carried by way of somebody who may be gone: signalling
// waits for each of them.
func (c *Core) signalPathChanged(now time.Time) {
	for _, l := range c.links {
		switch l.ice.phase {
		case iceNone:
			if !l.up && !l.retry.iceFailed {
				c.ice().again(l, now)
			}
		case iceOffered, iceNudged:
			if !l.ice.carried {
				c.ice().again(l, now)
			}
		}
	}
}

func (c *Core) wanted(id mesh.NodeID, now time.Time) {
	l, ok := c.links[id]
	if !ok {
		return
	}
	if l.up {
		c.life().doubt(l, now)
		return
	}
	if l.ice.phase == iceNone {
		c.ice().again(l, now)
	}
}

// lost says that the link carries nothing any more.
func (c *Core) lost(l *link, why string, now time.Time) {
	if l.up {
		l.up = false
		l.live.figures.down(now)
		l.lostAt = now
		l.reason = why
		c.show(l, Connecting, now)
	}
	l.live.probing = false
	switch l.ice.phase {
	case iceStarting, iceOffered, iceNudged, iceChecking:
		// The peer has noticed it before us. What is on its way is as good as a new exchange, and ending it here would end it there.
	default:
		c.ice().again(l, now)
	}
}

func (c *Core) show(l *link, s State, _ time.Time) {
	if l.shown == s {
		return
	}
	l.shown = s
	c.do(Report{Peer: l.m.ID, Name: l.m.Name, State: s, Path: l.path, Reason: l.reason, Took: l.took})
}

// Next returns when Step(Tick) has work to do at the latest.
func (c *Core) Next(now time.Time) time.Time {
	next := now.Add(time.Minute)
	for _, l := range c.links {
		for _, t := range []time.Time{l.ice.deadline, l.retry.at, l.live.nextProbe, l.live.nextShake, l.live.judgeAt} {
			if !t.IsZero() && t.Before(next) {
				next = t
			}
		}
		if t := c.life().sampleAt(l); !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	return next
}

// Busy reports whether a link carries traffic or is in doubt, so that counters are worth reading more often.
func (c *Core) Busy(now time.Time) bool {
	for _, l := range c.links {
		if now.Sub(l.live.lastTx) < 5*time.Second || l.live.probing || !l.live.nextShake.IsZero() {
			return true
		}
	}
	return false
}

// Snapshot returns every link's state.
func (c *Core) Snapshot(now time.Time) map[mesh.NodeID]Status {
	out := make(map[mesh.NodeID]Status, len(c.links))
	for id, l := range c.links {
		out[id] = Status{
			Peer: id, State: l.shown, Path: l.path, Reason: l.reason,
			RTT: l.live.figures.rtt, LastHandshake: l.live.handshake,
			Volume: l.live.volume(), TimeToConnect: l.took, Pairs: l.ice.pairs, PeerNAT: l.peerNAT,
			Figures: l.measured(now),
		}
	}
	return out
}

func (l *link) measured(now time.Time) Figures {
	f := &l.live.figures
	losses := f.losses(now)
	return Figures{
		Loss: bestLoss(losses), Losses: losses, Jitter: f.jitter, RTTCounts: f.counts, RTTSum: f.sum, Minutes: f.minutes,
		LastHeard: l.live.heardAt, PathChanges: l.live.way.changes,
	}
}

func (c *Core) description(d nat.Description) *wire.Description {
	out := &wire.Description{Ufrag: d.Ufrag, Pwd: d.Pwd, Nat: string(c.nat.Type)}
	for _, cand := range d.Candidates {
		out.Candidates = append(out.Candidates, &wire.Candidate{Type: string(cand.Type), Address: wire.AddrPortBytes(cand.Addr), Priority: cand.Priority})
	}
	return out
}

// reflexive returns this machine's mapped addresses as candidates. They share the socket's one base, so their priority only has to stand
// below the host candidates' (RFC 8445, 5.1.2.2: type preference 100, local preference falling, component 1).
func (c *Core) reflexive() []nat.Candidate {
	var out []nat.Candidate
	for i, a := range c.nat.Mapped {
		out = append(out, nat.Candidate{Type: nat.ServerReflexive, Addr: a, Priority: 100<<24 | uint32(65535-i)<<8 | 255})
	}
	return out
}

// LastGood returns a copy of the endpoints that worked last.
func (c *Core) LastGood() map[mesh.NodeID]netip.AddrPort {
	out := make(map[mesh.NodeID]netip.AddrPort, len(c.lastGood))
	for id, ep := range c.lastGood {
		out[id] = ep
	}
	return out
}
