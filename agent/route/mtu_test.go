package route

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// mtuTo returns MTU and segment size of the route that this machine's own packets take, or, with from, those that it forwards from there.
func mtuTo(t *testing.T, dst string, from string) string {
	t.Helper()
	o := &netlink.RouteGetOptions{}
	if from != "" {
		o.SrcAddr, o.Iif = net.ParseIP(from), "wl0"
	}
	routes, err := netlink.RouteGetWithOptions(net.ParseIP(dst), o)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(routes[0].MTU, " ", routes[0].AdvMSS)
}

func TestPeerMTU(t *testing.T) {
	link := tunnel(t, "gw0")
	wl := tunnel(t, "wl0")
	if err := netlink.LinkSetUp(wl); err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: wl.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("2001:db8:77::/64"))}); err != nil {
		t.Fatal(err)
	}
	r := mustUp(t, config("gw0"))
	if err := r.Forward("test", true); err != nil {
		t.Fatal(err)
	}
	lan, lan6 := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:9::/48")
	good, small := netip.MustParsePrefix("fd00:1:2:7::/112"), netip.MustParsePrefix("fd00:1:2:8::/112")
	four := netip.MustParsePrefix("10.77.0.7/32")
	if err := r.PeerMTU(map[netip.Prefix]int{good: 1328, small: 1216, four: 1216, lan: 1328, lan6: 1216}); err != nil {
		t.Fatal(err)
	}
	if err := r.Route([]netip.Prefix{lan, lan6}); err != nil { // told of later than their limits
		t.Fatal(err)
	}
	const workload = "2001:db8:77::5"
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: MTU and segment size %s, want %s", what, got, want)
		}
	}
	expect("own packets", mtuTo(t, "fd00:1:2:7::5", ""), "1328 1268")
	expect("forwarded packets", mtuTo(t, "fd00:1:2:7::5", workload), "1328 1268")
	expect("own packets by a small path", mtuTo(t, "fd00:1:2:8::5", ""), "1216 1156")
	expect("forwarded packets by a small path", mtuTo(t, "fd00:1:2:8::5", workload), "1280 1156")
	expect("IPv4", mtuTo(t, "10.77.0.7", ""), "1216 1176")
	expect("a peer without a limit", mtuTo(t, "10.77.0.8", ""), "0 0")
	expect("a routed prefix", mtuTo(t, "192.0.2.1", ""), "1328 1288")
	expect("a routed IPv6 prefix", mtuTo(t, "2001:db8:9::1", ""), "1280 1156")

	next := netip.MustParseAddr("10.77.0.9")
	if err := r.Readdress([]netip.Addr{addr6, next}, []netip.Prefix{net6, net4}); err != nil {
		t.Fatal(err)
	}
	expect("after another address", mtuTo(t, "10.77.0.7", ""), "1216 1176")
	if err := r.PeerMTU(map[netip.Prefix]int{small: 1296}); err != nil {
		t.Fatal(err)
	}
	expect("a path that has grown", mtuTo(t, "fd00:1:2:8::5", ""), "1296 1236")
	expect("a path without a limit", mtuTo(t, "fd00:1:2:7::5", ""), "0 0")
	expect("a routed prefix without one", mtuTo(t, "192.0.2.1", ""), "0 0")
	if rules, err := netlink.RuleList(netlink.FAMILY_V6); err != nil || slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.IifName == "lo" }) {
		t.Errorf("the rule for small paths is left: %v %v", rules, err)
	}
	wantError(t, r.PeerMTU(map[netip.Prefix]int{netip.MustParsePrefix("fd00:1:2:8::5/112"): 1296}), "no prefix")
	wantError(t, r.PeerMTU(map[netip.Prefix]int{small: 100}), "100 bytes")

	if err := r.PeerMTU(map[netip.Prefix]int{small: 1216}); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, routes, others := list(t, link); len(routes)+len(others) != 0 {
		t.Errorf("left behind: %v %v", routes, others)
	}
	wantError(t, r.PeerMTU(nil), "closed")
}

func TestPeerMTUOfAKilledAgent(t *testing.T) {
	link := tunnel(t, "gw0")
	killed := mustUp(t, config("gw0"))
	if err := killed.PeerMTU(map[netip.Prefix]int{netip.MustParsePrefix("fd00:1:2:8::/112"): 1216}); err != nil {
		t.Fatal(err)
	}
	killed.closed = true // as kill -9 does; its interface goes with it, the rule does not
	mustUp(t, config("gw0"))
	if _, _, others := list(t, link); strings.Join(others, " ") != ourTableNames {
		t.Errorf("after the second start: %v", others)
	}
}

func TestSegmentsAreClamped(t *testing.T) {
	tunnel(t, "gw0")
	mustUp(t, config("gw0"))
	out, err := exec.Command("nft", "list", "table", "inet", "gridwire_gw0_mss").CombinedOutput()
	for _, line := range []string{"hook forward priority mangle", `oifname "gw0"`, `iifname "gw0"`, "tcp flags syn / syn,rst", "maxseg size set rt mtu"} {
		if err != nil || !strings.Contains(string(out), line) {
			t.Errorf("no %q: %v\n%s", line, err, out)
		}
	}
}
