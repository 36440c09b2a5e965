package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"

	"github.com/gridwire/gridwire/dns/osconf"
)

// The helper's protocol: one connection for one network, JSON values both ways. The agent asks, one question at a time, and the helper
// answers each; an answer with State is no answer, but news. When the connection ends, however, the helper puts everything back.
//
//	agent   {"op":"detect"}                              helper  {"manager":"/etc/resolv.conf","needs_upstream":true}
//	agent   {"op":"upstream"}                            helper  {"upstream":["192.0.2.1"]}
//	agent   {"op":"apply","settings":{...}}              helper  {} or {"error":"...","kind":"changed"}
//	                                                     helper  {"state":{"applied":false,...}}    at any time after apply
//	agent   {"op":"revert"}                              helper  {}
type ask struct {
	Op       string           `json:"op"`
	Settings *osconf.Settings `json:"settings,omitempty"`
}

type answer struct {
	Manager       string        `json:"manager,omitempty"`
	NeedsUpstream bool          `json:"needs_upstream,omitempty"`
	Upstream      []netip.Addr  `json:"upstream,omitempty"`
	Error         string        `json:"error,omitempty"`
	Kind          string        `json:"kind,omitempty"` // which of osconf's errors it is
	State         *osconf.State `json:"state,omitempty"`
}

// kinds are the errors that the other side branches on.
var kinds = map[string]error{
	"changed": osconf.ErrChanged, "unavailable": osconf.ErrUnavailable, "unsupported": osconf.ErrUnsupported, "rights": osconf.ErrRights,
}

// remoteError is an error of the helper, whose words contain its kind already.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

var errHelperGone = errors.New("its connection ended")

// Reach returns a function that connects to the helper at a socket.
func Reach(socket string) func(context.Context) (osconf.Manager, error) {
	return func(ctx context.Context) (osconf.Manager, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, err
		}
		h, err := meet(ctx, conn)
		if err != nil {
			return nil, err
		}
		return h, nil
	}
}

// meet begins a connection with the helper. It closes conn if that fails; otherwise Close has to follow.
func meet(ctx context.Context, conn net.Conn) (*helper, error) {
	h := &helper{conn: conn, turn: make(chan struct{}, 1), answers: make(chan answer, 1), gone: make(chan struct{}), news: make(chan osconf.State, 1)}
	go h.read() // ends with the connection, which Close ends
	found, err := h.ask(ctx, ask{Op: "detect"})
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	h.manager, h.needs = found.Manager, found.NeedsUpstream
	return h, nil
}

// helper is a Manager whose work another process does.
type helper struct {
	conn    net.Conn
	manager string
	needs   bool
	turn    chan struct{} // one question at a time; a channel, because whoever waits must be able to give up
	answers chan answer
	news    chan osconf.State
	gone    chan struct{} // closed when the connection has ended
	once    sync.Once
}

func (h *helper) read() {
	defer close(h.gone)
	d := json.NewDecoder(h.conn)
	for {
		var a answer
		if d.Decode(&a) != nil {
			return
		}
		if a.State == nil {
			h.answers <- a // one for each question, so there is room
			continue
		}
		select { // the newest counts
		case <-h.news:
		default:
		}
		h.news <- *a.State
	}
}

func (h *helper) ask(ctx context.Context, q ask) (answer, error) {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	if err := json.NewEncoder(h.conn).Encode(q); err != nil {
		return answer{}, fmt.Errorf("ask the helper: %w", err)
	}
	select {
	case a := <-h.answers:
		if a.Error != "" {
			return a, &remoteError{a.Error, kinds[a.Kind]}
		}
		return a, nil
	case <-h.gone:
		return answer{}, fmt.Errorf("ask the helper: %w", errHelperGone)
	case <-ctx.Done():
		_ = h.Close() // its answer would be taken for the next one's
		return answer{}, fmt.Errorf("ask the helper: %w", ctx.Err())
	}
}

func (h *helper) Name() string        { return h.manager }
func (h *helper) NeedsUpstream() bool { return h.needs }

func (h *helper) Upstream() ([]netip.Addr, error) {
	a, err := h.ask(context.Background(), ask{Op: "upstream"}) // the helper reads a file, no more
	return a.Upstream, err
}

func (h *helper) Apply(ctx context.Context, s osconf.Settings) error {
	_, err := h.ask(ctx, ask{Op: "apply", Settings: &s})
	return err
}

func (h *helper) Revert(ctx context.Context) error {
	_, err := h.ask(ctx, ask{Op: "revert"})
	return err
}

func (h *helper) Watch(ctx context.Context, report func(osconf.State)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-h.news:
			report(s)
		case <-h.gone:
			return errHelperGone
		}
	}
}

// Close ends the connection, whereupon the helper puts everything back.
func (h *helper) Close() (err error) {
	h.once.Do(func() { err = h.conn.Close() })
	return err
}

// Machine is what Serve works on.
type Machine struct {
	Detect  func() (osconf.Manager, error)
	Restore func(context.Context) ([]string, error)
	// Check refuses what is not this machine's: it returns the settings as they are to be applied.
	Check func(osconf.Settings) (osconf.Settings, error)
}

// Serve is the helper: it does what one agent asks for on conn, nothing else, until the connection or ctx ends; then it puts everything back.
// Whoever may connect is trusted to be the agent, but can only point this machine's resolver to addresses of an interface of this machine.
func Serve(ctx context.Context, conn io.ReadWriteCloser, m Machine) (err error) {
	_, _ = m.Restore(ctx) // what a killed one left; what cannot be put back, Apply speaks of
	s := &served{m: m, out: json.NewEncoder(conn)}
	ctx, cancel := context.WithCancel(ctx)
	defer func() { // last, and whatever happened
		cancel()
		s.watching.Wait()
		err = errors.Join(err, s.revert(context.WithoutCancel(ctx)))
	}()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	d := json.NewDecoder(io.LimitReader(conn, maxAsked))
	for {
		var q ask
		switch err := d.Decode(&q); {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("read what the agent asks: %w", err)
		}
		a, err := s.do(ctx, q)
		if err != nil {
			a = answer{Error: err.Error()}
			for name, kind := range kinds {
				if errors.Is(err, kind) {
					a.Kind = name
				}
			}
		}
		if err := s.send(a); err != nil {
			return nil // the agent is gone
		}
	}
}

// maxAsked bounds what one connection may say in its life: some thousand changes of addresses.
const maxAsked = 16 << 20

// served is one connection of the helper's.
type served struct {
	m        Machine
	mgr      osconf.Manager
	watching sync.WaitGroup
	watched  bool

	mu  sync.Mutex // guards out
	out *json.Encoder
}

func (s *served) send(a answer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Encode(a)
}

func (s *served) do(ctx context.Context, q ask) (answer, error) {
	if q.Op == "detect" {
		if s.mgr != nil {
			return answer{}, errors.New("asked to detect twice on one connection")
		}
		mgr, err := s.m.Detect()
		if err != nil {
			return answer{}, err
		}
		s.mgr = mgr
		return answer{Manager: mgr.Name(), NeedsUpstream: mgr.NeedsUpstream()}, nil
	}
	if s.mgr == nil {
		return answer{}, fmt.Errorf("asked for %q before detect", q.Op)
	}
	switch q.Op {
	case "upstream":
		servers, err := s.mgr.Upstream()
		return answer{Upstream: servers}, err
	case "apply":
		if q.Settings == nil {
			return answer{}, errors.New("apply without settings")
		}
		want, err := s.m.Check(*q.Settings)
		if err == nil {
			err = s.mgr.Apply(ctx, want)
		}
		if err == nil && !s.watched {
			s.watched = true
			s.watching.Go(func() {
				_ = s.mgr.Watch(ctx, func(st osconf.State) { _ = s.send(answer{State: &st}) })
			})
		}
		return answer{}, err
	case "revert":
		return answer{}, s.mgr.Revert(ctx)
	}
	return answer{}, fmt.Errorf("asked for %q, which this version does not know", q.Op)
}

func (s *served) revert(ctx context.Context) error {
	if s.mgr == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*stopLimit)
	defer cancel()
	return s.mgr.Revert(ctx)
}
