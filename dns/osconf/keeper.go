package osconf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// How often a file is looked at, how long to wait before a lost bus is called again, and how often what the bus tells us of is looked
// at all the same.
const (
	lookEvery  = 5 * time.Second
	checkEvery = time.Minute
)

// backend is one mechanism, used by one goroutine at a time.
type backend interface {
	name() string
	needsUpstream() bool
	upstream() ([]netip.Addr, error)
	apply(context.Context, Settings) error
	revert(context.Context, Settings) error
	// refresh is called now and then while settings are applied, and after each wake: it looks whether they still are, and applies
	// them again where that takes nothing from anybody.
	refresh(context.Context, Settings) error
	// wake returns a channel that says when to refresh at once, closed when it has to be called again, and a function that ends it;
	// nil where time alone says when.
	wake(context.Context) (<-chan struct{}, func(), error)
}

// keeper makes a Manager of a backend.
type keeper struct {
	back backend
	// One operation at a time. A channel and not a mutex: operations wait for other programs, so whoever waits for his turn must be
	// able to give up with his context. It guards what is below.
	turn  chan struct{}
	want  *Settings // nil: nothing is applied
	state State
}

func newKeeper(b backend) *keeper { return &keeper{back: b, turn: make(chan struct{}, 1)} }

func (k *keeper) Name() string                    { return k.back.name() }
func (k *keeper) NeedsUpstream() bool             { return k.back.needsUpstream() }
func (k *keeper) Upstream() ([]netip.Addr, error) { return k.back.upstream() }

func (k *keeper) take(ctx context.Context) error {
	select {
	case k.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", k.back.name(), ctx.Err())
	}
}

func (k *keeper) give() { <-k.turn }

func (k *keeper) Apply(ctx context.Context, s Settings) error {
	s, err := s.check()
	if err != nil {
		return fmt.Errorf("point %s at this node: %w", k.back.name(), err)
	}
	if err := k.take(ctx); err != nil {
		return err
	}
	defer k.give()
	if k.want != nil && k.want.Interface != s.Interface {
		if err := k.back.revert(ctx, *k.want); err != nil {
			return fmt.Errorf("take %s back from %s: %w", k.back.name(), k.want.Interface, err)
		}
		k.want = nil
	}
	if err := k.back.apply(ctx, s); err != nil {
		return fmt.Errorf("point %s at this node: %w", k.back.name(), err)
	}
	k.want = &s
	return nil
}

func (k *keeper) Revert(ctx context.Context) error {
	if err := k.take(ctx); err != nil {
		return err
	}
	defer k.give()
	if k.want == nil {
		return nil
	}
	if err := k.back.revert(ctx, *k.want); err != nil {
		if errors.Is(err, ErrChanged) {
			k.want = nil // what is there is not ours any more
		}
		return fmt.Errorf("put %s back: %w", k.back.name(), err)
	}
	k.want = nil
	return nil
}

func (k *keeper) Watch(ctx context.Context, report func(State)) error {
	var wake <-chan struct{}
	stop := func() {}
	defer func() { stop() }()
	for {
		pause := lookEvery
		if wake == nil { // at first, and after the bus was lost
			if c, end, err := k.back.wake(ctx); err == nil && c != nil {
				stop()
				wake, stop = c, end
			}
		}
		// Also right after the bus is back: what happened in between nobody told us.
		now, news := k.refresh(ctx)
		if news {
			report(now)
		}
		if wake != nil && now.Applied {
			pause = checkEvery
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case _, open := <-wake:
			if open {
				timer.Stop()
				continue
			}
			wake = nil
			timer.Reset(lookEvery) // a bus that closes each connection at once must not make this spin
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-timer.C:
			}
		}
	}
}

// refresh looks, and reports whether the state is another than when it last looked.
func (k *keeper) refresh(ctx context.Context) (State, bool) {
	if k.take(ctx) != nil {
		return State{}, false
	}
	defer k.give()
	if k.want == nil {
		return State{}, false
	}
	now := State{Applied: true}
	if err := k.back.refresh(ctx, *k.want); err != nil {
		if ctx.Err() != nil {
			return State{}, false
		}
		now = State{Reason: k.back.name() + ": " + err.Error()}
	}
	if k.back.needsUpstream() {
		now.Upstream, _ = k.back.upstream() // unreadable: refresh has said so
	}
	old := k.state
	k.state = now
	return now, now.Applied != old.Applied || now.Reason != old.Reason || !slices.Equal(now.Upstream, old.Upstream)
}
