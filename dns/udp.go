package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// udpWorkers read from each socket: while one answers, another one reads.
const udpWorkers = 2

// maxFailures in a row mean that a socket is broken and not only out of luck.
const maxFailures = 50

// serveUDP reads, answers and writes in turn, in its own goroutine and buffers: a flood is dropped by the kernel and takes no
// memory of ours (the server of package miekg/dns starts a goroutine for each packet). What has to be forwarded gets a goroutine, counted by
// s.waiting; wg, which Run waits for, knows them.
func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn, wg *sync.WaitGroup) error {
	in, out := make([]byte, maxQuery), make([]byte, 2*maxUDP)
	failures := 0
	for {
		n, from, err := conn.ReadFromUDPAddrPort(in)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			if failures++; failures > maxFailures {
				return fmt.Errorf("read DNS questions from %s: %w", conn.LocalAddr(), err)
			}
			if !pause(ctx) {
				return nil
			}
			continue
		}
		failures = 0
		if !s.allowed(from.Addr()) {
			continue
		}
		b, q := s.answer(in[:n], s.via(from.Addr(), false), out)
		if q == nil {
			s.send(conn, b, from)
			continue
		}
		select {
		case s.waiting <- struct{}{}:
			wg.Go(func() {
				defer func() { <-s.waiting }()
				s.send(conn, s.chain.remote(ctx, q), from)
			})
		default:
			s.send(conn, s.chain.busy(q), from)
		}
	}
}

// send sends an answer, if there is one. A client that is gone, or a full queue, is no failure: the client asks again.
func (s *Server) send(conn *net.UDPConn, b []byte, to netip.AddrPort) {
	if len(b) == 0 {
		return
	}
	if _, err := conn.WriteToUDPAddrPort(b, to); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Debug("DNS answer not sent", "client", to, "err", err)
	}
}
