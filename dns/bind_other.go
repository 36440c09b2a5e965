//go:build !linux

package dns

import (
	"net"
	"syscall"
)

// onInterface does nothing here: the socket is bound to its address alone, which the leak guard protects.
func onInterface(syscall.RawConn, string) error { return nil }

func growBuffer(conn *net.UDPConn) { _ = conn.SetReadBuffer(1 << 20) }

func indexOf(iface string) int {
	if i, err := net.InterfaceByName(iface); err == nil {
		return i.Index
	}
	return 0
}
