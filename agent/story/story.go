// Package story remembers what happened to each link lately, so that `gridwire explain` can tell: how the newest exchange with the peer went
// step by step, what the two sides offered, by way of whom they talked, and the last changes of state and path with their causes.
//
// A Book only watches: agent/links shows it each event and what it led to, mesh/signal who carried a message. It changes nothing and decides
// nothing. What it keeps is bounded: one exchange that worked, one newest, and the last maxChanges changes of each link.
package story

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
	"github.com/gridwire/gridwire/nat"
)

const (
	maxChanges = 20 // of one link, and of this machine's own
	maxSteps   = 16 // of one exchange
)

// Change is something that happened to a link, or to this machine.
type Change struct {
	At   time.Time
	What string // a state ("connected", "connecting", "idle", "unreachable"), "path", "network" or "mapping"
	Path links.Path
	Why  string
}

// Step is one moment of an exchange.
type Step struct {
	At   time.Time
	What string
}

// Exchange is one attempt to agree on a path.
type Exchange struct {
	Session     uint64
	Controlling bool
	Began       time.Time
	Steps       []Step
	Local       []nat.Candidate
	Remote      []nat.Candidate
	SentBy      mesh.NodeID // who carried our message: the peer itself, or a member in between; zero: nobody yet
	HeardBy     mesh.NodeID // who brought the peer's
	Outcome     string      // "", "agreed" or why not
}

// Link is all that is remembered of one link.
type Link struct {
	Since   time.Time // of its state and its path; zero: from the start
	Newest  Exchange
	Worked  *Exchange // the newest that agreed on a path, where that is an earlier one
	Before  *Exchange // the newest that has ended, where that is an earlier one
	Changes []Change  // oldest first, this machine's own among them
}

type chapter struct {
	since   time.Time
	remote  netip.AddrPort
	state   links.State
	newest  Exchange
	worked  *Exchange
	before  *Exchange
	changes []Change
	sentBy  mesh.NodeID // before the step that it belongs to is known
	heardBy mesh.NodeID
}

// Book is safe for concurrent use.
type Book struct {
	mu     sync.Mutex // guards the rest; nothing is called while it is held
	links  map[mesh.NodeID]*chapter
	own    []Change // of this machine
	mapped netip.AddrPort
}

// New returns an empty book.
func New() *Book { return &Book{links: map[mesh.NodeID]*chapter{}} }

// Carried notes who brought a signal; for mesh/signal.
func (b *Book) Carried(peer, by mesh.NodeID, sent bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.chapter(peer)
	if sent {
		c.sentBy = by
	} else {
		c.heardBy = by
	}
}

// Link returns what is remembered of the link to the peer.
func (b *Book) Link(peer mesh.NodeID) Link {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.links[peer]
	if !ok {
		return Link{Changes: slices.Clone(b.own)}
	}
	l := Link{Since: c.since, Newest: c.newest.clone(), Changes: append(slices.Clone(c.changes), b.own...)}
	if c.worked != nil && c.worked.Session != c.newest.Session {
		w := c.worked.clone()
		l.Worked = &w
	}
	if c.before != nil {
		e := c.before.clone()
		l.Before = &e
	}
	slices.SortStableFunc(l.Changes, func(x, y Change) int { return x.At.Compare(y.At) })
	return l
}

func (e Exchange) clone() Exchange {
	e.Steps, e.Local, e.Remote = slices.Clone(e.Steps), slices.Clone(e.Local), slices.Clone(e.Remote)
	return e
}

// begin keeps the exchange before, if it came to an end.
func (c *chapter) begin(e Exchange) {
	if c.newest.Outcome != "" {
		was := c.newest
		c.before = &was
	}
	c.newest = e
}

func (b *Book) chapter(peer mesh.NodeID) *chapter {
	c, ok := b.links[peer]
	if !ok {
		c = &chapter{}
		b.links[peer] = c
	}
	return c
}

// Observe takes an event and the actions that it led to; for links.Config. It is called for each packet counter reading too, so what is of
// no interest ends at once.
func (b *Book) Observe(ev links.Event, actions []links.Action, now time.Time) {
	switch ev.(type) {
	case links.Tick, links.Counters, links.ProbeAnswered, links.ProbeHeard:
		if len(actions) == 0 {
			return
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.event(ev, now)
	for _, a := range actions {
		b.action(ev, a, now)
	}
}

func (b *Book) event(ev links.Event, now time.Time) {
	switch ev := ev.(type) {
	case links.ViewChanged:
		for id := range b.links {
			if _, ok := ev.View.Member(id); !ok {
				delete(b.links, id)
			}
		}
	case links.NetworkChanged:
		b.own = push(b.own, Change{At: now, What: "network", Why: "this machine's addresses or routes changed"})
	case links.NATChanged:
		b.natChanged(ev.Report, now)
	case links.SignalArrived:
		b.arrived(ev, now)
	case links.SignalSent:
		if e := b.exchange(ev.To, ev.Session); e != nil {
			e.SentBy = b.links[ev.To].sentBy
			e.step(now, "the peer has it")
		}
	case links.SignalFailed:
		if e := b.exchange(ev.To, ev.Session); e != nil {
			e.Outcome = "nobody could carry our message: " + ev.Reason
			e.step(now, "our message could not be carried")
		}
	case links.ICEStarted:
		if e := b.exchange(ev.Peer, ev.Session); e != nil && ev.Err == nil {
			e.Local = slices.Clone(ev.Local.Candidates)
			e.step(now, fmt.Sprintf("own addresses gathered (%d)", len(e.Local)))
		}
	case links.ICESelected:
		if e := b.exchange(ev.Peer, ev.Session); e != nil {
			e.Outcome = "agreed"
			e.step(now, "both sides agreed on a pair")
			w := *e
			b.links[ev.Peer].worked = &w
		}
	case links.ICEFailed:
		if e := b.exchange(ev.Peer, ev.Session); e != nil {
			e.Outcome = ev.Reason
			e.step(now, "no pair worked")
		}
	}
}

// natChanged notes when the outside has got another address for this machine.
func (b *Book) natChanged(r nat.Report, now time.Time) {
	if len(r.Mapped) == 0 || r.Mapped[0] == b.mapped {
		return
	}
	if b.mapped.IsValid() && r.Type != nat.EndpointDependent {
		b.own = push(b.own, Change{At: now, What: "mapping", Why: fmt.Sprintf("others see this machine at %v now, before at %v", r.Mapped[0], b.mapped)})
	}
	b.mapped = r.Mapped[0]
}

func (b *Book) arrived(ev links.SignalArrived, now time.Time) {
	c := b.chapter(ev.From)
	switch body := ev.Signal.Body.(type) {
	case *wire.Signal_Nudge:
		if c.newest.Outcome == "" && c.newest.Session == ev.Signal.Session {
			c.newest.step(now, "the peer asked for an offer")
		}
	case *wire.Signal_Offer:
		if ev.Signal.Session == c.newest.Session && !c.newest.Began.IsZero() && c.newest.HeardBy != (mesh.NodeID{}) {
			return // again
		}
		c.begin(Exchange{Session: ev.Signal.Session, Began: now, HeardBy: c.heardBy, Remote: candidates(body.Offer)})
		c.newest.step(now, fmt.Sprintf("the peer's offer arrived (%d addresses)", len(c.newest.Remote)))
	case *wire.Signal_Answer:
		if e := b.exchange(ev.From, ev.Signal.Session); e != nil && len(e.Remote) == 0 {
			e.HeardBy = c.heardBy
			e.Remote = candidates(body.Answer)
			e.step(now, fmt.Sprintf("the peer's answer arrived (%d addresses)", len(e.Remote)))
		}
	}
}

func candidates(d *wire.Description) []nat.Candidate {
	var out []nat.Candidate
	for _, c := range d.GetCandidates() {
		if a, err := wire.ParseAddrPort(c.GetAddress()); err == nil && len(out) < 16 {
			out = append(out, nat.Candidate{Type: nat.CandidateType(c.GetType()), Addr: a, Priority: c.GetPriority()})
		}
	}
	return out
}

// exchange returns the newest exchange with the peer if it has this number.
func (b *Book) exchange(peer mesh.NodeID, session uint64) *Exchange {
	if c, ok := b.links[peer]; ok && c.newest.Session == session && !c.newest.Began.IsZero() {
		return &c.newest
	}
	return nil
}

func (b *Book) action(ev links.Event, a links.Action, now time.Time) {
	switch a := a.(type) {
	case links.StartICE:
		c := b.chapter(a.Peer)
		if a.Controlling && c.newest.Session != a.Session {
			c.begin(Exchange{Session: a.Session, Controlling: true, Began: now})
			c.newest.step(now, "begun")
		}
	case links.Send:
		b.sending(a, now)
	case links.ConnectICE:
		if e := b.exchange(a.Peer, a.Session); e != nil {
			text := "checks begin"
			if a.Delay > 0 {
				text = fmt.Sprintf("checks begin in %v, so that both sides' first ones cross", a.Delay.Round(time.Millisecond))
			}
			e.step(now, text)
		}
	case links.Remember:
		if a.Endpoint.IsValid() {
			b.settled(ev, a, now)
		}
	case links.Report:
		b.reported(a, now)
	}
}

func (b *Book) sending(a links.Send, now time.Time) {
	c := b.chapter(a.To)
	switch a.Signal.Body.(type) {
	case *wire.Signal_Nudge:
		c.begin(Exchange{Session: a.Signal.Session, Began: now})
		c.newest.step(now, "asked the peer for an offer")
	case *wire.Signal_Offer:
		if e := b.exchange(a.To, a.Signal.Session); e != nil {
			e.step(now, "offer sent")
		}
	case *wire.Signal_Answer:
		if e := b.exchange(a.To, a.Signal.Session); e != nil {
			e.step(now, "answer sent")
		}
	}
}

// settled notes that a link works at another endpoint than before.
func (b *Book) settled(ev links.Event, a links.Remember, now time.Time) {
	c := b.chapter(a.Peer)
	before := c.remote
	c.remote = a.Endpoint
	if c.state != links.Connected || before == a.Endpoint || !before.IsValid() {
		return // the report that the link is up names it
	}
	why := "WireGuard heard the peer from there: it moved, or its router gave it another address"
	if _, ok := ev.(links.Counters); !ok {
		why = "both sides agreed on a better pair"
	}
	c.since = now
	c.changes = push(c.changes, Change{At: now, What: "path", Path: links.Path{Kind: "direct", Remote: a.Endpoint}, Why: fmt.Sprintf("%s (before: %v)", why, before)})
}

func (b *Book) reported(r links.Report, now time.Time) {
	c := b.chapter(r.Peer)
	before := c.state
	c.state, c.since = r.State, now
	why := r.Reason
	switch r.State {
	case links.Connected:
		if r.Path.Remote.IsValid() {
			c.remote = r.Path.Remote
		}
		why = b.cameUp(c, before, now)
	case links.Idle:
		why = "nothing was sent for three minutes"
	}
	c.changes = push(c.changes, Change{At: now, What: string(r.State), Path: r.Path, Why: why})
}

// cameUp says what made the link work.
func (b *Book) cameUp(c *chapter, before links.State, now time.Time) string {
	switch e := &c.newest; {
	case before == links.Idle:
		return "traffic again"
	case e.Outcome == "agreed":
		e.step(now, "WireGuard's handshake and a probe crossed: the link is up")
		w := *e
		c.worked = &w
		return "the pair that both sides agreed on carries packets both ways"
	}
	return "an address known from before, or one that the peer advertises, answered at once: no exchange was needed"
}

func (e *Exchange) step(now time.Time, what string) {
	if len(e.Steps) < maxSteps {
		e.Steps = append(e.Steps, Step{now, what})
	}
}

func push(cs []Change, c Change) []Change {
	if len(cs) >= maxChanges {
		cs = append(cs[:0], cs[len(cs)-maxChanges+1:]...)
	}
	return append(cs, c)
}
