package control

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// memnet is an internet in memory: datagrams arrive after a latency, may be filtered as a NAT does it, and are counted.
type memnet struct {
	latency time.Duration

	mu    sync.Mutex
	ports map[netip.AddrPort]*memport
}

func newMemnet(latency time.Duration) *memnet {
	return &memnet{latency: latency, ports: make(map[netip.AddrPort]*memport)}
}

// memport is a socket on it.
type memport struct {
	net  *memnet
	addr netip.AddrPort
	in   chan memgram
	done chan struct{}
	once sync.Once
	wake chan struct{} // the deadline has changed

	sent    atomic.Int64 // bytes, with IP and UDP headers
	packets atomic.Int64
	cut     atomic.Bool // nothing arrives and nothing leaves

	mu       sync.Mutex
	deadline time.Time
	closedTo map[netip.AddrPort]bool // nil: open; else only from those in it, which are those that were sent to
}

type memgram struct {
	b    []byte
	from netip.AddrPort
}

// open makes a socket; behindNAT lets in only what answers.
func (n *memnet) open(addr netip.AddrPort, behindNAT bool) *memport {
	p := &memport{net: n, addr: addr, in: make(chan memgram, 256), done: make(chan struct{}), wake: make(chan struct{}, 1)}
	if behindNAT {
		p.closedTo = make(map[netip.AddrPort]bool)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[addr] = p
	return p
}

// move gives a socket another address, as a NAT or a roaming host does.
func (p *memport) move(to netip.AddrPort) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	delete(p.net.ports, p.addr)
	p.addr = to
	p.net.ports[to] = p
}

func (p *memport) WriteTo(b []byte, to net.Addr) (int, error) {
	dst := to.(*net.UDPAddr).AddrPort()
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	p.mu.Lock()
	if p.closedTo != nil {
		p.closedTo[dst] = true
	}
	p.mu.Unlock()
	p.sent.Add(int64(len(b)) + 28)
	p.packets.Add(1)
	if p.cut.Load() {
		return len(b), nil
	}
	p.net.mu.Lock()
	from := p.addr
	p.net.mu.Unlock()
	g := memgram{append([]byte(nil), b...), from}
	time.AfterFunc(p.net.latency, func() { p.net.deliver(dst, g) })
	return len(b), nil
}

func (n *memnet) deliver(dst netip.AddrPort, g memgram) {
	n.mu.Lock()
	p := n.ports[dst]
	n.mu.Unlock()
	if p == nil || p.cut.Load() {
		return
	}
	p.mu.Lock()
	ok := p.closedTo == nil || p.closedTo[g.from]
	p.mu.Unlock()
	if !ok {
		return
	}
	select {
	case p.in <- g:
	default:
	}
}

func (p *memport) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		p.mu.Lock()
		deadline := p.deadline
		p.mu.Unlock()
		var expired <-chan time.Time
		if !deadline.IsZero() {
			d := time.Until(deadline)
			if d <= 0 {
				return 0, nil, os.ErrDeadlineExceeded
			}
			t := time.NewTimer(d)
			defer t.Stop()
			expired = t.C
		}
		select {
		case g := <-p.in:
			return copy(b, g.b), net.UDPAddrFromAddrPort(g.from), nil
		case <-expired:
			return 0, nil, os.ErrDeadlineExceeded
		case <-p.wake:
		case <-p.done:
			return 0, nil, net.ErrClosed
		}
	}
}

func (p *memport) Close() error {
	p.once.Do(func() {
		close(p.done)
		p.net.mu.Lock()
		defer p.net.mu.Unlock()
		if p.net.ports[p.addr] == p {
			delete(p.net.ports, p.addr)
		}
	})
	return nil
}

func (p *memport) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4zero, Port: int(p.addr.Port())}
}

func (p *memport) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	p.deadline = t
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

func (p *memport) SetDeadline(t time.Time) error    { return p.SetReadDeadline(t) }
func (p *memport) SetWriteDeadline(time.Time) error { return nil }
func (p *memport) SetReadBuffer(int) error          { return nil }
func (p *memport) SetWriteBuffer(int) error         { return nil }

var errNoFamily = errors.New("this machine has no IPv6")

func (p *memport) udp() net.Addr { return net.UDPAddrFromAddrPort(p.addr) }
