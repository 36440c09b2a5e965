package sock

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxDatagram is the largest datagram a facade takes. QUIC packets here have at most 1452 bytes and STUN messages at most 1280 (a
// larger one would be fragmented); anything above is dropped and counted.
const maxDatagram = 2048

// Queue lengths, in datagrams. QUIC's holds a whole initial congestion window (32 packets) from several peers at once; a slot costs
// maxDatagram bytes, so all queues together hold at most 1.5 MiB whatever anybody sends.
const (
	queueQUIC = 256
	queueICE  = 128
	queueSTUN = 128
)

// datagram is a copy of what arrived: the device's buffers are reused as soon as the receive function returns.
type datagram struct {
	from netip.AddrPort
	size int
	buf  [maxDatagram]byte
}

// tally counts one class. It outlives the facades, which may be closed and asked for again.
type tally struct{ received, dropped atomic.Uint64 }

// facade is one user's net.PacketConn onto the shared socket. It does not know whether the socket is open: while the device is down
// nothing arrives and writes go nowhere, as on a cut cable.
type facade struct {
	sock    *Sock
	network string // "udp", "udp4", "udp6"
	queue   chan *datagram
	read    *deadline
	closed  chan struct{}
	once    sync.Once
}

func newFacade(s *Sock, network string, length int) *facade {
	return &facade{sock: s, network: network, queue: make(chan *datagram, length), read: newDeadline(), closed: make(chan struct{})}
}

// push copies b into the queue, or counts it as dropped. It never blocks: it runs in the device's receive routine.
func (f *facade) push(b []byte, from netip.AddrPort, t *tally) {
	if f == nil || len(b) > maxDatagram || len(f.queue) == cap(f.queue) || isClosed(f.closed) {
		t.dropped.Add(1)
		return
	}
	d := f.sock.pool.Get().(*datagram)
	d.from, d.size = from, copy(d.buf[:], b)
	select {
	case f.queue <- d:
		t.received.Add(1)
	default: // the other family's receive routine took the last place
		f.sock.pool.Put(d)
		t.dropped.Add(1)
	}
}

// ReadFrom implements net.PacketConn. The address is a *net.UDPAddr, with 4 bytes for IPv4. It returns net.ErrClosed after Close and
// os.ErrDeadlineExceeded after the deadline; a datagram longer than b is cut off, as UDP does.
func (f *facade) ReadFrom(b []byte) (int, net.Addr, error) {
	if isClosed(f.closed) {
		return 0, nil, f.fail("read", net.ErrClosed)
	}
	expired := f.read.wait()
	if isClosed(expired) {
		return 0, nil, f.fail("read", os.ErrDeadlineExceeded)
	}
	select {
	case d := <-f.queue:
		n, from := copy(b, d.buf[:d.size]), d.from
		f.sock.pool.Put(d)
		return n, net.UDPAddrFromAddrPort(from), nil
	case <-f.closed:
		return 0, nil, f.fail("read", net.ErrClosed)
	case <-expired:
		return 0, nil, f.fail("read", os.ErrDeadlineExceeded)
	}
}

// WriteTo implements net.PacketConn. Errors of the network are counted and swallowed, because quic-go closes a connection at the
// first of them, and the device being down for a moment must not: to the user the datagram is lost on the way.
func (f *facade) WriteTo(b []byte, to net.Addr) (int, error) {
	if isClosed(f.closed) {
		return 0, f.fail("write", net.ErrClosed)
	}
	ua, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, f.fail("write", fmt.Errorf("destination is a %T, want *net.UDPAddr", to))
	}
	if err := f.sock.WriteTo(b, ua.AddrPort()); err != nil {
		f.sock.writeErrors.Add(1)
	}
	return len(b), nil
}

// Close makes reads and writes return net.ErrClosed. The shared socket stays open.
func (f *facade) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

// LocalAddr returns the unspecified address of the family and the shared port, which is 0 before the device is first up.
func (f *facade) LocalAddr() net.Addr {
	ip := net.IPv6unspecified
	if f.network == "udp4" {
		ip = net.IPv4zero
	}
	return &net.UDPAddr{IP: ip, Port: int(f.sock.Port())}
}

// SetDeadline sets the read deadline; writes never block.
func (f *facade) SetDeadline(t time.Time) error { return f.SetReadDeadline(t) }

// SetReadDeadline implements net.PacketConn, also for a ReadFrom that is waiting.
func (f *facade) SetReadDeadline(t time.Time) error {
	f.read.set(t)
	return nil
}

// SetWriteDeadline does nothing: writes never block.
func (f *facade) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer and SetWriteBuffer do nothing: wireguard-go sized the socket's buffers. quic-go warns if they are missing.
func (f *facade) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing, see SetReadBuffer.
func (f *facade) SetWriteBuffer(int) error { return nil }

func (f *facade) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: f.network, Source: f.LocalAddr(), Err: err}
}
