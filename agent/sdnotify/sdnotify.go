// Package sdnotify tells systemd how the service is (sd_notify(3)). Without systemd it does nothing.
package sdnotify

import (
	"fmt"
	"net"
	"os"
)

// Send sends a state such as "READY=1" to the socket that systemd named in NOTIFY_SOCKET; nil if there is none.
func Send(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
