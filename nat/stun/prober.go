package stun

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/nat"
)

const (
	defaultInterval = 10 * time.Minute
	firstRetry      = time.Second             // after a round that taught nothing; doubles up to the interval
	reachLimit      = 4 * time.Second         // for one reachability test
	silence         = 3200 * time.Millisecond // in which nobody answers, in however many rounds: a little longer than one asks the silent (Bind)
	serversPerRound = 4                       // of each family; two answers tell the type, the others replace silent ones

	// A failed test does not undo a proof: probes get lost, and members send them on a budget, which a node that many join at once uses up,
	// because each of them starts a round. So it is made again, at a pace that the budget allows (one in 5 s), before it is believed.
	doubtFor   = 20 * time.Second
	doubtRetry = 7 * time.Second
)

// ProberConfig is what a Prober needs.
type ProberConfig struct {
	Bind    func(ctx context.Context, server netip.AddrPort) (nat.Mapping, error)
	Servers func() []netip.AddrPort // members that answer, best first
	Local   func() []netip.Addr     // this machine's usable addresses; with none, nobody is asked
	Port    func() uint16
	Reach   func(ctx context.Context, addr netip.AddrPort) (bool, error) // asks members to probe addr; nil: never tested
	// Second asks the member at server for another port at which it answers for a moment: with one server alone, a mapping that depends
	// on the destination (RFC 4787, 4.1) shows only so. nil: never asked.
	Second   func(ctx context.Context, server netip.AddrPort) (netip.AddrPort, error)
	Interval time.Duration // between rounds; 0: 10 minutes
	Now      func() time.Time
	Log      *slog.Logger
}

// Prober owns the current nat.Report. Make it with NewProber.
type Prober struct {
	c       ProberConfig
	trigger chan struct{}
	current atomic.Pointer[nat.Report]
	again   atomic.Bool // the next report is told even if it is the same
	doubted time.Time   // since when tests of what was proven have failed; zero: they have not. Run's goroutine alone uses it.
	moved   atomic.Bool // what was asked so far says nothing of where this machine is now
	unheard time.Time   // since when nobody has answered; zero: somebody did. Run's

	mu       sync.Mutex // guards the rest
	watchers map[chan nat.Report]struct{}
	asked    []chan struct{} // who waits for a whole round
}

// NewProber checks c. It starts nothing.
func NewProber(c ProberConfig) (*Prober, error) {
	if c.Bind == nil || c.Servers == nil || c.Local == nil || c.Port == nil {
		return nil, errors.New("making the NAT prober: Bind, Servers, Local and Port must be given")
	}
	if c.Interval <= 0 {
		c.Interval = defaultInterval
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p := &Prober{c: c, trigger: make(chan struct{}, 1), watchers: make(map[chan nat.Report]struct{})}
	p.current.Store(&nat.Report{Type: nat.Unknown})
	return p, nil
}

// Trigger starts a round now, in place of one under way: the network changed, or there are new servers. It never blocks.
func (p *Prober) Trigger() {
	p.moved.Store(true)
	p.Doubt()
}

// Doubt is Trigger for who only wonders whether all is still as it was, because a link does not answer. Links find out one after another, often
// sooner than a round has waited for the silent; so the silence of rounds that were ended counts on, and the type does not stay what it was
// until the last link is dead.
func (p *Prober) Doubt() {
	p.again.Store(true)
	offer(p.trigger, struct{}{})
}

// Report returns what is known; the type is nat.Unknown at first.
func (p *Prober) Report() nat.Report { return *p.current.Load() }

// Watch returns a mailbox that holds the newest report not yet taken, and a function that ends it.
func (p *Prober) Watch() (<-chan nat.Report, func()) {
	c := make(chan nat.Report, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers[c] = struct{}{}
	return c, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watchers, c)
	}
}

// Run asks at once, at each Trigger and each Interval (sooner while nobody has answered), until ctx ends. It returns nil.
func (p *Prober) Run(ctx context.Context) error {
	retry := firstRetry
	for fresh := true; ; {
		triggered := p.untilTriggered(ctx, func(ctx context.Context) { p.round(ctx, fresh) })
		if ctx.Err() != nil {
			return nil
		}
		if fresh = triggered; triggered {
			continue
		}
		pause := p.c.Interval
		if len(p.Report().Mappings) == 0 {
			pause = min(retry, p.c.Interval)
			retry = min(2*retry, p.c.Interval)
		} else {
			retry = firstRetry
		}
		if !p.doubted.IsZero() {
			pause = min(pause, doubtRetry)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-p.trigger:
			timer.Stop()
			fresh, retry = true, firstRetry
		case <-timer.C:
		}
	}
}

// untilTriggered runs do, and ends do's context at Trigger, whatever do is waiting for: what it asks about is out of date. It returns whether
// that happened.
func (p *Prober) untilTriggered(ctx context.Context, do func(context.Context)) (triggered bool) {
	ctx, cancel := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() { // waited for below
		defer close(watching)
		select {
		case <-p.trigger:
			triggered = true
			cancel()
		case <-ctx.Done():
		}
	}()
	do(ctx)
	cancel()
	<-watching
	return triggered
}

// round asks every chosen server at once and then has the best mapped addresses tested. A fresh round, which doubts the report that
// stands, publishes at every answer, because a join waits for the first. A round whose context has ended says nothing.
func (p *Prober) round(ctx context.Context, fresh bool) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		server  netip.AddrPort
		mapping nat.Mapping
		err     error
	}
	servers := pick(p.c.Servers(), p.c.Local())
	results := make(chan result, len(servers))
	var wait sync.WaitGroup
	defer wait.Wait() // for the askers, which cancel ends
	defer cancel()
	for _, server := range servers {
		wait.Go(func() {
			m, err := p.c.Bind(ctx, server)
			results <- result{server, m, err}
		})
	}
	standing := p.Report().Mappings
	partly := func(answered []nat.Mapping) {
		if fresh && ctx.Err() == nil {
			all := overlay(standing, answered)
			p.publish(p.judge(all, nil, p.wasReachable(all)))
		}
	}
	var mappings []nat.Mapping
	var silent []netip.AddrPort
	hopeless := time.NewTimer(p.patience(len(servers) > 0))
	defer hopeless.Stop()
	for waiting := len(servers); waiting > 0; {
		select {
		case <-ctx.Done():
			return
		case <-hopeless.C:
			if len(mappings) == 0 {
				p.publish(p.judge(nil, servers, false))
				p.answer()
			}
		case r := <-results:
			waiting--
			if r.err != nil {
				silent = append(silent, r.server)
				p.c.Log.Debug("member did not say where we are", "server", r.server, "error", r.err)
				continue
			}
			mappings = append(mappings, r.mapping)
			p.unheard = time.Time{}
			partly(mappings)
		}
	}
	if m, ok := p.second(ctx, mappings, silent); ok {
		mappings = append(mappings, m)
		partly(mappings)
	}
	if reachable, tested := p.reach(ctx, mappings); ctx.Err() == nil {
		if tested {
			reachable = p.believe(reachable, mappings)
		}
		p.publish(p.judge(mappings, silent, reachable))
		p.answer()
	}
}

// believe returns what to make of a test: one that failed is doubted for a while, if there is a proof of the contrary.
func (p *Prober) believe(reachable bool, mappings []nat.Mapping) bool {
	switch now := p.c.Now(); {
	case reachable || !p.wasReachable(mappings):
		p.doubted = time.Time{}
	case p.doubted.IsZero():
		p.doubted, reachable = now, true
	case now.Sub(p.doubted) < doubtFor:
		reachable = true
	default:
		p.doubted = time.Time{}
	}
	return reachable
}

// patience is how long this round may hear nothing until that is the answer.
func (p *Prober) patience(asking bool) time.Duration {
	now := p.c.Now()
	if p.moved.Swap(false) || !asking {
		p.unheard = time.Time{}
	}
	if p.unheard.IsZero() && asking {
		p.unheard = now
	}
	if past := now.Sub(p.unheard); asking && past >= 0 && past < silence {
		return silence - past
	}
	return silence
}

// second has one more port of the best server asked where all answers together do not tell the type.
func (p *Prober) second(ctx context.Context, mappings []nat.Mapping, silent []netip.AddrPort) (nat.Mapping, bool) {
	if p.c.Second == nil || len(mappings) == 0 || p.judge(mappings, silent, false).Type != nat.Unknown {
		return nat.Mapping{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	server, err := p.c.Second(ctx, mappings[0].Server)
	if err != nil {
		p.c.Log.Debug("no second port to compare the mapping with", "error", err)
		return nat.Mapping{}, false
	}
	m, err := p.c.Bind(ctx, server)
	if err != nil {
		p.c.Log.Debug("the second port did not answer", "server", server, "error", err)
		return nat.Mapping{}, false
	}
	return m, true
}

func (p *Prober) judge(mappings []nat.Mapping, silent []netip.AddrPort, reachable bool) nat.Report {
	return Classify(p.c.Local(), p.c.Port(), mappings, silent, reachable, p.c.Now())
}

// wasReachable keeps an earlier proof as long as the best mapped address is the one that it was about.
func (p *Prober) wasReachable(mappings []nat.Mapping) bool {
	was, now := p.Report(), distinct(mappings)
	return was.Reachable && len(was.Mapped) > 0 && len(now) > 0 && was.Mapped[0] == now[0]
}

// reach tests the best mapped address of each family. A test that could not be made leaves what was known.
func (p *Prober) reach(ctx context.Context, mappings []nat.Mapping) (reachable, tested bool) {
	mapped := distinct(mappings)
	if p.c.Reach == nil || len(mapped) == 0 {
		return p.wasReachable(mappings), false
	}
	targets := mapped[:1]
	if i := slices.IndexFunc(mapped, func(a netip.AddrPort) bool { return a.Addr().Is4() != mapped[0].Addr().Is4() }); i > 0 {
		targets = []netip.AddrPort{mapped[0], mapped[i]}
	}
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	type result struct {
		ok  bool
		err error
	}
	results := make(chan result, len(targets))
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	for _, target := range targets {
		wait.Go(func() {
			ok, err := p.c.Reach(ctx, target)
			results <- result{ok, err}
		})
	}
	for range targets {
		r := <-results // soon, once ctx has ended
		if r.err != nil {
			p.c.Log.Debug("reachability could not be tested", "error", r.err)
			continue
		}
		tested, reachable = true, reachable || r.ok
	}
	if !tested {
		return p.wasReachable(mappings), false
	}
	return reachable, true
}

// pick takes up to serversPerRound of each family, those at different hosts first: two ports of one host cannot tell an
// address-dependent mapping (RFC 4787, 4.1). Of a family in which this machine has no address, it takes none: their silence would say
// nothing and hold the round up.
func pick(servers []netip.AddrPort, local []netip.Addr) []netip.AddrPort {
	var out, rest []netip.AddrPort
	hosts := make(map[netip.Addr]bool)
	for _, s := range servers {
		s = netip.AddrPortFrom(s.Addr().Unmap(), s.Port())
		if !slices.ContainsFunc(local, func(l netip.Addr) bool { return l.Unmap().Is4() == s.Addr().Is4() }) {
			continue
		}
		if hosts[s.Addr()] {
			rest = append(rest, s)
			continue
		}
		hosts[s.Addr()] = true
		out = append(out, s)
	}
	count := make(map[bool]int)
	chosen := make(map[netip.AddrPort]bool)
	return slices.DeleteFunc(append(out, rest...), func(s netip.AddrPort) bool {
		v4 := s.Addr().Is4()
		if chosen[s] || count[v4] == serversPerRound {
			return true
		}
		chosen[s] = true
		count[v4]++
		return false
	})
}

// publish stores r and puts it into every mailbox, if it says anything new or is the first since Trigger: who waits to hear whether the
// network is still the same needs an answer, too. A change of type is logged.
func (p *Prober) publish(r nat.Report) {
	old := p.current.Swap(&r)
	again := p.again.Swap(false)
	if old.Type != r.Type || old.Reachable != r.Reachable {
		p.c.Log.Info("NAT judged", "type", r.Type, "reachable", r.Reachable, "mapped", r.Mapped, "answers", len(r.Mappings), "silent", len(r.Silent))
	}
	if !again && same(*old, r) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.watchers {
		select {
		case <-c: // the older one
		default:
		}
		offer(c, r)
	}
}

// same leaves out when, how fast, and in which order the servers answered.
func same(a, b nat.Report) bool {
	servers := func(r nat.Report) map[netip.AddrPort]netip.AddrPort {
		m := make(map[netip.AddrPort]netip.AddrPort, len(r.Mappings))
		for _, x := range r.Mappings {
			m[x.Server] = x.Mapped
		}
		return m
	}
	return a.Type == b.Type && a.Reachable == b.Reachable && slices.Equal(a.Mapped, b.Mapped) &&
		len(a.Silent) == len(b.Silent) && reflect.DeepEqual(servers(a), servers(b))
}
