package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func id(n int) mesh.NodeID {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	var out mesh.NodeID
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	return out
}

func reachables(from, to int) (out []Peer) {
	for i := from; i < to; i++ {
		out = append(out, Peer{ID: id(i), Reachable: true, Dialable: true})
	}
	return out
}

// verbs returns the members that an action of this kind is about.
func verbs(as []Action, v Verb) (out []mesh.NodeID) {
	for _, a := range as {
		if a.Verb == v {
			out = append(out, a.ID)
		}
	}
	return out
}

func TestStartDialsSeveralAtOnce(t *testing.T) {
	p := New(id(0))
	as := p.Step(Members{Peers: reachables(1, 9)}, start)
	dials := verbs(as, Dial)
	if len(dials) != burst || len(as) != burst {
		t.Fatalf("%v, want %d dials", as, burst)
	}
	// The first two that answer are kept if they are the best; the others are let go a minute later.
	now := start.Add(50 * time.Millisecond)
	for _, d := range dials {
		p.Step(Up{d}, now)
	}
	var kept int
	for _, d := range dials {
		if p.Kept(d) {
			kept++
		}
	}
	if kept != Want {
		t.Errorf("%d kept, want %d", kept, Want)
	}
	now = now.Add(IdleClose)
	as = p.Step(Tick{}, now)
	if got := len(verbs(as, Close)); got != burst-Want {
		t.Errorf("%v, want %d closed", as, burst-Want)
	}
}

func TestRestartChoosesTheSame(t *testing.T) {
	chosen := func() []mesh.NodeID {
		p := New(id(0))
		peers := reachables(1, 50)
		rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
		return verbs(p.Step(Members{Peers: peers}, start), Dial)
	}
	first := chosen()
	for range 5 {
		if got := chosen(); !slices.Equal(got, first) {
			t.Fatalf("chose %v, then %v", first, got)
		}
	}
}

func TestUsedConnectionStays(t *testing.T) {
	p := New(id(0))
	p.Step(Members{Reachable: true, Peers: []Peer{{ID: id(1), Dialable: true}}}, start)
	p.Step(Up{id(1)}, start) // nobody else is there: kept
	if !p.Kept(id(1)) && len(p.near) > 0 {
		t.Error("the only connection is not kept")
	}
	p.Step(Members{Reachable: true, Peers: append(reachables(2, 4), Peer{ID: id(1), Dialable: true})}, start)
	p.Step(Up{id(2)}, start)
	p.Step(Up{id(3)}, start)
	now := start
	for range 10 {
		now = now.Add(IdleClose / 2)
		p.Step(Used{ID: id(1), At: now}, now)
		if c := verbs(p.Step(Tick{}, now), Close); slices.Contains(c, id(1)) {
			t.Fatalf("closed %v, which was used", c)
		}
	}
	if c := verbs(p.Step(Tick{}, now.Add(IdleClose)), Close); !slices.Contains(c, id(1)) {
		t.Errorf("closed %v, want the idle one", c)
	}
}

func TestBackoff(t *testing.T) {
	p := New(id(0))
	now := start
	as := p.Step(Members{Peers: reachables(1, 2)}, now)
	var delays []time.Duration
	for range 8 {
		if len(verbs(as, Dial)) != 1 {
			t.Fatalf("%v, want a dial", as)
		}
		if more := p.Step(Tick{}, now); len(more) != 0 {
			t.Fatalf("while dialling: %v", more)
		}
		as = p.Step(Failed{id(1)}, now)
		if len(as) != 0 {
			t.Fatalf("after a failure: %v", as)
		}
		delays = append(delays, p.Next().Sub(now))
		now = p.Next()
		as = p.Step(Tick{}, now)
	}
	want := []time.Duration{1, 2, 4, 8, 8, 8, 8, 8} // alone, it never waits longer
	for i, d := range delays {
		if w := want[i] * time.Second; d < w*3/4 || d > w*5/4 {
			t.Errorf("try %d after %v, want %v +-25 %%", i+1, d, w)
		}
	}
	p.Step(Failed{id(1)}, now)
	if as := p.Step(NetworkChanged{}, now); len(verbs(as, Dial)) != 1 {
		t.Errorf("after a network change: %v, want a dial at once", as)
	}
}

func TestDeadFirstChoiceIsReplacedAndTriedSeldom(t *testing.T) {
	p := New(id(0))
	p.Step(Members{Peers: reachables(1, 4)}, start)
	order := p.rank
	now := start
	p.Step(Up{order[1].ID}, now)
	p.Step(Up{order[2].ID}, now)
	dials := 0
	p.Step(Failed{order[0].ID}, now)
	for now.Before(start.Add(time.Hour)) {
		now = p.Next()
		for _, a := range p.Step(Tick{}, now) {
			if a.Verb == Dial {
				dials++
				p.Step(Failed{a.ID}, now)
			}
			if a.Verb == Close || a.Verb == Release {
				t.Fatalf("%v of a connection that is needed", a)
			}
		}
	}
	if !p.Kept(order[1].ID) || !p.Kept(order[2].ID) {
		t.Error("the two that answer are not kept")
	}
	if dials > 20 {
		t.Errorf("a dead member was dialled %d times in an hour while nothing was missing", dials)
	}
}

// A connection that ends at once, again and again, must not be dialled again at once.
// A member is dialled where it no longer is, and fails again and again; then it is found on the LAN.
func TestFoundMemberIsDialledAtOnce(t *testing.T) {
	p := New(id(0))
	peer := Peer{ID: id(1), Dialable: true}
	dialled := func(as []Action) bool { return slices.Equal(verbs(as, Dial), []mesh.NodeID{id(1)}) }
	if as := p.Step(Members{Peers: []Peer{peer}}, start); !dialled(as) {
		t.Fatalf("at the start: %v", as)
	}
	now := start.Add(time.Second)
	if as := p.Step(Found{id(1)}, now); !dialled(as) {
		t.Errorf("found while a dial is under way: %v", as)
	}
	for range 6 {
		p.Step(Failed{id(1)}, now)
		p.Step(Failed{id(1)}, now) // the second dial
		now = now.Add(2 * loneRetry)
		if as := p.Step(Tick{}, now); !dialled(as) {
			t.Fatalf("the retry: %v", as)
		}
	}
	p.Step(Failed{id(1)}, now)
	if as := p.Step(Tick{}, now.Add(time.Second)); len(as) != 0 {
		t.Fatalf("no pause: %v", as)
	}
	if as := p.Step(Found{id(1)}, now.Add(time.Second)); !dialled(as) {
		t.Errorf("found in the pause: %v", as)
	}
	if p.inFlight != 1 {
		t.Errorf("%d dials in flight, want 1", p.inFlight)
	}
}

// With no internet, dials to everybody who is out there take their time to fail; neighbours need not wait for that.
func TestNeighboursAreDialledBesideTheFarOnes(t *testing.T) {
	p := New(id(0))
	peers := append(reachables(1, 20), Peer{ID: id(50), Near: true, Dialable: true}, Peer{ID: id(51), Near: true, Dialable: true})
	dials := verbs(p.Step(Members{Peers: peers}, start), Dial)
	near := slices.DeleteFunc(slices.Clone(dials), func(n mesh.NodeID) bool { return n != id(50) && n != id(51) })
	if len(dials) != burst || len(near) != 2 {
		t.Errorf("dialled %d, %d of them neighbours; want %d and 2", len(dials), len(near), burst)
	}
}

func TestShortConnectionsBackOff(t *testing.T) {
	p := New(id(0))
	now := start
	p.Step(Members{Peers: reachables(1, 2)}, now)
	dials := 1
	for range 200 {
		p.Step(Up{id(1)}, now)
		dials += len(verbs(p.Step(Down{id(1)}, now), Dial))
		now = now.Add(100 * time.Millisecond)
		dials += len(verbs(p.Step(Tick{}, now), Dial))
	}
	if dials > 8 {
		t.Errorf("%d dials in 20 s to a member that hangs up at once", dials)
	}
}

// sim runs the policies of a whole network. Dials take effect at once; dead members do not answer.
type sim struct {
	now   time.Time
	ps    []*Policy
	peers []Peer
	up    map[[2]int]bool
	dead  map[int]bool
	index map[mesh.NodeID]int
}

func newSim(reach, hidden int, seed int) *sim {
	s := &sim{now: start, up: make(map[[2]int]bool), dead: make(map[int]bool), index: make(map[mesh.NodeID]int)}
	for i := range reach + hidden {
		n := id(seed*1000 + i)
		s.index[n] = i
		s.peers = append(s.peers, Peer{ID: n, Reachable: i < reach, Dialable: true})
		s.ps = append(s.ps, New(n))
	}
	return s
}

func pair(a, b int) [2]int { return [2]int{min(a, b), max(a, b)} }

func (s *sim) step(i int, ev Event) {
	for _, a := range s.ps[i].Step(ev, s.now) {
		j := s.index[a.ID]
		switch a.Verb {
		case Dial:
			if s.up[pair(i, j)] {
				panic("dials whom it is connected to")
			}
			if s.dead[j] || !s.peers[j].Reachable {
				s.step(i, Failed{a.ID})
				continue
			}
			s.up[pair(i, j)] = true
			s.step(j, Up{s.peers[i].ID})
			s.step(i, Up{a.ID})
		case Close:
			if s.ps[j].Kept(s.peers[i].ID) {
				continue // its heartbeats keep it in use: see Used
			}
			s.down(i, j)
		}
	}
}

func (s *sim) down(i, j int) {
	if !s.up[pair(i, j)] {
		return
	}
	delete(s.up, pair(i, j))
	s.step(i, Down{s.peers[j].ID})
	s.step(j, Down{s.peers[i].ID})
}

func (s *sim) kill(i int) {
	s.dead[i] = true
	for j := range s.ps {
		if s.up[pair(i, j)] {
			delete(s.up, pair(i, j))
			s.step(j, Down{s.peers[i].ID})
		}
	}
}

func (s *sim) run(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); s.now = s.now.Add(time.Second) {
		for i := range s.ps {
			if s.dead[i] {
				continue
			}
			for j := range s.ps {
				if s.up[pair(i, j)] && s.ps[j].Kept(s.peers[i].ID) {
					s.step(i, Used{ID: s.peers[j].ID, At: s.now})
				}
			}
			if next := s.ps[i].Next(); !next.IsZero() && !next.After(s.now) {
				s.step(i, Tick{})
			}
		}
	}
}

// parts counts the components of the graph of the living.
func (s *sim) parts() int {
	root := make([]int, len(s.ps))
	for i := range root {
		root[i] = i
	}
	find := func(i int) int {
		for root[i] != i {
			i = root[i]
		}
		return i
	}
	for p := range s.up {
		root[find(p[0])] = find(p[1])
	}
	n := 0
	for i := range root {
		if root[i] == i && !s.dead[i] {
			n++
		}
	}
	return n
}

func TestNetworksHoldTogether(t *testing.T) {
	for seed, size := range [][2]int{{1, 1}, {2, 0}, {2, 3}, {1, 9}, {3, 5}, {6, 0}, {12, 0}, {9, 20}, {20, 30}} {
		t.Run(fmt.Sprintf("%d reachable, %d not", size[0], size[1]), func(t *testing.T) {
			s := newSim(size[0], size[1], seed+1)
			for i := range s.ps {
				s.step(i, Members{Reachable: s.peers[i].Reachable, Peers: s.peers})
			}
			s.run(3 * time.Minute)
			if n := s.parts(); n != 1 {
				t.Errorf("the network is in %d parts", n)
			}
			for i := range s.ps {
				own := 0
				for j := range s.ps {
					if s.up[pair(i, j)] && s.ps[i].Kept(s.peers[j].ID) {
						own++
					}
				}
				if own > Want {
					t.Errorf("member %d keeps %d", i, own)
				}
				if want := min(Want, size[0]); !s.peers[i].Reachable && own < want {
					t.Errorf("member %d, which is not reachable, keeps %d, want %d", i, own, want)
				}
			}
			if size[0] < 3 {
				return
			}
			s.kill(0)
			s.run(time.Minute)
			if n := s.parts(); n != 1 {
				t.Errorf("after the first died the network is in %d parts", n)
			}
		})
	}
}

// Whatever happens, in any order: the promises of the actions hold.
func TestRandomEvents(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		p := New(id(0))
		now := start
		up, dialing := make(map[mesh.NodeID]bool), make(map[mesh.NodeID]bool)
		for range 300 {
			now = now.Add(time.Duration(r.IntN(20_000)) * time.Millisecond)
			who := id(1 + r.IntN(12))
			var ev Event
			switch r.IntN(8) {
			case 0:
				var peers []Peer
				for i := range 12 {
					if r.IntN(4) > 0 {
						peers = append(peers, Peer{ID: id(1 + i), Reachable: r.IntN(2) > 0, Near: r.IntN(3) == 0, Dialable: r.IntN(5) > 0})
					}
				}
				ev = Members{Reachable: r.IntN(2) > 0, Peers: peers}
			case 1, 2:
				ev = Up{who}
				up[who] = true
				delete(dialing, who)
			case 3:
				ev = Down{who}
				delete(up, who)
			case 4:
				ev = Failed{who}
				delete(dialing, who)
			case 5:
				ev = NetworkChanged{}
			case 6:
				ev = Used{ID: who, At: now}
			default:
				ev = Tick{}
			}
			for _, a := range p.Step(ev, now) {
				switch {
				case a.Verb == Dial && (up[a.ID] || dialing[a.ID]):
					t.Fatalf("seed %d: %v of somebody who is connected or being dialled", seed, a.Verb)
				case a.Verb != Dial && !up[a.ID]:
					t.Fatalf("seed %d: %v of somebody who is not connected", seed, a.Verb)
				case a.Verb == Close && p.Kept(a.ID):
					t.Fatalf("seed %d: closes whom it keeps", seed)
				case a.Verb == Dial:
					dialing[a.ID] = true
				}
			}
			if len(dialing) > burst {
				t.Fatalf("seed %d: %d dials at once", seed, len(dialing))
			}
			kept, useful := 0, 0
			for n := range up {
				if p.nodes[n].member {
					useful++
				}
				if p.Kept(n) {
					kept++
				}
			}
			if _, used := ev.(Used); !used && (kept > Want || useful > 0 && !p.reachable && kept == 0) {
				t.Fatalf("seed %d: %d kept of %d members that are connected", seed, kept, useful)
			}
			if next := p.Next(); !next.IsZero() && !next.After(now) {
				if as := p.Step(Tick{}, now); len(as) == 0 && !p.Next().IsZero() && !p.Next().After(now) {
					t.Fatalf("seed %d: asks for a tick that is due and does nothing", seed)
				}
			}
		}
	}
}

func BenchmarkMembers5000(b *testing.B) {
	peers := reachables(1, 5001)
	p := New(id(0))
	for b.Loop() {
		p.Step(Members{Peers: peers}, start)
	}
}
