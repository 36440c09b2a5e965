package dns

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// receiveBuffer holds a burst of some thousand questions, while both workers are busy.
const receiveBuffer = 4 << 20

// onInterface makes a socket receive from one interface only: Linux otherwise accepts packets for any of its addresses on any interface.
// Questions from this machine to its own overlay address count as received from the interface that has the address.
func onInterface(c syscall.RawConn, iface string) error {
	if iface == "" {
		return nil
	}
	var serr error
	err := c.Control(func(fd uintptr) { serr = unix.BindToDevice(int(fd), iface) })
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("bind to interface %s: %w", iface, err)
	}
	return nil
}

// indexOf returns the number of an interface, 0 if there is none. It asks for this one alone: package net reads the list of all, and a node
// with hundreds of workloads asks hundreds of times.
func indexOf(iface string) int {
	if iface == "" {
		return 0
	}
	req, err := unix.NewIfreq(iface)
	if err != nil {
		return 0
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req) != nil {
		return 0
	}
	return int(req.Uint32())
}

// growBuffer is best effort: beyond the system's limit (net.core.rmem_max) it takes CAP_NET_ADMIN, which the agent has.
func growBuffer(conn *net.UDPConn) {
	c, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		}
	})
}
