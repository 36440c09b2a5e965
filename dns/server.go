package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults and limits, see the package comment.
const (
	defaultRate = 1000 // questions per second
	maxWaiting  = 256  // questions that wait for an upstream
)

// Config is all that a server needs. Zone is required.
type Config struct {
	Listen    []netip.AddrPort // at least one, and never the unspecified address; port 0 (tests): any free one
	Interface string           // the sockets receive from it alone (SO_BINDTODEVICE; Linux). Empty: from any
	Zone      func() *Zone     // the newest snapshot; must not block; nil until there is one: SERVFAIL
	Upstream  []netip.AddrPort // asked for all other names; empty: they are refused

	// ForwardFor says who, besides this server's own addresses, may have other names resolved: devices that have no other server.
	// It must not block. nil: nobody, so that no member can make this one its resolver.
	ForwardFor func(client netip.Addr) bool

	RatePerClient int // questions per second; 0: 1,000; negative: no limit. The server's own addresses have none
	Burst         int // questions that a client may ask at once; 0: twice the rate

	Log     *slog.Logger              // nil: nothing is logged
	OnQuery func(qtype, rcode string) // counts an answer; must not block; called by several goroutines. LIMITED: dropped. nil: none
	now     func() time.Time          // tests
	probe   time.Duration             // tests
}

// Server answers on its addresses, over UDP and TCP.
type Server struct {
	chain   *chain
	limit   *limiter
	own     map[netip.Addr]bool // our own addresses have no limit, and may ask for all names
	others  func(netip.Addr) bool
	log     *slog.Logger
	now     func() time.Time
	probe   time.Duration
	sockets []socket
	waiting chan struct{} // a place for each question that waits for an upstream
	conns   conns
	started atomic.Bool
}

// socket is one address.
type socket struct {
	udp *net.UDPConn
	tcp *net.TCPListener
}

// New checks the configuration and binds the sockets, so that a port in use is an error before anything starts. Run has to follow, or Close.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnQuery == nil {
		cfg.OnQuery = func(string, string) {}
	}
	if cfg.ForwardFor == nil {
		cfg.ForwardFor = func(netip.Addr) bool { return false }
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.RatePerClient == 0 {
		cfg.RatePerClient = defaultRate
	}
	if cfg.Burst == 0 {
		cfg.Burst = 2 * cfg.RatePerClient
	}
	if cfg.probe == 0 {
		cfg.probe = probeEvery
	}
	s := &Server{
		chain:   &chain{zone: cfg.Zone, onQuery: cfg.OnQuery},
		limit:   newLimiter(cfg.RatePerClient, cfg.Burst, cfg.now()),
		own:     make(map[netip.Addr]bool),
		others:  cfg.ForwardFor,
		log:     cfg.Log,
		now:     cfg.now,
		probe:   cfg.probe,
		waiting: make(chan struct{}, maxWaiting),
		conns:   conns{open: make(map[[16]byte]int)},
	}
	if len(cfg.Upstream) > 0 {
		s.chain.forward = newForwarder(cfg.Upstream, cfg.Log)
	}
	for _, a := range cfg.Listen {
		k, err := bind(a, cfg.Interface)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for DNS questions on %s: %w", a, err), s.Close())
		}
		s.sockets = append(s.sockets, k)
		s.own[a.Addr().Unmap()] = true
	}
	return s, nil
}

func (c *Config) check() error {
	if c.Zone == nil {
		return errors.New("dns: no zone to answer from")
	}
	if len(c.Listen) == 0 {
		return errors.New("dns: no address to listen on")
	}
	if c.Burst < 0 {
		return fmt.Errorf("dns: a burst of %d questions: want at least 1", c.Burst)
	}
	own := make(map[netip.AddrPort]bool)
	for _, a := range c.Listen {
		if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return fmt.Errorf("dns: cannot listen on %s: want one address of this machine, not all of them", a)
		}
		own[netip.AddrPortFrom(a.Addr().Unmap(), a.Port())] = true
	}
	for _, a := range c.Upstream {
		if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return fmt.Errorf("dns: upstream %s is no address of a server, want ADDRESS:PORT", a)
		}
		if own[netip.AddrPortFrom(a.Addr().Unmap(), a.Port())] {
			return fmt.Errorf("dns: upstream %s is this server itself: name another one", a)
		}
	}
	return nil
}

// Addr returns the first address, with the port that was bound.
func (s *Server) Addr() netip.AddrPort {
	return s.sockets[0].udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Run answers until ctx ends, and returns when all that it started has ended. It can be called once. An error means that a
// socket has failed for good.
func (s *Server) Run(ctx context.Context) error {
	if s.started.Swap(true) {
		return errors.New("dns: Run was called twice")
	}
	parent := ctx
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, k := range s.sockets {
		for range udpWorkers {
			wg.Go(func() { fail(cancel, s.serveUDP(ctx, k.udp, &wg)) })
		}
		wg.Go(func() { fail(cancel, s.serveTCP(ctx, k.tcp, &wg)) })
	}
	if f := s.chain.forward; f != nil {
		wg.Go(func() { f.loop.run(ctx, s.probe) })
	}
	<-ctx.Done()
	err := s.Close()
	wg.Wait()
	if parent.Err() != nil {
		return err
	}
	return context.Cause(ctx)
}

// Close releases the sockets of a server that is not run.
func (s *Server) Close() error {
	var errs []error
	for _, k := range s.sockets {
		for _, c := range []io.Closer{k.udp, k.tcp} {
			if err := c.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func fail(cancel context.CancelCauseFunc, err error) {
	if err != nil {
		cancel(err)
	}
}

// allowed takes a question from a client's budget.
func (s *Server) allowed(client netip.Addr) bool {
	client = client.Unmap()
	if s.own[client] || s.limit.allow(client, s.now()) {
		return true
	}
	s.chain.onQuery(other, "LIMITED")
	return false
}

// via says what a client may do.
func (s *Server) via(client netip.Addr, tcp bool) via {
	client = client.Unmap()
	return via{tcp: tcp, forward: s.own[client] || s.others(client)}
}

// answer is chain.local behind a guard: the agent that holds the tunnels must not end because of a packet that the parser, which is not
// ours, cannot stand. The fuzz test runs without it.
func (s *Server) answer(packet []byte, v via, buf []byte) (b []byte, q *query) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a DNS question made the server panic; please report it", "panic", p, "packet", fmt.Sprintf("%x", packet))
			b, q = nil, nil
		}
	}()
	return s.chain.local(packet, v, s.now(), buf)
}

// pause waits after a failure that may pass, such as too many open files, and returns false if ctx ended.
func pause(ctx context.Context) bool {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
