package sock

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// isolate moves the test's thread into a network namespace of its own, whose loopback interface has an MTU of 1280. The thread is never used
// for anything else: it ends with the test.
func isolate(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("needs root, to make a network namespace:", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetMTU(lo, 1280), netlink.LinkSetUp(lo)); err != nil {
		t.Fatal(err)
	}
}

func TestDatagramsLeaveWholeUnlessTold(t *testing.T) {
	isolate(t)
	for network, addr := range map[string]net.IP{"udp4": net.IPv4(127, 0, 0, 1), "udp6": net.IPv6loopback} {
		to, err := net.ListenUDP(network, &net.UDPAddr{IP: addr})
		if err != nil {
			t.Skip("this machine lacks", network, err)
		}
		defer to.Close()
		f := newFamilies()
		if _, _, err := f.Open(0); err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		at := to.LocalAddr().(*net.UDPAddr).AddrPort()
		ep := &conn.StdNetEndpoint{AddrPort: unmap(at)}
		large := make([]byte, 1400)
		if err := f.Send([][]byte{large}, ep); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("%s: sent 1400 bytes through an MTU of 1280: %v", network, err)
		}
		// What shares a batch with it still leaves, segmented or not.
		if err := f.Send([][]byte{large, make([]byte, 1400), {1, 2, 3}}, ep); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("%s: a batch with datagrams too long: %v", network, err)
		}
		expect(t, network, to, 3)
		f.small.set(map[netip.AddrPort]int{at: 1200})
		if err := f.Send([][]byte{large, {1}, large}, ep); err != nil {
			t.Errorf("%s: could not fragment: %v", network, err)
		}
		expect(t, network, to, 1, 1400, 1400)
		// Others are not affected, and neither is this one afterwards.
		f.small.set(map[netip.AddrPort]int{netip.AddrPortFrom(at.Addr(), 9): 1200})
		if err := f.Send([][]byte{large}, ep); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("%s: 1400 bytes to a peer with a good path: %v", network, err)
		}
		f.small.set(nil)
		if _, ok := f.small.limit(ep); ok {
			t.Errorf("%s: still fragmenting", network)
		}
	}
}

// expect reads datagrams of these sizes, and no more. On the loopback interface what was sent has arrived.
func expect(t *testing.T, network string, c *net.UDPConn, sizes ...int) {
	t.Helper()
	buf := make([]byte, 2048)
	for _, want := range sizes {
		if n, err := readNow(c, buf); err != nil || n != want {
			t.Errorf("%s: a datagram of %d bytes (%v), want %d", network, n, err, want)
		}
	}
	if n, err := readNow(c, buf); err == nil {
		t.Errorf("%s: %d bytes more", network, n)
	}
}
