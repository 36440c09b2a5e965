package route

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

// playNeighbour is another machine on the LAN. Commands: configure IFACE ADDR, listen ADDR (TCP), echo ADDR (UDP), route PREFIX GATEWAY,
// advertise IFACE PREFIX (as a router), forge IFACE MAC SRC DST PAYLOAD (a UDP datagram with any source, straight onto the wire).
func playNeighbour(in *bufio.Scanner, out io.Writer, _ []string) error {
	for in.Scan() {
		words := strings.Fields(in.Text())
		if err := neighbour(words[0], words[1:]); err != nil {
			fmt.Fprintln(out, "error", err)
			continue
		}
		fmt.Fprintln(out, "ok")
	}
	return nil
}

func neighbour(command string, args []string) error {
	switch command {
	case "configure":
		return nstest.Configure(args[0], args[1:]...)
	case "listen":
		l, err := net.Listen("tcp", args[0])
		if err != nil {
			return err
		}
		go func() { // ends with the process
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				c.Close()
			}
		}()
		return nil
	case "forge":
		return forge(args[0], args[1], netip.MustParseAddrPort(args[2]), netip.MustParseAddrPort(args[3]), args[4])
	case "echo":
		return echo(args[0])
	case "route":
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(args[0])), Gw: net.ParseIP(args[1])})
	case "advertise":
		return advertise(args[0], netip.MustParsePrefix(args[1]))
	}
	return fmt.Errorf("no command %q", command)
}

func forge(iface, mac string, src, dst netip.AddrPort, payload string) error {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return err
	}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	ethertype, packet := uint16(unix.ETH_P_IP), udp4Packet
	if dst.Addr().Is6() {
		ethertype, packet = unix.ETH_P_IPV6, udp6Packet
	}
	return raw(link.Index, ethertype, hw, packet(src, dst, payload))
}

// raw puts a packet on the wire.
func raw(index int, ethertype uint16, hw net.HardwareAddr, packet []byte) error {
	proto := ethertype<<8 | ethertype>>8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Protocol: proto, Ifindex: index, Halen: 6}
	copy(to.Addr[:], hw)
	return unix.Sendto(fd, packet, 0, to)
}

// TestTheGuardKeepsNeighboursOut: what a neighbour sends to overlay addresses, or with overlay sources, reaches listeners without the
// guard and does not with it; ordinary traffic, and the overlay's own, always does.
func TestTheGuardKeepsNeighboursOut(t *testing.T) {
	link := tunnel(t, "gw0")
	h := nstest.Start(t, "neighbour", nstest.Options{})
	eth := nstest.Veth(t, "eth0", "eth0", h.PID(), "192.0.2.1/24", "2001:db8::1/64")
	tell(t, h, "configure eth0 192.0.2.2/24 2001:db8::2/64")
	// Strict reverse path filtering would drop some of this for IPv4 by itself; most distributions leave it off or loose.
	for _, name := range []string{"all", "eth0"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	r := mustUp(t, config("gw0"))
	got := listenAll(t)
	mac := eth.Attrs().HardwareAddr.String()
	cases := []struct {
		name, src, dst string
		overlay        bool
	}{
		{"lan6", "[2001:db8::2]:9", "[2001:db8::1]:5000", false},
		{"lan4", "192.0.2.2:9", "192.0.2.1:5000", false},
		{"to-overlay6", "[2001:db8::2]:9", "[fd00:1:2::1]:5000", true},
		{"to-overlay4", "192.0.2.2:9", "10.77.0.1:5000", true},
		{"forged-both6", "[fd00:1:2::7]:9", "[fd00:1:2::1]:5000", true},
		{"forged-both4", "10.77.0.7:9", "10.77.0.1:5000", true},
		{"forged-source6", "[fd00:1:2::7]:9", "[2001:db8::1]:5000", true},
		{"forged-source4", "10.77.0.7:9", "192.0.2.1:5000", true},
	}
	check := func(guarded bool) {
		t.Helper()
		for _, c := range cases {
			payload := fmt.Sprintf("%s-%v", c.name, guarded)
			tell(t, h, fmt.Sprintf("forge eth0 %s %s %s %s", mac, c.src, c.dst, payload))
			if arrived := wait(got, payload, guarded && c.overlay); arrived == (guarded && c.overlay) {
				t.Errorf("guard %v, %s: from %s to %s: arrived %v", guarded, c.name, c.src, c.dst, arrived)
			}
		}
	}
	check(true)
	if err := removeGuard("gw0"); err != nil {
		t.Fatal(err)
	}
	check(false)
	if err := r.guard().set(); err != nil {
		t.Fatal(err)
	}
	check(true)
	fromTunnel(t, link, got)
	toMyself(t, got)
}

// TestGuardOfAnyPrefixLength: a pool need not end at a byte.
func TestGuardOfAnyPrefixLength(t *testing.T) {
	tunnel(t, "gw0")
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("no nft here")
	}
	for _, p := range []string{"10.64.0.0/10", "10.77.16.0/20", "10.0.0.0/8", "10.77.1.2/32", "fd00:1:2::/48", "fd00:1:2:8000::/49"} {
		if err := (guard{iface: "gw0", overlay: []netip.Prefix{netip.MustParsePrefix(p)}}).set(); err != nil {
			t.Fatal(err)
		}
		shown := strings.TrimSuffix(p, "/32")
		family := "ip6"
		if strings.Contains(p, ".") {
			family = "ip"
		}
		out, err := exec.Command("nft", "list", "table", family, "gridwire_gw0").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "daddr "+shown+" iifname != @inside") {
			t.Errorf("the guard of %s: %v\n%s", p, err, out)
		}
	}
	if err := removeGuard("gw0"); err != nil {
		t.Error(err)
	}
}

// listenAll receives UDP at port 5000 of every address.
func listenAll(t *testing.T) <-chan string {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: 5000})
	if err != nil {
		t.Fatal(err)
	}
	got, done := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for n, err := c.Read(buf); err == nil; n, err = c.Read(buf) {
			got <- string(buf[:n])
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	return got
}

// wait reports whether payload arrives. Absence is believed after a short while: a veth delivers within the sender's system call.
func wait(got <-chan string, payload string, absent bool) bool {
	limit := 3 * time.Second
	if absent {
		limit = 50 * time.Millisecond
	}
	deadline := time.After(limit)
	for {
		select {
		case p := <-got:
			if p == payload {
				return true
			}
		case <-deadline:
			return false
		}
	}
}

// fromTunnel: a packet that WireGuard hands to the kernel is let in.
func fromTunnel(t *testing.T, link netlink.Link, got <-chan string) {
	t.Helper()
	file := link.(*netlink.Tuntap).Fds[0]
	for name, packet := range map[string][]byte{
		"peer6": udp6Packet(netip.MustParseAddrPort("[fd00:1:2::7]:9"), netip.MustParseAddrPort("[fd00:1:2::1]:5000"), "peer6"),
		"peer4": udp4Packet(netip.MustParseAddrPort("10.77.0.7:9"), netip.MustParseAddrPort("10.77.0.1:5000"), "peer4"),
	} {
		if _, err := file.Write(packet); err != nil {
			t.Fatalf("writing to the tunnel: %v", err)
		}
		if !wait(got, name, false) {
			t.Errorf("%s: a packet from the tunnel did not arrive", name)
		}
	}
}

// toMyself: programs on this machine reach its own overlay addresses.
func toMyself(t *testing.T, got <-chan string) {
	t.Helper()
	for _, to := range []string{"[fd00:1:2::1]:5000", "10.77.0.1:5000"} {
		c, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(to)); err != nil {
			t.Errorf("sending to %s on this machine: %v", to, err)
		}
		if !wait(got, to, false) {
			t.Errorf("%s is not reachable from this machine", to)
		}
		c.Close()
	}
}

// TestNothingLeavesByTheWrongDoor: when the tunnel's routes are away, overlay packets do not follow the default route.
func TestNothingLeavesByTheWrongDoor(t *testing.T) {
	tunnel(t, "gw0")
	h := nstest.Start(t, "neighbour", nstest.Options{})
	eth := nstest.Veth(t, "eth0", "eth0", h.PID(), "192.0.2.1/24")
	tell(t, h, "configure eth0 192.0.2.2/24")
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.IPv4(192, 0, 2, 2)}); err != nil {
		t.Fatal(err)
	}
	r := mustUp(t, config("gw0"))
	if err := netlink.RouteDel(r.overlayRoute(net4)); err != nil {
		t.Fatal(err)
	}
	send := func() error {
		c, err := net.Dial("udp", "10.77.0.9:5000")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("x"))
		return err
	}
	sent := func() uint64 {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().Statistics.TxPackets
	}
	if err := dial("192.0.2.2:1"); err == nil || !strings.Contains(err.Error(), "refused") { // so that ARP is done
		t.Fatal(err)
	}
	before := sent()
	_ = send() // dropped; the kernel may say EPERM
	if n := sent() - before; n != 0 {
		t.Errorf("%d overlay packets left by eth0", n)
	}
	if err := removeGuard("gw0"); err != nil {
		t.Fatal(err)
	}
	if err := send(); err != nil || sent() == before {
		t.Errorf("the test proves nothing: without the guard: %v, %d packets", err, sent()-before)
	}
}
