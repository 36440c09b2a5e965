package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// forwarding is the forwarder in use, which changes with the machine's network.
type forwarding struct {
	current atomic.Pointer[forwarder] // nil: names outside are refused

	mu    sync.Mutex // guards what follows
	start func(*forwarder) context.CancelFunc
	stop  context.CancelFunc // of current's search for loops
}

// Forward replaces the servers that are asked for names outside of the network; none: those names are refused. What the former ones said is
// forgotten, because another network may know other names. It may be called before and during Run.
func (s *Server) Forward(to []netip.AddrPort) error {
	for _, a := range to {
		if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return fmt.Errorf("dns: upstream %s is no address of a server, want ADDRESS:PORT", a)
		}
		if s.doors.listensOn(a) {
			return fmt.Errorf("dns: upstream %s is this server itself: name another one", a)
		}
	}
	f := &s.chain.forward
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.current.Load()
	if old == nil && len(to) == 0 || old != nil && slices.EqualFunc(old.servers, to, func(u *upstream, a netip.AddrPort) bool { return u.addr == a }) {
		return nil
	}
	f.end()
	if len(to) == 0 {
		f.current.Store(nil)
		return nil
	}
	next := newForwarder(to, s.log)
	f.current.Store(next)
	if f.start != nil {
		f.stop = f.start(next)
	}
	return nil
}

// end is called with the lock held.
func (f *forwarding) end() {
	if f.stop != nil {
		f.stop()
		f.stop = nil
	}
}

// follow has the current forwarder, and each that comes after it, search for loops until ctx ends. wg, which Run waits for, knows the searches.
func (c *chain) follow(ctx context.Context, every time.Duration, wg *sync.WaitGroup) {
	f := &c.forward
	f.mu.Lock()
	defer f.mu.Unlock()
	f.start = func(fw *forwarder) context.CancelFunc {
		ctx, cancel := context.WithCancel(ctx)
		wg.Go(func() { fw.loop.run(ctx, every) })
		return cancel
	}
	if fw := f.current.Load(); fw != nil {
		f.stop = f.start(fw)
	}
}

// unfollow ends the search, and that there be others.
func (c *chain) unfollow() {
	c.forward.mu.Lock()
	defer c.forward.mu.Unlock()
	c.forward.start = nil
	c.forward.end()
}
