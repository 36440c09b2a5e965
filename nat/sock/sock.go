// Package sock is the one UDP port of a member: WireGuard, STUN, ICE and QUIC share it.
//
// A Sock is a conn.Bind around wireguard-go's own conn.StdNetBind, so that batching, GSO and GRO stay, and sorts each arriving
// datagram (Classify): WireGuard's stay where they are, for the device; those of the others are copied into bounded queues, each
// read through a net.PacketConn (a facade), and their size is set to 0 so that the device skips them.
//
//	socket -> StdNetBind -> Classify -> WireGuard: the device
//	                                    ICE, STUN, QUIC (one for each family): queue -> facade -> its user
//	device, facades, WriteTo -> StdNetBind -> socket
//
// The package owns the socket and the queues. A WireGuard packet costs no lock and no allocation here. It never blocks the receive
// routine, never parses beyond what sorting needs, and never grows: a full queue drops and counts. Facades outlive the socket:
// device Down and Up, or another listen port, close and open it under them.
package sock

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
)

// ErrPortBusy is what Open's error wraps (beside syscall.EADDRINUSE) if another program has the port; the device's Up and
// BindUpdate return it as it is. Pick another port, or 0 for any.
var ErrPortBusy = errors.New("the UDP port is in use by another program")

// Config is what a Sock needs.
type Config struct {
	Log            *slog.Logger
	TransactionTag [4]byte // the first bytes of the transaction IDs of nat/stun's requests
}

// Sock implements conn.Bind and hands out the facades. Make it with New.
type Sock struct {
	log   *slog.Logger
	tag   [4]byte
	inner conn.Bind // wireguard-go's own (families), except in tests
	pool  sync.Pool // of *datagram
	port  atomic.Uint32

	wireguard, unknown, writeErrors atomic.Uint64
	tallyICE, tallySTUN, tallyQUIC  tally

	mu                      sync.Mutex // held while a facade is handed out, never while datagrams move
	ice, stun, quic4, quic6 atomic.Pointer[facade]
}

var _ conn.Bind = (*Sock)(nil)

// New makes a Sock. The socket opens when the device comes up.
func New(c Config) *Sock { return newSock(c, newFamilies()) }

func newSock(c Config, inner conn.Bind) *Sock {
	s := &Sock{log: c.Log, tag: c.TransactionTag, inner: inner}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.pool.New = func() any { return new(datagram) }
	return s
}

// ICE returns the facade on which connectivity checks arrive, the same one until it is closed.
func (s *Sock) ICE() net.PacketConn { return s.hand(&s.ice, "udp", queueICE) }

// STUN returns the facade of nat/stun: Binding requests that are not ICE's, answers to requests whose transaction ID starts with
// Config.TransactionTag, and indications. It is the same one until it is closed.
func (s *Sock) STUN() net.PacketConn { return s.hand(&s.stun, "udp", queueSTUN) }

func (s *Sock) hand(at *atomic.Pointer[facade], network string, length int) *facade {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := at.Load()
	if f == nil || isClosed(f.closed) {
		f = newFacade(s, network, length)
		at.Store(f)
	}
	return f
}

// QUIC returns the facade of one family, "udp4" or "udp6", which libp2p takes through quicreuse.OverrideListenUDP. Each is handed out
// once, and again only after it was closed: a second quic.Transport on it would take the packets of the first.
func (s *Sock) QUIC(network string) (net.PacketConn, error) {
	var at *atomic.Pointer[facade]
	switch network {
	case "udp4":
		at = &s.quic4
	case "udp6":
		at = &s.quic6
	default:
		return nil, fmt.Errorf("no QUIC socket for network %q: want udp4 or udp6", network)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := at.Load(); f != nil && !isClosed(f.closed) {
		return nil, fmt.Errorf("the shared socket's QUIC side for %s is in use already: close it first", network)
	}
	f := newFacade(s, network, queueQUIC)
	at.Store(f)
	return f, nil
}

// Port returns the port of the shared socket, 0 before it is first open. While the device is down it is the last one.
func (s *Sock) Port() uint16 { return uint16(s.port.Load()) }

// WriteTo sends one datagram from the shared port. It fails if the socket is closed, the family is missing on this machine or
// the system refuses; IPv6 link-local addresses cannot be sent to, because StdNetBind has no zones.
func (s *Sock) WriteTo(b []byte, to netip.AddrPort) error {
	to = unmap(to)
	if !to.IsValid() || to.Port() == 0 || to.Addr().Zone() != "" {
		return fmt.Errorf("sending %d bytes to %v: not an address that the shared socket can send to", len(b), to)
	}
	if err := s.inner.Send([][]byte{b}, &conn.StdNetEndpoint{AddrPort: to}); err != nil {
		var gso conn.ErrUDPGSODisabled // the datagram was sent again without GSO; RetryErr says how that went
		if errors.As(err, &gso) && gso.RetryErr == nil {
			return nil
		}
		return fmt.Errorf("sending %d bytes to %v: %w", len(b), to, err)
	}
	return nil
}

// Queue counts the datagrams of one class.
type Queue struct {
	Received uint64 // handed to the facade
	Dropped  uint64 // queue full, datagram too long, or nobody listening
}

// Counters are the datagrams that arrived since New, by class, and the facades' writes that failed.
type Counters struct {
	WireGuard       uint64
	ICE, STUN, QUIC Queue
	Unknown         uint64 // of no class, dropped
	WriteErrors     uint64
}

// Counters returns a snapshot.
func (s *Sock) Counters() Counters {
	get := func(t *tally) Queue { return Queue{Received: t.received.Load(), Dropped: t.dropped.Load()} }
	return Counters{
		WireGuard: s.wireguard.Load(), Unknown: s.unknown.Load(), WriteErrors: s.writeErrors.Load(),
		ICE: get(&s.tallyICE), STUN: get(&s.tallySTUN), QUIC: get(&s.tallyQUIC),
	}
}

// unmap makes an IPv4 address of an IPv4-mapped IPv6 one: StdNetBind would send it through the IPv6 socket, which is V6ONLY.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// isBusy reports whether err means that the port is taken.
func isBusy(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
