package links

import (
	"testing"
	"time"
)

func TestCountersAreReadWhenTheyCanHaveChanged(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var passed uint64
	var r reading
	readings := func(ticks int) (n int) {
		for range ticks {
			now = now.Add(200 * time.Millisecond)
			if r.due(func() uint64 { return passed }, now) {
				n++
			}
		}
		return n
	}
	if n := readings(1); n != 1 {
		t.Fatal("the first reading was left out")
	}
	for what, change := range map[string]func(){"a packet": func() { passed++ }, "a change of the tunnel": r.doubt} {
		readings(30)
		change()
		if n := readings(readingsAfter + 1); n != readingsAfter+1 {
			t.Errorf("after %s: %d readings, want %d", what, n, readingsAfter+1)
		}
		if n := readings(20); n != 0 { // 4 s
			t.Errorf("long after %s: %d readings, want none", what, n)
		}
	}
	if n := readings(50); n < 1 || n > 2 { // 10 s
		t.Errorf("%d readings in 10 s in which nothing passed, want one each %v", n, readingEvery)
	}
	if !r.due(nil, now) {
		t.Error("without knowledge of what passes, a reading was left out")
	}
}

// TestWireGuardsOwnKeepaliveIsNoTraffic: 10 s after the answer to a probe WireGuard sends an empty message, to which nobody answers.
func TestWireGuardsOwnKeepaliveIsNoTraffic(t *testing.T) {
	s, a, b := pair(t)
	s.run(5 * time.Second)
	before := s.probes
	for range 25 {
		s.run(9 * time.Second)
		a.peers[b.m.WireGuard].c.TxBytes += 32
		b.peers[a.m.WireGuard].c.RxBytes += 32
		s.run(time.Second)
	}
	if got := s.probes - before; got > 11 {
		t.Errorf("%d probes in 250 idle seconds on one link, want about 10", got)
	}
}
