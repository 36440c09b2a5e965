package dns

import (
	"net/netip"
	"testing"
	"time"
)

func TestLimit(t *testing.T) {
	start := time.Unix(1000, 0)
	l := newLimiter(100, 10, start)
	ask := func(client string, n int, now time.Time) (ok int) {
		for range n {
			if l.allow(netip.MustParseAddr(client), now) {
				ok++
			}
		}
		return ok
	}
	if n := ask("10.77.0.1", 50, start); n != 10 {
		t.Errorf("%d questions at once allowed, want the burst, 10", n)
	}
	if n := ask("10.77.0.2", 5, start); n != 5 {
		t.Errorf("another client: %d of 5 allowed", n)
	}
	if n := ask("::ffff:10.77.0.1", 5, start); n != 0 {
		t.Errorf("the same client in another form: %d allowed", n)
	}
	if n := ask("10.77.0.1", 50, start.Add(50*time.Millisecond)); n != 5 {
		t.Errorf("after 50 ms %d allowed, want 5", n)
	}
	if n := ask("10.77.0.1", 50, start.Add(time.Hour)); n != 10 {
		t.Errorf("after an hour %d allowed, want the burst, 10", n)
	}
	// A member has 65,536 addresses, and one budget.
	n := 0
	for i := range 1000 {
		b := netip.MustParseAddr("fd00:1:2:3:4:5:6::").As16()
		b[14], b[15] = byte(i>>8), byte(i)
		n += ask(netip.AddrFrom16(b).String(), 1, start)
	}
	if n != 10 {
		t.Errorf("a member with 1,000 addresses: %d questions allowed, want 10", n)
	}
	if n := ask("fd00:1:2:3:4:5:7:1", 20, start); n != 10 {
		t.Errorf("its neighbour: %d allowed, want 10", n)
	}
	if !newLimiter(-1, 0, start).allow(netip.MustParseAddr("10.77.0.1"), start) {
		t.Error("no limit, and yet refused")
	}
}

// TestLimitCrowd: many more clients than slots take no more memory, and who floods is held back beside them.
func TestLimitCrowd(t *testing.T) {
	start := time.Unix(1000, 0)
	l := newLimiter(100, 10, start)
	flooder := netip.MustParseAddr("10.77.0.1")
	allowed, refused := 0, 0
	for i := range 20 * limitSets * limitWays {
		now := start.Add(time.Duration(i) * 10 * time.Microsecond) // 1.6 s: 164 questions more than the burst
		if !l.allow(netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)}), now) {
			refused++
		}
		if l.allow(flooder, now) {
			allowed++
		}
	}
	if refused > 0 {
		t.Errorf("%d clients with one question each were refused", refused)
	}
	if allowed > 200 {
		t.Errorf("the flooder got %d questions through, want about 174", allowed)
	}
}

func BenchmarkLimit(b *testing.B) {
	l, a, now := newLimiter(1000, 1000, time.Unix(0, 0)), netip.MustParseAddr("fd00::1"), time.Unix(5, 0)
	for b.Loop() {
		l.allow(a, now)
	}
}
