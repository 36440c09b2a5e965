// Package stun answers members' STUN Binding requests (RFC 8489) on the shared port and learns, from several members' answers, where
// this machine is in the internet: its mapped addresses, how its NAT maps, and whether strangers' packets arrive.
//
// It owns the exchanges under way and the current nat.Report. It never opens a socket: it reads and writes nat/sock's STUN facade.
// Nothing a stranger sends makes it allocate without limit, send more bytes than came, or send more than its budget.
//
// The messages, all with the Binding method:
//
//	request     a transaction ID that starts with Config.Tag; MESSAGE-INTEGRITY with the member key (no USERNAME: every member has the
//	            same key), or SOFTWARE as padding where there is no key; at least 44 bytes, so that an IPv6 answer is not longer
//	success     XOR-MAPPED-ADDRESS and nothing else; 32 bytes for IPv4, 44 for IPv6
//	indication  nothing but a transaction ID, which is the nonce that the tested member chose (the reachability test)
package stun

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/pion/stun"

	"github.com/gridwire/gridwire/nat"
)

// Retransmission of Bind. RFC 8489, 6.2.1 asks for an RTO of at least 500 ms, for paths that nobody knows; here a lost first packet
// must not cost half a second of a join, and five packets of 44 bytes congest nothing: sent at 0, 100, 300, 700 and 1500 ms, given
// up at 3100 ms.
const (
	firstRTO    = 100 * time.Millisecond
	maxRequests = 5
)

// Limits of what is under way at once.
const (
	maxRequestsOpen = 64
	maxExpected     = 64
)

// DefaultStrangersPerSecond and DefaultStrangersBurst are the budget for answers to requests without the member key: at most
// 100 x 44 bytes a second.
const (
	DefaultStrangersPerSecond = 100
	DefaultStrangersBurst     = 200
)

// ErrNoAnswer is what Bind's error wraps if the server stayed silent.
var ErrNoAnswer = errors.New("no answer")

// Config is what a STUN needs.
type Config struct {
	Conn               net.PacketConn // nat/sock's STUN facade
	Tag                [4]byte        // nat/sock's TransactionTag
	MemberKey          []byte         // shared by all members of the network; empty: requests carry no credential and nobody is exempt
	StrangersPerSecond float64        // 0: DefaultStrangersPerSecond
	StrangersBurst     int            // 0: DefaultStrangersBurst
	Now                func() time.Time
	Log                *slog.Logger
}

// STUN is both ends of the protocol on one socket. Make it with New.
type STUN struct {
	conn   net.PacketConn
	tag    [4]byte
	key    stun.MessageIntegrity
	now    func() time.Time
	log    *slog.Logger
	server *server

	mu       sync.Mutex // guards the two maps; nothing is sent or waited for while it is held
	requests map[[stun.TransactionIDSize]byte]*request
	expected map[[stun.TransactionIDSize]byte]chan netip.AddrPort
}

// request is a Binding request that waits for its answer.
type request struct {
	server netip.AddrPort
	answer chan answer // one place
}

type answer struct {
	mapped netip.AddrPort
	err    error
}

// New checks c. It starts nothing.
func New(c Config) (*STUN, error) {
	if c.Conn == nil {
		return nil, errors.New("making the STUN side of the shared socket: no connection was given")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &STUN{
		conn: c.Conn, tag: c.Tag, key: stun.MessageIntegrity(c.MemberKey), now: c.Now, log: c.Log,
		requests: make(map[[stun.TransactionIDSize]byte]*request),
		expected: make(map[[stun.TransactionIDSize]byte]chan netip.AddrPort),
	}
	s.server = newServer(c.MemberKey, c.StrangersPerSecond, c.StrangersBurst)
	return s, nil
}

// Run reads the facade until ctx ends, answers requests and hands answers and indications to those who wait. It returns nil after ctx,
// else why the facade could not be read.
func (s *STUN) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 2048)
	var m stun.Message
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading STUN messages from the shared socket: %w", err)
		}
		if ua, ok := from.(*net.UDPAddr); ok {
			a := ua.AddrPort()
			s.handle(&m, buf[:n], netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		}
	}
}

// handle treats one datagram; m is scratch space.
func (s *STUN) handle(m *stun.Message, b []byte, from netip.AddrPort) {
	m.Raw = append(m.Raw[:0], b...)
	if m.Decode() != nil || m.Type.Method != stun.MethodBinding || from.Port() == 0 {
		return
	}
	switch m.Type.Class {
	case stun.ClassRequest:
		if out := s.server.answer(m, from, s.now()); out != nil {
			_, _ = s.conn.WriteTo(out, net.UDPAddrFromAddrPort(from)) // the facade swallows the network's errors; the asker asks again
		}
	case stun.ClassIndication:
		s.mu.Lock()
		c := s.expected[m.TransactionID]
		s.mu.Unlock()
		offer(c, from)
	case stun.ClassSuccessResponse, stun.ClassErrorResponse:
		s.mu.Lock()
		r := s.requests[m.TransactionID]
		s.mu.Unlock()
		if r != nil && r.server == from {
			offer(r.answer, parseAnswer(m))
		}
	}
}

// offer sends without waiting: the channels have one place and the first value counts.
func offer[T any](c chan T, v T) {
	select {
	case c <- v:
	default:
	}
}

func parseAnswer(m *stun.Message) answer {
	if m.Type.Class == stun.ClassErrorResponse {
		var code stun.ErrorCodeAttribute
		if err := code.GetFrom(m); err != nil {
			return answer{err: errors.New("it refused without saying why")}
		}
		return answer{err: fmt.Errorf("it refused with STUN error %d %s", code.Code, code.Reason)}
	}
	var x stun.XORMappedAddress
	if err := x.GetFrom(m); err != nil {
		return answer{err: fmt.Errorf("its answer has no usable XOR-MAPPED-ADDRESS: %w", err)}
	}
	a, ok := netip.AddrFromSlice(x.IP)
	if !ok || a.IsUnspecified() || a.IsMulticast() || x.Port <= 0 || x.Port > 65535 {
		return answer{err: fmt.Errorf("its answer says that we are at %v, which cannot be", x)}
	}
	return answer{mapped: netip.AddrPortFrom(a.Unmap(), uint16(x.Port))}
}

// Bind asks server where our packets come from. It returns within 3.1 s, or at the end of ctx; the error wraps ErrNoAnswer if nothing
// came back. RTT counts from the first transmission, so that it is too long, never too short, if one was lost. Needs Run.
func (s *STUN) Bind(ctx context.Context, server netip.AddrPort) (nat.Mapping, error) {
	server = netip.AddrPortFrom(server.Addr().Unmap(), server.Port())
	id, r, err := s.open(server)
	if err != nil {
		return nat.Mapping{}, fmt.Errorf("asking %v for our mapped address: %w", server, err)
	}
	defer s.forget(id)
	out, err := s.buildRequest(id)
	if err != nil {
		return nat.Mapping{}, fmt.Errorf("asking %v for our mapped address: building the request: %w", server, err)
	}
	to, start, wait := net.UDPAddrFromAddrPort(server), s.now(), firstRTO
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for sent := 1; ; sent++ {
		if _, err := s.conn.WriteTo(out, to); err != nil {
			return nat.Mapping{}, fmt.Errorf("asking %v for our mapped address: %w", server, err)
		}
		select {
		case a := <-r.answer:
			if a.err != nil {
				return nat.Mapping{}, fmt.Errorf("asking %v for our mapped address: %w", server, a.err)
			}
			return nat.Mapping{Server: server, Mapped: a.mapped, RTT: s.now().Sub(start)}, nil
		case <-ctx.Done():
			return nat.Mapping{}, fmt.Errorf("asking %v for our mapped address: %w to %d requests before we stopped: %w", server, ErrNoAnswer, sent, ctx.Err())
		case <-timer.C:
		}
		if sent == maxRequests {
			return nat.Mapping{}, fmt.Errorf("asking %v for our mapped address: %w to %d requests in %v: it is off, or UDP is blocked on the way",
				server, ErrNoAnswer, sent, s.now().Sub(start).Round(time.Millisecond))
		}
		wait *= 2
		timer.Reset(wait)
	}
}

func (s *STUN) open(server netip.AddrPort) (id [stun.TransactionIDSize]byte, r *request, err error) {
	if !server.IsValid() || server.Port() == 0 {
		return id, nil, errors.New("not an address of a server")
	}
	_, _ = rand.Read(id[:]) // never fails (Go 1.24)
	copy(id[:], s.tag[:])
	r = &request{server: server, answer: make(chan answer, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) >= maxRequestsOpen {
		return id, nil, fmt.Errorf("%d requests are under way already", len(s.requests))
	}
	s.requests[id] = r
	return id, r, nil
}

func (s *STUN) forget(id [stun.TransactionIDSize]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.requests, id)
}

func (s *STUN) buildRequest(id [stun.TransactionIDSize]byte) ([]byte, error) {
	set := []stun.Setter{stun.BindingRequest, stun.NewTransactionIDSetter(id)}
	if len(s.key) > 0 {
		set = append(set, s.key) // 24 bytes
	} else {
		set = append(set, stun.NewSoftware("gridwire mesh member")) // 24 bytes too
	}
	m, err := stun.Build(set...)
	if err != nil {
		return nil, err
	}
	return m.Raw, nil
}

// Probe sends the reachability indication: we are the stranger, addr is the address that a member wants to be tested at, and nonce is
// its choice. Ask only members to say such addresses, and not often: this sends a packet on somebody's word.
func (s *STUN) Probe(addr netip.AddrPort, nonce [12]byte) error {
	m, err := stun.Build(stun.NewType(stun.MethodBinding, stun.ClassIndication), stun.NewTransactionIDSetter(nonce))
	if err != nil {
		return fmt.Errorf("probing %v: building the indication: %w", addr, err)
	}
	if _, err := s.conn.WriteTo(m.Raw, net.UDPAddrFromAddrPort(addr)); err != nil {
		return fmt.Errorf("probing %v: %w", addr, err)
	}
	return nil
}

// Await says on the channel where the first indication with this nonce came from, from now until cancel. Call it before anybody is
// asked to probe, so that the indication cannot be early.
func (s *STUN) Await(nonce [12]byte) (source <-chan netip.AddrPort, cancel func(), err error) {
	c := make(chan netip.AddrPort, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.expected[nonce]; twice || len(s.expected) >= maxExpected {
		return nil, nil, fmt.Errorf("waiting for a reachability probe: this nonce is waited for already, or %d others are", maxExpected)
	}
	s.expected[nonce] = c
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.expected, nonce)
	}, nil
}

// Expect waits until the indication with this nonce arrives, or until ctx ends. Needs Run.
func (s *STUN) Expect(ctx context.Context, nonce [12]byte) (netip.AddrPort, error) {
	source, cancel, err := s.Await(nonce)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer cancel()
	select {
	case from := <-source:
		return from, nil
	case <-ctx.Done():
		return netip.AddrPort{}, fmt.Errorf("waiting for a reachability probe: none arrived: %w", ctx.Err())
	}
}
