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
	for _, c := range []struct {
		what   string
		change func()
		want   int
	}{{"a packet", func() { passed++ }, 1}, {"a change of the tunnel", r.doubt, readingsAfter}} {
		readings(30)
		c.change()
		if n := readings(10); n != c.want {
			t.Errorf("after %s: %d readings, want %d", c.what, n, c.want)
		}
		if n := readings(12); n != 0 {
			t.Errorf("long after %s: %d readings, want none", c.what, n)
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
