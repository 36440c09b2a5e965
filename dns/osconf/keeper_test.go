package osconf

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// scripted is a backend that does what a test says, and writes down what was asked of it.
type scripted struct {
	mu      sync.Mutex // for all below
	calls   []string
	err     error
	servers []netip.Addr
	news    chan struct{}
	noBus   bool
	wakes   int
}

func (s *scripted) name() string        { return "test" }
func (s *scripted) needsUpstream() bool { return true }
func (s *scripted) upstream() ([]netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.servers, nil
}

func (s *scripted) apply(_ context.Context, w Settings) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	s.calls = append(s.calls, "apply "+w.Interface)
	return s.err
}

func (s *scripted) revert(_ context.Context, w Settings) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	s.calls = append(s.calls, "revert "+w.Interface)
	return s.err
}

func (s *scripted) refresh(context.Context, Settings) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	s.calls = append(s.calls, "refresh")
	return s.err
}

func (s *scripted) wake(context.Context) (<-chan struct{}, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	s.wakes++
	if s.noBus {
		return nil, nil, errors.New("no bus")
	}
	return s.news, func() {}, nil
}

func (s *scripted) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *scripted) want(t *testing.T, calls ...string) {
	t.Helper()
	if !slices.Equal(s.calls, calls) {
		t.Errorf("calls %q, want %q", s.calls, calls)
	}
	s.calls = nil
}

func TestKeeper(t *testing.T) {
	ctx := context.Background()
	b := &scripted{}
	k := newKeeper(b)
	noError(t, k.Revert(ctx))
	b.want(t)
	noError(t, k.Apply(ctx, settings()))
	other := settings()
	other.Interface = "gw1"
	noError(t, k.Apply(ctx, other))
	b.want(t, "apply gw0", "revert gw0", "apply gw1")
	b.err = errors.New("busy")
	wantError(t, k.Revert(ctx), "put test back: busy")
	b.err = ErrChanged
	wantError(t, k.Revert(ctx), "another program")
	b.err = nil
	noError(t, k.Revert(ctx)) // given up: not ours any more
	b.want(t, "revert gw1", "revert gw1")

	noError(t, k.take(ctx)) // somebody's turn
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := k.Apply(gone, settings()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := k.Revert(gone); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWatch(t *testing.T) {
	defer goleak.VerifyNone(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		b := &scripted{news: make(chan struct{}, 1), servers: addrs("192.0.2.1")}
		k := newKeeper(b)
		var reports []State
		ended := make(chan error, 1)
		report := func(s State) {
			b.mu.Lock()
			defer b.mu.Unlock()
			reports = append(reports, s)
		}
		go func() { ended <- k.Watch(ctx, report) }() // the test waits for it
		synctest.Wait()
		if len(reports) > 0 || len(b.calls) > 0 {
			t.Error("nothing is applied, and yet:", reports, b.calls)
		}
		noError(t, k.Apply(ctx, settings()))
		step := func(what string, wait time.Duration, wantRefresh int, want ...State) {
			t.Helper()
			b.set(func() { reports, b.calls = nil, nil })
			time.Sleep(wait) // virtual
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.calls) != wantRefresh || !slices.EqualFunc(reports, want, func(a, b State) bool {
				return a.Applied == b.Applied && a.Reason == b.Reason && slices.Equal(a.Upstream, b.Upstream)
			}) {
				t.Errorf("%s: %d refreshes, reports %+v; want %d and %+v", what, len(b.calls), reports, wantRefresh, want)
			}
		}
		up := State{Applied: true, Upstream: addrs("192.0.2.1")}
		step("the first look", lookEvery, 1, up)
		step("all is well", 10*lookEvery, 0)
		step("once a minute", checkEvery, 1)
		b.set(func() { b.err = errors.New("not running") })
		b.news <- struct{}{}
		down := State{Reason: "test: not running", Upstream: addrs("192.0.2.1")}
		step("woken", time.Second, 1, down)
		step("said once only", 2*lookEvery, 2)
		b.set(func() { b.err = nil })
		step("back", lookEvery, 1, up)
		b.set(func() { b.servers = addrs("192.0.2.2") })
		b.news <- struct{}{}
		up = State{Applied: true, Upstream: addrs("192.0.2.2")}
		step("another network", time.Second, 1, up)

		b.set(func() { b.wakes, b.noBus = 0, true })
		close(b.news) // the bus is gone
		step("not at once", lookEvery/2, 0)
		step("by time alone", 2*lookEvery, 2)
		b.set(func() { b.noBus, b.news = false, make(chan struct{}, 1) })
		step("the bus is back", lookEvery, 1)
		step("and followed", 6*lookEvery, 0)
		if b.wakes != 3 {
			t.Errorf("connected %d times, want 3", b.wakes)
		}
		cancel()
		noError(t, <-ended)
	})
}
