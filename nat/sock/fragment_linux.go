package sock

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

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
	mode := unix.IP_PMTUDISC_PROBE // the numbers are the same in both families
	if may {
		mode = unix.IP_PMTUDISC_DONT
	}
	if six {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, mode)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
}
