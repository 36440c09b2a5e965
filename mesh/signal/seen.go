package signal

import (
	"hash/maphash"
	"time"

	"golang.org/x/time/rate"

	"github.com/gridwire/gridwire/mesh"
)

// maxSeen is how many envelopes each of the two generations of seen holds. Copies of one envelope arrive within seconds of each
// other; at the rate limits below one member needs more than 40 s to push another's out.
const maxSeen = 2048

type seenKey struct {
	origin mesh.NodeID
	id     [16]byte
}

type status uint8

const (
	fresh    status = iota // never seen, or forwarded without success
	inFlight               // somebody is forwarding it now
	done                   // it arrived
)

// seen remembers envelopes: the newest size of them at least, twice as many at most.
type seen struct {
	size     int
	cur, old map[seenKey]status
}

func newSeen(size int) *seen {
	return &seen{size: size, cur: make(map[seenKey]status), old: make(map[seenKey]status)}
}

// claim says what is known of k; a fresh k is inFlight from then on, until finish.
func (s *seen) claim(k seenKey) status {
	if st := s.cur[k]; st != fresh {
		return st
	}
	if st := s.old[k]; st != fresh {
		return st
	}
	s.put(k, inFlight)
	return fresh
}

// finish says how a claimed k ended. One that failed may be tried again.
func (s *seen) finish(k seenKey, ok bool) {
	if ok {
		delete(s.old, k)
		s.put(k, done)
		return
	}
	delete(s.cur, k)
	delete(s.old, k)
}

func (s *seen) put(k seenKey, st status) {
	if _, ok := s.cur[k]; !ok && len(s.cur) >= s.size {
		s.old, s.cur = s.cur, make(map[seenKey]status)
	}
	s.cur[k] = st
}

// A member that starts in a mesh of 100 offers to all others at once, by three ways: bursts are normal, floods are not.
const (
	originRate     = 50 // envelopes a second from one member, by whatever way
	originBurst    = 500
	neighbourRate  = 200 // frames a second on one connection
	neighbourBurst = 1500

	rateSlots = 1024
)

// rates are token buckets in tables of fixed size. Two members may share a bucket; which ones, nobody can know or choose.
type rates struct {
	seed       maphash.Seed
	origins    [rateSlots]*rate.Limiter
	neighbours [rateSlots]*rate.Limiter
}

func newRates() *rates {
	r := &rates{seed: maphash.MakeSeed()}
	for i := range rateSlots {
		r.origins[i] = rate.NewLimiter(originRate, originBurst)
		r.neighbours[i] = rate.NewLimiter(neighbourRate, neighbourBurst)
	}
	return r
}

func (r *rates) slot(id mesh.NodeID) uint64 { return maphash.Bytes(r.seed, id[:]) % rateSlots }

func (r *rates) origin(id mesh.NodeID, now time.Time) bool {
	return r.origins[r.slot(id)].AllowN(now, 1)
}

func (r *rates) neighbour(id mesh.NodeID, now time.Time) bool {
	return r.neighbours[r.slot(id)].AllowN(now, 1)
}
