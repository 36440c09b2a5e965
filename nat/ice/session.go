package ice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pion/ice/v2"

	"github.com/gridwire/gridwire/nat"
)

// Session is one attempt to reach one peer. Make it with Factory.Start, give Local to the peer, call Connect with what the peer
// says, and Close it in the end, whatever happened. Its goroutine owns the course of the session; Local never changes.
type Session struct {
	factory *Factory
	c       SessionConfig
	log     *slog.Logger
	agent   *ice.Agent
	mux     *sessionMux
	local   nat.Description

	early    chan struct{}       // a check of the peer is waiting
	connect  chan plan           // one value
	selected chan netip.AddrPort // remote addresses that pion selected
	closing  chan struct{}
	finished chan struct{} // closed when nobody reads selected any more

	mu        sync.Mutex // guards the rest
	connected bool
	closed    bool
	remote    []nat.Candidate // those that were accepted
	offered   int             // how many there were
	final     []nat.Pair      // once the agent has ended
	ended     bool
}

// plan is what Connect hands to the session's goroutine.
type plan struct {
	ufrag, pwd   string
	first, later []nat.Candidate
	delay        time.Duration
}

// gather makes pion create the host candidates, which takes no network traffic, and reads the credentials.
func (s *Session) gather() error {
	done := make(chan struct{})
	err := s.agent.OnCandidate(func(c ice.Candidate) {
		if c == nil {
			close(done)
		}
	})
	if err == nil {
		err = s.agent.OnSelectedCandidatePairChange(func(_, remote ice.Candidate) {
			select {
			case s.selected <- candidateAddr(remote):
			case <-s.finished:
			}
		})
	}
	if err == nil {
		err = s.agent.GatherCandidates()
	}
	if err != nil {
		return err
	}
	<-done
	s.local.Ufrag, s.local.Pwd, err = s.agent.GetLocalUserCredentials()
	return err
}

func candidateAddr(c ice.Candidate) netip.AddrPort {
	a, err := netip.ParseAddrPort(net.JoinHostPort(c.Address(), strconv.Itoa(c.Port())))
	if err != nil {
		return netip.AddrPort{}
	}
	return unmap(a)
}

// Local returns the description for the peer.
func (s *Session) Local() nat.Description {
	d := s.local
	d.Candidates = slices.Clone(d.Candidates)
	return d
}

// Connect starts the checks after delay, or as soon as one of the peer's arrives: the delay is for letting both sides' first checks cross
// on the way, and then they no longer can. Candidates that Config.Accept refuses are left out, silently, since the peer may have others. It
// fails if remote is no description, at the second call, and after Close.
func (s *Session) Connect(remote nat.Description, delay time.Duration) error {
	if remote.Ufrag == "" || remote.Pwd == "" || len(remote.Ufrag) > maxText || len(remote.Pwd) > maxText {
		return fmt.Errorf("starting ICE checks: the peer's user name has %d bytes and its password %d, want 1 to %d",
			len(remote.Ufrag), len(remote.Pwd), maxText)
	}
	own := addresses(slices.DeleteFunc(s.Local().Candidates, func(c nat.Candidate) bool { return c.Type != nat.Host }))
	candidates := filterRemote(remote.Candidates, own, s.factory.c.Accept)
	p := plan{ufrag: remote.Ufrag, pwd: remote.Pwd, delay: delay}
	p.first, p.later = split(own, candidates)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed || s.ended:
		return fmt.Errorf("starting ICE checks: the session: %w", net.ErrClosed)
	case s.connected:
		return errors.New("starting ICE checks: they were started before; make another session")
	}
	s.connected, s.remote, s.offered = true, candidates, len(remote.Candidates)
	s.connect <- p // has one place and only we send
	return nil
}

// Close ends the session; no event comes after the one that may be under way. It does not wait. A session that has just selected a pair
// goes on answering for a second, because the peer may still need our answer to select the same.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	return nil
}

// Pairs returns the pairs that were tried and how that went, best first; after the end, how it was then.
func (s *Session) Pairs() []nat.Pair {
	s.mu.Lock()
	final, ended := s.final, s.ended
	s.mu.Unlock()
	if ended {
		return slices.Clone(final)
	}
	return s.snapshot()
}

// run is the session's goroutine. stop is the factory's.
func (s *Session) run(stop <-chan struct{}) {
	var wait sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		close(s.finished)
		cancel()
		pairs := s.snapshot()
		s.mu.Lock()
		s.final, s.ended = pairs, true
		s.mu.Unlock()
		_ = s.agent.GracefulClose()
		wait.Wait() // for pion's Dial or Accept
	}()
	var p plan
	select {
	case p = <-s.connect:
	case <-s.closing:
		return
	case <-stop:
		return
	}
	s.add(p.first)
	if !s.delay(p.delay, stop) {
		return
	}
	wait.Go(func() {
		if s.c.Controlling {
			_, _ = s.agent.Dial(ctx, p.ufrag, p.pwd) // its error is that of ctx; the outcome comes through s.selected
		} else {
			_, _ = s.agent.Accept(ctx, p.ufrag, p.pwd)
		}
	})
	s.check(p.later, stop)
}

// delay waits; false means that the session ends.
func (s *Session) delay(d time.Duration, stop <-chan struct{}) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.early:
	case <-s.closing:
		return false
	case <-stop:
		return false
	}
	return true
}

// check runs from the first check to the end of the session.
func (s *Session) check(later []nat.Candidate, stop <-chan struct{}) {
	lead := time.NewTimer(familyLead)
	defer lead.Stop()
	limit := time.NewTimer(sessionLimit)
	defer limit.Stop()
	if len(later) == 0 {
		lead.Stop()
		s.mux.open(true, true)
	} else {
		s.mux.open(false, true)
	}
	var current netip.AddrPort
	var since time.Time
	for {
		select {
		case <-lead.C:
			if !current.IsValid() {
				s.add(later)
			}
			s.mux.open(true, true)
		case addr := <-s.selected:
			if !current.IsValid() {
				since = time.Now()
			}
			limit.Stop()
			if addr != current {
				current = addr
				s.emit(s.selection(addr))
			}
		case <-limit.C:
			s.emit(Event{Kind: Failed, Reason: s.reason(), Pairs: s.snapshot()})
			return
		case <-s.closing:
			if rest := linger - time.Since(since); current.IsValid() && rest > 0 {
				timer := time.NewTimer(rest)
				defer timer.Stop()
				select {
				case <-timer.C:
				case <-stop:
				}
			}
			return
		case <-stop:
			return
		}
	}
}

// add gives pion the candidates and waits until it has them: it takes each in a goroutine of its own, and checks that begin before
// the last has arrived would send the first ones again for each.
func (s *Session) add(candidates []nat.Candidate) {
	want := 0
	if have, err := s.agent.GetRemoteCandidates(); err == nil {
		want = len(have)
	}
	for _, c := range candidates {
		pc, err := toPion(c)
		if err == nil {
			err = s.agent.AddRemoteCandidate(pc)
		}
		if err != nil {
			s.log.Debug("candidate left out", "candidate", c, "error", err)
			continue
		}
		want++
	}
	for range 1000 { // a safeguard; a few rounds are enough
		if have, err := s.agent.GetRemoteCandidates(); err != nil || len(have) >= want {
			return
		}
		runtime.Gosched()
	}
}

func (s *Session) emit(e Event) {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if s.c.OnEvent != nil && !closed {
		s.c.OnEvent(e)
	}
}

func (s *Session) selection(addr netip.AddrPort) Event {
	e := Event{Kind: Selected, Pairs: s.snapshot()}
	for _, p := range e.Pairs {
		if p.Remote.Addr == addr && (p.Nominated || e.Pair.Remote.Addr != addr) {
			e.Pair = p
		}
	}
	e.Pair.Nominated = true
	return e
}

// snapshot makes our pairs of pion's.
func (s *Session) snapshot() []nat.Pair {
	s.mu.Lock()
	remote := s.remote
	s.mu.Unlock()
	locals, remotes := make(map[string]netip.AddrPort), make(map[string]netip.AddrPort)
	index := func(m map[string]netip.AddrPort, stats []ice.CandidateStats) {
		for _, c := range stats {
			if ip, err := netip.ParseAddr(c.IP); err == nil {
				m[c.ID] = unmap(netip.AddrPortFrom(ip, uint16(c.Port)))
			}
		}
	}
	index(locals, s.agent.GetLocalCandidatesStats())
	index(remotes, s.agent.GetRemoteCandidatesStats())
	var out []nat.Pair
	for _, st := range s.agent.GetCandidatePairsStats() {
		l, r := locals[st.LocalCandidateID], remotes[st.RemoteCandidateID]
		if !l.IsValid() || !r.IsValid() {
			continue
		}
		t := s.mux.target(r)
		if t.mapped.IsValid() && st.State == ice.CandidatePairStateSucceeded {
			l = t.mapped
		}
		out = append(out, nat.Pair{
			Local: known(s.local.Candidates, l), Remote: known(remote, r), State: nat.PairState(st.State.String()),
			Nominated: st.Nominated, RequestsSent: t.sent, ResponsesGot: t.answered,
		})
	}
	slices.SortStableFunc(out, func(a, b nat.Pair) int {
		if a.Nominated != b.Nominated {
			if a.Nominated {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.Remote.Priority, a.Remote.Priority)
	})
	return slices.CompactFunc(out, func(a, b nat.Pair) bool { return a.Remote.Addr == b.Remote.Addr })
}

// reason is the sentence of a Failed event.
func (s *Session) reason() string {
	s.mu.Lock()
	usable, offered := len(s.remote), s.offered
	s.mu.Unlock()
	sent, answered, served := s.mux.totals()
	switch {
	case offered == 0 && served == 0:
		return "the peer named no address, and none of its checks arrived"
	case usable == 0 && served == 0:
		return fmt.Sprintf("none of the %d addresses that the peer named can be used from here, and none of its checks arrived", offered)
	case answered > 0:
		return fmt.Sprintf("packets pass in both directions (%d of %d checks were answered), but the two sides did not agree on a pair in %v", answered, sent, sessionLimit)
	case served > 0:
		return fmt.Sprintf("%d checks of the peer arrived, but none of our %d was answered in %v: what we send does not reach the peer", served, sent, sessionLimit)
	}
	return fmt.Sprintf("no packet of the peer arrived in %v: %d checks to %d addresses were not answered", sessionLimit, sent, usable)
}
