// Package netmon says when this machine's network really changed: links, their addresses, and the default routes.
//
// It owns a subscription to the kernel's rtnetlink messages. A message is only a hint to look again: after a pause (Debounce) the whole
// state is read anew and compared, so a lost message (ENOBUFS), a renewed lease or a refreshed lifetime makes no false news, and a burst of
// a hundred messages makes one. It never changes anything, never looks at interfaces that it was told to ignore, and does not
// judge whether a network is any good.
package netmon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultDebounce is how long the network must have been quiet before it is read: bringing a link up makes a burst of messages over
// some tens of milliseconds.
const DefaultDebounce = 150 * time.Millisecond

// State is a machine's network at one moment. A State is immutable; its slices are sorted.
type State struct {
	Links                []Link
	Defaults             []Default // routes that lead to the internet, or claim to
	DefaultV4, DefaultV6 bool      // there is one through a link that is up
}

// Link is a network interface. Loopback, ignored interfaces and ports of a bridge or bond (whose master counts instead) are left out.
type Link struct {
	Name      string
	Index     int
	Up        bool // administratively up, and has a carrier
	Multicast bool
	// Prefixes are its usable addresses with their networks' lengths. Addresses still under duplicate detection are left out.
	Prefixes []netip.Prefix
	// Lost counts how often the link lost its carrier since the monitor started: a laptop carried from one Wi-Fi to another may come
	// back with the same address.
	Lost uint32
}

// Default is a default route. A route of one bit counts too: VPN clients split theirs into 0.0.0.0/1 and 128.0.0.0/1.
type Default struct {
	Dst     netip.Prefix
	Gateway netip.Addr // invalid: on-link
	Link    string
	Metric  int
}

// Equal reports whether nothing differs.
func (s State) Equal(o State) bool {
	same := func(a, b Link) bool {
		return a.Name == b.Name && a.Index == b.Index && a.Up == b.Up && a.Multicast == b.Multicast && a.Lost == b.Lost &&
			slices.Equal(a.Prefixes, b.Prefixes)
	}
	return s.DefaultV4 == o.DefaultV4 && s.DefaultV6 == o.DefaultV6 &&
		slices.Equal(s.Defaults, o.Defaults) && slices.EqualFunc(s.Links, o.Links, same)
}

// Addrs returns the addresses of all links that are up.
func (s State) Addrs() []netip.Addr {
	var addrs []netip.Addr
	for _, l := range s.Links {
		if l.Up {
			for _, p := range l.Prefixes {
				addrs = append(addrs, p.Addr())
			}
		}
	}
	return addrs
}

// Config says what to watch.
type Config struct {
	// Ignore reports whether the interface of this name is one of our own, or otherwise no part of the underlay. nil: none is.
	Ignore   func(name string) bool
	Debounce time.Duration // 0: DefaultDebounce
	Log      *slog.Logger  // nil: silent
}

// Monitor holds the newest State.
type Monitor struct {
	ignore   func(string) bool
	debounce time.Duration
	log      *slog.Logger
	source   source
	state    atomic.Pointer[State]

	mu       sync.Mutex // guards watchers
	watchers map[chan State]struct{}
}

// source is where network news comes from. There is one implementation for each operating system (for Linux: rtnetlink).
type source interface {
	// subscribe begins to collect hints.
	subscribe() (subscription, error)
	// read returns the whole state, Lost not filled in.
	read(ignore func(name string) bool) (State, error)
}

// subscription delivers hints until Close.
type subscription interface {
	// wait blocks until something may have changed and returns the links that lost their carrier. After Close it returns os.ErrClosed.
	wait() (hint, error)
	Close()
}

// hint says that the network may have changed.
type hint struct {
	lost []int // indexes of links seen without a carrier
}

// New reads the present state and starts nothing.
func New(c Config) (*Monitor, error) { return newMonitor(c, systemSource{}) }

func newMonitor(c Config, src source) (*Monitor, error) {
	if c.Ignore == nil {
		c.Ignore = func(string) bool { return false }
	}
	if c.Debounce <= 0 {
		c.Debounce = DefaultDebounce
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	m := &Monitor{ignore: c.Ignore, debounce: c.Debounce, log: c.Log, source: src, watchers: map[chan State]struct{}{}}
	s, err := src.read(c.Ignore)
	if err != nil {
		return nil, fmt.Errorf("reading this machine's network interfaces: %w", err)
	}
	m.state.Store(&s)
	return m, nil
}

// State returns the newest state, from New on.
func (m *Monitor) State() State { return *m.state.Load() }

// Watch returns a mailbox that holds the newest state not yet taken, and a function that ends the watch. It is empty at first: to
// miss nothing, call State after Watch. The channel is never closed.
func (m *Monitor) Watch() (<-chan State, func()) {
	c := make(chan State, 1)
	m.mu.Lock()
	m.watchers[c] = struct{}{}
	m.mu.Unlock()
	return c, func() {
		m.mu.Lock()
		delete(m.watchers, c)
		m.mu.Unlock()
	}
}

// publish never blocks: a state that nobody took gives way to the newer one. Only Run's goroutine calls it.
func (m *Monitor) publish(s State) {
	m.state.Store(&s)
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.watchers {
		select {
		case <-c:
		default:
		}
		c <- s
	}
}

// Run watches until ctx ends and then returns nil. It returns an error only if the kernel refuses the subscription.
func (m *Monitor) Run(ctx context.Context) error {
	sub, err := m.source.subscribe()
	if err != nil {
		return fmt.Errorf("subscribing to this machine's network changes: %w", err)
	}
	hints := make(chan hint)
	ended, done := make(chan error, 1), make(chan struct{})
	go func() { // done is waited for below
		defer close(done)
		ended <- receive(ctx, sub, hints)
	}()
	err = m.loop(ctx, hints, ended)
	sub.Close()
	<-done
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watching this machine's network: %w", err)
}

// receive hands hints on until ctx ends or the subscription fails.
func receive(ctx context.Context, sub subscription, hints chan<- hint) error {
	for {
		h, err := sub.wait()
		if err != nil {
			return err
		}
		select {
		case hints <- h:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// loop is the owner of the state. It returns the subscription's error, or nil when ctx ends.
func (m *Monitor) loop(ctx context.Context, hints <-chan hint, ended <-chan error) error {
	core := newCore(m.State(), m.debounce)
	core.note(hint{}, time.Now()) // what changed between New and the subscription
	timer := time.NewTimer(m.debounce)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case h := <-hints:
			timer.Reset(core.note(h, time.Now()))
		case <-timer.C:
			s, err := m.source.read(m.ignore)
			if err != nil {
				if !failing {
					m.log.Warn("cannot read the network interfaces, trying again", "error", err)
				}
				failing = true
				timer.Reset(core.failed())
				continue
			}
			failing = false
			if s, changed := core.update(s); changed {
				m.log.Info("the network changed", "links", describe(s), "default_v4", s.DefaultV4, "default_v6", s.DefaultV6)
				m.publish(s)
			}
		}
	}
}

// describe is for the log: "eth0 [192.0.2.1/24], wlan0 down".
func describe(s State) []string {
	var out []string
	for _, l := range s.Links {
		switch {
		case !l.Up:
			out = append(out, l.Name+" down")
		case len(l.Prefixes) > 0:
			out = append(out, fmt.Sprintf("%s %v", l.Name, l.Prefixes))
		}
	}
	return out
}
