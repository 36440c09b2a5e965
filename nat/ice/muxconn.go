package ice

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun"
)

// Limits of one family of one session.
const (
	queueLength = 32  // datagrams that wait for pion; of a session that is not yet connected, the newest checks
	maxTargets  = 64  // remote addresses: those that the peer named and peer-reflexive ones
	maxPending  = 512 // requests that can still be answered: 2.5 s of ten pairs
)

// target is what happened with one remote address.
type target struct {
	tried    uint32 // checks that pion wanted
	sent     uint32 // checks that went out
	answered uint32
	served   uint32         // the peer's checks that pion found genuine and answered
	mapped   netip.AddrPort // where the peer says that our checks come from
}

// muxConn is the net.PacketConn of one session and one family.
type muxConn struct {
	mux   *mux
	key   muxKey
	host  netip.AddrPort
	queue chan packet
	early chan struct{}
	gate  chan struct{} // closed when reading may begin
	done  chan struct{}
	once  sync.Once

	pending [maxPending][stun.TransactionIDSize]byte // a ring, guarded by mux.mu
	next    int

	mu      sync.Mutex // guards targets
	opened  sync.Once
	targets map[netip.AddrPort]*target
}

type packet struct {
	b    []byte
	from *net.UDPAddr
}

func newMuxConn(m *mux, k muxKey, host netip.AddrPort, early chan struct{}) *muxConn {
	return &muxConn{
		mux: m, key: k, host: host, early: early, queue: make(chan packet, queueLength),
		gate: make(chan struct{}), done: make(chan struct{}), targets: make(map[netip.AddrPort]*target),
	}
}

func (c *muxConn) openGate() { c.opened.Do(func() { close(c.gate) }) }

// push queues a copy of b in place of the oldest if the queue is full. Only the mux's reader calls it.
func (c *muxConn) push(b []byte, from netip.AddrPort, request bool) {
	p := packet{bytes.Clone(b), net.UDPAddrFromAddrPort(from)}
	for {
		select {
		case c.queue <- p:
			if request {
				select {
				case c.early <- struct{}{}:
				default:
				}
			}
			return
		default:
		}
		select {
		case <-c.queue:
		default:
		}
	}
}

// answered notes an answer from the address that the request went to.
func (c *muxConn) answered(m *stun.Message, from netip.AddrPort) {
	var x stun.XORMappedAddress
	mapped := netip.AddrPort{}
	if x.GetFrom(m) == nil && x.Port > 0 && x.Port <= 65535 {
		if ip, ok := netip.AddrFromSlice(x.IP); ok {
			mapped = netip.AddrPortFrom(ip.Unmap(), uint16(x.Port))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.targets[from]; t != nil {
		t.answered++
		t.mapped = mapped
	}
}

// at returns the entry of to, or nil if the table is full. The caller holds mu.
func (c *muxConn) at(to netip.AddrPort) *target {
	t := c.targets[to]
	if t == nil && len(c.targets) < maxTargets {
		t = new(target)
		c.targets[to] = t
	}
	return t
}

// due thins out the checks of an address that stays silent.
func (c *muxConn) due(to netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.at(to)
	if t == nil {
		return false
	}
	t.tried++
	return t.answered > 0 || t.served > 0 || t.tried <= eagerChecks || t.tried%thinning == 0
}

// trusts reports whether the peer has shown that it is at to.
func (c *muxConn) trusts(to netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.targets[to]
	return t != nil && (t.answered > 0 || t.served > 0)
}

func (c *muxConn) count(to netip.AddrPort, request bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch t := c.at(to); {
	case t == nil:
	case request:
		t.sent++
	default:
		t.served++
	}
}

// remember notes a request under way and forgets the oldest. The caller holds mux.mu.
func (c *muxConn) remember(pending map[[stun.TransactionIDSize]byte]*muxConn, id [stun.TransactionIDSize]byte) {
	if old := c.pending[c.next]; pending[old] == c {
		delete(pending, old)
	}
	c.pending[c.next] = id
	c.next = (c.next + 1) % maxPending
	pending[id] = c
}

// forget drops all requests under way. The caller holds mux.mu.
func (c *muxConn) forget(pending map[[stun.TransactionIDSize]byte]*muxConn) {
	for _, id := range c.pending {
		if pending[id] == c {
			delete(pending, id)
		}
	}
}

// ReadFrom implements net.PacketConn; it waits for the gate, and returns io.EOF after Close, which pion takes for the end.
func (c *muxConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-c.gate:
	case <-c.done:
		return 0, nil, io.EOF
	}
	select {
	case p := <-c.queue:
		return copy(b, p.b), p.from, nil
	case <-c.done:
		return 0, nil, io.EOF
	}
}

// WriteTo implements net.PacketConn. A check that is over the budgets is lost, as on the way.
func (c *muxConn) WriteTo(b []byte, to net.Addr) (int, error) {
	ua, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError("not a UDP address: " + to.String())
	}
	select {
	case <-c.done:
		return 0, io.ErrClosedPipe
	default:
	}
	if err := c.mux.write(c, b, unmap(ua.AddrPort())); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements net.PacketConn. pion calls it once for each candidate.
func (c *muxConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

// LocalAddr implements net.PacketConn.
func (c *muxConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.host) }

// SetDeadline does nothing: pion sets one only right before Close.
func (c *muxConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing, see SetDeadline.
func (c *muxConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing: writes never block.
func (c *muxConn) SetWriteDeadline(time.Time) error { return nil }
