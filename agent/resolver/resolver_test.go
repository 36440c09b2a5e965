package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gridwire/gridwire/dns/osconf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a mechanism that does as it is told.
type fake struct {
	mu       sync.Mutex
	log      []string
	refuse   error
	needs    bool
	upstream []netip.Addr
	watch    chan osconf.State
	dies     chan error
	closed   bool
}

func newFake() *fake {
	return &fake{needs: true, upstream: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, watch: make(chan osconf.State), dies: make(chan error)}
}

func (f *fake) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf(format, args...))
	return f.refuse
}

func (f *fake) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = err
}

func (f *fake) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := strings.Join(f.log, " ")
	f.log = nil
	return out
}

func (f *fake) Name() string        { return "fake" }
func (f *fake) NeedsUpstream() bool { return f.needs }
func (f *fake) Upstream() ([]netip.Addr, error) {
	return f.upstream, nil
}
func (f *fake) Apply(_ context.Context, s osconf.Settings) error {
	return f.note("apply %s", s.Servers[0])
}
func (f *fake) Revert(context.Context) error {
	_ = f.note("revert")
	return nil
}
func (f *fake) Watch(ctx context.Context, report func(osconf.State)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-f.watch:
			report(s)
		case err := <-f.dies:
			return err
		}
	}
}
func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

// world is an Owner in virtual time.
type world struct {
	*testing.T
	*Owner
	local, helper *fake
	mu            sync.Mutex
	detect        error
	forwards      []string
	logs          strings.Builder
}

// play runs an Owner while f acts.
func play(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, local: newFake(), helper: newFake()}
		w.Owner = New(Config{
			Detect: func() (osconf.Manager, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.detect != nil {
					return nil, w.detect
				}
				return w.local, nil
			},
			Helper: func(context.Context) (osconf.Manager, error) {
				if w.helper == nil {
					return nil, errors.New("nobody listens there")
				}
				return w.helper, nil
			},
			Forward: func(to []netip.Addr) { w.forwards = append(w.forwards, fmt.Sprint(to)) },
			Log:     slog.New(slog.NewTextHandler(&w.logs, nil)),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Owner.Run(ctx) }() // awaited below
		f(w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (w *world) want(addr string) {
	w.Want(&osconf.Settings{Interface: "gw0", Servers: []netip.Addr{netip.MustParseAddr(addr)}, Domain: "farm.internal"})
	synctest.Wait()
}

func (w *world) calls(f *fake, want string) {
	w.Helper()
	synctest.Wait()
	if got := f.take(); got != want {
		w.Errorf("did %q, want %q", got, want)
	}
}

func (w *world) is(configured bool, reason string) {
	w.Helper()
	synctest.Wait()
	if st := w.State(); st.Configured != configured || !strings.Contains(st.Reason, reason) || reason == "" && st.Reason != "" {
		w.Errorf("%+v, want configured %v, reason %q", st, configured, reason)
	}
}

func TestAppliesAndPutsBack(t *testing.T) {
	var after *fake
	play(t, func(w *world) {
		synctest.Wait()
		w.calls(w.local, "")
		w.want("fd00::1")
		w.calls(w.local, "apply fd00::1")
		w.is(true, "")
		if w.forwards[0] != "[192.0.2.1]" {
			t.Errorf("told to forward to %v", w.forwards)
		}
		w.want("fd00::1")
		w.calls(w.local, "") // nothing new
		w.want("fd00::2")
		w.calls(w.local, "apply fd00::2")
		w.Want(nil)
		w.calls(w.local, "revert")
		w.is(false, "not answered")
		w.want("fd00::2")
		w.calls(w.local, "apply fd00::2")
		w.NetworkChanged()
		w.calls(w.local, "") // still in place
		after = w.local
	})
	if got := after.take(); got != "revert" {
		t.Errorf("at the end it did %q", got)
	}
}

// TestTriesAgain: what is not up yet is tried again at a growing interval, and said once.
func TestTriesAgain(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		w.detect = fmt.Errorf("resolved: %w", osconf.ErrUnavailable)
		w.mu.Unlock()
		w.want("fd00::1")
		w.is(false, "not available at the moment")
		start := time.Now()
		time.Sleep(10 * time.Minute)
		if n := strings.Count(w.logs.String(), "not available at the moment"); n != 1 {
			t.Errorf("said %d times in %v:\n%s", n, time.Since(start), w.logs.String())
		}
		w.mu.Lock()
		w.detect = nil
		w.mu.Unlock()
		time.Sleep(lastRetry)
		w.calls(w.local, "apply fd00::1")
		w.is(true, "")
	})
}

// TestStepsBack: what another program changed is left alone until the network changes.
func TestStepsBack(t *testing.T) {
	play(t, func(w *world) {
		w.want("fd00::1")
		w.calls(w.local, "apply fd00::1")
		w.local.watch <- osconf.State{Reason: "another program has changed it since"}
		w.is(false, "another program")
		time.Sleep(time.Hour)
		w.calls(w.local, "")
		w.local.set(fmt.Errorf("lines altered: %w", osconf.ErrChanged))
		w.NetworkChanged()
		w.calls(w.local, "revert apply fd00::1")
		time.Sleep(time.Hour)
		w.calls(w.local, "") // it was refused for somebody's sake
		w.local.set(nil)
		w.NetworkChanged()
		w.calls(w.local, "apply fd00::1")
		w.is(true, "")
	})
}

// TestOverwrittenByTheNetwork: a DHCP client writes resolv.conf anew some time after the network has changed. That is no will of a person,
// but neither is it fought for ever.
func TestOverwrittenByTheNetwork(t *testing.T) {
	play(t, func(w *world) {
		w.want("fd00::1")
		w.calls(w.local, "apply fd00::1")
		w.NetworkChanged()
		for range tolerate {
			time.Sleep(calm)
			w.local.watch <- osconf.State{Reason: "without gridwire's lines", Upstream: []netip.Addr{netip.MustParseAddr("192.0.2.2")}}
			w.is(false, "without")
			w.calls(w.local, "")
			time.Sleep(calm)
			w.calls(w.local, "apply fd00::1")
			w.is(true, "")
		}
		w.local.watch <- osconf.State{Reason: "without gridwire's lines"}
		time.Sleep(time.Hour)
		w.calls(w.local, "")
		w.is(false, "without")
	})
}

func TestTheHelperDoesWhatTheAgentMayNot(t *testing.T) {
	play(t, func(w *world) {
		w.local.set(fmt.Errorf("/etc/resolv.conf: %w", osconf.ErrRights))
		w.want("fd00::1")
		w.calls(w.helper, "apply fd00::1")
		w.is(true, "")
		if !w.State().Helper {
			t.Error("not said that the helper does it")
		}
		w.helper.dies <- errHelperGone
		w.is(false, "the helper ended")
		time.Sleep(firstRetry)
		w.calls(w.helper, "apply fd00::1")
		w.is(true, "")
	})
	play(t, func(w *world) {
		w.local.set(fmt.Errorf("/etc/resolv.conf: %w", osconf.ErrRights))
		w.helper = nil
		w.want("fd00::1")
		w.is(false, "nobody listens there")
		w.local.set(nil)
		time.Sleep(lastRetry)
		w.is(true, "")
	})
}
