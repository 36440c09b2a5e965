package links

import (
	"net/netip"
	"time"

	"github.com/gridwire/gridwire/nat"
)

// liveState is what is known about a link from counters and probes.
type liveState struct {
	now, base      Volume // the tunnel's counters as last read, and what earlier peers of the same member had counted in this run
	lastRx, lastTx time.Time
	unanswered     time.Time // since when something was sent and nothing heard; zero: not so
	handshake      time.Time

	probing   bool // in doubt
	misses    int
	nextProbe time.Time // when the newest probe counts as missed
	seq       uint32
	sent      [8]outstanding
	reset     bool // the peer rebooted: forget our memory of it if it does not answer

	nextShake time.Time
	shakes    int

	figures  figures
	tally    tally
	sampling sampling
	judgeAt  time.Time // when the next probe may be judged lost; zero: none is outstanding
	heardAt  time.Time // the newest sign of life; zero: none yet
	way      way
}

// way is the address by which a link works, and how often that has become another one.
type way struct {
	addr    netip.AddrPort
	changes uint64
}

// volume is what the link has carried in this run.
func (s *liveState) volume() Volume { return s.base.plus(s.now) }

// outstanding is a probe that was sent.
type outstanding struct {
	seq    uint32
	at     time.Time // zero: answered
	rx     uint64    // bytes received until then
	counts bool      // its fate is still to be judged; one that was sent to make a session says nothing about the link's quality
}

// liveness is the part of Core that judges links: probes, counters, handshakes.
type liveness struct{ *Core }

// probe sends one echo request; its answer, or its absence, is judged by tick.
func (c liveness) probe(l *link, now time.Time) {
	s := &l.live
	if s.seq == 0 {
		s.seq = c.rand.Uint32() // an answer to an earlier run's probe must not fit
	}
	s.seq++
	o := &s.sent[s.seq%uint32(len(s.sent))]
	if o.counts {
		c.judgeLost(l, o, now)
	}
	*o = outstanding{seq: s.seq, at: now, rx: s.volume().RxBytes, counts: l.up}
	if o.counts {
		s.judgeBy(now.Add(lossAfter))
	}
	c.do(Probe{Peer: l.m.ID, Addr: l.m.Addrs[0], Seq: s.seq, Told: s.tally.take()})
	s.sampled(now)
	s.nextProbe = now.Add(max(probeInterval, s.figures.rtt*3/2+50*time.Millisecond))
}

// doubt starts probing a link at short intervals until it answers or is lost.
func (c liveness) doubt(l *link, now time.Time) {
	if !l.endpoint.IsValid() || l.live.probing {
		return
	}
	l.live.probing = true
	l.live.misses = 0
	c.probe(l, now)
}

// shake sends an initiation and a probe behind it, and repeats that until the link is up or the tries are used up.
func (c liveness) shake(l *link, now time.Time) {
	l.live.shakes++
	c.do(Handshake{Key: l.m.WireGuard})
	c.probe(l, now)
	l.live.nextProbe = time.Time{} // nextShake is the timer here
	// Longer each time: an initiation abandons the one before, and its answer may still be on its way (a satellite).
	l.live.nextShake = now.Add(handshakeRetry<<min(l.live.shakes-1, 3) + l.live.figures.rtt)
}

func (c liveness) probeAnswered(ev ProbeAnswered, now time.Time) {
	l, ok := c.links[ev.Peer]
	if !ok {
		return
	}
	o := &l.live.sent[ev.Seq%uint32(len(l.live.sent))]
	if o.seq != ev.Seq || o.at.IsZero() {
		return // not ours, or answered already
	}
	at := ev.At
	if at.IsZero() {
		at = now
	}
	if o.counts { // else the answer includes the handshake, or comes too late
		l.live.figures.answered(at.Sub(o.at), now)
		l.live.tally.own.Probed++
		l.live.tally.own.RTT = at.Sub(o.at)
	}
	o.at, o.counts = time.Time{}, false
	l.live.lastRx, l.live.lastTx, l.live.heardAt = now, now, now
	l.live.unanswered = time.Time{}
	l.live.probing, l.live.misses, l.live.reset = false, 0, false
	l.live.nextProbe = time.Time{}
	l.live.nextShake, l.live.shakes = time.Time{}, 0
	if !l.up {
		l.up = true
		l.took = now.Sub(l.lostAt)
		l.reason = ""
		if l.ice.phase == iceNone {
			l.retry = retryState{}
		}
		c.settle(l)
		c.probe(l, now) // for an RTT without the handshake in it
	}
	l.live.way.goes(l.path.Remote)
	c.show(l, Connected, now)
}

// goes notes by which address the link works now; an invalid one says nothing.
func (w *way) goes(addr netip.AddrPort) {
	if !addr.IsValid() {
		return
	}
	if w.addr.IsValid() && addr != w.addr {
		w.changes++
	}
	w.addr = addr
}

// settle notes by which endpoint the link works.
func (c liveness) settle(l *link) {
	if !l.endpoint.IsValid() {
		return
	}
	if l.path.Remote != l.endpoint {
		l.path = Path{Kind: "direct", Local: l.path.Local, Remote: l.endpoint, LocalType: nat.Host, RemoteType: c.typeOf(l)}
	}
	if c.lastGood[l.m.ID] != l.endpoint {
		c.lastGood[l.m.ID] = l.endpoint
		c.do(Remember{Peer: l.m.ID, Endpoint: l.endpoint})
	}
}

// typeOf says what kind of address the peer's endpoint is, where ICE has not said so.
func (c liveness) typeOf(l *link) nat.CandidateType {
	for _, a := range l.m.LAN {
		if a == l.endpoint {
			return nat.Host
		}
	}
	for _, a := range l.m.Endpoints {
		if a == l.endpoint && l.peerNAT == nat.Open {
			return nat.Host
		}
	}
	return nat.ServerReflexive
}

func (c liveness) probeHeard(ev ProbeHeard, now time.Time) {
	l, ok := c.links[ev.Peer]
	if !ok {
		return
	}
	l.live.heardAt = now
	if ev.Tells { // else it measures nothing for us: somebody's ping, which must not keep us from probing
		l.live.sampled(now)
		l.live.tally.hear(ev.Told, &l.live.figures, now)
	}
	if l.up {
		return
	}
	if !l.endpoint.IsValid() {
		c.do(Count{}) // WireGuard has learned where the peer is, and a link that is up without a path would puzzle everybody
	}
	c.probe(l, now) // it has a session with us: this will tell whether the way back works
}

func (c liveness) counters(ev Counters, now time.Time) {
	defer func() { c.counted = now }()
	for key, p := range ev.Peers {
		l, ok := c.byKey[key]
		if !ok {
			continue
		}
		c.count(l, p, now)
	}
}

func (c liveness) count(l *link, p PeerCounters, now time.Time) {
	s := &l.live
	if p.fell(s.now) { // the peer was removed and added
		s.base, s.now = s.base.plus(s.now), Volume{}
	}
	heard, sent := p.RxBytes > s.now.RxBytes, p.TxBytes > s.now.TxBytes && p.TxBytes-s.now.TxBytes != keepaliveSize
	s.now = p.Volume
	s.handshake = p.LastHandshake
	if heard {
		s.lastRx, s.heardAt = now, now
		s.unanswered = time.Time{}
		if l.shown == Idle {
			c.doubt(l, now)
		}
	}
	if sent {
		s.lastTx = now
		if !heard && s.unanswered.IsZero() {
			// It was sent since the counters were read before; but one that was sent just now has a right to an answer, so at least one
			// more reading decides.
			s.unanswered = now.Add(-min(now.Sub(c.counted), silence-countBusy))
		}
	}
	if p.Endpoint.IsValid() && p.Endpoint != l.endpoint && heard {
		// WireGuard follows the source of authenticated packets: the peer roamed.
		l.endpoint = p.Endpoint
		if l.up {
			c.settle(l)
			s.way.goes(l.path.Remote)
		}
	}
	if l.up && !s.probing && !s.unanswered.IsZero() && now.Sub(s.unanswered) >= silence {
		c.doubt(l, now)
	}
}

// tick does what is due for one link.
func (c liveness) tick(l *link, now time.Time) {
	s := &l.live
	if due(s.nextShake, now) {
		s.nextShake = time.Time{}
		if !l.up && s.shakes < handshakeTries {
			c.shake(l, now)
		}
	}
	if due(s.nextProbe, now) {
		s.nextProbe = time.Time{}
		c.probeMissed(l, now)
	}
	c.judge(l, now)
	if at := c.sampleAt(l); due(at, now) {
		c.sample(l, now)
	}
	if l.up && now.Sub(s.lastRx) > staleAfter {
		c.show(l, Idle, now)
	}
	if due(l.ice.deadline, now) {
		c.iceDeadline(l, now)
	}
	if due(l.retry.at, now) {
		c.ice().attempt(l, now)
		if l.endpoint.IsValid() && !l.up && s.nextShake.IsZero() {
			s.shakes = handshakeTries - 1 // one try beside ICE at what worked last
			c.shake(l, now)
		}
	}
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

func (c liveness) probeMissed(l *link, now time.Time) {
	s := &l.live
	o := &s.sent[s.seq%uint32(len(s.sent))]
	// Data that arrives shows half of what a link needs, and that a queue may hold the answer up or drop it. So it takes longer, but not
	// for ever: the way there may be dead while the way back is not.
	data, limit := l.up && s.volume().RxBytes-o.rx >= patienceBytes, probeMisses
	if data {
		limit *= 2
		if patience := o.at.Add(busyPatience); now.Before(patience) {
			s.nextProbe = patience
			return
		}
	}
	if !s.probing {
		if l.up && l.endpoint.IsValid() {
			s.probing, s.misses = true, 1
			c.probe(l, now)
		}
		return
	}
	s.misses++
	if l.up {
		c.roam().locate(now)
	}
	if s.misses < limit {
		c.probe(l, now)
		return
	}
	s.probing = false
	if s.reset {
		s.reset = false
		c.forget(l)
	}
	c.lost(l, "the peer does not answer inside the tunnel", now)
	s.shakes = handshakeTries - 2 // beside ICE, the old endpoint once more
	c.shake(l, now)
}

// forget removes the peer from the tunnel and adds it again, which clears WireGuard's TAI64N memory of it.
func (c liveness) forget(l *link) {
	c.do(RemovePeer{Key: l.m.WireGuard})
	c.do(SetPeer{Key: l.m.WireGuard, Endpoint: l.endpoint, AllowedIPs: c.prefixes().allowed(l.m)})
}

func (c liveness) iceDeadline(l *link, now time.Time) {
	phase := l.ice.phase
	switch phase {
	case iceHeld:
		c.natPending = false // nobody has told in time
		c.ice().startICE(l, now)
		return
	case iceChecking:
		l.ice.deadline = time.Time{}
		c.roam().locate(now)
		return
	}
	c.ice().closeICE(l)
	switch phase {
	case iceOffered:
		c.ice().retryLater(l, "it does not answer: it is off, or cut off from the others", false, now)
	case iceNudged:
		c.ice().retryLater(l, "it does not answer: it is off, or cut off from the others", false, now)
	}
}
