package sock

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// minIPv6 is what every IPv6 path carries (RFC 8200, 5).
const minIPv6 = 1280

// mayFragment switches between datagrams that leave whole or not at all, and those that may be fragmented.
func mayFragment(udp *net.UDPConn, six, may bool) error {
	raw, err := udp.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) { serr = setFragment(int(fd), six, may) })
	if err := errors.Join(err, serr); err != nil {
		return fmt.Errorf("setting how the shared socket fragments: %w", err)
	}
	return nil
}

func setFragment(fd int, six, may bool) error {
	mode, size := unix.IP_PMTUDISC_PROBE, 0
	if may {
		mode, size = unix.IP_PMTUDISC_OMIT, minIPv6
	}
	if !six {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
	}
	// The numbers of the modes are the same in both families. A router does not fragment IPv6, so the size is ours to choose.
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, mode), unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU, size))
}
