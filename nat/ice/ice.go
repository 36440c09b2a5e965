// Package ice finds a path to one peer at a time: a Session is one ICE session (RFC 8445) of pion/ice with one component, on the port
// that all members' traffic shares.
//
// The package owns the sessions and the demultiplexer that feeds them (mux.go). It never gathers by itself: host addresses come from
// Config.Local, server-reflexive ones from nat/stun by way of SessionConfig.Extra. It never carries data: when a pair is
// selected the tunnel takes over and the session is closed soon after.
//
// pion gets one host candidate for each family, not one for each address. A socket that is bound to no address sends from
// wherever the route leads, so two local candidates of one family would be the same pair checked twice; and their readers
// would take each other's answers. The description lists all addresses all the same, since the peer has to try each. What pion cannot say
// then, from which of our addresses a pair really goes, the peer does: the mapped address in its answer, which is
// what RFC 8445, 7.2.5.3.2 takes for the local candidate of a valid pair. Both sides thus name a selected pair alike.
package ice

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/ice/v2"

	"github.com/gridwire/gridwire/nat"
)

// Timings. pion's defaults make a link through NATs take 0.65 s or, with peer-reflexive candidates, 1.2 s; see FACTS 7 to 11.
const (
	checkInterval = 50 * time.Millisecond // Ta of RFC 8445, 14.2
	sessionLimit  = 8 * time.Second       // from the first check to Failed
	maxChecks     = 160                   // for one pair: it lives as long as the session, however late the peer begins
	keepalive     = 15 * time.Second      // RFC 8445, 11: the tunnel has its own
	never         = time.Hour             // pion's own verdicts on a silent pair are not used
	familyLead    = 60 * time.Millisecond // see split in candidate.go
	linger        = time.Second           // see Session.Close
)

// Config is what a Factory needs.
type Config struct {
	Conn   net.PacketConn             // nat/sock's ICE facade
	Local  func() []netip.AddrPort    // this machine's usable addresses with the shared port, best first in each family
	Accept func(addr netip.Addr) bool // false for addresses that must not be a path: overlay, routed, loopback; nil: all. Called for
	// each remote candidate and each datagram that arrives, from several goroutines: it must be quick
	Log *slog.Logger
}

// Factory makes sessions that share one socket. Make it with NewFactory, end it with Close.
type Factory struct {
	c   Config
	mux *mux

	mu      sync.Mutex // guards closed, and orders each wait.Go before wait.Wait
	closed  bool
	closing chan struct{}
	wait    sync.WaitGroup // for the mux's reader and every session's goroutine
}

// NewFactory checks c and starts reading Conn; Close ends that.
func NewFactory(c Config) (*Factory, error) {
	if c.Conn == nil || c.Local == nil {
		return nil, errors.New("making the ICE factory: Conn and Local must be given")
	}
	if c.Accept == nil {
		c.Accept = func(netip.Addr) bool { return true }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &Factory{c: c, mux: newMux(c.Conn, c.Accept), closing: make(chan struct{})}
	f.wait.Go(func() {
		if err := f.mux.read(f.closing); err != nil {
			c.Log.Error("ICE has stopped: the shared socket cannot be read", "error", err)
		}
	})
	return f, nil
}

// Close ends every session, without an event, and returns when all goroutines have ended. Conn stays open and usable.
func (f *Factory) Close() error {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.closing)
	}
	f.mu.Unlock()
	_ = f.c.Conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	f.wait.Wait()
	return f.c.Conn.SetReadDeadline(time.Time{})
}

// SessionConfig says how to start a session.
type SessionConfig struct {
	Controlling bool            // RFC 8445, 6.1.1: the side that nominates; exactly one of the two
	Extra       []nat.Candidate // server-reflexive candidates of the shared socket; only Addr is used
	OnEvent     func(Event)     // must not block; called from one goroutine, in order; nil: none
}

// EventKind is what happened to a session.
type EventKind int

// The kinds of events.
const (
	Selected EventKind = iota + 1 // Pair works in both directions and is nominated
	Failed                        // no pair worked in about 8 s; the session has ended
)

// String returns the kind for logs.
func (k EventKind) String() string {
	switch k {
	case Selected:
		return "selected"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("EventKind(%d)", int(k))
}

// Event is news of a session. Selected can come again if the controlling side nominates another pair; Failed comes at most once, only
// without a Selected before it, and is the last.
type Event struct {
	Kind   EventKind
	Pair   nat.Pair   // Selected: which
	Reason string     // Failed: a sentence
	Pairs  []nat.Pair // all that were tried, best first
}

// Start makes a session. Its local description is ready when Start returns, and a peer that has it may begin to check before our Connect:
// its first checks are kept. It fails if this machine has no usable address.
func (f *Factory) Start(c SessionConfig) (*Session, error) {
	hosts := hostAddresses(f.c.Local())
	if len(hosts) == 0 {
		return nil, errors.New("starting an ICE session: this machine has no usable address: is it connected to a network?")
	}
	s := &Session{
		factory: f, c: c, log: f.c.Log,
		early: make(chan struct{}, 1), connect: make(chan plan, 1), selected: make(chan netip.AddrPort), closing: make(chan struct{}),
		finished: make(chan struct{}),
	}
	s.local.Candidates = describe(hosts, c.Extra)
	s.mux = newSessionMux(f.mux, hosts, s.early)
	agent, err := newAgent(s.mux, f.c.Log)
	if err != nil {
		return nil, fmt.Errorf("starting an ICE session: %w", err)
	}
	s.agent = agent
	if err := s.gather(); err != nil {
		_ = agent.GracefulClose()
		return nil, fmt.Errorf("starting an ICE session: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		_ = agent.GracefulClose()
		return nil, fmt.Errorf("starting an ICE session: %w", net.ErrClosed)
	}
	f.wait.Go(func() { s.run(f.closing) })
	return s, nil
}

// newAgent configures pion. NetworkTypes must be given, since nil silently means fewer candidates.
func newAgent(m *sessionMux, log *slog.Logger) (*ice.Agent, error) {
	check, alive, off, now, checks := checkInterval, keepalive, never, time.Duration(0), uint16(maxChecks)
	return ice.NewAgent(&ice.AgentConfig{
		NetworkTypes:           []ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6},
		CandidateTypes:         []ice.CandidateType{ice.CandidateTypeHost},
		MulticastDNSMode:       ice.MulticastDNSModeDisabled,
		UDPMux:                 m,
		Net:                    noNet{},
		LoggerFactory:          logFactory{log},
		CheckInterval:          &check,
		KeepaliveInterval:      &alive,
		DisconnectedTimeout:    &off,
		FailedTimeout:          &off,
		HostAcceptanceMinWait:  &now,
		SrflxAcceptanceMinWait: &now,
		PrflxAcceptanceMinWait: &now,
		RelayAcceptanceMinWait: &now,
		MaxBindingRequests:     &checks,
	})
}
