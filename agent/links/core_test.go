package links

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/nat"
)

func behindNAT(m *mesh.Member) { m.NAT = string(nat.EndpointIndependent) }

func public(m *mesh.Member) {
	m.NAT, m.Reachable = string(nat.Open), true
	m.Endpoints = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, m.ID[0]}), 51820)}
}

// pair returns two connected nodes behind NATs; a controls.
func pair(t *testing.T) (s *sim, a, b *simNode) {
	s = newSim(t)
	a, b = s.add(1, behindNAT), s.add(2, behindNAT)
	s.start(a, b)
	s.until(2*time.Second, "first connection", s.bothUp(a, b))
	return s, a, b
}

func TestPublicPeerIsUpInOneRoundTripWithoutSignalling(t *testing.T) {
	s := newSim(t)
	s.signal = func(_, _ mesh.NodeID) bool { return false }
	a, b := s.add(1, behindNAT), s.add(2, public)
	s.start(a, b)
	took := s.until(time.Second, "up", s.bothUp(a, b))
	if limit := 6*s.oneWay + 50*time.Millisecond; took > limit {
		t.Errorf("up after %v, want at most %v (handshake, probe, and the probe of the other side)", took, limit)
	}
}

func TestALinkThatIsUpHasAPath(t *testing.T) {
	s := newSim(t)
	s.signal = func(_, _ mesh.NodeID) bool { return false }
	a, b := s.add(2, behindNAT), s.add(1, public) // b has no way to know where a is until a's handshake arrives
	s.start(a, b)
	s.until(time.Second, "up", s.bothUp(a, b))
	if got := b.core.Snapshot(s.now)[a.id].Path; got.Kind != "direct" || got.Remote != a.addr {
		t.Errorf("the public side's path is %+v, want direct to %v", got, a.addr)
	}
	for _, r := range s.reports {
		if r.State == Connected && r.Path.Kind == "" {
			t.Errorf("a link was reported up with no path: %+v", r)
		}
	}
}

func TestLastGoodEndpointNeedsNoSignalling(t *testing.T) {
	s := newSim(t)
	s.signal = func(_, _ mesh.NodeID) bool { return false }
	a, b := s.add(1, behindNAT), s.add(2, behindNAT)
	a.core = NewCore(a.id, 2, map[mesh.NodeID]netip.AddrPort{b.id: b.addr}, 1)
	s.start(a, b)
	s.until(time.Second, "up", s.bothUp(a, b))
}

func TestTwoNATsConnectThroughICE(t *testing.T) {
	s := newSim(t)
	a, b := s.add(1, behindNAT), s.add(2, behindNAT)
	s.start(b, a)
	took := s.until(2*time.Second, "up", s.bothUp(a, b))
	// offer and answer take 40 ms each, ICE 40 ms, handshake and probe 80 ms, the other side's probe 40 ms
	if limit := 20 * s.oneWay; took > limit {
		t.Errorf("up after %v, want at most %v", took, limit)
	}
	if got := a.core.LastGood()[b.id]; got != b.addr {
		t.Errorf("last good endpoint %v, want %v", got, b.addr)
	}
}

func TestSilentDeathUnderTrafficIsNoticedWithinTwoSeconds(t *testing.T) {
	for _, side := range []string{"controlling", "controlled"} {
		t.Run(side, func(t *testing.T) {
			s, a, b := pair(t)
			from, to := a, b
			if side == "controlled" {
				from, to = b, a
			}
			s.run(3 * time.Second)
			s.traffic(from, to, 20*time.Second, true)
			s.run(time.Second)
			broken := to.addr
			other := netip.AddrPortFrom(broken.Addr(), 40000)
			s.carries = func(x, y *simNode, ep netip.AddrPort) bool {
				return ep == y.addr && ep != broken
			}
			died := s.now
			s.until(2*time.Second, "noticed", func() bool { return s.state(from, to) != Connected })
			to.addr = other // another path exists
			s.until(4*time.Second-s.now.Sub(died), "working again", s.bothUp(a, b))
		})
	}
}

func TestOneWayTrafficKeepsTheLinkUp(t *testing.T) {
	s, a, b := pair(t)
	s.traffic(a, b, 30*time.Second, false)
	before := len(s.reports)
	s.run(30 * time.Second)
	if len(s.reports) != before {
		t.Errorf("a link with one-way traffic changed its state: %+v", s.reports[before:])
	}
}

func TestIdleLinkSendsOneProbeIn25Seconds(t *testing.T) {
	s, _, _ := pair(t)
	s.run(5 * time.Second)
	before := s.probes
	s.run(250 * time.Second)
	if got := s.probes - before; got < 9 || got > 11 {
		t.Errorf("%d probes in 250 idle seconds on one link, want about 10", got)
	}
}

func TestIdleLinkWithoutNATIsProbedLessOften(t *testing.T) {
	s := newSim(t)
	a, b := s.add(1, public), s.add(2, public)
	s.start(a, b)
	s.until(time.Second, "up", s.bothUp(a, b))
	s.run(5 * time.Second)
	before := s.probes
	s.run(400 * time.Second)
	if got := s.probes - before; got < 9 || got > 10 {
		t.Errorf("%d probes in 400 idle seconds between two public members, want 10", got)
	}
	if s.state(a, b) != Connected {
		t.Errorf("state %s, want connected", s.state(a, b))
	}
}

func TestDeadPeerOfAnIdleLinkIsNoticed(t *testing.T) {
	s, a, b := pair(t)
	s.run(5 * time.Second)
	s.carries = func(_, _ *simNode, _ netip.AddrPort) bool { return false }
	s.signal = func(_, _ mesh.NodeID) bool { return false }
	s.until(2*idleInterval+5*time.Second, "noticed by both", func() bool {
		return s.state(a, b) != Connected && s.state(b, a) != Connected
	})
}

func TestUnreachableIsSaidWithTheReasonAndRetriedAtGrowingIntervals(t *testing.T) {
	s := newSim(t)
	s.ice = func(_, _ *simNode) bool { return false }
	s.carries = func(_, _ *simNode, _ netip.AddrPort) bool { return false }
	a := s.add(1, behindNAT)
	b := s.add(2, func(m *mesh.Member) { m.NAT = string(nat.EndpointDependent) })
	s.start(a, b)
	s.run(30 * time.Minute)
	st := a.core.Snapshot(s.now)[b.id]
	if st.State != Unreachable && st.State != Connecting || !strings.Contains(st.Reason, "symmetric") {
		t.Errorf("state %s, reason %q", st.State, st.Reason)
	}
	if st.Path.Kind != "none" {
		t.Errorf("path %q", st.Path.Kind)
	}
	var gaps []time.Duration
	for i := 2; i < len(s.starts); i += 2 {
		gaps = append(gaps, s.starts[i].Sub(s.starts[i-2]))
	}
	if n := len(s.starts); n < 6 || n > 60 {
		t.Errorf("%d sessions in 30 minutes, want a few at growing intervals: %v", n, gaps)
	}
	if len(gaps) > 0 && gaps[len(gaps)-1] < time.Minute {
		t.Errorf("the last interval is %v, want it to have grown: %v", gaps[len(gaps)-1], gaps)
	}
}

// A box without a battery boots in the past: its handshakes carry older timestamps than the peer remembers and are ignored for ever,
// unless the peer forgets it.
func TestPeerWhoseClockWentBackIsBackWithinSeconds(t *testing.T) {
	for _, first := range []byte{1, 9} { // the box controlling, the box controlled
		s := newSim(t)
		box, peer := s.add(first, behindNAT), s.add(5, behindNAT)
		box.clock = 1000
		s.start(box, peer)
		s.until(2*time.Second, "first connection", s.bothUp(box, peer))
		s.run(3 * time.Second)

		reborn := *box.m
		reborn.Boot, reborn.Seq = 2, 2
		box.m = &reborn
		box.core = NewCore(box.id, 2, map[mesh.NodeID]netip.AddrPort{peer.id: peer.addr}, 1)
		box.peers, box.tai, box.active, box.clock = map[mesh.WGKey]*simPeer{}, map[mesh.NodeID]int{}, map[mesh.NodeID]uint64{}, 0
		s.start(box)
		s.step(peer, ViewChanged{s.view(peer)})
		s.until(5*time.Second, "back", s.bothUp(box, peer))
	}
}

func TestHealthyLinkSurvivesNewsOfAReboot(t *testing.T) {
	s, a, b := pair(t)
	s.run(2 * time.Second)
	again := *b.m
	again.Boot, again.Seq = 7, 7
	b.m = &again
	before := len(s.reports)
	s.step(a, ViewChanged{s.view(a)})
	s.run(3 * time.Second)
	if len(s.reports) != before {
		t.Errorf("the link answered and was reset all the same: %+v", s.reports[before:])
	}
}

func TestRevokedPeerLeavesTheTunnel(t *testing.T) {
	s, a, b := pair(t)
	s.step(a, ViewChanged{s.view(a).Without(b.id)})
	if len(a.peers) != 0 || len(a.core.links) != 0 {
		t.Errorf("%d peers, %d links left", len(a.peers), len(a.core.links))
	}
}

func TestOtherAddressKeepsTheSession(t *testing.T) {
	s, a, b := pair(t)
	s.run(3 * time.Second)
	m := *b.m
	m.Addrs = []netip.Addr{netip.MustParseAddr("fd00::2"), netip.MustParseAddr("10.77.16.9")}
	got := a.core.Step(ViewChanged{s.view(a).With(&m)}, s.now)
	if len(got) != 1 {
		t.Fatalf("actions %+v, want only SetAllowedIPs", got)
	}
	if set, ok := got[0].(SetAllowedIPs); !ok || set.Key != m.WireGuard || !slices.Contains(set.AllowedIPs, netip.MustParsePrefix("10.77.16.9/32")) {
		t.Errorf("action %+v", got[0])
	}
	if again := a.core.Step(ViewChanged{s.view(a).With(&m)}, s.now); len(again) != 0 {
		t.Errorf("the same addresses again: %+v", again)
	}
}

func TestMovedPeerIsFollowed(t *testing.T) {
	s, a, b := pair(t)
	s.run(3 * time.Second)
	b.addr = netip.MustParseAddrPort("203.0.113.9:4242")
	s.step(b, NetworkChanged{})
	s.until(3*time.Second, "reachable again", func() bool {
		st := a.core.Snapshot(s.now)[b.id]
		return st.State == Connected && st.Path.Remote == b.addr && s.state(b, a) == Connected
	})
}

func TestForwarderComingBackEndsTheWait(t *testing.T) {
	s := newSim(t)
	s.signal = func(_, _ mesh.NodeID) bool { return false }
	a, b := s.add(1, behindNAT), s.add(2, behindNAT)
	s.start(a, b)
	s.run(2 * time.Minute)
	if s.state(a, b) != Unreachable {
		t.Errorf("state %s with no forwarder", s.state(a, b))
	}
	s.signal = func(_, _ mesh.NodeID) bool { return true }
	s.step(a, SignalPathChanged{})
	s.step(b, SignalPathChanged{})
	s.until(time.Second, "up", s.bothUp(a, b))
}

// A new member's record changes while its first session runs (it has found forwarders): that must not end the session on one side.
func TestNewRecordDuringICEDelaysNothing(t *testing.T) {
	for _, first := range []byte{1, 9} { // the one that changes controls, or is controlled
		s := newSim(t)
		a, b := s.add(first, behindNAT), s.add(5, behindNAT)
		s.start(a, b)
		s.run(4*s.oneWay + 10*time.Millisecond) // offer and answer have crossed
		changed := *a.m
		changed.Seq, changed.Via = 2, []mesh.NodeID{{7}}
		a.m = &changed
		s.step(b, ViewChanged{s.view(b)})
		s.until(time.Second, "up", s.bothUp(a, b))
	}
}

// A controlled side that gives a session up and asks for another one gets it at once.
func TestNudgeThatNamesTheSessionRestartsIt(t *testing.T) {
	s := newSim(t)
	a, b := s.add(1, behindNAT), s.add(2, behindNAT)
	s.start(a, b)
	s.run(4*s.oneWay + 10*time.Millisecond)
	s.step(b, NetworkChanged{})
	s.until(2*time.Second, "up", s.bothUp(a, b))
}

// A reason quotes what others said, and can be longer than a nudge may be: it is cut, or the nudge would not be sent at all.
func TestLongReasonDoesNotStopTheNudge(t *testing.T) {
	s := newSim(t)
	a, b := s.add(1, behindNAT), s.add(2, behindNAT)
	s.start(a, b)
	l := b.core.links[a.id]
	l.reason = strings.Repeat("é", 300)
	for _, act := range b.core.Step(NetworkChanged{}, s.now) {
		if send, ok := act.(Send); ok {
			if n := len(send.Signal.GetNudge().GetReason()); n == 0 || n > 256 {
				t.Errorf("a reason of %d bytes", n)
			}
			return
		}
	}
	t.Error("no nudge was sent")
}

// The controlled side moves; its nudge arrives, but the answer to it does not (its old control connections are dead). The controlling side, for
// which the link was up, must find that out and go on trying.
func TestNudgeMakesTheOtherSideLookAtTheLink(t *testing.T) {
	s, a, b := pair(t) // a controls
	s.run(5 * time.Second)
	b.addr = netip.MustParseAddrPort("203.0.113.9:4242")
	deaf := s.now.Add(700 * time.Millisecond)
	s.signal = func(from, _ mesh.NodeID) bool { return from == b.id || s.now.After(deaf) }
	s.carries = func(_, y *simNode, ep netip.AddrPort) bool {
		return ep == y.addr && s.now.After(deaf.Add(500*time.Millisecond)) // b's new router lets nothing in before that
	}
	s.step(b, NetworkChanged{})
	// 1.4 s; without the look it takes 2.6 s.
	s.until(2*time.Second, "reachable again", func() bool {
		return a.core.Snapshot(s.now)[b.id].Path.Remote == b.addr && s.bothUp(a, b)()
	})
}
