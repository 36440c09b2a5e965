package links

import "time"

const (
	// What is done to the tunnel shows in its counters when the peer has answered: so often they are read then, each countBusy.
	readingsAfter = 3
	// readingEvery is for what the device sends by itself, such as handshakes with a peer that does not answer.
	readingEvery = 5 * time.Second
)

// reading remembers the tunnel's counters, and whether they can have changed.
type reading struct {
	last   Counters
	passed uint64
	left   int       // readings still to come
	next   time.Time // when they are read whatever has passed
}

// due reports whether the counters are to be read now.
func (r *reading) due(passed func() uint64, now time.Time) bool {
	if passed == nil {
		r.left = 1
		return true
	}
	if p := passed(); p != r.passed {
		r.passed = p
		r.left = max(r.left, 1)
	}
	if r.left == 0 && now.Before(r.next) {
		return false
	}
	r.left = max(r.left-1, 0)
	r.next = now.Add(readingEvery)
	return true
}

// waiting reports whether an answer is due on any link, so that time has to be measured well although nothing passes.
func (c *Core) waiting() bool {
	for _, l := range c.links {
		if l.live.probing || !l.live.nextShake.IsZero() || !l.live.unanswered.IsZero() {
			return true
		}
	}
	return false
}

// doubt says that the tunnel was changed.
func (r *reading) doubt() { r.left = readingsAfter }

// keepaliveSize is the size of a WireGuard message without a payload: 16 bytes of header, 16 of tag. WireGuard sends one 10 s after it has
// received something and had nothing to say. No answer is due to it: taken for traffic, it would make each idle probe bring on the next.
const keepaliveSize = 32
