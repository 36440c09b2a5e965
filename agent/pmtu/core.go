package pmtu

import (
	"net/netip"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// Core is the state machine: no socket, clock, goroutine or log. A peer is in one of RFC 8899's states:
//
//	not probed   no search, not settled (DISABLED; ERROR if nothing was answered)
//	searching    a search (BASE and SEARCHING)
//	settled      no search, settled (SEARCH_COMPLETE); a confirmation may be on its way
type Core struct {
	top    int // the interface's MTU
	peers  map[mesh.NodeID]*peer
	byAddr map[netip.Addr]*peer
	seq    uint32
	looked time.Time // when Links came last
	out    []Action
}

type peer struct {
	link    Link
	mtu     int // as last told; 0: not known
	settled bool

	search   *search
	started  time.Time
	deadline time.Time // of the round or of the confirmation; zero: nothing is awaited
	asked    [32]asked // the last probes, by sequence number
	rtt      time.Duration

	use     use
	raiseAt time.Time
	retryAt time.Time
}

// asked is a probe that was sent.
type asked struct {
	seq      uint32
	size     int
	at       time.Time
	awaited  bool // in the round that is running
	answered bool
}

// use says when a path was last confirmed, and for how long it is trusted: longer each time while it carries little.
type use struct {
	confirmed time.Time
	backoff   time.Duration
}

// NewCore makes a core for an interface of the given MTU; first is the sequence number of the first probe.
func NewCore(mtu int, first uint32) *Core {
	return &Core{top: mtu, seq: first, peers: map[mesh.NodeID]*peer{}, byAddr: map[netip.Addr]*peer{}}
}

// Step takes one event and returns what to do.
func (c *Core) Step(ev Event, now time.Time) []Action {
	c.out = nil
	switch ev := ev.(type) {
	case Links:
		c.links(ev.All, now)
	case CameUp:
		if p, ok := c.peers[ev.Peer]; ok && p.link.Up && !p.started.Equal(now) {
			c.newPath(p, now)
		}
	case Answered:
		if p, ok := c.byAddr[ev.From]; ok {
			c.answered(p, ev.Seq, now)
		}
	}
	for _, p := range c.peers {
		c.due(p, now)
	}
	return c.out
}

// Next returns when Tick is due; zero: not before another event.
func (c *Core) Next() (next time.Time) {
	for _, p := range c.peers {
		if !p.deadline.IsZero() && (next.IsZero() || p.deadline.Before(next)) {
			next = p.deadline
		}
	}
	return next
}

// Paths returns what is known, by peer.
func (c *Core) Paths() map[mesh.NodeID]Path {
	out := make(map[mesh.NodeID]Path, len(c.peers))
	for id, p := range c.peers {
		if p.mtu > 0 {
			out[id] = Path{MTU: p.mtu, Remote: p.link.Remote, Settled: p.settled}
		}
	}
	return out
}

func (c *Core) links(all []Link, now time.Time) {
	clear(c.byAddr)
	trickle := uint64(now.Sub(c.looked).Seconds() * trickleRate)
	c.looked = now
	seen := make(map[mesh.NodeID]bool, len(all))
	for _, l := range all {
		seen[l.Peer] = true
		p, ok := c.peers[l.Peer]
		if !ok {
			p = &peer{}
			c.peers[l.Peer] = p
		}
		c.byAddr[l.Addr] = p
		old := p.link
		p.link = l
		switch {
		case !l.Up:
			p.search, p.deadline, p.settled = nil, time.Time{}, false
		case !old.Up || old.Remote != l.Remote || old.Local.Addr() != l.Local.Addr():
			c.newPath(p, now)
		default:
			if sent := l.Sent - old.Sent; sent >= usedBytes+trickle && sent < 1<<62 { // the second: no counters that began again
				c.used(p, sent+l.Heard-old.Heard >= bulkBytes, now)
			}
		}
	}
	for id := range c.peers {
		if !seen[id] {
			delete(c.peers, id)
		}
	}
}

// used does what is due for a link that carries packets. Trickles do not count: an idle link must not be probed for its keepalives, and the
// counters may not have been looked at for long.
func (c *Core) used(p *peer, bulk bool, now time.Time) {
	u := &p.use
	switch {
	case !p.deadline.IsZero(): // busy with it
	case !p.settled:
		if !now.Before(p.retryAt) {
			c.begin(p, newSearch(c.top, 0), now)
		}
	case p.mtu < c.top && !now.Before(p.raiseAt):
		c.begin(p, newSearch(c.top, p.mtu), now)
	case now.Sub(u.confirmed) >= u.backoff:
		fresh := u.backoff == confirmEvery
		u.backoff = min(2*u.backoff, confirmMax)
		if bulk {
			u.backoff = confirmEvery
		}
		if fresh && !bulk { // it was in bulk use a moment ago: it may be stuck, so do not lose a round by asking for one size first
			c.doubt(p, now)
		} else {
			c.confirm(p, now)
		}
	}
}

// newPath starts from nothing; answers to what went by the old path are none of the new one.
func (c *Core) newPath(p *peer, now time.Time) {
	p.asked = [len(p.asked)]asked{}
	p.rtt = 0
	p.use = use{confirmed: now, backoff: confirmEvery}
	c.begin(p, newSearch(c.top, 0), now)
}

// begin starts a search. What was found before stays in force until the new path says otherwise: starting low would leave TCP connections
// that are made meanwhile with small segments for all their life.
func (c *Core) begin(p *peer, s *search, now time.Time) {
	p.search, p.started, p.settled = s, now, false
	c.round(p, now)
}

// doubt asks whether what is in use still passes, or else what does: that it was asked for once more than it was is all the difference to a
// search from nothing.
func (c *Core) doubt(p *peer, now time.Time) {
	s := newSearch(p.mtu, 0)
	s.tries[len(s.tries)-1] = 1
	c.begin(p, s, now)
}

// inForce returns how large packets to the peer are now.
func (p *peer) inForce(top int) int {
	if p.mtu == 0 {
		return top
	}
	return p.mtu
}

// round sends the next round of a search, or ends it.
func (c *Core) round(p *peer, now time.Time) {
	sizes := p.search.next()
	if len(sizes) == 0 {
		c.finish(p, now)
		return
	}
	for i := range p.asked {
		p.asked[i].awaited = false
	}
	for _, size := range sizes {
		c.ask(p, size, now)
	}
	p.deadline = now.Add(p.wait())
}

func (c *Core) ask(p *peer, size int, now time.Time) {
	c.seq++
	p.asked[c.seq%uint32(len(p.asked))] = asked{seq: c.seq, size: size, at: now, awaited: true}
	c.out = append(c.out, Probe{To: p.link.Addr, Seq: c.seq, Size: size})
}

// confirm asks whether what is in use still passes.
func (c *Core) confirm(p *peer, now time.Time) {
	c.ask(p, p.mtu, now)
	p.deadline = now.Add(p.wait())
}

func (p *peer) wait() time.Duration {
	return min(max(2*max(p.rtt, p.link.RTT)+minWait/2, minWait), maxWait)
}

func (c *Core) answered(p *peer, seq uint32, now time.Time) {
	a := &p.asked[seq%uint32(len(p.asked))]
	if a.seq != seq || a.size == 0 || a.answered || !p.link.Up {
		return
	}
	a.answered = true
	if sample := now.Sub(a.at); p.rtt == 0 || sample > p.rtt {
		p.rtt = sample // up at once: a queue has built up; too short a wait is what must not happen
	} else {
		p.rtt += (sample - p.rtt) / 8
	}
	switch {
	case p.search == nil:
		if a.size == p.mtu {
			c.settle(p, now)
		}
	default:
		p.search.answered(a.size)
		if p.search.passed == len(p.search.sizes)-1 || p.complete() {
			c.round(p, now)
		}
	}
}

// complete reports whether all of a round has been answered.
func (p *peer) complete() bool {
	for _, a := range p.asked {
		if a.awaited && !a.answered {
			return false
		}
	}
	return true
}

// due does what a deadline asks for.
func (c *Core) due(p *peer, now time.Time) {
	if p.deadline.IsZero() || now.Before(p.deadline) {
		return
	}
	if p.search == nil { // the confirmation was not answered
		c.doubt(p, now)
		return
	}
	if best := p.search.best(); best > 0 && best < p.inForce(c.top) && p.search.asked(p.inForce(c.top)) > 1 {
		c.tell(p, best) // not the last word, but what is larger is lost meanwhile
	}
	c.round(p, now)
}

// finish ends a search.
func (c *Core) finish(p *peer, now time.Time) {
	best := p.search.best()
	p.search, p.deadline = nil, time.Time{}
	if best == 0 {
		p.retryAt = now.Add(retryEvery)
		return
	}
	if best != p.mtu { // else it was a doubt without cause, or a raise in vain
		p.use.backoff = confirmEvery
	}
	if best != p.mtu || !now.Before(p.raiseAt) {
		p.raiseAt = now.Add(raiseEvery)
	}
	c.tell(p, best)
	c.settle(p, now)
}

func (c *Core) settle(p *peer, now time.Time) {
	p.settled, p.deadline = true, time.Time{}
	p.use = use{confirmed: now, backoff: max(p.use.backoff, confirmEvery)}
}

func (c *Core) tell(p *peer, mtu int) {
	if p.mtu == mtu {
		return
	}
	c.out = append(c.out, Changed{Peer: p.link.Peer, MTU: mtu, Was: p.mtu})
	p.mtu = mtu
}
