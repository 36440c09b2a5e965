//go:build linux

package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// Dial connects from this machine to a TCP address, such as one of its own loopback.
func (n *node) Dial(ctx context.Context, addr string) (conn net.Conn, err error) {
	err = n.Do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", addr)
		return err
	})
	return conn, err
}

// Forward makes a TCP address of this machine reachable from the namespace of this process: it passes on connections to a loopback address
// here until ctx ends, and then returns. It calls at with the address here as soon as it listens. Port 0 means any.
func (n *node) Forward(ctx context.Context, listen, to string, at func(net.Addr)) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("forward %s of %s to here: %w", to, n.name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	at(l.Addr())
	var open sync.WaitGroup
	defer open.Wait()
	for {
		near, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("forward %s of %s to here: %w", to, n.name, err)
		}
		open.Go(func() { n.join(ctx, near, to) })
	}
}

// join copies both ways between a connection and an address until both have closed their end, or ctx ends.
func (n *node) join(ctx context.Context, near net.Conn, to string) {
	defer near.Close()
	far, err := n.Dial(ctx, to)
	if err != nil {
		return // whoever connected sees a closed connection, and tries again
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
	defer stop()
	var back sync.WaitGroup
	back.Go(func() { pass(near, far) })
	pass(far, near)
	back.Wait()
}

// pass copies until from ends, and tells to so.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // a connection that breaks ends the same way as one that is closed
	if c, ok := to.(*net.TCPConn); ok {
		_ = c.CloseWrite()
	}
}
