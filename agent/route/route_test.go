package route

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/nft"
	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

func TestMain(m *testing.M) {
	os.Exit(nstest.Main(func() int {
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			println(err.Error())
			return 1
		}
		return code
	}, map[string]nstest.Role{"neighbour": playNeighbour, "up": playUp}))
}

var (
	addr6, addr4 = netip.MustParseAddr("fd00:1:2::1"), netip.MustParseAddr("10.77.0.1")
	net6, net4   = netip.MustParsePrefix("fd00:1:2::/48"), netip.MustParsePrefix("10.77.0.0/16")
)

func config(name string) Config {
	return Config{Interface: name, Addrs: []netip.Addr{addr6, addr4}, Prefixes: []netip.Prefix{net6, net4}, Mark: 0x6777}
}

// tunnel makes a persistent TUN interface, on which nothing but this package acts.
func tunnel(t *testing.T, name string) netlink.Link {
	t.Helper()
	nstest.Require(t)
	a := netlink.NewLinkAttrs()
	a.Name = name
	link := &netlink.Tuntap{LinkAttrs: a, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range link.Fds {
			_ = f.Close()
		}
		_ = netlink.LinkDel(link)
	})
	return link
}

func mustUp(t *testing.T, c Config) *Router {
	t.Helper()
	r, err := Up(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("want %q in the error, got: %v", w, err)
		}
	}
}

// list returns the interface's addresses and its routes in all tables, and the machine's rules and tables of ours.
func list(t *testing.T, link netlink.Link) (addrs, routes, others []string) {
	t.Helper()
	found, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range found {
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			t.Errorf("%v is under duplicate address detection", a)
		}
		addrs = append(addrs, a.IPNet.String())
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all := &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_UNSPEC}
		rs, err := netlink.RouteListFiltered(family, all, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			if r.Protocol == unix.RTPROT_STATIC {
				routes = append(routes, fmt.Sprintf("%v src %v table %x", r.Dst, r.Src, r.Table))
			}
		}
		rules, err := netlink.RuleList(family)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			if r.Priority != 0 && r.Priority < 32766 {
				others = append(others, fmt.Sprintf("rule %d mark %x invert %v table %x suppress %d", r.Priority, r.Mark, r.Invert, r.Table, r.SuppressPrefixlen))
			}
		}
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		others = append(others, "table "+table.Name)
	}
	return addrs, routes, others
}

// ourTableNames: the guard's for IPv4 and IPv6, and one.
const ourTableNames = "table gridwire_gw0 table gridwire_gw0 table gridwire_gw0_mss"

func TestUpAndCloseLeaveNothing(t *testing.T) {
	link := tunnel(t, "gw0")
	c := config("gw0")
	c.Trusted = []string{"wl0", "gw0"} // a workload's interface, which need not exist yet; naming our own again does no harm
	r := mustUp(t, c)
	addrs, routes, others := list(t, link)
	if got := strings.Join(addrs, " "); got != "10.77.0.1/32 fd00:1:2::1/128" {
		t.Errorf("addresses: %s", got)
	}
	want := "10.77.0.0/16 src 10.77.0.1 table fe, fd00:1:2::/48 src fd00:1:2::1 table fe"
	if got := strings.Join(routes, ", "); got != want {
		t.Errorf("routes: %s", got)
	}
	if got := strings.Join(others, " "); got != ourTableNames || r.IPv4Off() != "" {
		t.Errorf("others: %s; IPv4 off: %q", got, r.IPv4Off())
	}
	if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		t.Log("no nft here")
	} else {
		for _, line := range []string{
			"elements = {", `"lo"`, `"gw0"`, `"wl0"`, "hook prerouting priority raw", "hook postrouting priority 300",
			`iif "gw0" accept`, `oif "gw0" accept`,
			"ip6 daddr fd00:1:2::/48 iifname != @inside counter", "ip6 saddr fd00:1:2::/48 iifname != @inside counter",
			"ip daddr 10.77.0.0/16 oifname != @inside counter", "ip saddr 10.77.0.0/16 iifname != @inside counter",
		} {
			if err != nil || !strings.Contains(string(out), line) {
				t.Errorf("nft: no %q: %v\n%s", line, err, out)
			}
		}
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	addrs, routes, others = list(t, link)
	if len(addrs)+len(routes)+len(others) != 0 {
		t.Errorf("left behind: %v %v %v", addrs, routes, others)
	}
}

func TestUpReplacesWhatAKilledAgentLeft(t *testing.T) {
	link := tunnel(t, "gw0")
	killed := mustUp(t, config("gw0"))
	if err := killed.Route([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}); err != nil {
		t.Fatal(err)
	}
	killed.closed = true // as kill -9 does
	c := config("gw0")
	c.Mark++
	r := mustUp(t, c)
	if _, _, others := list(t, link); strings.Join(others, " ") != ourTableNames {
		t.Errorf("after the second start: %v", others)
	}
	tables := exec.Command("nft", "list", "table", "ip6", "gridwire_gw0")
	if out, err := tables.CombinedOutput(); err == nil && strings.Count(string(out), "counter") != 6 {
		t.Errorf("the guard was not replaced but added to:\n%s", out)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseAfterTheInterfaceIsGone(t *testing.T) {
	link := tunnel(t, "gw0")
	r := mustUp(t, config("gw0"))
	if err := r.Route([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, _, others := list(t, lo(t)); len(others) != 0 {
		t.Errorf("left behind: %v", others)
	}
}

func lo(t *testing.T) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRoutedPrefixesNeverShadowTheMachinesOwn(t *testing.T) {
	link := tunnel(t, "gw0")
	h := nstest.Start(t, "neighbour", nstest.Options{})
	eth := nstest.Veth(t, "eth0", "eth0", h.PID(), "198.51.100.1/24")
	tell(t, h, "configure eth0 198.51.100.2/24") // so that eth0 has a carrier
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.IPv4(198, 51, 100, 2)}); err != nil {
		t.Fatal(err)
	}
	r := mustUp(t, config("gw0"))
	routed := func(dst string, mark uint32) string {
		t.Helper()
		routes, err := netlink.RouteGetWithOptions(net.ParseIP(dst), &netlink.RouteGetOptions{Mark: mark})
		if err != nil {
			t.Fatal(err)
		}
		if routes[0].LinkIndex == link.Attrs().Index {
			return "tunnel"
		}
		return "eth0"
	}
	expect := func(dst string, mark uint32, want string) {
		t.Helper()
		if got := routed(dst, mark); got != want {
			t.Errorf("%s with mark %#x goes to %s, want %s", dst, mark, got, want)
		}
	}
	expect("203.0.113.9", 0, "eth0")
	prefixes := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:5::/48")}
	for range 2 {
		if err := r.Route(prefixes); err != nil {
			t.Fatal(err)
		}
	}
	expect("203.0.113.9", 0, "tunnel")
	expect("203.0.113.9", 0x6777, "eth0") // a peer's endpoint
	expect("198.51.100.9", 0, "eth0")     // connected
	expect("2001:db8:5::1", 0, "tunnel")
	foreign, err := r.Foreign()
	if want := (map[netip.Prefix]string{netip.MustParsePrefix("198.51.100.0/24"): "eth0"}); err != nil || !maps.Equal(foreign, want) {
		t.Errorf("this machine's own networks are %v (%v), want %v", foreign, err, want)
	}
	// A VPN that splits its default route in two does not draw routed prefixes.
	half := &netlink.Route{LinkIndex: eth.Attrs().Index, Dst: cidr(t, "128.0.0.0/1"), Gw: net.IPv4(198, 51, 100, 2)}
	if err := netlink.RouteAdd(half); err != nil {
		t.Fatal(err)
	}
	expect("203.0.113.9", 0, "tunnel")
	if err := r.Route(prefixes[1:2]); err != nil {
		t.Fatal(err)
	}
	expect("203.0.113.9", 0, "eth0")
	if err := r.Route(nil); err != nil {
		t.Fatal(err)
	}
	if _, _, others := list(t, link); len(others) != 3 {
		t.Errorf("rules are left: %v", others)
	}
	for _, bad := range []string{"10.77.4.0/24", "0.0.0.0/0", "128.0.0.0/1"} {
		wantError(t, r.Route([]netip.Prefix{netip.MustParsePrefix(bad)}), bad, "outside the overlay")
	}
	if err := r.Route(prefixes); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, routes, others := list(t, link); len(routes)+len(others) != 0 {
		t.Errorf("left behind: %v %v", routes, others)
	}
	c := config("gw0")
	c.Mark = 0
	unmarked := mustUp(t, c)
	wantError(t, unmarked.Route(prefixes), "mark", "loop")
}

func TestIPv4GivesWayToTheMachinesOwnNetworks(t *testing.T) {
	link := tunnel(t, "gw0")
	h := nstest.Start(t, "neighbour", nstest.Options{})
	nstest.Veth(t, "eth0", "eth0", h.PID(), "10.77.3.4/24")
	tell(t, h, "configure eth0 10.77.3.5/24")
	r := mustUp(t, config("gw0"))
	for _, word := range []string{"10.77.0.0/16", "10.77.3", "dev eth0"} {
		if !strings.Contains(r.IPv4Off(), word) {
			t.Errorf("no %q in the reason: %q", word, r.IPv4Off())
		}
	}
	addrs, _, _ := list(t, link)
	if got := strings.Join(addrs, " "); got != "fd00:1:2::1/128" {
		t.Errorf("addresses: %s", got)
	}
	tell(t, h, "listen 10.77.3.5:80")
	if err := dial("10.77.3.5:80"); err != nil {
		t.Errorf("the guard cuts the machine off from its own LAN: %v", err)
	}
	if changed, err := r.Recheck(); changed || err != nil {
		t.Errorf("Recheck without a change: %v %v", changed, err)
	}
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(eth); err != nil { // carried to another LAN
		t.Fatal(err)
	}
	if changed, err := r.Recheck(); !changed || err != nil || r.IPv4Off() != "" {
		t.Errorf("Recheck after the LAN is gone: %v %v %q", changed, err, r.IPv4Off())
	}
	if addrs, routes, _ := list(t, link); len(addrs) != 2 || len(routes) != 2 {
		t.Errorf("IPv4 is back: %v %v", addrs, routes)
	}
	nstest.Veth(t, "eth1", "eth1", h.PID(), "10.0.0.4/8")
	tell(t, h, "configure eth1 10.0.0.5/8")
	if changed, err := r.Recheck(); !changed || err != nil || !strings.Contains(r.IPv4Off(), "eth1") {
		t.Errorf("Recheck in a clashing LAN: %v %v %q", changed, err, r.IPv4Off())
	}
	if addrs, routes, _ := list(t, link); len(addrs) != 1 || len(routes) != 1 {
		t.Errorf("IPv4 is off again: %v %v", addrs, routes)
	}
}

func dial(addr string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

func TestClashOfRoutes(t *testing.T) {
	nstest.Require(t)
	pool := netip.MustParsePrefix("10.70.0.0/16")
	for _, c := range []struct {
		route netlink.Route
		clash bool
	}{
		{netlink.Route{Dst: cidr(t, "10.70.9.0/24")}, true},
		{netlink.Route{Dst: cidr(t, "10.0.0.0/8")}, true},
		{netlink.Route{Dst: cidr(t, "10.70.9.9/32"), Table: 100}, true},
		{netlink.Route{Dst: cidr(t, "10.71.0.0/16")}, false},
		{netlink.Route{Dst: cidr(t, "0.0.0.0/0")}, false},
		{netlink.Route{Dst: cidr(t, "0.0.0.0/1")}, false},
		{netlink.Route{Dst: cidr(t, "10.0.0.0/8"), Type: unix.RTN_BLACKHOLE}, false},
	} {
		r := c.route
		if r.Type == 0 {
			r.LinkIndex, r.Scope = lo(t).Attrs().Index, netlink.SCOPE_LINK
		}
		if err := netlink.RouteAdd(&r); err != nil {
			t.Fatalf("%v: %v", r, err)
		}
		for iface, want := range map[string]bool{"gw0": c.clash, "lo": false} { // the second: as if lo were ours
			if what, err := Clash(pool, iface); err != nil || (what != "") != want {
				t.Errorf("%v, own interface %s: %q %v, want a clash: %v", r, iface, what, err, want)
			}
		}
		if err := netlink.RouteDel(&r); err != nil {
			t.Fatal(err)
		}
	}
}

func cidr(t *testing.T, s string) *net.IPNet {
	t.Helper()
	n, err := netlink.ParseIPNet(s)
	if err != nil {
		t.Fatal(err)
	}
	n.IP = n.IP.Mask(n.Mask)
	return n
}

func TestErrorsSayWhatIsLacking(t *testing.T) {
	tunnel(t, "gw0")
	h := nstest.Start(t, "up", nstest.Options{UID: 12345, SameNetwork: true})
	wantError(t, errors.New(h.Line()), "gw0", "CAP_NET_ADMIN", "AmbientCapabilities")
	able := nstest.Start(t, "up", nstest.Options{UID: 12345, SameNetwork: true, Ambient: []uintptr{unix.CAP_NET_ADMIN}})
	if line := able.Line(); line != "up and closed" {
		t.Errorf("with CAP_NET_ADMIN: %s", line)
	}
	_, err := Up(config("nothere"))
	wantError(t, err, "nothere")
	c := config("gw0")
	c.Addrs = append(c.Addrs, netip.MustParseAddr("192.0.2.1"))
	_, err = Up(c)
	wantError(t, err, "192.0.2.1", "none of the overlay's prefixes")
	c.Prefixes = append(c.Prefixes, netip.Prefix{})
	_, err = Up(c)
	wantError(t, err, "no overlay prefix")
}

// playUp configures gw0 as the user it runs as, and says how it went.
func playUp(_ *bufio.Scanner, out io.Writer, _ []string) error {
	r, err := Up(config("gw0"))
	if err == nil {
		err = r.Close()
	}
	if err != nil {
		fmt.Fprintln(out, strings.ReplaceAll(err.Error(), "\n", "; "))
		return nil
	}
	fmt.Fprintln(out, "up and closed")
	return nil
}

func TestIPv6TurnedOffByDefaultIsTurnedOn(t *testing.T) {
	nstest.Require(t)
	const file = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
	if err := os.WriteFile(file, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.WriteFile(file, []byte("0"), 0) }()
	link := tunnel(t, "gw0")
	mustUp(t, config("gw0"))
	if addrs, _, _ := list(t, link); len(addrs) != 2 {
		t.Errorf("addresses: %v", addrs)
	}
}

// FuzzIfname checks the form of interface names in the guard's set.
func FuzzIfname(f *testing.F) {
	f.Add("gw0")
	f.Add("a-very-long-interface-name")
	f.Fuzz(func(t *testing.T, name string) {
		if b := nft.IfName(name); len(b) != unix.IFNAMSIZ || !strings.HasPrefix(string(b), name[:min(len(name), len(b))]) {
			t.Errorf("%q: % x", name, b)
		}
	})
}

func tell(t *testing.T, h *nstest.Host, command string) {
	t.Helper()
	if answer := h.Tell(command); answer != "ok" {
		t.Fatalf("%s: %s", command, answer)
	}
}
