package ice

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// Checks go to addresses that a peer has named, and nothing says that the peer owns them. So long as an address has not
// answered, it gets at most this, whatever the number of sessions that name it.
const (
	targetPerSecond = 40
	targetBurst     = 60
	targetBuckets   = 4096 // addresses that fall into the same bucket share it: a fixed size, whoever names how many
)

// Within a session, the checks of one address thin out if it stays silent: all for the first second, then each fourth.
const (
	eagerChecks = 20
	thinning    = 4
)

// targetBudget is a table of token buckets. Not safe for concurrent use.
type targetBudget struct {
	seed    maphash.Seed
	buckets [targetBuckets]struct {
		tokens float64
		at     time.Time
	}
}

func newTargetBudget() *targetBudget { return &targetBudget{seed: maphash.MakeSeed()} }

// allow takes one token for to.
func (t *targetBudget) allow(to netip.AddrPort, now time.Time) bool {
	b := &t.buckets[maphash.Comparable(t.seed, to)%targetBuckets]
	if b.at.IsZero() {
		b.tokens = targetBurst
	} else if d := now.Sub(b.at); d > 0 {
		b.tokens = min(targetBurst, b.tokens+d.Seconds()*targetPerSecond)
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
