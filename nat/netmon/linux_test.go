package netmon

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

// watch starts a monitor on the test's namespace, with a veth pair of this test: NAME0, and NAMEx which is ignored.
func watch(t *testing.T, name string) (*Monitor, <-chan State, netlink.Link) {
	t.Helper()
	nstest.Require(t)
	pair(t, name+"0", name+"x")
	m, err := New(Config{Debounce: 20 * time.Millisecond, Ignore: func(n string) bool { return strings.HasSuffix(n, "x") }})
	if err != nil {
		t.Fatal(err)
	}
	news, stop := m.Watch()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	link, err := netlink.LinkByName(name + "0")
	if err != nil {
		t.Fatal(err)
	}
	return m, news, link
}

// until takes news until one fits.
func until(t *testing.T, news <-chan State, what string, fits func(State) bool) State {
	t.Helper()
	deadline := time.After(5 * time.Second)
	var last State
	for {
		select {
		case last = <-news:
			if fits(last) {
				return last
			}
		case <-deadline:
			t.Fatalf("no news: %s; the last was %+v", what, last)
		}
	}
}

func find(s State, name string) Link {
	if i := slices.IndexFunc(s.Links, func(l Link) bool { return l.Name == name }); i >= 0 {
		return s.Links[i]
	}
	return Link{}
}

func has(s State, name, prefix string) bool {
	return slices.Contains(find(s, name).Prefixes, netip.MustParsePrefix(prefix))
}

func TestRealNetwork(t *testing.T) {
	m, news, link := watch(t, "nm")
	if l := find(m.State(), "nm0"); l.Index != link.Attrs().Index || l.Up {
		t.Fatalf("before anything happened: %+v", l)
	}
	if err := nstest.Configure("nm0", "192.0.2.2/24", "2001:db8::2/64"); err != nil {
		t.Fatal(err)
	}
	until(t, news, "addresses", func(s State) bool {
		return find(s, "nm0").Up && has(s, "nm0", "192.0.2.2/24") && has(s, "nm0", "2001:db8::2/64") && !s.DefaultV4
	})
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: []byte{192, 0, 2, 1}, Priority: 10}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	s := until(t, news, "a default route", func(s State) bool { return s.DefaultV4 })
	want := Default{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.1"), Link: "nm0", Metric: 10}
	if !slices.Contains(s.Defaults, want) || s.DefaultV6 {
		t.Errorf("defaults %+v, v6 %v", s.Defaults, s.DefaultV6)
	}
	if err := netlink.LinkSetDown(link); err != nil {
		t.Fatal(err)
	}
	until(t, news, "link down", func(s State) bool { l := find(s, "nm0"); return !l.Up && l.Lost == 1 && !s.DefaultV4 })
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	until(t, news, "link up", func(s State) bool { l := find(s, "nm0"); return l.Up && l.Lost == 1 })
}

func TestIgnoredAndUnrelatedChangesAreNoNews(t *testing.T) {
	m, news, link := watch(t, "ig")
	if err := nstest.Configure("ig0", "192.0.2.2/24"); err != nil {
		t.Fatal(err)
	}
	until(t, news, "an address", func(s State) bool { return has(s, "ig0", "192.0.2.2/24") && len(find(s, "ig0").Prefixes) == 2 }) // and fe80
	before := m.State()
	if err := nstest.Configure("igx", "198.51.100.1/24"); err != nil { // ours: ignored
		t.Fatal(err)
	}
	own, err := netlink.LinkByName("igx")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: own.Attrs().Index, Gw: []byte{198, 51, 100, 2}}); err != nil {
		t.Fatal(err)
	}
	other, err := netlink.ParseIPNet("203.0.113.0/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: other}); err != nil { // not to the internet
		t.Fatal(err)
	}
	if err := nstest.Configure("ig0", "192.0.2.2/24"); err != nil { // a renewed lease
		t.Fatal(err)
	}
	if err := nstest.Configure("ig0", "192.0.2.3/24"); err != nil { // and then a real change
		t.Fatal(err)
	}
	s := until(t, news, "the second address", func(State) bool { return true })
	if !has(s, "ig0", "192.0.2.3/24") {
		t.Errorf("news before the real change:\n%+v\n%+v", before, s)
	}
	if find(s, "igx").Name != "" || find(s, "lo").Name != "" || s.DefaultV4 {
		t.Errorf("an ignored interface is in the state: %+v", s)
	}
}

func TestLostMessagesAreMadeUpFor(t *testing.T) {
	nstest.Require(t)
	link := pair(t, "ob0", "obx")
	plain, monitored := tiny(t), tiny(t)
	for range 50 {
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetDown(link); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := plain.Receive(); err != unix.ENOBUFS {
		t.Fatalf("the test did not overflow the socket: %v", err)
	}
	if h, err := monitored.wait(); err != nil || len(h.lost) != 0 {
		t.Fatalf("after an overflow: %v %v, want a plain hint", h, err)
	}
	if _, err := monitored.wait(); err != nil {
		t.Fatalf("the message after an overflow: %v", err)
	}
}

// tiny subscribes with the smallest receive buffer, about 2 kB.
func tiny(t *testing.T) *rtnetlink {
	t.Helper()
	sub, err := systemSource{}.subscribe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	r := sub.(*rtnetlink)
	if err := r.SetReceiveBufferSize(1, false); err != nil {
		t.Fatal(err)
	}
	return r
}

// pair makes a veth pair whose second end is up, so that the first has a carrier when it is up too.
func pair(t *testing.T, name, peer string) netlink.Link {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = name
	link := &netlink.Veth{LinkAttrs: a, PeerName: peer}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	if err := nstest.Configure(peer); err != nil {
		t.Fatal(err)
	}
	return link
}
