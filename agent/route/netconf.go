package route

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// forwardChanges tells of changes of forwarding (RTM_NEWNETCONF in linux/netconf.h) until ctx ends; then it is closed. It holds one message:
// there is no more to know than that one should look.
func forwardChanges(ctx context.Context) (<-chan struct{}, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return nil, fmt.Errorf("subscribe to changes of forwarding: %w", err)
	}
	changes := make(chan struct{}, 1)
	context.AfterFunc(ctx, s.Close) // ends Receive
	go func() {                     // whoever reads changes waits for it
		defer close(changes)
		for {
			_, _, err := s.Receive()
			if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) || ctx.Err() != nil {
				return
			}
			select { // after any other error (messages were lost) too
			case changes <- struct{}{}:
			default:
			}
		}
	}()
	return changes, nil
}
