package ice

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// A small internet in memory: segments (the internet, LANs), NAT boxes between two segments, and hosts with a net.PacketConn. Each hop takes
// the segment's delay. Everything happens in a synctest bubble, so time is virtual.

type packetOnWire struct {
	from, to netip.AddrPort
	b        []byte
}

type receiver interface{ receive(p packetOnWire) }

type segment struct {
	delay   time.Duration
	mu      sync.Mutex
	members map[netip.Addr]receiver
	gateway *natBox
	drop    func(p packetOnWire) bool
}

func newSegment(delay time.Duration) *segment {
	return &segment{delay: delay, members: make(map[netip.Addr]receiver)}
}

func (s *segment) attach(a netip.Addr, r receiver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members[a] = r
}

func (s *segment) send(p packetOnWire) {
	s.mu.Lock()
	r, gateway, drop := s.members[p.to.Addr()], s.gateway, s.drop
	s.mu.Unlock()
	switch {
	case drop != nil && drop(p):
	case r != nil:
		time.AfterFunc(s.delay, func() { r.receive(p) })
	case gateway != nil:
		time.AfterFunc(s.delay, func() { gateway.out(p) })
	}
}

type natKind int

// The kinds of RFC 4787, 4.1 and 5.
const (
	fullCone       natKind = iota // endpoint-independent mapping and filtering
	portRestricted                // endpoint-independent mapping, address-and-port-dependent filtering
	symmetric                     // address-and-port-dependent mapping and filtering
	firewall                      // no translation, address-and-port-dependent filtering (IPv6)
)

type natBox struct {
	kind            natKind
	ext             netip.Addr
	inside, outside *segment

	mu       sync.Mutex
	next     uint16
	forward  map[[2]netip.AddrPort]uint16 // inside address and, if symmetric, destination
	backward map[uint16]netip.AddrPort
	allowed  map[uint16]map[netip.AddrPort]bool
}

func newNAT(kind natKind, ext string, inside, outside *segment) *natBox {
	n := &natBox{kind: kind, ext: netip.MustParseAddr(ext), inside: inside, outside: outside, next: 40000,
		forward: make(map[[2]netip.AddrPort]uint16), backward: make(map[uint16]netip.AddrPort), allowed: make(map[uint16]map[netip.AddrPort]bool)}
	inside.gateway = n
	outside.attach(n.ext, n)
	return n
}

func (n *natBox) out(p packetOnWire) {
	n.mu.Lock()
	k := [2]netip.AddrPort{p.from, {}}
	if n.kind == symmetric {
		k[1] = p.to
	}
	port, ok := n.forward[k]
	if !ok {
		n.next++
		port = n.next
		n.forward[k], n.backward[port], n.allowed[port] = port, p.from, make(map[netip.AddrPort]bool)
	}
	n.allowed[port][p.to] = true
	n.mu.Unlock()
	p.from = netip.AddrPortFrom(n.ext, port)
	n.outside.send(p)
}

func (n *natBox) receive(p packetOnWire) {
	n.mu.Lock()
	inner, ok := n.backward[p.to.Port()]
	ok = ok && (n.kind == fullCone || n.allowed[p.to.Port()][p.from])
	n.mu.Unlock()
	if ok {
		p.to = inner
		n.inside.send(p)
	}
}

// mapping returns what a STUN server would have seen, making the mapping.
func (n *natBox) mapping(inner netip.AddrPort, server string) netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := netip.MustParseAddrPort(server)
	k := [2]netip.AddrPort{inner, {}}
	if n.kind == symmetric {
		k[1] = to
	}
	port, ok := n.forward[k]
	if !ok {
		n.next++
		port = n.next
		n.forward[k], n.backward[port], n.allowed[port] = port, inner, map[netip.AddrPort]bool{to: true}
	}
	return netip.AddrPortFrom(n.ext, port)
}

// simHost is a machine and its PacketConn on port 51820, bound to no address like the shared socket.
type simHost struct {
	addrs    []netip.Addr
	segments []*segment
	firewall bool // IPv6 only from where we have sent to

	mu       sync.Mutex
	sentTo   map[netip.AddrPort]int
	deadline chan struct{}
	in       chan packetOnWire
}

const simPort = 51820

func newHost() *simHost {
	return &simHost{sentTo: make(map[netip.AddrPort]int), deadline: make(chan struct{}), in: make(chan packetOnWire, 1000)}
}

func (h *simHost) at(s *segment, addr string) *simHost {
	a := netip.MustParseAddr(addr)
	h.addrs, h.segments = append(h.addrs, a), append(h.segments, s)
	s.attach(a, h)
	return h
}

func (h *simHost) local() []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range h.addrs {
		out = append(out, netip.AddrPortFrom(a, simPort))
	}
	return out
}

func (h *simHost) receive(p packetOnWire) {
	h.mu.Lock()
	blocked := h.firewall && p.from.Addr().Is6() && h.sentTo[p.from] == 0
	h.mu.Unlock()
	if blocked || p.to.Port() != simPort {
		return
	}
	select {
	case h.in <- p:
	default:
	}
}

func (h *simHost) sent(to netip.AddrPort) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sentTo[to]
}

// WriteTo routes like a kernel: to the segment that has the destination, else to the first one of its family.
func (h *simHost) WriteTo(b []byte, to net.Addr) (int, error) {
	dst := unmap(to.(*net.UDPAddr).AddrPort())
	h.mu.Lock()
	h.sentTo[dst]++
	h.mu.Unlock()
	route := -1
	for i, a := range h.addrs {
		s := h.segments[i]
		s.mu.Lock()
		direct := s.members[dst.Addr()] != nil
		s.mu.Unlock()
		if a.Is4() == dst.Addr().Is4() && (route < 0 || direct) {
			if route = i; direct {
				break
			}
		}
	}
	if route >= 0 {
		h.segments[route].send(packetOnWire{netip.AddrPortFrom(h.addrs[route], simPort), dst, append([]byte(nil), b...)})
	}
	return len(b), nil
}

func (h *simHost) ReadFrom(b []byte) (int, net.Addr, error) {
	h.mu.Lock()
	deadline := h.deadline
	h.mu.Unlock()
	select {
	case p := <-h.in:
		return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
	case <-deadline:
		return 0, nil, os.ErrDeadlineExceeded
	}
}

func (h *simHost) SetReadDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.IsZero() {
		h.deadline = make(chan struct{})
	} else {
		close(h.deadline)
	}
	return nil
}

func (h *simHost) Close() error                     { return nil }
func (h *simHost) SetDeadline(t time.Time) error    { return h.SetReadDeadline(t) }
func (h *simHost) SetWriteDeadline(time.Time) error { return nil }
func (h *simHost) LocalAddr() net.Addr              { return &net.UDPAddr{IP: net.IPv6unspecified, Port: simPort} }

// side is one end of a session under test.
type side struct {
	*Session
	host    *simHost
	factory *Factory
	events  chan Event
}

func newFactory(t *testing.T, h *simHost) *Factory {
	t.Helper()
	f, err := NewFactory(Config{Conn: h, Local: h.local})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func start(t *testing.T, f *Factory, h *simHost, controlling bool, extra ...netip.AddrPort) *side {
	t.Helper()
	s := &side{host: h, factory: f, events: make(chan Event, 16)}
	c := SessionConfig{Controlling: controlling, OnEvent: func(e Event) { s.events <- e }}
	for _, a := range extra {
		c.Extra = append(c.Extra, natCandidate(a))
	}
	var err error
	if s.Session, err = f.Start(c); err != nil {
		t.Fatal(err)
	}
	return s
}
