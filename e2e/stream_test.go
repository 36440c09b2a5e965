//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// address returns the overlay address of a member, as from sees it, of one family.
func (w *world) address(from *lab.Host, name string, six bool) netip.Addr {
	w.Helper()
	for _, a := range w.peer(from, name).Addresses {
		if a.Addr().Is6() == six {
			return a.Addr()
		}
	}
	w.Fatalf("%s knows no such address of %s", from.Label(), name)
	return netip.Addr{}
}

// stream is a TCP connection through the overlay that carries as much as it can until it is closed.
type stream struct {
	got    atomic.Int64
	last   atomic.Int64 // when something arrived, in Unix nanoseconds
	silent atomic.Int64 // the longest time in which nothing did
	close  func()
}

// place is where sockets are opened: a host or a namespace on one.
type place interface{ Do(fn func() error) error }

// stream connects from one host to another and sends without end.
func (w *world) stream(from, to *lab.Host, six bool) *stream {
	w.Helper()
	return w.streamTo(from, to, w.address(from, to.Label(), six))
}

// streamTo is stream for an address of to.
func (w *world) streamTo(from, to place, addr netip.Addr) *stream {
	w.Helper()
	var l net.Listener
	listen := func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	}
	if err := to.Do(listen); err != nil {
		w.Fatal(err)
	}
	s := &stream{}
	s.last.Store(time.Now().UnixNano())
	served, accepted := make(chan struct{}), make(chan net.Conn, 1)
	go func() { // ends when the listener or the connection is closed; close waits
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		accepted <- c
		buf := make([]byte, 256<<10)
		for {
			n, err := c.Read(buf)
			now := time.Now().UnixNano()
			s.silent.Store(max(s.silent.Load(), now-s.last.Swap(now)))
			s.got.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	var c net.Conn
	dial := func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		return err
	}
	if err := from.Do(dial); err != nil {
		_ = l.Close()
		w.Fatalf("connect to %v: %v", addr, err)
	}
	sent := make(chan struct{})
	go func() { // ends when the connection is closed; close waits
		defer close(sent)
		buf := make([]byte, 64<<10)
		for {
			// Slowly enough for a machine with other work: 13 MB/s.
			if _, err := c.Write(buf); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	closed := false
	s.close = func() {
		if closed {
			return
		}
		closed = true
		_, _ = c.Close(), l.Close()
		select { // or it would wait for an end that cannot arrive
		case c := <-accepted:
			_ = c.Close()
		default:
		}
		<-sent
		<-served
	}
	w.Cleanup(s.close)
	return s
}

// silence returns how long nothing has arrived at the longest since the call before.
func (s *stream) silence() time.Duration {
	now := time.Now().UnixNano()
	longest := max(s.silent.Swap(0), now-s.last.Load())
	return time.Duration(longest)
}

// moves waits until n more bytes have arrived, and returns how long that took.
func (w *world) moves(s *stream, n int64, limit time.Duration, what string) time.Duration {
	w.Helper()
	start := s.got.Load()
	return w.eventually(limit, fmt.Sprintf("%s: %d bytes", what, n), func() bool { return s.got.Load()-start >= n })
}

// datagram sends one UDP datagram of size bytes from one host to another and waits for it; lost ones are sent again.
func (w *world) datagram(from, to *lab.Host, six bool, size int) {
	w.Helper()
	w.datagramTo(from, to, w.address(from, to.Label(), six), size)
}

// datagramTo is datagram for an address of to.
func (w *world) datagramTo(from, to place, addr netip.Addr, size int) {
	w.Helper()
	var server net.PacketConn
	listen := func() (err error) {
		server, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, 0).String())
		return err
	}
	if err := to.Do(listen); err != nil {
		w.Fatal(err)
	}
	defer server.Close()
	var c net.Conn
	dial := func() (err error) {
		c, err = net.Dial("udp", server.LocalAddr().String())
		return err
	}
	if err := from.Do(dial); err != nil {
		w.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, size+1)
	for range 5 {
		// A router on the way has told (here the workload's own node): the next one is fragmented.
		if _, err := c.Write(buf[:size]); err != nil && !errors.Is(err, syscall.EMSGSIZE) {
			w.Fatalf("send %d bytes to %v: %v", size, addr, err)
		}
		_ = server.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, _, err := server.ReadFrom(buf)
		if err == nil && n == size {
			return
		}
		if err == nil {
			w.Fatalf("%d bytes of %d arrived: %v", n, size, io.ErrShortBuffer)
		}
	}
	w.Errorf("no datagram of %d bytes reached %v", size, addr)
}
