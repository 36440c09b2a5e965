//go:build !linux

package sock

import "net"

// mayFragment does nothing: elsewhere the system's default holds, and path MTUs are not looked for.
func mayFragment(*net.UDPConn, bool, bool) error { return nil }
