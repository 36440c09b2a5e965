package ice

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"
)

// mux sorts the datagrams of the shared socket to sessions: a request by the first half of its USERNAME, an answer by the transaction ID
// of the request that it answers. It takes the place of pion's UDPMuxDefault, which
//   - sends all that comes from one address to the session that wrote to it last, so that two sessions with one peer (a restart, or both
//     sides starting one) take each other's packets;
//   - queues without limit for a session that is not yet connected;
//   - does not know which addresses must not be a path, and warns of an unspecified local address.
type mux struct {
	conn   net.PacketConn
	accept func(netip.Addr) bool

	mu      sync.Mutex // guards the rest; nothing is sent or waited for while it is held. May be taken before a muxConn's, never after
	conns   map[muxKey]*muxConn
	pending map[[stun.TransactionIDSize]byte]*muxConn // requests under way; each muxConn bounds its own
	budget  *targetBudget
}

type muxKey struct {
	ufrag string
	v4    bool
}

func newMux(conn net.PacketConn, accept func(netip.Addr) bool) *mux {
	return &mux{
		conn: conn, accept: accept, budget: newTargetBudget(),
		conns: make(map[muxKey]*muxConn), pending: make(map[[stun.TransactionIDSize]byte]*muxConn),
	}
}

// read feeds the sessions until stop is closed (and a read deadline wakes it), or until the socket fails.
func (m *mux) read(stop <-chan struct{}) error {
	buf := make([]byte, 2048)
	var msg stun.Message
	for {
		n, from, err := m.conn.ReadFrom(buf)
		select {
		case <-stop:
			return nil
		default:
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading connectivity checks: %w", err)
		}
		if ua, ok := from.(*net.UDPAddr); ok {
			m.dispatch(&msg, buf[:n], unmap(ua.AddrPort()))
		}
	}
}

// dispatch hands one datagram on, or drops it; msg is scratch space. What strangers send ends here: without a session's ufrag (24 bits
// at least, sealed in signalling) or a transaction ID under way, nothing is kept.
func (m *mux) dispatch(msg *stun.Message, b []byte, from netip.AddrPort) {
	msg.Raw = append(msg.Raw[:0], b...)
	if msg.Decode() != nil || msg.Type.Method != stun.MethodBinding || !m.accept(from.Addr()) {
		return
	}
	switch msg.Type.Class {
	case stun.ClassRequest:
		name, err := msg.Get(stun.AttrUsername)
		if err != nil {
			return
		}
		ufrag, _, _ := strings.Cut(string(name), ":")
		m.mu.Lock()
		c := m.conns[muxKey{ufrag, from.Addr().Is4()}]
		m.mu.Unlock()
		if c != nil {
			c.push(b, from, true)
		}
	case stun.ClassSuccessResponse:
		m.mu.Lock()
		c := m.pending[msg.TransactionID]
		delete(m.pending, msg.TransactionID)
		m.mu.Unlock()
		if c != nil {
			c.answered(msg, from)
			c.push(b, from, false)
		}
	}
}

// sessionMux is the side of the mux that one session's pion agent sees: an ice.UDPMux with the addresses that the session has.
type sessionMux struct {
	mux   *mux
	hosts []netip.AddrPort // one for each family
	early chan struct{}

	mu    sync.Mutex // guards conns
	conns []*muxConn
}

var _ ice.UDPMux = (*sessionMux)(nil)

// newSessionMux takes the first of hosts in each family. early gets a value when a check arrives that nobody reads yet.
func newSessionMux(m *mux, hosts []netip.AddrPort, early chan struct{}) *sessionMux {
	s := &sessionMux{mux: m, early: early}
	for _, v4 := range []bool{false, true} {
		for _, h := range hosts {
			if h.Addr().Is4() == v4 {
				s.hosts = append(s.hosts, h)
				break
			}
		}
	}
	return s
}

// GetListenAddresses implements ice.UDPMux.
func (s *sessionMux) GetListenAddresses() []net.Addr {
	out := make([]net.Addr, len(s.hosts))
	for i, h := range s.hosts {
		out[i] = net.UDPAddrFromAddrPort(h)
	}
	return out
}

// GetConn implements ice.UDPMux.
func (s *sessionMux) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	ua, ok := addr.(*net.UDPAddr)
	if !ok {
		return nil, fmt.Errorf("no ICE on %v, which is a %T", addr, addr)
	}
	host := unmap(ua.AddrPort())
	k := muxKey{ufrag, host.Addr().Is4()}
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	if _, taken := s.mux.conns[k]; taken {
		return nil, fmt.Errorf("the ICE user name %s is in use", ufrag)
	}
	c := newMuxConn(s.mux, k, host, s.early)
	s.mux.conns[k] = c
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
	return c, nil
}

// RemoveConnByUfrag implements ice.UDPMux. pion calls it before it closes an agent's candidates.
func (s *sessionMux) RemoveConnByUfrag(ufrag string) {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	for _, v4 := range []bool{false, true} {
		k := muxKey{ufrag, v4}
		if c := s.mux.conns[k]; c != nil {
			delete(s.mux.conns, k)
			c.forget(s.mux.pending)
		}
	}
}

// Close implements ice.UDPMux; the socket is shared and stays.
func (s *sessionMux) Close() error { return nil }

// open lets the conns of one family, or of both, be read.
func (s *sessionMux) open(v4, v6 bool) {
	for _, c := range s.all() {
		if c.key.v4 && v4 || !c.key.v4 && v6 {
			c.openGate()
		}
	}
}

func (s *sessionMux) all() []*muxConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*muxConn(nil), s.conns...)
}

// target returns what happened with one remote address.
func (s *sessionMux) target(addr netip.AddrPort) target {
	for _, c := range s.all() {
		if c.key.v4 == addr.Addr().Is4() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if t := c.targets[addr]; t != nil {
				return *t
			}
		}
	}
	return target{}
}

// totals returns the checks that were sent, those that were answered, and those of the peer that we answered.
func (s *sessionMux) totals() (sent, answered, served uint32) {
	for _, c := range s.all() {
		c.mu.Lock()
		for _, t := range c.targets {
			sent, answered, served = sent+t.sent, answered+t.answered, served+t.served
		}
		c.mu.Unlock()
	}
	return sent, answered, served
}

// write sends b, if it is an answer or if it is a check that is within the budgets.
func (m *mux) write(c *muxConn, b []byte, to netip.AddrPort) error {
	if len(b) < 20 || !stun.IsMessage(b) {
		return errors.New("only STUN messages are sent by ICE sessions: data goes through the tunnel")
	}
	if request := b[0] == 0 && b[1] == 1; request {
		if !c.due(to) {
			return nil
		}
		now, id := time.Now(), [stun.TransactionIDSize]byte(b[8:20])
		m.mu.Lock()
		if m.conns[c.key] != c {
			m.mu.Unlock()
			return io.ErrClosedPipe
		}
		if !c.trusts(to) && !m.budget.allow(to, now) {
			m.mu.Unlock()
			return nil
		}
		c.remember(m.pending, id)
		m.mu.Unlock()
		c.count(to, true)
	} else {
		c.count(to, false)
	}
	_, err := m.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}
