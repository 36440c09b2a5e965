package policy

import (
	"encoding/binary"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// decide compares what is with what should be. It walks each list of candidates from the best on and stops at the first that is up:
// that one is kept, and the better ones before it are dialled when their turn comes.
func (p *Policy) decide(now time.Time) []Action {
	d := decision{p: p, now: now, keep: make(map[*node]bool)}
	p.next = time.Time{}
	if p.reachable {
		d.successor(p.ring)
		d.successor(p.second) // may be the same one: taking the next would give that one a connection too many
	} else {
		d.walk(p.rank, Want)
	}
	// A reachable member with no reachable peer is found by the others; it dials only when it has nobody at all.
	if len(d.keep) < Want && (!p.reachable || len(p.ups) == 0) {
		far := d.want
		d.want = nil
		d.walk(p.near, Want)
		d.keepUps(p.rest, Want)
		if len(p.ups) == 0 {
			// In turn: where there is no internet, dials to all who are out there would keep the neighbours waiting.
			far, d.want = alternate(d.want, far), nil
		}
		d.want = append(far, d.want...)
	}
	if len(p.ups) == 0 {
		d.walk(p.rest, Want)
	}
	d.apply()
	return d.out
}

// alternate returns the first of a, the first of b, the second of a, and so on.
func alternate(a, b []*node) []*node {
	out := make([]*node, 0, len(a)+len(b))
	for i := range max(len(a), len(b)) {
		if i < len(a) {
			out = append(out, a[i])
		}
		if i < len(b) {
			out = append(out, b[i])
		}
	}
	return out
}

type decision struct {
	p    *Policy
	now  time.Time
	keep map[*node]bool
	want []*node // to be dialled, best first
	out  []Action
}

// walk goes through candidates, best first, until n are kept in all.
func (d *decision) walk(candidates []*node, n int) {
	for _, c := range candidates {
		if len(d.keep) >= n {
			return
		}
		switch {
		case d.keep[c]:
		case c.up:
			d.keep[c] = true
		case c.Dialable && !c.dialing:
			d.want = append(d.want, c)
		}
	}
}

// successor goes through a ring until it finds one that is up.
func (d *decision) successor(ring []*node) {
	for _, c := range ring {
		if c.up {
			d.keep[c] = true
			return
		}
		if c.Dialable && !c.dialing {
			d.want = append(d.want, c)
		}
	}
}

// keepUps fills up with connections that exist anyway.
func (d *decision) keepUps(candidates []*node, n int) {
	for _, c := range candidates {
		if len(d.keep) >= n {
			return
		}
		if c.up {
			d.keep[c] = true
		}
	}
}

// apply turns the decision into actions and sets when to look again.
func (d *decision) apply() {
	for _, n := range d.p.ups {
		d.settle(n)
	}
	slots := burst - d.p.inFlight
	if len(d.keep) >= Want {
		slots = 1 - d.p.inFlight // nothing is missing; better ones are tried one at a time
	}
	for _, n := range d.want {
		if n.dialing { // in two lists
			continue
		}
		if due := d.retry(n); d.now.Before(due) {
			d.wake(due)
			continue
		}
		if slots <= 0 {
			break // the next Up or Failed decides again
		}
		slots--
		n.dialing = true
		d.p.inFlight++
		d.out = append(d.out, Action{Verb: Dial, ID: n.ID})
	}
}

// settle keeps, releases or closes one connection.
func (d *decision) settle(n *node) {
	fast := !d.p.reachable || !n.Reachable
	switch keep := d.keep[n]; {
	case keep && (!n.kept || n.fast != fast):
		n.kept, n.fast = true, fast
		d.out = append(d.out, Action{Verb: Keep, ID: n.ID, Fast: fast})
	case !keep && n.kept:
		n.kept = false
		n.used = d.now // it was in use until now
		d.out = append(d.out, Action{Verb: Release, ID: n.ID})
	}
	if n.kept {
		return
	}
	due := n.used.Add(IdleClose)
	if d.now.Before(due) {
		d.wake(due)
		return
	}
	n.used = d.now // asks once; again in a minute should it still be there
	d.wake(d.now.Add(IdleClose))
	d.out = append(d.out, Action{Verb: Close, ID: n.ID})
}

func (d *decision) wake(t time.Time) {
	if d.p.next.IsZero() || t.Before(d.p.next) {
		d.p.next = t
	}
}

// retry returns when n may be dialled.
func (d *decision) retry(n *node) time.Time {
	if n.fails == 0 {
		return time.Time{}
	}
	limit := maxRetry
	switch {
	case len(d.p.ups) == 0:
		limit = loneRetry
	case len(d.keep) >= Want:
		limit = luxuryRetry
	}
	delay := limit
	if shift := n.fails - 1; shift < 10 {
		delay = min(firstRetry<<shift, limit)
	}
	return n.failed.Add(jitter(delay, d.p.self, n.ID, n.fails))
}

// jitter returns d -25 % .. +25 %, the same for the same dial: a policy that is asked twice must answer the same.
func jitter(d time.Duration, self, id mesh.NodeID, try int) time.Duration {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], weight(self, id)+uint64(try)*0x9e3779b97f4a7c15)
	return d*3/4 + d/2*time.Duration(b[0])/256
}
