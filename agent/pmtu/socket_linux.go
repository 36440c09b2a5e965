package pmtu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen opens the probes' socket, on the overlay's interface alone. IPV6_PMTUDISC_PROBE: a probe is neither cut to what is known of the
// path nor refused for it, and never fragmented.
func listen(ctx context.Context, iface string, addr netip.Addr) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) {
			serr = errors.Join(unix.BindToDevice(int(fd), iface), unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE))
		})
		return errors.Join(err, serr)
	}}
	conn, err := lc.ListenPacket(ctx, "udp6", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return nil, fmt.Errorf("open the path MTU probes' socket on %v (%s): %w", addr, iface, err)
	}
	return conn.(*net.UDPConn), nil
}

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
