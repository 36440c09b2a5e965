package stun

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestAFailedTestIsDoubted: a node that strangers reach does not call itself unreachable because a test failed, which lack of budget makes
// many do while others join. If the tests go on failing, it does, within half a minute and not at the next round only.
func TestAFailedTestIsDoubted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &internet{}
		set(&i.servers, []netip.AddrPort{ap("198.51.100.11:10"), ap("198.51.100.12:50")})
		set(&i.mapped, ap("203.0.113.9:7000"))
		i.reach.Store(true)
		p := i.prober(t)
		pass := func(d time.Duration) bool {
			time.Sleep(d)
			synctest.Wait()
			return p.Report().Reachable
		}
		if !pass(2 * time.Second) {
			t.Fatal("not reachable at first")
		}
		i.reach.Store(false)
		for range 6 { // as many join
			p.Trigger()
			if !pass(1500 * time.Millisecond) {
				t.Fatal("one failed test is believed")
			}
		}
		i.reach.Store(true)
		if !pass(10*time.Second) || !p.doubted.IsZero() {
			t.Fatalf("the test was not made again: doubted since %v", p.doubted)
		}
		tested := i.tested.Load()
		if pass(time.Minute); i.tested.Load() != tested {
			t.Error("it goes on testing what is proven")
		}
		i.reach.Store(false)
		p.Trigger()
		if !pass(15 * time.Second) {
			t.Error("it is given up too soon")
		}
		if pass(20 * time.Second) {
			t.Error("half a minute of failed tests is not believed")
		}
	})
}
