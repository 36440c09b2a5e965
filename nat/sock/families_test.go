package sock

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// TestFamiliesDoNotMixDestinations sends to another IPv6 address, 127.0.0.1 and ::1 in turn, from several goroutines, and expects each datagram
// for ::1 there. It uses real sockets on the loopback interface: where the kernel sends is the question.
func TestFamiliesDoNotMixDestinations(t *testing.T) {
	six, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Skip("no IPv6 on this machine:", err)
	}
	defer six.Close()
	four, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer four.Close()
	f := newFamilies()
	if _, _, err := f.Open(0); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := f.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
		t.Errorf("second Open: %v", err)
	}
	to := func(c *net.UDPConn) conn.Endpoint {
		return &conn.StdNetEndpoint{AddrPort: c.LocalAddr().(*net.UDPAddr).AddrPort()}
	}
	nowhere := &conn.StdNetEndpoint{AddrPort: netip.MustParseAddrPort("[100::1234]:9")} // RFC 6666: discarded
	const senders, rounds = 4, 50                                                       // all of it fits into the receiver's buffer
	buf := make([]byte, 64)
	var wait sync.WaitGroup
	for range senders {
		wait.Go(func() {
			for range rounds {
				_ = f.Send([][]byte{[]byte("datagram")}, nowhere) // fails where there is no default route
				for _, ep := range []conn.Endpoint{to(four), to(six)} {
					if err := f.Send([][]byte{[]byte("datagram")}, ep); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wait.Wait()
	for got := range senders * rounds {
		// On the loopback interface a datagram has arrived when Send returns; reading without waiting tells what is missing.
		if n, err := readNow(six, buf); err != nil || n == 0 {
			t.Fatalf("%d of %d IPv6 datagrams arrived: %v", got, senders*rounds, err)
		}
	}
}

// readNow reads a datagram that is there, and fails if there is none.
func readNow(c *net.UDPConn, b []byte) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
		return true // whatever it said
	})
	return n, errors.Join(cerr, err)
}

func TestFamiliesReopen(t *testing.T) {
	f := newFamilies()
	ep := &conn.StdNetEndpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:9")}
	for range 2 {
		if err := f.Send([][]byte{{1}}, ep); err == nil {
			t.Error("sent through a closed bind")
		}
		_, port, err := f.Open(0)
		if err != nil || port == 0 {
			t.Fatalf("port %d, %v", port, err)
		}
		if err := f.Send([][]byte{{1}}, ep); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
