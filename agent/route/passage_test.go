package route

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

// echo answers each UDP datagram with what it said and where it came from.
func echo(addr string) error {
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp", a)
	if err != nil {
		return err
	}
	go func() { // ends with the process
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(fmt.Appendf(nil, "%s from %v", buf[:n], from.Addr().Unmap()), from)
		}
	}()
	return nil
}

// site is a machine with a tunnel and two networks: its LAN, and another one.
type site struct {
	t    *testing.T
	r    *Router
	tun  *os.File
	lan  *nstest.Host
	sent int
}

func newSite(t *testing.T) *site {
	link := tunnel(t, "gw0")
	s := &site{t: t, tun: link.(*netlink.Tuntap).Fds[0], lan: nstest.Start(t, "neighbour", nstest.Options{})}
	nstest.Veth(t, "eth0", "eth0", s.lan.PID(), "192.0.2.1/24", "2001:db8:a::1/64")
	nstest.Veth(t, "eth1", "eth1", s.lan.PID(), "198.51.100.1/24")
	tell(t, s.lan, "configure eth0 192.0.2.2/24 2001:db8:a::2/64")
	tell(t, s.lan, "configure eth1 198.51.100.2/24")
	tell(t, s.lan, "echo [::]:7000")
	s.r = mustUp(t, config("gw0"))
	forward(t, s.r, "routed", true)
	eventually(t, "duplicate address detection is over", func() bool {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		for _, a := range addrs {
			if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				return false
			}
		}
		return err == nil
	})
	return s
}

func (s *site) behind(keep bool, networks ...string) {
	s.t.Helper()
	var ps []netip.Prefix
	for _, n := range networks {
		ps = append(ps, netip.MustParsePrefix(n))
	}
	if err := s.r.Behind(ps, keep); err != nil {
		s.t.Fatal(err)
	}
}

// ask sends a datagram into this machine as a member would, and returns what comes back into the tunnel; "" if nothing does.
func (s *site) ask(from, to string) string {
	s.t.Helper()
	s.sent++
	text := fmt.Sprintf("n%d", s.sent)
	src, dst := netip.AddrPortFrom(netip.MustParseAddr(from), 4000), netip.AddrPortFrom(netip.MustParseAddr(to), 7000)
	packet := udp4Packet
	if src.Addr().Is6() {
		packet = udp6Packet
	}
	if _, err := s.tun.Write(packet(src, dst, text)); err != nil {
		s.t.Fatal(err)
	}
	return s.arrived(text, 500*time.Millisecond)
}

// arrived returns what came out of the tunnel's end with text in it.
func (s *site) arrived(text string, limit time.Duration) string {
	s.t.Helper()
	buf := make([]byte, 2048)
	ready := []unix.PollFd{{Fd: int32(s.tun.Fd()), Events: unix.POLLIN}}
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if n, err := unix.Poll(ready, 10); err != nil || n == 0 {
			continue
		}
		n, err := s.tun.Read(buf)
		if err != nil {
			s.t.Fatal(err)
		}
		if i := strings.Index(string(buf[:n]), text); i >= 0 {
			return string(buf[i:n])
		}
	}
	return ""
}

func (s *site) wantEcho(from, to, seen string) {
	s.t.Helper()
	if got := s.ask(from, to); !strings.HasSuffix(got, " from "+seen) {
		s.t.Errorf("%s to %s: answer %q, want it to come from %s", from, to, got, seen)
	}
}

func (s *site) wantNothing(from, to string) {
	s.t.Helper()
	if got := s.ask(from, to); got != "" {
		s.t.Errorf("%s to %s: answer %q, want none", from, to, got)
	}
}

// TestALANIsReachableWithNothingConfiguredOnIt: its hosts see this machine's address, and no other network is opened by it.
func TestALANIsReachableWithNothingConfiguredOnIt(t *testing.T) {
	s := newSite(t)
	s.wantNothing("10.77.0.7", "192.0.2.2") // forwarding alone opens nothing
	s.behind(false, "192.0.2.0/24", "2001:db8:a::/64")
	s.wantEcho("10.77.0.7", "192.0.2.2", "192.0.2.1")
	s.wantEcho("fd00:1:2::7", "2001:db8:a::2", "2001:db8:a::1")
	if err := s.r.Route([]netip.Prefix{netip.MustParsePrefix("172.30.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	s.wantEcho("172.30.0.9", "192.0.2.2", "192.0.2.1") // a host of another member's LAN
	s.wantNothing("10.77.0.7", "198.51.100.2")
	if err := s.r.Trust([]string{"gw-web"}); err != nil { // what changes the guard for another reason forgets nothing
		t.Fatal(err)
	}
	s.wantEcho("10.77.0.7", "192.0.2.2", "192.0.2.1")
	s.behind(false)
	s.wantNothing("10.77.0.7", "192.0.2.2")
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("192.0.2.1/24")} {
		if err := s.r.Behind([]netip.Prefix{bad}, false); err == nil {
			t.Errorf("access to %v was given", bad)
		}
	}
}

// TestSourcesAreKeptOnRequest: with a route to the overlay on the LAN, its hosts see who asks, and may ask themselves; but nobody on the
// LAN reaches this node's own overlay address, or pretends to be somebody elsewhere.
func TestSourcesAreKeptOnRequest(t *testing.T) {
	s := newSite(t)
	s.behind(true, "192.0.2.0/24", "2001:db8:a::/64")
	tell(t, s.lan, "route 10.77.0.0/16 192.0.2.1")
	tell(t, s.lan, "route fd00:1:2::/48 2001:db8:a::1")
	s.wantEcho("10.77.0.7", "192.0.2.2", "10.77.0.7")
	s.wantEcho("fd00:1:2::7", "2001:db8:a::2", "fd00:1:2::7")
	s.wantNothing("10.77.0.7", "198.51.100.2")

	eth := func(name string) string {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().HardwareAddr.String()
	}
	forge := func(iface, from, to, text string) {
		tell(t, s.lan, fmt.Sprintf("forge %s %s %s:9 %s:5000 %s", iface, eth(iface), from, to, text))
	}
	forge("eth0", "192.0.2.2", "10.77.0.7", "asks-itself")
	if s.arrived("asks-itself", 3*time.Second) == "" {
		t.Error("a host of the LAN cannot ask a member")
	}
	got := listenAll(t)
	for iface, from := range map[string]string{"eth0": "192.0.2.2", "eth1": "192.0.2.2"} {
		forge(iface, from, "10.77.0.1", "own-"+iface)
		if wait(got, "own-"+iface, true) {
			t.Errorf("a neighbour on %s reached this node's overlay address", iface)
		}
	}
	for _, c := range []struct{ iface, from string }{{"eth1", "192.0.2.2"}, {"eth1", "198.51.100.2"}, {"eth0", "198.51.100.2"}} {
		text := "forged-" + c.iface + c.from
		forge(c.iface, c.from, "10.77.0.7", text)
		if s.arrived(text, 100*time.Millisecond) != "" {
			t.Errorf("%s from %s went into the overlay", c.from, c.iface)
		}
	}
}
