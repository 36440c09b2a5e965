package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits for TCP (RFC 7766, 6).
const (
	maxConns          = 256
	maxConnsPerClient = 16
	idleWait          = 10 * time.Second // for a whole question, so that sending a byte at a time holds nothing
	writeWait         = 5 * time.Second
)

// conns counts the open connections. The map has at most maxConns keys.
type conns struct {
	mu    sync.Mutex
	total int
	open  map[[16]byte]int
}

func (c *conns) add(client netip.Addr) bool {
	k := clientOf(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= maxConns || c.open[k] >= maxConnsPerClient {
		return false
	}
	c.total++
	c.open[k]++
	return true
}

func (c *conns) remove(client netip.Addr) {
	k := clientOf(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.open[k]--; c.open[k] == 0 {
		delete(c.open, k)
	}
}

// serveTCP accepts connections until the listener is closed. wg, which Run waits for, knows their goroutines.
func (s *Server) serveTCP(ctx context.Context, l *net.TCPListener, wg *sync.WaitGroup) error {
	failures := 0
	for {
		conn, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			if failures++; failures > maxFailures {
				return fmt.Errorf("accept DNS connections on %s: %w", l.Addr(), err)
			}
			if !pause(ctx) {
				return nil
			}
			continue
		}
		failures = 0
		client := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if !s.conns.add(client) {
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer s.conns.remove(client)
			s.serveConn(ctx, conn, client)
		})
	}
}

// serveConn answers the questions of one connection, one after the other.
func (s *Server) serveConn(ctx context.Context, conn net.Conn, client netip.Addr) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	in, out := make([]byte, maxQuery), make([]byte, 2+maxUDP)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(idleWait))
		if _, err := io.ReadFull(conn, in[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(in))
		if n > len(in) { // no question is as large: this is no client
			return
		}
		if _, err := io.ReadFull(conn, in[:n]); err != nil {
			return
		}
		if !s.allowed(client) {
			return
		}
		b, q := s.answer(in[:n], s.via(client, true), nil)
		if q != nil {
			b = s.remoteTCP(ctx, q)
		}
		if b == nil {
			return
		}
		out = binary.BigEndian.AppendUint16(out[:0], uint16(len(b))) // one write, so one segment where it fits (RFC 7766, 8)
		out = append(out, b...)
		_ = conn.SetWriteDeadline(time.Now().Add(writeWait))
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

func (s *Server) remoteTCP(ctx context.Context, q *query) []byte {
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
		return s.chain.remote(ctx, q)
	default:
		return s.chain.busy(q)
	}
}
