package directory

import (
	"slices"
	"time"
)

// trust decides what time it is for the validity of certificates. Boxes without a battery boot in the past, so the system clock alone
// will not do; but "the newest time anybody signed" alone will not do either, because one member whose clock runs ahead would then
// expire everybody's certificates everywhere. The rule:
//
//   - The system clock is never set back: time is at least what it says.
//   - When our own certificate was signed has certainly passed.
//   - When members signed their records has passed if enough of them agree: the (2 + n/10)-th newest of n others' times counts. If our
//     own certificate shows that the system clock is behind, the newest but n/10 will do: any member then knows better than we.
//   - A time beyond the end of the signer's own certificate is ignored.
//
// What was learnt once goes on at the pace of the monotonic clock. Times are kept as offsets from it in whole hours, rounded
// down, which is exact enough for certificates that live for weeks and keeps clocks that differ by minutes out of it.
type trust struct {
	start  time.Time // with its monotonic reading
	others int       // members that said a time
	ahead  []offset  // their offsets of at least an hour, in falling order
	own    time.Duration
}

// offset is how many hours ahead of our clock count members said it was.
type offset struct{ hours, count int }

func newTrust(now time.Time) *trust { return &trust{start: now} }

// steady returns the time of the clock as it was at the start, moved on by the monotonic clock only.
func (t *trust) steady(now time.Time) time.Time { return t.start.Round(0).Add(now.Sub(t.start)) }

// now returns the trusted time when the system clock says sys.
func (t *trust) now(sys time.Time) time.Time { return clockOf(t).now(sys) }

// hoursOf returns the offset of a signed time.
func (t *trust) hoursOf(signed, sys time.Time) int { return int(signed.Sub(t.steady(sys)) / time.Hour) }

// add counts a member's statement; remove takes it back.
func (t *trust) add(hours int)    { t.count(hours, 1) }
func (t *trust) remove(hours int) { t.count(hours, -1) }

func (t *trust) count(hours, by int) {
	t.others += by
	if hours < 1 {
		return
	}
	i, found := slices.BinarySearchFunc(t.ahead, hours, func(o offset, h int) int { return h - o.hours })
	if !found {
		t.ahead = slices.Insert(t.ahead, i, offset{hours: hours})
	}
	if t.ahead[i].count += by; t.ahead[i].count == 0 {
		t.ahead = slices.Delete(t.ahead, i, i+1)
	}
}

// certified notes when our own certificate was signed. Less than an hour ahead may be the issuer's clock.
func (t *trust) certified(issued, sys time.Time) {
	t.own = 0
	if issued.Sub(sys.Round(0)) >= time.Hour {
		t.own = issued.Sub(t.steady(sys))
	}
}

// agreed returns the offset that at least need members' times reach, 0 if there is none.
func (t *trust) agreed(need int) time.Duration {
	for _, o := range t.ahead {
		if need -= o.count; need <= 0 {
			return time.Duration(o.hours) * time.Hour
		}
	}
	return 0
}

// clock is a snapshot of trust. Immutable.
type clock struct {
	start  time.Time
	own    time.Duration // offset that our own certificate shows, 0: none
	proven time.Duration // what members agree on, enough where our own certificate shows that the system clock is behind
	agreed time.Duration // enough without that
}

func clockOf(t *trust) clock {
	return clock{start: t.start, own: t.own, proven: t.agreed(1 + t.others/10), agreed: t.agreed(2 + t.others/10)}
}

func (c clock) now(sys time.Time) time.Time {
	return c.at(sys.Round(0), c.start.Round(0).Add(sys.Sub(c.start)))
}

// at says what time it is when the system clock says wall, and would say steady had nobody set it since the start.
func (c clock) at(wall, steady time.Time) time.Time {
	offset := c.agreed
	// Asked anew each time: somebody may have set the system clock right since.
	if c.own > 0 && steady.Add(c.own).After(wall) {
		offset = max(c.own, c.proven)
	}
	if t := steady.Add(offset); offset > 0 && t.After(wall) {
		return t
	}
	return wall
}
