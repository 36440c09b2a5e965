package links

import (
	"time"

	"github.com/gridwire/gridwire/nat"
)

// liveState is what is known about a link from counters and probes.
type liveState struct {
	rx, tx         uint64 // the tunnel's counters as last read
	rxBase, txBase uint64 // what earlier peers of the same member had counted in this run
	lastRx, lastTx time.Time
	unanswered     time.Time // since when something was sent and nothing heard; zero: not so
	handshake      time.Time

	probing   bool // in doubt
	misses    int
	nextProbe time.Time // when the outstanding probe counts as missed
	sent      [8]outstanding
	reset     bool // the peer rebooted: forget our memory of it if it does not answer

	nextShake time.Time
	shakes    int

	rtt       time.Duration // smoothed as TCP does (RFC 6298, alpha 1/8)
	rttCounts [len(RTTBuckets) + 1]uint64
	rttSum    time.Duration
	history   uint64 // of the last probes, newest in bit 0: 1 is lost
	counted   int
}

type outstanding struct {
	seq uint32
	at  time.Time
}

func (s *liveState) note(lost bool) {
	s.history <<= 1
	if lost {
		s.history |= 1
	}
	s.counted = min(s.counted+1, 64)
}

// loss returns the share of the last 64 probes that went unanswered.
func (s *liveState) loss() float64 {
	if s.counted == 0 {
		return 0
	}
	n := 0
	for i := range s.counted {
		n += int(s.history >> i & 1)
	}
	return float64(n) / float64(s.counted)
}

// liveness is the part of Core that judges links: probes, counters, handshakes.
type liveness struct{ *Core }

// probe sends one echo request; its answer, or its absence, is judged by tick.
func (c liveness) probe(l *link, now time.Time) {
	c.seq++
	l.live.sent[c.seq%uint32(len(l.live.sent))] = outstanding{c.seq, now}
	c.do(Probe{Peer: l.m.ID, Addr: l.m.Addrs[0], Seq: c.seq})
	l.live.nextProbe = now.Add(max(probeInterval, l.live.rtt*3/2+50*time.Millisecond))
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
	l.live.nextShake = now.Add(handshakeRetry<<min(l.live.shakes-1, 3) + l.live.rtt)
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
	sample := now.Sub(o.at)
	o.at = time.Time{}
	if l.up { // the first answer includes the handshake
		if l.live.rtt == 0 {
			l.live.rtt = sample
		} else {
			l.live.rtt += (sample - l.live.rtt) / 8
		}
		bucket := 0
		for bucket < len(RTTBuckets) && sample > RTTBuckets[bucket] {
			bucket++
		}
		l.live.rttCounts[bucket]++
		l.live.rttSum += sample
	}
	l.live.note(false)
	l.live.lastRx, l.live.lastTx = now, now
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
	c.show(l, Connected, now)
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
	if p.RxBytes < s.rx || p.TxBytes < s.tx { // the peer was removed and added
		s.rxBase, s.txBase = s.rxBase+s.rx, s.txBase+s.tx
		s.rx, s.tx = 0, 0
	}
	heard, sent := p.RxBytes > s.rx, p.TxBytes > s.tx && p.TxBytes-s.tx != keepaliveSize
	s.rx, s.tx = p.RxBytes, p.TxBytes
	s.handshake = p.LastHandshake
	if heard {
		s.lastRx = now
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
		}
	}
	if l.up && !s.probing && !s.unanswered.IsZero() && now.Sub(s.unanswered) >= silence {
		c.doubt(l, now)
	}
}

// idleProbeAt returns when the link's next idle probe is due; zero: none. The controlling side sends it; the answer keeps the other
// side's NAT mapping, and tells both that the link lives. Links without a NAT cost nothing.
func (c liveness) idleProbeAt(l *link) time.Time {
	if !l.up || l.live.probing || c.nat.Type == nat.Open && l.peerNAT == nat.Open {
		return time.Time{}
	}
	interval := idleInterval
	if !c.controls(l) {
		interval = 2 * idleInterval // only where the other side's probe stays away
	}
	last := l.live.lastRx
	if l.live.lastTx.Before(last) {
		last = l.live.lastTx
	}
	return last.Add(interval)
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
	if at := c.idleProbeAt(l); due(at, now) {
		c.doubt(l, now)
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
	s.note(true)
	if !s.probing {
		if l.up {
			c.doubt(l, now)
		}
		return
	}
	s.misses++
	if l.up {
		c.roam().locate(now)
	}
	if s.misses < probeMisses {
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
