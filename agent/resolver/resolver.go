// Package resolver keeps the operating system's resolver pointed at this node for the network's domain, for as long as the node runs.
//
// It owns when that is done, tried again and taken back; how is package dns/osconf's. Two processes can do it: this one, if it has the
// right to, and else a helper that runs as root and can do nothing else (see Serve). The helper takes everything back when its connection
// ends, whatever ended it.
//
// An Owner is told what is wanted (Want), and says how it went (State); it never answers a question itself.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/dns/osconf"
)

// How long to wait before another try: at first what is missing may come with the machine's start, later perhaps never.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
	stopLimit  = time.Second // for putting everything back

	// For so long after a change of the network, what overwrites our settings is taken for what follows from it (a DHCP client that writes
	// resolv.conf anew) and no person's will, so often at most, and is left in peace for so long first.
	settling = time.Minute
	tolerate = 3
	calm     = 2 * time.Second
)

// Config is what an Owner needs.
type Config struct {
	Detect func() (osconf.Manager, error)                    // finds what is in charge on this machine
	Helper func(ctx context.Context) (osconf.Manager, error) // reaches the root helper; nil: there is none
	// Forward is told whom to ask for names outside of the network, before the system sends such questions here. It must not block.
	Forward func([]netip.Addr)
	Log     *slog.Logger
}

// State is how things are: for status, doctor and metrics.
type State struct {
	Manager    string // what is in charge of names on this machine; empty: not known yet
	Configured bool   // the system asks this node for the network's domain
	Reason     string // why not, a sentence
	Helper     bool   // the root helper does it
}

// Owner does it. Its methods may be called from any goroutine and never block.
type Owner struct {
	cfg   Config
	state atomic.Pointer[State]
	wake  chan struct{}

	mu      sync.Mutex // guards what follows
	want    *osconf.Settings
	changed time.Time // when the network last did
	fresh   bool      // that has not been looked at yet
}

// New starts nothing.
func New(cfg Config) *Owner {
	o := &Owner{cfg: cfg, wake: make(chan struct{}, 1)}
	o.state.Store(&State{})
	return o
}

// State returns how things are.
func (o *Owner) State() State { return *o.state.Load() }

// Want says what the system is to be told; nil: nothing, as nobody would answer.
func (o *Owner) Want(s *osconf.Settings) {
	o.mu.Lock()
	same := reflect.DeepEqual(o.want, s)
	o.want = s
	o.mu.Unlock()
	if !same {
		o.nudge()
	}
}

// NetworkChanged says that what was given up may be tried again: another network often means another resolv.conf.
func (o *Owner) NetworkChanged() {
	o.mu.Lock()
	o.changed, o.fresh = time.Now(), true
	o.mu.Unlock()
	o.nudge()
}

func (o *Owner) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *Owner) wanted() (want *osconf.Settings, changed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	want, changed = o.want, o.fresh
	o.fresh = false
	return want, changed
}

func (o *Owner) settling() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Since(o.changed) < settling
}

// session is one manager in use.
type session struct {
	osconf.Manager
	helper  bool
	applied *osconf.Settings // nil: nothing is
	again   int              // how often it was overwritten since the network changed, and applied again
	stop    context.CancelFunc
	ended   chan error
	news    chan osconf.State
}

// Run works until ctx ends, and puts everything back before it returns.
func (o *Owner) Run(ctx context.Context) error {
	var s *session
	defer func() { o.end(ctx, s, "") }()
	retry := firstRetry
	var timer <-chan time.Time
	for {
		want, changed := o.wanted()
		if changed {
			retry = firstRetry
		}
		if err := o.step(ctx, &s, want, changed); err != nil {
			o.failed(s, err)
			if ctx.Err() != nil {
				return nil
			}
			timer = nil
			if !errors.Is(err, osconf.ErrChanged) { // that is somebody's will, until the network changes
				timer = time.After(retry)
				retry = min(2*retry, lastRetry)
			}
		} else if s != nil {
			retry, timer = firstRetry, nil
		}
		if !o.rest(ctx, &s, timer) {
			return nil
		}
	}
}

// rest waits for something to do, and returns false when ctx has ended.
func (o *Owner) rest(ctx context.Context, s **session, timer <-chan time.Time) bool {
	var news <-chan osconf.State
	var ended <-chan error
	if *s != nil {
		news, ended = (*s).news, (*s).ended
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-o.wake:
			return true
		case <-timer:
			return true
		case st := <-news:
			o.report(*s, st)
			if !st.Applied && (*s).NeedsUpstream() && (*s).again < tolerate && o.settling() {
				(*s).again++
				(*s).applied = nil
				timer = time.After(calm)
			}
		case err := <-ended: // the helper, or its connection, is gone; what it put in place may still be there, and ask us
			o.say(State{Manager: (*s).Name(), Reason: fmt.Sprintf("the helper ended: %v", err)})
			o.drop(*s)
			*s = nil
			timer = time.After(firstRetry)
			news, ended = nil, nil
		}
	}
}

// step does what is to be done, and returns an error if that has to be tried again.
func (o *Owner) step(ctx context.Context, s **session, want *osconf.Settings, changed bool) error {
	switch {
	case want == nil:
		o.end(ctx, *s, "names are not answered on this machine")
		*s = nil
		return nil
	case *s != nil && (*s).applied != nil && reflect.DeepEqual((*s).applied, want) && (!changed || o.State().Configured):
		return nil
	}
	if *s != nil && changed && !o.State().Configured { // another program may be in charge now
		o.end(ctx, *s, "")
		*s = nil
	}
	if *s != nil {
		if changed {
			(*s).again = 0
		}
		return o.apply(ctx, *s, want)
	}
	m, err := o.cfg.Detect()
	if err != nil {
		return err
	}
	*s = o.begin(ctx, m, false)
	err = o.apply(ctx, *s, want)
	if err == nil || !errors.Is(err, osconf.ErrRights) {
		return err
	}
	o.end(ctx, *s, "")
	*s = nil
	if o.cfg.Helper == nil {
		return err
	}
	m, herr := o.cfg.Helper(ctx)
	if herr != nil {
		return fmt.Errorf("%w; and the helper that may do it is not there: %w (`make install` brings it: systemctl enable --now gridwire-resolver.socket)", err, herr)
	}
	*s = o.begin(ctx, m, true)
	return o.apply(ctx, *s, want)
}

// begin makes a session; end has to follow.
func (o *Owner) begin(ctx context.Context, m osconf.Manager, helper bool) *session {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{Manager: m, helper: helper, stop: cancel, ended: make(chan error, 1), news: make(chan osconf.State, 1)}
	go func() { // end waits for it
		err := m.Watch(ctx, func(st osconf.State) {
			select { // the newest counts
			case <-s.news:
			default:
			}
			s.news <- st // its only sender, so there is room
		})
		if err != nil {
			s.ended <- err
		}
		close(s.ended)
	}()
	return s
}

func (o *Owner) apply(ctx context.Context, s *session, want *osconf.Settings) error {
	if s.NeedsUpstream() {
		servers, err := s.Upstream()
		if err != nil {
			return fmt.Errorf("find out whom this machine asks for names: %w", err)
		}
		o.cfg.Forward(servers)
	}
	s.applied = nil
	if err := s.Apply(ctx, *want); err != nil {
		return err
	}
	s.applied = want
	o.say(State{Manager: s.Name(), Configured: true, Helper: s.helper})
	return nil
}

// report takes what a manager found when it looked again.
func (o *Owner) report(s *session, st osconf.State) {
	if s.applied == nil {
		return
	}
	if s.NeedsUpstream() {
		o.cfg.Forward(st.Upstream)
	}
	o.say(State{Manager: s.Name(), Configured: st.Applied, Reason: st.Reason, Helper: s.helper})
}

// end takes everything back and forgets the session.
func (o *Owner) end(ctx context.Context, s *session, reason string) {
	if s == nil {
		return
	}
	s.stop()
	if s.applied != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		if err := s.Revert(ctx); err != nil {
			o.cfg.Log.Warn("could not put this machine's resolver back", "err", err, "remedy", "gridwire doctor --fix, as root, when the agent does not run")
		}
	}
	o.drop(s)
	o.cfg.Forward(nil)
	if reason != "" {
		o.say(State{Manager: s.Name(), Reason: reason})
	}
}

// drop ends what begin started.
func (o *Owner) drop(s *session) {
	s.stop()
	for range s.ended { // until it is closed
	}
	if c, ok := s.Manager.(interface{ Close() error }); ok {
		_ = c.Close()
	}
}

// failed notes why it did not work.
func (o *Owner) failed(s *session, err error) {
	st := State{Manager: o.State().Manager, Reason: err.Error()}
	if s != nil {
		st.Manager, st.Helper = s.Name(), s.helper
	}
	o.say(st)
}

// say makes a state known, and logs what is new about it.
func (o *Owner) say(st State) {
	old := o.state.Swap(&st)
	switch {
	case *old == st:
	case st.Configured && !old.Configured:
		o.cfg.Log.Info("this machine's resolver asks this node for the network's names", "by", st.Manager)
	case !st.Configured && st.Reason != old.Reason:
		o.cfg.Log.Warn("this machine's resolver does not ask this node for the network's names", "why", st.Reason)
	}
}
