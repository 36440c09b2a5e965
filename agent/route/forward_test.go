package route

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

// advertise sends a router advertisement for an hour (RFC 4861, 4.2) with one on-link, autonomous prefix, as a home router does.
func advertise(iface string, prefix netip.Prefix) error {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return err
	}
	from, all := netip.MustParseAddr("fe80::1:1"), netip.MustParseAddr("ff02::1")
	icmp := make([]byte, 16+32)
	icmp[0], icmp[4] = 134, 64
	binary.BigEndian.PutUint16(icmp[6:], 3600)
	icmp[16], icmp[17], icmp[18], icmp[19] = 3, 4, byte(prefix.Bits()), 0xc0 // prefix information, 4.6.2
	binary.BigEndian.PutUint32(icmp[20:], 3600)
	binary.BigEndian.PutUint32(icmp[24:], 1800)
	copy(icmp[32:], prefix.Addr().AsSlice())
	pseudo := append(from.AsSlice(), all.AsSlice()...)
	pseudo = append(pseudo, 0, 0, 0, byte(len(icmp)), 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(icmp[2:], ^sum(append(pseudo, icmp...)))
	packet := make([]byte, 40)
	packet[0], packet[6], packet[7] = 0x60, unix.IPPROTO_ICMPV6, 255
	binary.BigEndian.PutUint16(packet[4:], uint16(len(icmp)))
	copy(packet[8:], from.AsSlice())
	copy(packet[24:], all.AsSlice())
	return raw(link.Index, unix.ETH_P_IPV6, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, append(packet, icmp...))
}

// settings reads every sysctl that Forward may touch.
func settings(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"ipv4/ip_forward", "ipv[46]/conf/*/forwarding", "ipv6/conf/*/accept_ra", "ipv4/conf/*/accept_redirects"} {
		files, err := filepath.Glob(sysctlRoot + "/" + pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out[strings.TrimPrefix(f, sysctlRoot+"/")] = strings.TrimSpace(string(b))
		}
	}
	return out
}

func sameSettings(t *testing.T, when string, before map[string]string) {
	t.Helper()
	now := settings(t)
	for key, was := range before {
		if got, ok := now[key]; ok && got != was {
			t.Errorf("%s: %s is %s, was %s", when, key, got, was)
		}
	}
}

func sysctlSet(t *testing.T, key, value string) {
	t.Helper()
	if err := os.WriteFile(sysctlRoot+"/"+key, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// defaultRoutes counts the default routes that router advertisements have made.
func defaultRoutes(t *testing.T) int {
	t.Helper()
	rs, err := netlink.RouteList(nil, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, r := range rs {
		if (r.Dst == nil || r.Dst.String() == "::/0") && r.Protocol == unix.RTPROT_RA {
			n++
		}
	}
	return n
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Errorf("not so after 5 s: %s", what)
}

func hasAddr(prefix string) bool {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		return false
	}
	p := netip.MustParsePrefix(prefix)
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && p.Contains(ip) {
			return true
		}
	}
	return false
}

// notebook keeps notes in memory.
type notebook map[string][]byte

func (n notebook) ReadCache(name string) ([]byte, error) {
	b, ok := n[name]
	if !ok {
		return nil, fmt.Errorf("notes: %w", fs.ErrNotExist)
	}
	return b, nil
}
func (n notebook) WriteCache(name string, b []byte) error { n[name] = b; return nil }
func (n notebook) Remove(name string) error               { delete(n, name); return nil }

func forward(t *testing.T, r *Router, who string, on bool) {
	t.Helper()
	if err := r.Forward(who, on); err != nil {
		t.Fatal(err)
	}
}

// TestForwardingKeepsRouterAdvertisements: the default route that the home router announced stays, later announcements are heeded, and
// everything is put back when the last one who needs forwarding goes.
func TestForwardingKeepsRouterAdvertisements(t *testing.T) {
	tunnel(t, "gw0")
	h := nstest.Start(t, "neighbour", nstest.Options{})
	nstest.Veth(t, "eth0", "eth0", h.PID(), "192.0.2.1/24")
	tell(t, h, "configure eth0 192.0.2.2/24")
	// Some odd settings, to be put back as they are; "all" of accept_redirects is what the kernel changes by itself.
	sysctlSet(t, "ipv4/conf/all/accept_redirects", "0")
	sysctlSet(t, "ipv4/conf/eth0/forwarding", "1")
	sysctlSet(t, "ipv6/conf/lo/accept_ra", "0")
	nstest.Veth(t, "eth7", "eth7", h.PID(), "198.51.100.1/24")
	sysctlSet(t, "ipv6/conf/eth7/forwarding", "1") // so its accept_ra of 1 has had no effect, and is not to get one
	t.Cleanup(func() {
		sysctlSet(t, "ipv4/conf/all/accept_redirects", "1")
		sysctlSet(t, "ipv6/conf/lo/accept_ra", "1")
	})
	eventually(t, "the announced default route is there", func() bool {
		tell(t, h, "advertise eth0 2001:db8:5::/64") // again: the interface may not have been ready
		return defaultRoutes(t) == 1 && hasAddr("2001:db8:5::/64")
	})
	before := settings(t)

	c := config("gw0")
	notes := notebook{}
	c.Notes = notes
	r := mustUp(t, c)
	sameSettings(t, "before forwarding", before)
	forward(t, r, "workloads", true)
	forward(t, r, "routed", true)
	forward(t, r, "routed", true) // again
	now := settings(t)
	for key, want := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/eth0/accept_ra": "2", "ipv6/conf/default/accept_ra": "2",
		"ipv6/conf/lo/accept_ra": "0", "ipv6/conf/eth7/accept_ra": "1", "ipv4/conf/gw0/forwarding": "1",
	} {
		if now[key] != want {
			t.Errorf("%s is %s while forwarding, want %s", key, now[key], want)
		}
	}
	if defaultRoutes(t) != 1 {
		t.Error("switching forwarding on lost the default route")
	}
	tell(t, h, "advertise eth0 2001:db8:6::/64")
	eventually(t, "a later announcement is heeded", func() bool { return hasAddr("2001:db8:6::/64") })

	forward(t, r, "workloads", false)
	forward(t, r, "nobody", false)
	if settings(t)["ipv6/conf/all/forwarding"] != "1" {
		t.Error("forwarding ended although somebody needs it")
	}
	forward(t, r, "routed", false)
	sameSettings(t, "after the last one", before)
	if defaultRoutes(t) != 1 || len(notes) != 0 {
		t.Errorf("%d default routes, notes %v", defaultRoutes(t), notes)
	}

	forward(t, r, "routed", true)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	sameSettings(t, "after Close", before)
	if err := r.Forward("late", true); err == nil {
		t.Error("a closed router switched forwarding on")
	}
}

func TestTheNextStartPutsBackAKilledOnesForwarding(t *testing.T) {
	tunnel(t, "gw0")
	before := settings(t)
	c := config("gw0")
	c.Notes = notebook{}
	killed, err := Up(c)
	if err != nil {
		t.Fatal(err)
	}
	forward(t, killed, "routed", true)
	killed.closed = true // as kill -9 does
	if settings(t)["ipv4/ip_forward"] != "1" {
		t.Fatal("forwarding is not on")
	}
	mustUp(t, c)
	sameSettings(t, "after the next start", before)
}

// TestForwardingThatIsOnAlreadyIsNotOurs: on a router, or beside Docker, nothing is switched off at the end.
func TestForwardingThatIsOnAlreadyIsNotOurs(t *testing.T) {
	tunnel(t, "gw0")
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		sysctlSet(t, key, "1")
		t.Cleanup(func() { sysctlSet(t, key, "0") })
	}
	// A router that configures its uplink by router advertisements: "all" on, its own off.
	sysctlSet(t, "ipv6/conf/lo/forwarding", "0")
	before := settings(t)
	r := mustUp(t, config("gw0"))
	forward(t, r, "routed", true)
	delete(before, "ipv4/conf/gw0/forwarding")
	sameSettings(t, "while forwarding", before)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	sameSettings(t, "after Close", before)
}

// TestForwardingStaysOnWhileNeeded: two agents need it; the one that switched it on ends, and everything is off; the other one switches it on
// again, and in the end all is as it was.
func TestForwardingStaysOnWhileNeeded(t *testing.T) {
	tunnel(t, "gw0")
	tunnel(t, "gw1")
	before := settings(t)
	first, second := mustUp(t, config("gw0")), mustUp(t, config("gw1"))
	forward(t, first, "routed", true)
	forward(t, second, "workloads", true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- second.Keep(ctx) }()
	forward(t, first, "routed", false)
	if settings(t)["ipv4/ip_forward"] != "0" {
		t.Fatal("the first one did not switch it off: that says nothing")
	}
	eventually(t, "forwarding is on again", func() bool {
		now := settings(t)
		return now["ipv4/ip_forward"] == "1" && now["ipv6/conf/all/forwarding"] == "1" && now["ipv4/conf/gw1/forwarding"] == "1"
	})
	forward(t, second, "workloads", false)
	time.Sleep(2 * keepRest) // nobody needs it: it stays off
	sameSettings(t, "after both", before)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
