package links

import (
	"net/netip"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// flow makes n and peer exchange so many bytes each 100 ms for d, both ways, as a program that is busy does.
func (s *sim) flow(n, peer *simNode, d time.Duration, bytes uint64) {
	for at := time.Duration(0); at < d; at += 100 * time.Millisecond {
		s.after(at, func() {
			for _, side := range [][2]*simNode{{n, peer}, {peer, n}} {
				p, back := side[0].peers[side[1].m.WireGuard], side[1].peers[side[0].m.WireGuard]
				if p == nil || back == nil || !p.session || !back.session {
					return
				}
				p.c.TxBytes += bytes
				if s.carries(side[0], side[1], p.endpoint) {
					back.c.RxBytes += bytes
				}
			}
		})
	}
}

func (s *sim) figures(n, peer *simNode) Status { return n.core.Snapshot(s.now)[peer.id] }

// TestBothSidesHaveFigures although only one of them probes.
func TestBothSidesHaveFigures(t *testing.T) {
	s, a, b := pair(t)
	s.run(16 * time.Minute)
	for _, st := range []Status{s.figures(a, b), s.figures(b, a)} {
		ratio, ok := st.Losses[2].Ratio()
		if !ok || ratio != 0 {
			t.Errorf("loss over 15 minutes at rest: %+v", st.Losses[2])
		}
		if st.RTT < 39*time.Millisecond || st.RTT > 45*time.Millisecond {
			t.Errorf("RTT %v, want 40 ms", st.RTT)
		}
		if _, ok := st.Losses[0].Ratio(); ok {
			t.Errorf("a loss over one minute from %d probes", st.Losses[0].Probes)
		}
		if st.LastHeard.IsZero() || st.PathChanges != 0 {
			t.Errorf("%+v", st)
		}
	}
}

// TestOpenLinksHaveALoss: 40 s between probes are few enough.
func TestOpenLinksHaveALoss(t *testing.T) {
	s := newSim(t)
	a, b := s.add(1, public), s.add(2, public)
	s.start(a, b)
	s.until(time.Second, "up", s.bothUp(a, b))
	s.run(16 * time.Minute)
	for _, st := range []Status{s.figures(a, b), s.figures(b, a)} {
		if _, ok := st.Losses[2].Ratio(); !ok {
			t.Errorf("%d probes in 15 minutes, want at least %d", st.Losses[2].Probes, MinSamples)
		}
	}
}

// TestOneLostProbeTellsTheLossOfTheMinute, on both sides, and costs no more than one such time.
func TestOneLostProbeTellsTheLossOfTheMinute(t *testing.T) {
	s, a, b := pair(t)
	s.run(2 * time.Minute)
	before := s.probes
	good := s.carries
	lose := 1
	s.carries = func(x, y *simNode, to netip.AddrPort) bool {
		if x == a && lose > 0 {
			lose--
			return false
		}
		return good(x, y, to)
	}
	s.until(idleInterval, "a probe is lost", func() bool { return lose == 0 })
	s.run(lossAfter + alertFor)
	for _, st := range []Status{s.figures(a, b), s.figures(b, a)} {
		loss := st.Losses[0]
		if _, ok := loss.Ratio(); !ok || loss.Lost != 1 {
			t.Errorf("after one lost probe: %+v", loss)
		}
	}
	s.run(5 * time.Minute)
	if got := s.probes - before; got > 30+13+4 {
		t.Errorf("%d probes in 5 minutes after a single loss", got)
	}
	if s.state(a, b) != Connected {
		t.Errorf("state %s after a single loss", s.state(a, b))
	}
}

// TestLossUnderLoadIsMeasuredAndCostsLittle: a busy link is probed each 5 s and each loss is looked into, but not without end.
func TestLossUnderLoadIsMeasuredAndCostsLittle(t *testing.T) {
	s, a, b := pair(t)
	good, n := s.carries, 0
	s.carries = func(x, y *simNode, to netip.AddrPort) bool {
		n++
		return good(x, y, to) && n%10 != 0 // 10 % each way
	}
	s.flow(a, b, 6*time.Minute, 50_000)
	s.run(time.Minute)
	before := s.probes
	s.run(5 * time.Minute)
	// At most 15 s at 2 a second for each 5 s at rest, and what is probed at once after a loss.
	if got := s.probes - before; got < 60 || got > 15*(30+1)+15*8 {
		t.Errorf("%d probes in 5 minutes", got)
	}
	loss, ok := s.figures(a, b).Losses[1].Ratio()
	if !ok || loss < 0.1 || loss > 0.3 {
		t.Errorf("loss %v (%+v), want about 0.19", loss, s.figures(a, b).Losses)
	}
	for _, r := range s.reports {
		if r.State != Connected {
			t.Errorf("a lossy link that carries data was given up: %+v", r)
		}
	}
}

func TestBusyLinkIsProbedEach5Seconds(t *testing.T) {
	s, a, b := pair(t)
	s.flow(a, b, 10*time.Minute, 50_000)
	s.run(10 * time.Second)
	before := s.probes
	s.run(5 * time.Minute)
	if got := s.probes - before; got < 55 || got > 61 {
		t.Errorf("%d probes on a busy link in 5 minutes, want 60", got)
	}
	if loss, ok := s.figures(b, a).Losses[1].Ratio(); !ok || loss != 0 {
		t.Errorf("loss over 5 minutes, on the side that does not probe: %v, %v", loss, ok)
	}
}

// TestSlowAnswersUnderLoadAreNoLoss: traffic fills a queue, and round trips take a second.
func TestSlowAnswersUnderLoadAreNoLoss(t *testing.T) {
	s, a, b := pair(t)
	s.flow(a, b, 3*time.Minute, 50_000)
	s.run(30 * time.Second)
	s.oneWay = 450 * time.Millisecond
	s.run(2 * time.Minute)
	st := s.figures(a, b)
	if st.State != Connected || st.Losses[1].Lost != 0 {
		t.Errorf("state %s, %+v", st.State, st.Losses)
	}
	if st.RTT < 800*time.Millisecond {
		t.Errorf("RTT %v, want 900 ms", st.RTT)
	}
	for _, r := range s.reports {
		if r.State != Connected {
			t.Errorf("the link was given up: %+v", r)
		}
	}
}

// TestOneDeadDirectionUnderDataIsFound: what arrives does not show that what is sent does.
func TestOneDeadDirectionUnderDataIsFound(t *testing.T) {
	s, a, b := pair(t)
	s.flow(a, b, time.Minute, 50_000)
	s.run(20 * time.Second)
	good := s.carries
	s.carries = func(x, y *simNode, to netip.AddrPort) bool { return x != a && good(x, y, to) }
	s.until(15*time.Second, "noticed", func() bool { return s.state(a, b) != Connected })
}

// TestConnectedOnlyIfPacketsPassBothWays whatever ICE says.
func TestConnectedOnlyIfPacketsPassBothWays(t *testing.T) {
	for _, dead := range []byte{1, 2} {
		s := newSim(t)
		a, b := s.add(1, behindNAT), s.add(2, behindNAT)
		selected := false
		s.ice = func(_, _ *simNode) bool { selected = true; return true }
		s.carries = func(x, y *simNode, to netip.AddrPort) bool { return to == y.addr && x.id != (mesh.NodeID{dead}) }
		s.start(a, b)
		s.run(time.Minute)
		if !selected {
			t.Fatal("ICE has selected no pair, so this shows nothing")
		}
		if s.state(a, b) == Connected || s.state(b, a) == Connected {
			t.Errorf("%s, %s with one direction dead", s.state(a, b), s.state(b, a))
		}
	}
}

func TestPathChangesAreCounted(t *testing.T) {
	s, a, b := pair(t)
	for range 3 {
		s.run(10 * time.Second)
		s.renumber(b)
		s.traffic(b, a, 3*time.Second, true)
		s.until(5*time.Second, "reachable again", s.follows(a, b))
	}
	s.run(time.Second)
	if got := s.figures(a, b).PathChanges; got != 3 {
		t.Errorf("a counts %d changes of the path to b, want 3", got)
	}
	if got := s.figures(b, a).PathChanges; got != 0 {
		t.Errorf("b counts %d changes of the path to a, which has not moved", got)
	}
}

// TestPingsDoNotTakeThePlaceOfProbes: they tell us nothing about the link.
func TestPingsDoNotTakeThePlaceOfProbes(t *testing.T) {
	s, a, b := pair(t)
	for at := time.Duration(0); at < 16*time.Minute; at += time.Second {
		s.after(at, func() {
			s.step(a, ProbeHeard{Peer: b.id})
			s.step(b, ProbeHeard{Peer: a.id})
		})
	}
	s.run(16 * time.Minute)
	if _, ok := s.figures(a, b).Losses[2].Ratio(); !ok {
		t.Errorf("%+v while the peer is pinged", s.figures(a, b).Losses)
	}
}

// TestTheLastOfALinkIsTold when its peer is put out.
func TestTheLastOfALinkIsTold(t *testing.T) {
	s, a, b := pair(t)
	s.flow(a, b, 5*time.Second, 1000)
	s.run(6 * time.Second)
	want := s.figures(a, b).Volume
	var got []Gone
	for _, act := range a.core.Step(ViewChanged{mesh.NewView(mesh.Network{}, a.id).With(a.m)}, s.now) {
		if g, ok := act.(Gone); ok {
			got = append(got, g)
		}
	}
	if len(got) != 1 || got[0].Peer != b.id || got[0].Volume != want || want.RxBytes < 50_000 {
		t.Errorf("%+v, want %+v of b", got, want)
	}
}
