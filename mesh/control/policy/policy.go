// Package policy decides which members to hold a control connection to: whom to dial, whom to keep alive with heartbeats, whom to let
// go. It is a plain function of events and time (Step): no socket, no clock, no goroutine and no log is in it. It owns what it knows
// about each member's connection and nothing else, and it never looks at an address.
//
// What it aims at:
//
//   - a member that others cannot reach keeps 2 reachable members (its forwarders), chosen by rendezvous hashing so that the load
//     spreads and a restart chooses the same ones;
//   - a reachable member keeps its successor on each of two rings of all reachable members, in the order of their IDs and in that of
//     their hashes: the first holds the graph together whatever else fails, two of them keep it shallow, and each member has two
//     connections that it keeps and two that others keep (rendezvous hashing would give some of them six);
//   - where that gives fewer than 2, members to which a way is known without anybody's help (an ICE path, the same LAN) fill up, so
//     that the mesh survives the death of its only reachable member;
//   - any other connection is closed when it has been idle for a minute.
//
// Dials back off (1 s, 2 s, 4 s ... with jitter); how far depends on how much the connection is missed.
package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// The numbers behind the policy.
const (
	Want        = 2                // connections to keep, each to a member that helps others find us
	IdleClose   = 60 * time.Second // a connection that nobody keeps and nobody used for so long is closed
	Steady      = 10 * time.Second // a connection that lasted shorter counts as a failed dial
	firstRetry  = time.Second
	maxRetry    = 30 * time.Second // while fewer than Want are up
	loneRetry   = 8 * time.Second  // while none is up: the mesh may come back at any moment
	luxuryRetry = 10 * time.Minute // while enough others are up: a dial to a dead address costs some 5 kB
	burst       = 4                // dials at once while something is missing; a restart must not wait for a dead first choice
)

// Peer is what the policy knows about a member.
type Peer struct {
	ID        mesh.NodeID
	Reachable bool // a stranger's packets reach it
	Near      bool // a way is known that needs nobody's help: an ICE path, or an address on a link of ours
	Dialable  bool // any address is known
}

// Event is something that happened.
type Event interface{ event() }

type (
	// Members says who is in the network (this node excepted), and whether others can reach this node. It replaces what was said before.
	Members struct {
		Reachable bool
		Peers     []Peer
	}
	// Up says that a connection to a member is proven. Further ones to the same member are not reported.
	Up struct{ ID mesh.NodeID }
	// Down says that the last proven connection to a member has ended.
	Down struct{ ID mesh.NodeID }
	// Failed says that a dial, or the proof after it, failed.
	Failed struct{ ID mesh.NodeID }
	// Used says that the connection to a member carried something that somebody wanted.
	Used struct {
		ID mesh.NodeID
		At time.Time
	}
	// Found says that another way to a member is known now: what failed before may work, and a dial under way does not know it.
	Found struct{ ID mesh.NodeID }
	// NetworkChanged says that this machine's addresses or routes changed: what failed before may work now.
	NetworkChanged struct{}
	// Tick says that Next has come.
	Tick struct{}
)

func (Members) event()        {}
func (Up) event()             {}
func (Down) event()           {}
func (Failed) event()         {}
func (Used) event()           {}
func (Found) event()          {}
func (NetworkChanged) event() {}
func (Tick) event()           {}

// Verb is what to do.
type Verb uint8

const (
	Dial    Verb = iota // connect to it; answered by Up or Failed
	Keep                // send heartbeats
	Release             // send no heartbeats any more
	Close               // close the connection; answered by Down
)

// String returns the verb in lower case.
func (v Verb) String() string { return [...]string{"dial", "keep", "release", "close"}[v] }

// Action is something to do about a member.
type Action struct {
	Verb Verb
	ID   mesh.NodeID
	Fast bool // with Keep: one side is not reachable, so a death must be noticed soon
}

// node is a member, or somebody who was one while a connection lasts.
type node struct {
	Peer
	member  bool
	up      bool
	upSince time.Time
	used    time.Time
	kept    bool
	fast    bool
	dialing bool
	fails   int
	failed  time.Time // when the last failure was; the retry follows it
}

// Policy is the state. Its zero value is of no use: see New.
type Policy struct {
	self      mesh.NodeID
	reachable bool
	nodes     map[mesh.NodeID]*node
	ring      []*node // reachable members, in the order of the ring, from this node's successor on
	second    []*node // the same in the order of the second ring
	rank      []*node // reachable members by rendezvous hash
	near      []*node // the others to which a way is known, by rendezvous hash
	rest      []*node // all others, by rendezvous hash
	ups       []*node // oldest first
	inFlight  int
	next      time.Time
}

// New returns a policy for the node self that knows nobody.
func New(self mesh.NodeID) *Policy {
	return &Policy{self: self, nodes: make(map[mesh.NodeID]*node)}
}

// Next returns when Step wants a Tick; the zero time if nothing is due by itself.
func (p *Policy) Next() time.Time { return p.next }

// Kept reports whether a connection to id is to be kept.
func (p *Policy) Kept(id mesh.NodeID) bool {
	n := p.nodes[id]
	return n != nil && n.kept
}

// Step takes an event and returns what to do about it, in order.
func (p *Policy) Step(ev Event, now time.Time) []Action {
	switch e := ev.(type) {
	case Members:
		p.members(e)
	case Up:
		p.up(p.get(e.ID), now)
	case Down:
		p.down(e.ID, now)
	case Failed:
		n := p.get(e.ID)
		p.landed(n)
		n.fail(now)
	case Used:
		if n := p.nodes[e.ID]; n != nil && e.At.After(n.used) {
			n.used = e.At
		}
		return nil // can only put off what is due
	case Found:
		n := p.nodes[e.ID]
		if n == nil {
			return nil // Members brings it
		}
		n.fails = 0
		if n.dialing {
			return append(p.decide(now), Action{Verb: Dial, ID: n.ID})
		}
	case NetworkChanged:
		for _, n := range p.nodes {
			n.fails = 0
		}
	}
	return p.decide(now)
}

func (p *Policy) get(id mesh.NodeID) *node {
	n := p.nodes[id]
	if n == nil {
		n = &node{Peer: Peer{ID: id}}
		p.nodes[id] = n
	}
	return n
}

func (p *Policy) members(m Members) {
	p.reachable = m.Reachable
	for _, n := range p.nodes {
		n.member = false
	}
	for _, peer := range m.Peers {
		if peer.ID == p.self {
			continue
		}
		n := p.get(peer.ID)
		n.Peer, n.member = peer, true
	}
	p.ring, p.second, p.rank, p.near, p.rest = nil, nil, nil, nil, nil
	for id, n := range p.nodes {
		switch {
		case !n.member && !n.up && !n.dialing:
			delete(p.nodes, id)
		case !n.member:
			n.Peer = Peer{ID: id}
		case n.Reachable:
			p.ring, p.second, p.rank = append(p.ring, n), append(p.second, n), append(p.rank, n)
		case n.Near:
			p.near = append(p.near, n)
		default:
			p.rest = append(p.rest, n)
		}
	}
	p.sort()
}

// sort puts the lists in order. Hashes are computed once: there may be thousands.
func (p *Policy) sort() {
	weights := make(map[*node]uint64, len(p.nodes))
	for _, n := range p.nodes {
		weights[n] = weight(p.self, n.ID)
	}
	byRank := func(a, b *node) int {
		return cmp.Or(cmp.Compare(weights[a], weights[b]), a.ID.Compare(b.ID))
	}
	slices.SortFunc(p.rank, byRank)
	slices.SortFunc(p.near, byRank)
	slices.SortFunc(p.rest, byRank)
	round(p.ring, p.self, mesh.NodeID.Compare)
	spots := make(map[mesh.NodeID]uint64, len(p.second)+1)
	spots[p.self] = spot(p.self)
	for _, n := range p.second {
		spots[n.ID] = spot(n.ID)
	}
	round(p.second, p.self, func(a, b mesh.NodeID) int {
		return cmp.Or(cmp.Compare(spots[a], spots[b]), a.Compare(b))
	})
}

// round puts nodes in the order of a ring: those behind this node on it come first, then the ring goes round.
func round(nodes []*node, self mesh.NodeID, compare func(a, b mesh.NodeID) int) {
	wraps := func(n *node) int {
		if compare(n.ID, self) < 0 {
			return 1
		}
		return 0
	}
	slices.SortFunc(nodes, func(a, b *node) int {
		return cmp.Or(cmp.Compare(wraps(a), wraps(b)), compare(a.ID, b.ID))
	})
}

// spot is a member's place on the second ring, the same for everybody.
func spot(id mesh.NodeID) uint64 {
	sum := sha256.Sum256(id[:])
	return binary.BigEndian.Uint64(sum[:8])
}

// weight is the rendezvous hash of a pair, seen from self.
func weight(self, id mesh.NodeID) uint64 {
	sum := sha256.Sum256(append(self[:], id[:]...))
	return binary.BigEndian.Uint64(sum[:8])
}

func (p *Policy) up(n *node, now time.Time) {
	p.landed(n)
	if n.up {
		return
	}
	n.up, n.upSince, n.used = true, now, now
	p.ups = append(p.ups, n)
}

func (p *Policy) down(id mesh.NodeID, now time.Time) {
	n := p.nodes[id]
	if n == nil || !n.up {
		return
	}
	n.up, n.kept = false, false
	p.ups = slices.DeleteFunc(p.ups, func(u *node) bool { return u == n })
	if now.Sub(n.upSince) < Steady {
		n.fail(now)
	} else {
		n.fails = 0
	}
	if !n.member && !n.dialing {
		delete(p.nodes, id)
	}
}

func (p *Policy) landed(n *node) {
	if n.dialing {
		n.dialing = false
		p.inFlight--
	}
}

func (n *node) fail(now time.Time) {
	n.fails++
	n.failed = now
}
