//go:build linux

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// lanLimit is what the issue gives two members to find each other on a switch.
const lanLimit = 10 * time.Second

// met makes a mesh of three that are linked by way of the internet: alice, the founder, who stays there; bob and carol behind routers.
func met(t *testing.T) (w *world, bob, carol *lab.Host) {
	t.Helper()
	w = newWorld(t, lab.Options{})
	alice := w.public("alice")
	bob, carol = w.home("bob", home), w.home("carol", home)
	w.mesh(alice, bob, carol)
	w.linkedAll(10*time.Second, alice, bob, carol)
	return w, bob, carol
}

func own(h *lab.Host, a netip.AddrPort) bool { return a.Addr() == h.Addr() || a.Addr() == h.Addr6() }

// onSwitch checks that bob and carol are linked over the switch within the limit, counted from since.
func (w *world) onSwitch(since time.Time, bob, carol *lab.Host) {
	w.Helper()
	if _, err := w.WaitPing(w.ctx(lanLimit-time.Since(since)), bob, "carol"); err != nil {
		w.Fatalf("not within %v of coming to the switch: %v", lanLimit, err)
	}
	w.eventually(lanLimit-time.Since(since), "both say that they are connected over the switch", func() bool {
		return w.peer(bob, "carol").State == "connected" && w.peer(carol, "bob").State == "connected" &&
			own(carol, w.remote(bob, "carol")) && own(bob, w.remote(carol, "bob"))
	})
	w.Logf("linked %v after coming to the switch", time.Since(since).Round(10*time.Millisecond))
}

// TestLANWithoutInternet moves two members to a switch with no default route and addresses that they never had: they find each other by
// multicast.
func TestLANWithoutInternet(t *testing.T) {
	for name, addrs := range map[string][2]string{
		"private":    {"10.99.7.1/24", "10.99.7.2/24"},
		"link-local": {"169.254.77.1/16", "169.254.3.4/16"},
		"IPv6":       {"fd12:3456:789a::1/64", "fd12:3456:789a::2/64"},
	} {
		t.Run(name, func(t *testing.T) {
			w, bob, carol := met(t)
			lan := must(w.LAN("switch"))(t)
			check(t, bob.MoveTo(lan, netip.MustParsePrefix(addrs[0])))
			check(t, carol.MoveTo(lan, netip.MustParsePrefix(addrs[1])))
			w.onSwitch(time.Now(), bob, carol)
		})
	}
}

// TestLANRestartWithoutInternet is the same for two that were off on their way there.
func TestLANRestartWithoutInternet(t *testing.T) {
	w, bob, carol := met(t)
	for _, h := range []*lab.Host{bob, carol} {
		check(t, w.agents[h].Stop())
	}
	lan := must(w.LAN("switch"))(t)
	check(t, bob.MoveTo(lan, netip.MustParsePrefix("10.99.7.1/24")))
	check(t, carol.MoveTo(lan, netip.MustParsePrefix("10.99.7.2/24")))
	since := time.Now()
	for _, h := range []*lab.Host{bob, carol} {
		w.start(h)
	}
	w.onSwitch(since, bob, carol)
}

// TestLANWithoutAddressAtFirst starts agents on machines that have no address yet, as boxes that boot faster than the network
// does.
func TestLANWithoutAddressAtFirst(t *testing.T) {
	w, bob, carol := met(t)
	for _, h := range []*lab.Host{bob, carol} {
		check(t, w.agents[h].Stop())
	}
	lan := must(w.LAN("switch"))(t)
	for _, h := range []*lab.Host{bob, carol} {
		check(t, h.MoveTo(lan, netip.Prefix{}))
		w.start(h)
	}
	check(t, bob.SetAddr(netip.MustParsePrefix("10.99.7.1/24")))
	w.eventually(5*time.Second, "bob has found nobody and knows it", func() bool { return w.peer(bob, "carol").State != "connected" })
	check(t, carol.SetAddr(netip.MustParsePrefix("10.99.7.2/24")))
	w.onSwitch(time.Now(), bob, carol)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
