package links

import (
	"container/heap"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/nat"
)

// sim runs two or more Cores against a model of the tunnel, of ICE and of signalling, in virtual time: no socket, no goroutine, no clock.
type sim struct {
	t     *testing.T
	now   time.Time
	q     queue
	nodes map[mesh.NodeID]*simNode
	order int

	oneWay   time.Duration // data path, and half of what signalling takes
	signal   func(from, to mesh.NodeID) bool
	patience time.Duration                               // until signalling says that it failed
	ice      func(a, b *simNode) bool                    // does a pair exist
	carries  func(a, b *simNode, to netip.AddrPort) bool // does a packet sent by a to that endpoint reach b
	reports  []Report
	probes   int
	starts   []time.Time
}

type simNode struct {
	id     mesh.NodeID
	m      *mesh.Member
	core   *Core
	addr   netip.AddrPort          // where its packets come from
	peers  map[mesh.WGKey]*simPeer // the tunnel
	tai    map[mesh.NodeID]int     // the newest handshake number seen of each peer (TAI64N)
	clock  int                     // its own handshake number
	active map[mesh.NodeID]uint64  // ICE sessions that have the remote's description
	told   map[mesh.NodeID][]nat.Candidate
	count  time.Time // when its counters are read next
}

type simPeer struct {
	endpoint netip.AddrPort
	session  bool
	c        PeerCounters
}

type simEvent struct {
	at    time.Time
	order int
	f     func()
}

type queue []simEvent

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func newSim(t *testing.T) *sim {
	s := &sim{
		t: t, now: time.UnixMilli(1_800_000_000_000), nodes: map[mesh.NodeID]*simNode{}, oneWay: 20 * time.Millisecond, patience: time.Millisecond,
	}
	s.signal = func(_, _ mesh.NodeID) bool { return true }
	s.ice = func(_, _ *simNode) bool { return true }
	s.carries = func(_, b *simNode, to netip.AddrPort) bool { return to == b.addr }
	return s
}

func (s *sim) after(d time.Duration, f func()) {
	s.order++
	heap.Push(&s.q, simEvent{s.now.Add(d), s.order, f})
}

// add makes a node. first decides the node ID's first byte and so who controls.
func (s *sim) add(first byte, change func(*mesh.Member)) *simNode {
	id := mesh.NodeID{first}
	m := &mesh.Member{
		ID: id, Name: mesh.Name("node" + string('a'+rune(first))), WireGuard: mesh.WGKey{first}, Boot: 1,
		Addrs: []netip.Addr{netip.AddrFrom16([16]byte{0xfd, first, 15: 1})}, Block: netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, first}), 112),
	}
	if change != nil {
		change(m)
	}
	n := &simNode{
		id: id, m: m, core: NewCore(id, m.Boot, nil, 1), addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, first}), 51820),
		peers: map[mesh.WGKey]*simPeer{}, tai: map[mesh.NodeID]int{}, active: map[mesh.NodeID]uint64{},
		told: map[mesh.NodeID][]nat.Candidate{},
	}
	s.nodes[id] = n
	return n
}

func (s *sim) view(self *simNode) *mesh.View {
	v := mesh.NewView(mesh.Network{}, self.id)
	for _, n := range s.nodes {
		v = v.With(n.m)
	}
	return v
}

func (s *sim) start(ns ...*simNode) {
	for _, n := range ns {
		s.located(n)
		s.step(n, ViewChanged{s.view(n)})
	}
}

func (s *sim) step(n *simNode, ev Event) {
	for _, a := range n.core.Step(ev, s.now) {
		s.act(n, a)
	}
}

func (s *sim) act(n *simNode, a Action) {
	switch a := a.(type) {
	case SetPeer:
		n.peers[a.Key] = &simPeer{endpoint: a.Endpoint}
	case RemovePeer:
		for id, other := range s.nodes {
			if other.m.WireGuard == a.Key {
				delete(n.tai, id)
			}
		}
		delete(n.peers, a.Key)
	case SetEndpoint:
		if p := n.peers[a.Key]; p != nil {
			p.endpoint = a.Endpoint
		}
	case Handshake:
		s.handshake(n, a.Key)
	case StartICE:
		s.starts = append(s.starts, s.now)
		d := nat.Description{Ufrag: "u", Pwd: "p", Candidates: n.core.reflexive()}
		s.after(0, func() { s.step(n, ICEStarted{Peer: a.Peer, Session: a.Session, Local: d}) })
	case ConnectICE:
		s.connect(n, a)
	case CloseICE:
		if n.active[a.Peer] == a.Session {
			delete(n.active, a.Peer)
		}
	case Send:
		s.send(n, a)
	case Probe:
		s.probes++
		s.probe(n, a)
	case Count:
		s.count(n)
	case Locate:
		s.after(2*s.oneWay, func() { s.located(n) })
	case Report:
		s.reports = append(s.reports, a)
	}
}

func (s *sim) send(n *simNode, a Send) {
	to := s.nodes[a.To]
	if !s.signal(n.id, a.To) {
		s.after(s.patience, func() { s.step(n, SignalFailed{a.To, a.Signal.Session, "nobody carries it"}) })
		return
	}
	s.after(2*s.oneWay, func() { s.step(to, SignalArrived{From: n.id, Signal: a.Signal, Delay: 2 * s.oneWay}) })
	s.after(4*s.oneWay, func() { s.step(n, SignalSent{a.To, a.Signal.Session}) })
}

// located is the answer of members that were asked how they see n.
func (s *sim) located(n *simNode) {
	s.step(n, NATChanged{nat.Report{Type: nat.Type(n.m.NAT), Mapped: []netip.AddrPort{n.addr}}})
}

// found reports whether checks can pass: where neither side lets strangers in, each must have been told the other's mapped address.
func found(a, b *simNode) bool {
	knows := func(x, y *simNode) bool {
		return slices.ContainsFunc(x.told[y.id], func(c nat.Candidate) bool { return c.Addr == y.addr })
	}
	open := func(x *simNode) bool { return nat.Type(x.m.NAT) == nat.Open }
	return open(a) || open(b) || knows(a, b) && knows(b, a)
}

// connect selects a pair when both sides have the other's description of the same session.
func (s *sim) connect(n *simNode, a ConnectICE) {
	other := s.nodes[a.Peer]
	n.active[a.Peer], n.told[a.Peer] = a.Session, a.Remote.Candidates
	if other.active[n.id] != a.Session {
		return
	}
	for _, side := range [][2]*simNode{{n, other}, {other, n}} {
		self, peer := side[0], side[1]
		if !s.ice(n, other) || !found(n, other) {
			s.after(8*time.Second, func() { s.step(self, ICEFailed{Peer: peer.id, Session: a.Session, Reason: "no pair works"}) })
			continue
		}
		s.after(2*s.oneWay, func() {
			if self.active[peer.id] != a.Session || peer.active[self.id] != a.Session {
				// One side has given the session up: no check is answered.
				s.after(8*time.Second, func() { s.step(self, ICEFailed{Peer: peer.id, Session: a.Session, Reason: "no answer"}) })
				return
			}
			s.step(self, ICESelected{Peer: peer.id, Session: a.Session, Pair: nat.Pair{Remote: nat.Candidate{Type: nat.ServerReflexive, Addr: peer.addr}}})
		})
	}
}

func (s *sim) peerOf(n *simNode, key mesh.WGKey) *simNode {
	for _, o := range s.nodes {
		if o.m.WireGuard == key {
			return o
		}
	}
	s.t.Fatal("unknown key")
	return nil
}

func (s *sim) handshake(n *simNode, key mesh.WGKey) {
	p, peer := n.peers[key], s.peerOf(n, key)
	if p == nil || !p.endpoint.IsValid() {
		return
	}
	p.c.TxBytes += 148
	n.clock++
	number := n.clock
	if !s.carries(n, peer, p.endpoint) {
		return
	}
	s.after(s.oneWay, func() {
		back := peer.peers[n.m.WireGuard]
		if back == nil || number <= peer.tai[n.id] {
			return // unknown key, or replay as TAI64N sees it
		}
		peer.tai[n.id] = number
		back.endpoint, back.session = n.addr, true
		back.c.Endpoint = n.addr
		back.c.RxBytes += 148
		back.c.TxBytes += 92
		if s.carries(peer, n, n.addr) {
			s.after(s.oneWay, func() {
				if q := n.peers[key]; q != nil {
					q.session = true
					q.c.RxBytes += 92
				}
			})
		}
	})
}

// probe follows WireGuard's queue: what waits for a session goes out when there is one.
func (s *sim) probe(n *simNode, a Probe) {
	peer := s.nodes[a.Peer]
	var try func(left int)
	try = func(left int) {
		p := n.peers[peer.m.WireGuard]
		if p == nil || left == 0 {
			return
		}
		if !p.session {
			s.after(s.oneWay, func() { try(left - 1) })
			return
		}
		p.c.TxBytes += 96
		if !s.carries(n, peer, p.endpoint) {
			return
		}
		s.after(s.oneWay, func() { s.echo(peer, n, a) })
	}
	try(20)
}

func (s *sim) echo(peer, n *simNode, a Probe) {
	back := peer.peers[n.m.WireGuard]
	if back == nil || !back.session {
		return
	}
	back.c.RxBytes += 96
	back.c.TxBytes += 96
	back.c.Endpoint = n.addr
	s.step(peer, ProbeHeard{Peer: n.id, Tells: true, Told: a.Told})
	if !s.carries(peer, n, back.endpoint) {
		return
	}
	s.after(s.oneWay, func() {
		if p := n.peers[peer.m.WireGuard]; p != nil {
			p.c.RxBytes += 96
			s.step(n, ProbeAnswered{Peer: peer.id, Seq: a.Seq})
		}
	})
}

// traffic makes n send to peer each 100 ms for d; answered says whether the peer's programs answer.
func (s *sim) traffic(n, peer *simNode, d time.Duration, answered bool) {
	for at := time.Duration(0); at < d; at += 100 * time.Millisecond {
		s.after(at, func() {
			p := n.peers[peer.m.WireGuard]
			if p == nil || !p.session {
				return
			}
			s.passes(n)
			p.c.TxBytes += 100
			back := peer.peers[n.m.WireGuard]
			if back == nil || !back.session || !s.carries(n, peer, p.endpoint) {
				return
			}
			s.passes(peer)
			back.c.RxBytes += 100
			if answered && s.carries(peer, n, back.endpoint) {
				back.c.TxBytes += 100
				p.c.RxBytes += 100
			}
		})
	}
}

// passes is called before a packet passes n's interface: Runner is told of the first one after a rest.
func (s *sim) passes(n *simNode) {
	if n.count.Sub(s.now) > countBusy {
		n.count = s.now.Add(countBusy)
	}
}

// run advances virtual time, with the counters read and ticks given as Runner does.
func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for s.now.Before(end) {
		for len(s.q) > 0 && !s.q[0].at.After(s.now) {
			heap.Pop(&s.q).(simEvent).f()
		}
		for _, n := range s.nodes {
			if due(n.count, s.now) || n.count.IsZero() {
				s.count(n)
				n.count = s.now.Add(countIdle)
				if n.core.Busy(s.now) {
					n.count = s.now.Add(countBusy)
				}
			}
		}
		if s.now.UnixMilli()%10 == 0 {
			for _, n := range s.nodes {
				s.step(n, Tick{})
			}
		}
		s.now = s.next()
	}
}

// next returns the next millisecond in which something happens.
func (s *sim) next() time.Time {
	next := s.now.Truncate(10 * time.Millisecond).Add(10 * time.Millisecond) // ticks
	for _, n := range s.nodes {
		if n.count.Before(next) {
			next = n.count
		}
	}
	if len(s.q) > 0 && s.q[0].at.Before(next) {
		next = s.q[0].at
	}
	if soon := s.now.Add(time.Millisecond); next.Before(soon) {
		return soon
	}
	return next
}

func (s *sim) count(n *simNode) {
	ev := Counters{Peers: map[mesh.WGKey]PeerCounters{}}
	for k, p := range n.peers {
		ev.Peers[k] = p.c
	}
	s.step(n, ev)
}

// until runs until cond, at most limit, and returns how long that took.
func (s *sim) until(limit time.Duration, what string, cond func() bool) time.Duration {
	s.t.Helper()
	start := s.now
	for !cond() {
		if s.now.Sub(start) > limit {
			for _, r := range s.reports {
				s.t.Logf("%+v", r)
			}
			s.t.Fatalf("%s: not within %v", what, limit)
		}
		s.run(10 * time.Millisecond)
	}
	return s.now.Sub(start)
}

func (s *sim) state(n, peer *simNode) State { return n.core.Snapshot(s.now)[peer.id].State }

func (s *sim) bothUp(a, b *simNode) func() bool {
	return func() bool { return s.state(a, b) == Connected && s.state(b, a) == Connected }
}
