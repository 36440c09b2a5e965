package netmon

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func state(prefixes ...string) State {
	l := Link{Name: "eth0", Index: 2, Up: true, Multicast: true}
	for _, p := range prefixes {
		l.Prefixes = append(l.Prefixes, netip.MustParsePrefix(p))
	}
	return State{Links: []Link{l}, DefaultV4: true, Defaults: []Default{{
		Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.1"), Link: "eth0", Metric: 100,
	}}}
}

func clone(s State) State {
	s.Links = slices.Clone(s.Links)
	for i := range s.Links {
		s.Links[i].Prefixes = slices.Clone(s.Links[i].Prefixes)
	}
	s.Defaults = slices.Clone(s.Defaults)
	return s
}

func TestEqualSeesEveryField(t *testing.T) {
	base := state("192.0.2.2/24", "2001:db8::2/64")
	if !base.Equal(clone(base)) {
		t.Fatal("a state differs from its copy")
	}
	changes := map[string]func(*State){
		"name":       func(s *State) { s.Links[0].Name = "eth1" },
		"index":      func(s *State) { s.Links[0].Index++ },
		"up":         func(s *State) { s.Links[0].Up = false },
		"multicast":  func(s *State) { s.Links[0].Multicast = false },
		"lost":       func(s *State) { s.Links[0].Lost++ },
		"address":    func(s *State) { s.Links[0].Prefixes[0] = netip.MustParsePrefix("192.0.2.3/24") },
		"length":     func(s *State) { s.Links[0].Prefixes[0] = netip.MustParsePrefix("192.0.2.2/25") },
		"no address": func(s *State) { s.Links[0].Prefixes = s.Links[0].Prefixes[:1] },
		"no link":    func(s *State) { s.Links = nil },
		"v4":         func(s *State) { s.DefaultV4 = false },
		"v6":         func(s *State) { s.DefaultV6 = true },
		"gateway":    func(s *State) { s.Defaults[0].Gateway = netip.MustParseAddr("192.0.2.254") },
		"metric":     func(s *State) { s.Defaults[0].Metric++ },
		"no default": func(s *State) { s.Defaults = nil },
	}
	for name, change := range changes {
		other := clone(base)
		change(&other)
		if base.Equal(other) || other.Equal(base) {
			t.Errorf("%s: the change is not seen", name)
		}
	}
}

func TestCoreReportsOnlyChanges(t *testing.T) {
	a, b := state("192.0.2.2/24"), state("192.0.2.3/24")
	c := newCore(a, time.Second)
	for i, step := range []struct {
		read    State
		changed bool
	}{{a, false}, {b, true}, {b, false}, {a, true}, {State{}, true}, {State{}, false}, {a, true}} {
		if _, changed := c.update(clone(step.read)); changed != step.changed {
			t.Errorf("step %d: changed %v, want %v", i, changed, step.changed)
		}
	}
}

func TestCoreSeesAFlapThatIsOverBeforeTheReading(t *testing.T) {
	a := state("192.0.2.2/24")
	c := newCore(a, time.Second)
	now := time.Unix(1000, 0)
	c.note(hint{lost: []int{2}}, now)
	c.note(hint{lost: []int{2, 77}}, now) // the same loss told twice, and a link that does not count
	got, changed := c.update(a)
	if !changed || got.Links[0].Lost != 1 {
		t.Fatalf("changed %v, Lost %d, want true and 1", changed, got.Links[0].Lost)
	}
	if _, changed := c.update(a); changed {
		t.Fatal("the same flap was reported twice")
	}
	down := clone(a)
	down.Links[0].Up = false // without a hint: its message was dropped
	if got, changed := c.update(down); !changed || got.Links[0].Lost != 2 {
		t.Fatalf("after a loss without a hint: %+v", got.Links)
	}
	if got, changed := c.update(a); !changed || got.Links[0].Lost != 2 {
		t.Fatalf("after it came back: %+v", got.Links)
	}
	if len(c.lost) != 1 || len(c.up) != 1 {
		t.Fatalf("the core remembers links that are not there: %v %v", c.lost, c.up)
	}
}

func TestCoreDebounceIsBounded(t *testing.T) {
	const d = 100 * time.Millisecond
	c := newCore(State{}, d)
	start := time.Unix(1000, 0)
	for _, step := range []struct{ at, want time.Duration }{
		{0, d}, {50 * time.Millisecond, d}, {290 * time.Millisecond, d},
		{350 * time.Millisecond, 50 * time.Millisecond}, {400 * time.Millisecond, 0}, {900 * time.Millisecond, 0},
	} {
		if got := c.note(hint{}, start.Add(step.at)); got != step.want {
			t.Errorf("hint at %v: wait %v, want %v", step.at, got, step.want)
		}
	}
	c.update(State{})
	if got := c.note(hint{}, start.Add(time.Second)); got != d {
		t.Errorf("after a reading: wait %v, want %v", got, d)
	}
}
