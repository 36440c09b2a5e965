package route

import (
	"net/netip"
	"strings"
	"testing"
)

func TestReaddressMovesOnlyWhatChanged(t *testing.T) {
	link := tunnel(t, "gw0")
	r := mustUp(t, config("gw0"))
	if err := r.Route([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}); err != nil {
		t.Fatal(err)
	}
	step := func(addrs []netip.Addr, prefixes []netip.Prefix, wantAddrs, wantRoutes string) {
		t.Helper()
		if err := r.Readdress(addrs, prefixes); err != nil {
			t.Fatal(err)
		}
		have, routes, _ := list(t, link)
		if got := strings.Join(have, " "); got != wantAddrs {
			t.Errorf("addresses: %s, want %s", got, wantAddrs)
		}
		routes = without(routes, "192.0.2.0/24")
		if got := strings.Join(routes, ", "); got != wantRoutes {
			t.Errorf("routes: %s, want %s", got, wantRoutes)
		}
	}
	other := netip.MustParseAddr("10.77.16.9")
	v6 := "fd00:1:2::/48 src fd00:1:2::1 table fe"
	step([]netip.Addr{addr6, other}, []netip.Prefix{net6, net4}, "10.77.16.9/32 fd00:1:2::1/128", "10.77.0.0/16 src 10.77.16.9 table fe, "+v6)
	step([]netip.Addr{addr6}, []netip.Prefix{net6}, "fd00:1:2::1/128", v6)
	step([]netip.Addr{addr6, addr4}, []netip.Prefix{net6, net4}, "10.77.0.1/32 fd00:1:2::1/128", "10.77.0.0/16 src 10.77.0.1 table fe, "+v6)
	wantError(t, r.Readdress([]netip.Addr{netip.MustParseAddr("192.0.2.1")}, []netip.Prefix{net6}), "192.0.2.1", "none of the overlay's prefixes")
}

func without(routes []string, prefix string) []string {
	var out []string
	for _, r := range routes {
		if !strings.HasPrefix(r, prefix) {
			out = append(out, r)
		}
	}
	return out
}
