package links

import "time"

// When a link that works is probed. One side of a link probes, the one that controls, and tells the other what it finds; the other does
// only when it has heard no probe for twice as long.
const (
	// idleInterval is between probes of a link with a NAT in its way: common NATs forget a UDP mapping after 30 s (RFC 4787, REQ-5 asks for 2 min).
	idleInterval = 25 * time.Second
	// openInterval is where no NAT has to be kept open: 20 probes, which a loss needs, fit into its longest window.
	openInterval = 40 * time.Second
	// busyInterval is where the link carries so much that the probes do not matter. Traffic both ways shows that the link lives, but not how
	// long a packet takes nor how many are lost, and these differ most under load.
	busyInterval = 5 * time.Second
	// busyBytes since the last probe make a link busy: its probe and answer, 192 bytes, are less than 1 % of that.
	busyBytes = 20_000
	// One lost probe has the link probed at a higher rate for a while: at least MinSamples probes, so that the loss over a minute is known. What
	// is lost meanwhile does not prolong it, which bounds the cost of a link that is always bad.
	alertFor      = 15 * time.Second
	alertInterval = 500 * time.Millisecond
	// busyPatience is when a probe counts as missed while data arrives: a queue that traffic has filled holds the answer up.
	busyPatience = time.Second
	// patienceBytes is what must have arrived since the probe; less may be the peer's own probes, on a path that is dead in one direction.
	patienceBytes = 1500
)

// sampling is when a link was probed, and when it is to be.
type sampling struct {
	last  time.Time // a probe, this side's or the peer's
	bytes uint64    // that the link had carried then
	alert time.Time // until then it is probed at the higher rate
}

func (s *liveState) carried() uint64 { return s.volume().RxBytes + s.volume().TxBytes }

// busy reports whether the link has carried enough since the last probe that another one does not matter.
func (s *liveState) busy() bool { return s.carried()-s.sampling.bytes >= busyBytes }

// sampled notes a probe of either side.
func (s *liveState) sampled(now time.Time) {
	s.sampling.last, s.sampling.bytes = now, s.carried()
}

// sampleAt returns when the link's next probe is due; zero: none.
func (c liveness) sampleAt(l *link) time.Time {
	s := &l.live
	if !l.up || s.probing || !s.nextProbe.IsZero() {
		return time.Time{}
	}
	if next := s.sampling.last.Add(alertInterval); next.Before(s.sampling.alert) {
		return next
	}
	interval := idleInterval
	switch {
	case s.busy():
		interval = busyInterval
	case c.nat.Type == "open" && l.peerNAT == "open":
		interval = openInterval
	}
	if !c.controls(l) {
		interval *= 2
	}
	return s.sampling.last.Add(interval)
}

// sample probes a link that works. At rest, nothing else shows whether it still does, so a probe that is missed is followed by others at once.
func (c liveness) sample(l *link, now time.Time) {
	if l.live.busy() || now.Before(l.live.sampling.alert) {
		c.probe(l, now)
		return
	}
	c.doubt(l, now)
}

// judge decides which probes are lost.
func (c liveness) judge(l *link, now time.Time) {
	s := &l.live
	if !due(s.judgeAt, now) {
		return
	}
	s.judgeAt = time.Time{}
	for i := range s.sent {
		o := &s.sent[i]
		if !o.counts {
			continue
		}
		if at := o.at.Add(lossAfter); now.Before(at) {
			s.judgeBy(at)
			continue
		}
		c.judgeLost(l, o, now)
	}
}

func (s *liveState) judgeBy(at time.Time) {
	if s.judgeAt.IsZero() || at.Before(s.judgeAt) {
		s.judgeAt = at
	}
}

func (c liveness) judgeLost(l *link, o *outstanding, now time.Time) {
	s := &l.live
	o.counts = false
	s.figures.lost(now)
	s.tally.own.Probed++
	s.tally.own.Lost++
	if !now.Before(s.sampling.alert) {
		s.sampling.alert = now.Add(alertFor)
	}
}
