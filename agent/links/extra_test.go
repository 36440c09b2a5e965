package links

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

var (
	farm = netip.MustParsePrefix("192.168.1.0/24")
	lab  = netip.MustParsePrefix("2001:db8:7::/64")
)

func extraOf(id mesh.NodeID, ps ...netip.Prefix) Extra {
	return Extra{Prefixes: map[mesh.NodeID][]netip.Prefix{id: ps}}
}

// setFor returns the prefixes of the only SetAllowedIPs for m.
func setFor(t *testing.T, acts []Action, m *mesh.Member) []netip.Prefix {
	t.Helper()
	var found []netip.Prefix
	n := 0
	for _, a := range acts {
		if set, ok := a.(SetAllowedIPs); ok && set.Key == m.WireGuard {
			found = set.AllowedIPs
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d SetAllowedIPs for %s in %+v, want 1", n, m.Name, acts)
	}
	return found
}

func TestExtraPrefixesComeOnTopAndGo(t *testing.T) {
	s, a, b := pair(t)
	s.run(3 * time.Second)
	got := setFor(t, a.core.Step(extraOf(b.id, farm, lab), s.now), b.m)
	want := append(AllowedIPs(b.m), farm, lab)
	if !slices.Equal(got, want) {
		t.Errorf("allowed %v, want %v", got, want)
	}
	if again := a.core.Step(extraOf(b.id, farm, lab), s.now); len(again) != 0 {
		t.Errorf("the same set again: %+v", again)
	}
	if got := setFor(t, a.core.Step(Extra{}, s.now), b.m); !slices.Equal(got, AllowedIPs(b.m)) {
		t.Errorf("allowed %v after the extra prefixes went", got)
	}
}

func TestExtraPrefixesSurviveAChangeOfTheMember(t *testing.T) {
	s, a, b := pair(t)
	s.run(3 * time.Second)
	a.core.Step(extraOf(b.id, farm), s.now)
	m := *b.m
	m.Addrs = []netip.Addr{netip.MustParseAddr("fd00::2"), netip.MustParseAddr("10.77.16.9")}
	if got := setFor(t, a.core.Step(ViewChanged{s.view(a).With(&m)}, s.now), &m); !slices.Contains(got, farm) {
		t.Errorf("allowed %v: a new address cost the routed prefix", got)
	}
	m2 := m
	m2.WireGuard[5] ^= 0xff
	for _, act := range a.core.Step(ViewChanged{s.view(a).With(&m2)}, s.now) {
		if set, ok := act.(SetPeer); ok && !slices.Contains(set.AllowedIPs, farm) {
			t.Errorf("allowed %v: a new key cost the routed prefix", set.AllowedIPs)
		}
	}
}

func TestExtraPrefixesWaitForTheirMember(t *testing.T) {
	s := newSim(t)
	a, b := s.add(1, behindNAT), s.add(2, behindNAT)
	s.start(a)
	s.step(a, ViewChanged{s.view(a).Without(b.id)})
	a.core.Step(extraOf(b.id, farm), s.now)
	for _, act := range a.core.Step(ViewChanged{s.view(a)}, s.now) {
		if set, ok := act.(SetPeer); ok {
			if !slices.Contains(set.AllowedIPs, farm) {
				t.Errorf("the new member got %v, want %v in it", set.AllowedIPs, farm)
			}
			return
		}
	}
	t.Error("the member was not added")
}

// TestAMovingPrefixIsGivenBeforeItIsTaken: the peer that gains comes first.
func TestAMovingPrefixIsGivenBeforeItIsTaken(t *testing.T) {
	s := newSim(t)
	a, b, c := s.add(1, behindNAT), s.add(2, behindNAT), s.add(3, behindNAT)
	s.start(a, b, c)
	s.run(3 * time.Second)
	for range 20 { // maps are walked in any order
		a.core.Step(extraOf(b.id, farm), s.now)
		acts := a.core.Step(extraOf(c.id, farm), s.now)
		if len(acts) < 2 || acts[0].(SetAllowedIPs).Key != c.m.WireGuard || acts[1].(SetAllowedIPs).Key != b.m.WireGuard {
			t.Fatalf("actions %+v, want c's new set, then b's", acts)
		}
	}
}
