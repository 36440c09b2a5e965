// Package usage lets the two ends of a link bear each other out on what it carried, so that somebody else can check it later, offline.
//
//	counters at each full hour -> signed statement <-> the other end's -> Judge -> report -> Verify
//
// Each end signs what it sent and received in the hour, and sends that to the other, which answers with its own. What one sent must be what
// the other received, but for what was lost. That exposes an end that lies alone. Two ends that lie together are not detected, and no
// statement says which of two that differ is the true one.
//
// It owns the files usage and usage-YYYYMMDD (a day's statements, UTC) of the state folder. It counts nothing itself (agent/ledger does) and
// sends nothing itself. Judge, Verify and the Book's decisions take the time as an argument.
package usage

import (
	"fmt"
	"time"
)

// How far two honest ends may differ. Losses are measured by few probes, so twice the measured one and 1 % more is allowed. Clocks differ, so
// around the full hour each end counts some traffic to another hour than the other end: twice the mean rate for the time of the difference,
// which two seconds are added to. Larger bursts are found in the neighbouring hour, with the opposite sign.
const (
	slackBytes  = 256 << 10 // handshakes to an end that is off, and the like
	lossFactor  = 2
	lossMore    = 0.01
	edge        = 2 * time.Second
	edgeFactor  = 2
	maxSkew     = time.Minute // an end whose clock is further off is not excused for more
	openPortion = 0.1         // of an hour's bytes, which an hour that has not been counted yet may still make up for
)

// MinBytes is from how much traffic on, both ways together, an hour is worth statements: below it differences mean nothing, and idle links
// cost nothing.
const MinBytes = slackBytes

// Side is what one end says about a period.
type Side struct {
	Sent, Received uint64 // bytes
	Loss           float64
	Gap            bool          // the counters do not cover all of it
	Skew           time.Duration // how far the other's clock is ahead
}

// Pair is what both ends say about a period.
type Pair struct {
	From   time.Time
	Ours   Side
	Theirs *Side // nil: nothing
}

// State of a pair.
type State string

// The states.
const (
	Agreed      State = "agreed"
	Diverging   State = "diverging"   // one of the two counters is wrong
	Unconfirmed State = "unconfirmed" // nothing from the other end (yet), or a gap in what one of them counted
)

// Verdict is a state, and why it is not Agreed.
type Verdict struct {
	State State
	Why   string
}

// Judge judges the periods of one link, in order of time. "We" is whose Ours it is.
func Judge(pairs []Pair) []Verdict {
	out := make([]Verdict, len(pairs))
	for i, p := range pairs {
		out[i].State = Agreed
		if p.Theirs == nil {
			out[i] = Verdict{Unconfirmed, "no statement of the other end"}
		}
	}
	for _, d := range []direction{outward, inward} {
		lacks := d.lacks(pairs)
		for i, p := range pairs {
			if p.Theirs != nil {
				out[i] = worse(out[i], d.judge(p, lacks[i], i == len(pairs)-1))
			}
		}
	}
	return out
}

func worse(a, b Verdict) Verdict {
	rank := map[State]int{Agreed: 0, Unconfirmed: 1, Diverging: 2}
	if rank[b.State] > rank[a.State] {
		return b
	}
	return a
}

// direction is one way of a link.
type direction struct{ who, whom string }

var (
	outward = direction{"we", "the other end"}
	inward  = direction{"the other end", "we"}
)

// of says who sent and who received in a pair, and how much each says.
func (d direction) of(p Pair) (from, to Side, sent, received uint64) {
	if d == outward {
		return p.Ours, *p.Theirs, p.Ours.Sent, p.Theirs.Received
	}
	return *p.Theirs, p.Ours, p.Theirs.Sent, p.Ours.Received
}

// lacks returns how many of the bytes sent in each period were not received; negative: more were received than sent. What one period has
// too much of and a neighbour too little was counted to the wrong one of the two, and is put right. Each byte is moved once, so that a lie
// here does not excuse one there.
func (d direction) lacks(pairs []Pair) []float64 {
	out := make([]float64, len(pairs))
	for i, p := range pairs {
		if p.Theirs != nil {
			_, _, sent, received := d.of(p)
			out[i] = float64(sent) - float64(received)
		}
	}
	for i, p := range pairs {
		if p.Theirs == nil {
			continue
		}
		most, least := d.bounds(p)
		for _, step := range []int{-1, 1} {
			j := i + step
			if j < 0 || j >= len(pairs) || pairs[j].Theirs == nil || !pairs[j].From.Equal(p.From.Add(time.Duration(step)*Period)) {
				continue
			}
			switch {
			case out[i] > most && out[j] < 0:
				move := min(out[i]-most, -out[j])
				out[i], out[j] = out[i]-move, out[j]+move
			case out[i] < least && out[j] > 0:
				move := min(least-out[i], out[j])
				out[i], out[j] = out[i]+move, out[j]-move
			}
		}
	}
	return out
}

func (d direction) judge(p Pair, lack float64, newest bool) Verdict {
	from, to, sent, received := d.of(p)
	most, least := d.bounds(p)
	excess := max(lack-most, least-lack)
	if excess < 1 { // what was moved is exact but for rounding
		return Verdict{State: Agreed}
	}
	why := fmt.Sprintf("%s sent %d bytes, %s received %d", d.who, sent, d.whom, received)
	switch {
	case lack > most && to.Gap, lack < least && from.Gap:
		return Verdict{Unconfirmed, why + "; the counters with less have a gap"}
	case newest && excess <= openPortion*float64(max(sent, received)):
		return Verdict{Unconfirmed, why + "; the next hour may make up for it"}
	}
	return Verdict{Diverging, why}
}

// bounds of the lack between two honest ends.
func (d direction) bounds(p Pair) (most, least float64) {
	from, to, sent, received := d.of(p)
	skew := min(from.Skew.Abs(), to.Skew.Abs(), maxSkew) // the smaller one: nobody explains a lie by his own word alone
	margin := slackBytes + edgeFactor*float64(max(sent, received))*(edge+skew).Seconds()/Period.Seconds()
	loss := lossFactor*min(from.Loss, to.Loss) + lossMore
	return float64(sent)*min(loss, 1) + margin, -margin
}
