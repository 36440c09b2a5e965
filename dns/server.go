package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	Listen    []netip.AddrPort // never the unspecified address; port 0 (tests): any free one. None: not yet, see Server.Listen
	Interface string           // the sockets receive from it alone (SO_BINDTODEVICE; Linux). Empty: from any
	Zone      func() *Zone     // the newest snapshot; must not block; nil until there is one: SERVFAIL
	Upstream  []netip.AddrPort // asked for all other names; empty: they are refused. See Server.Forward

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
	others  func(netip.Addr) bool
	log     *slog.Logger
	now     func() time.Time
	probe   time.Duration
	doors   doors
	waiting chan struct{} // a place for each question that waits for an upstream
	conns   conns
	started atomic.Bool
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
		others:  cfg.ForwardFor,
		log:     cfg.Log,
		now:     cfg.now,
		probe:   cfg.probe,
		waiting: make(chan struct{}, maxWaiting),
		conns:   conns{open: make(map[[16]byte]int)},
	}
	s.doors.own.Store(&map[netip.Addr]bool{})
	var on []Bind
	for _, a := range cfg.Listen {
		on = append(on, Bind{a, cfg.Interface})
	}
	err := s.Listen(on)
	if err == nil {
		err = s.Forward(cfg.Upstream)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (c *Config) check() error {
	if c.Zone == nil {
		return errors.New("dns: no zone to answer from")
	}
	if c.Burst < 0 {
		return fmt.Errorf("dns: a burst of %d questions: want at least 1", c.Burst)
	}
	for _, a := range c.Listen {
		if err := checkAddr(a); err != nil {
			return err
		}
	}
	return nil
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
	s.doors.open(func(k *socket) { s.serve(ctx, cancel, k, &wg) })
	s.chain.follow(ctx, s.probe, &wg)
	<-ctx.Done()
	s.chain.unfollow()
	err := s.Close()
	wg.Wait()
	if parent.Err() != nil {
		return err
	}
	return context.Cause(ctx)
}

// serve starts what answers on a socket, until that is closed.
func (s *Server) serve(ctx context.Context, cancel context.CancelCauseFunc, k *socket, wg *sync.WaitGroup) {
	for range udpWorkers {
		wg.Go(func() { fail(cancel, s.serveUDP(ctx, k.udp, wg)) })
	}
	wg.Go(func() { fail(cancel, s.serveTCP(ctx, k.tcp, wg)) })
}

// Close releases the sockets of a server that is not run.
func (s *Server) Close() error { return s.doors.close() }

func fail(cancel context.CancelCauseFunc, err error) {
	if err != nil {
		cancel(err)
	}
}

// allowed takes a question from a client's budget.
func (s *Server) allowed(client netip.Addr) bool {
	client = client.Unmap()
	if s.doors.isOwn(client) || s.limit.allow(client, s.now()) {
		return true
	}
	s.chain.onQuery(other, "LIMITED")
	return false
}

// via says what a client may do.
func (s *Server) via(client netip.Addr, tcp bool) via {
	client = client.Unmap()
	return via{tcp: tcp, forward: s.doors.isOwn(client) || s.others(client)}
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
