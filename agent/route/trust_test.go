package route

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

// TestTrustLetsAnInterfaceCarryTheOverlay: what a workload sends from an overlay address arrives while its interface is trusted, and only
// then; what changes the overlay's addresses does not forget it.
func TestTrustLetsAnInterfaceCarryTheOverlay(t *testing.T) {
	tunnel(t, "gw0")
	h := nstest.Start(t, "neighbour", nstest.Options{})
	eth := nstest.Veth(t, "gw-web", "eth0", h.PID(), "2001:db8::1/64")
	tell(t, h, "configure eth0 2001:db8::2/64")
	r := mustUp(t, config("gw0"))
	got := listenAll(t)
	mac := eth.Attrs().HardwareAddr.String()
	n := 0
	arrives := func(want bool) {
		t.Helper()
		n++
		payload := fmt.Sprint("n", n)
		tell(t, h, fmt.Sprintf("forge eth0 %s [fd00:1:2::7]:9 [fd00:1:2::1]:5000 %s", mac, payload))
		if arrived := wait(got, payload, !want); arrived != want {
			t.Errorf("packet %d arrived: %v, want %v", n, arrived, want)
		}
	}
	trust := func(names ...string) {
		t.Helper()
		if err := r.Trust(names); err != nil {
			t.Fatal(err)
		}
	}
	arrives(false)
	trust("gw-web", "gw-not-there")
	arrives(true)
	trust("gw-web") // one fewer
	arrives(true)
	if err := r.Readdress(r.cfg.Addrs[:1], r.cfg.Prefixes[:1]); err != nil {
		t.Fatal(err)
	}
	arrives(true)
	trust()
	arrives(false)
	for _, bad := range []string{"", strings.Repeat("x", 16)} {
		if err := r.Trust([]string{bad}); err == nil {
			t.Errorf("interface name %q was taken", bad)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Trust([]string{"gw-web"}); err == nil {
		t.Error("a closed router set up its guard again")
	}
}
