//go:build linux

package observe

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// Forward makes the program reachable from the namespace of this process: it passes on connections to a loopback address here until ctx
// ends, and then returns. It calls at with the address as soon as it listens. Port 0 means any.
func (p *process) Forward(ctx context.Context, listen string, at func(net.Addr)) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("forward %s to here: %w", p.name, err)
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
			return fmt.Errorf("forward %s to here: %w", p.name, err)
		}
		open.Go(func() { p.join(ctx, near) })
	}
}

// join copies both ways between a connection and the program until both have closed their end, or ctx ends.
func (p *process) join(ctx context.Context, near net.Conn) {
	defer near.Close()
	far, err := p.dial(ctx)
	if err != nil {
		return // the browser sees a closed connection, and tries again
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
