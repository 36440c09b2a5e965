package dns

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// The table of clients: sets of a few slots, so that an attacker who floods from many addresses pushes out only who shares a set with him.
const (
	limitSets = 2048
	limitWays = 4

	// clientBits6 is the part of an IPv6 address that is one client: each member has a /112, and may use all addresses in it.
	clientBits6 = 112
)

// limiter gives each client a budget of questions: rate per second, and a burst. It is the generic cell rate algorithm (ITU-T
// I.371): a client's state is one time, that at which its budget is whole again.
type limiter struct {
	interval int64 // nanoseconds between two questions
	burst    int64 // nanoseconds that a client may be ahead
	seed     maphash.Seed
	start    time.Time

	mu    sync.Mutex
	slots [limitSets][limitWays]slot
}

type slot struct {
	client [16]byte
	whole  int64 // nanoseconds since start; in the past: as if never seen
}

// newLimiter returns nil, which allows all, if rate is not positive.
func newLimiter(rate, burst int, start time.Time) *limiter {
	if rate <= 0 {
		return nil
	}
	interval := int64(time.Second) / int64(rate)
	return &limiter{interval: interval, burst: interval * int64(burst-1), seed: maphash.MakeSeed(), start: start}
}

// allow takes one question from a client's budget, or returns false if there is none left.
func (l *limiter) allow(client netip.Addr, now time.Time) bool {
	if l == nil {
		return true
	}
	c := clientOf(client)
	var h maphash.Hash
	h.SetSeed(l.seed)
	_, _ = h.Write(c[:])
	t := int64(now.Sub(l.start))
	l.mu.Lock()
	defer l.mu.Unlock()
	set := &l.slots[h.Sum64()%limitSets]
	s := &set[0]
	for i := range set {
		if set[i].client == c {
			s = &set[i]
			break
		}
		if set[i].whole < s.whole { // to be replaced: the one that has used least, and nothing is lost if its budget is whole
			s = &set[i]
		}
	}
	if s.client != c {
		*s = slot{client: c}
	}
	whole := max(s.whole, t)
	if whole-t > l.burst {
		return false
	}
	s.whole = whole + l.interval
	return true
}

// clientOf returns what counts as one client.
func clientOf(a netip.Addr) (c [16]byte) {
	c = a.As16()
	if !a.Unmap().Is4() {
		binary.BigEndian.PutUint16(c[clientBits6/8:], 0)
	}
	return c
}
