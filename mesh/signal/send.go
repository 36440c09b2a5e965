package signal

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	maxParallel = 3 // members that the sender asks to forward
	maxOnward   = 2 // members that the first forwarder asks, where it has no connection to the receiver

	// directHead is how long a direct connection may take to answer before forwarders are tried beside it: it may be dead and nobody
	// has noticed yet.
	directHead = 250 * time.Millisecond

	// patience is how long the first round waits for forwarders that say nothing once another has said no: one that has just died must
	// not hold up the second round, in which the others may have the connection that they lacked.
	patience = 250 * time.Millisecond
)

// Errors that callers tell apart; they come wrapped in sentences.
var (
	ErrNotMember   = errors.New("not a member of this network")
	ErrNoSealKey   = errors.New("its record has not arrived yet")
	ErrUnreachable = errors.New("no way to it")
)

// Send seals sig to the member to and returns when it, and nobody less, has acknowledged it: over a direct connection, else by way of
// others (3 in parallel, those first that its record names). If all fail it connects to the members that to's record names, and to
// itself where others can reach it, and tries once more. The error says what was tried; it wraps ErrNotMember, ErrNoSealKey or
// ErrUnreachable.
func (s *Signal) Send(ctx context.Context, to mesh.NodeID, sig *wire.Signal) error {
	view := s.cfg.View()
	m, ok := view.Member(to)
	switch {
	case to == s.self:
		return errors.New("sending a signal: to this node itself")
	case !ok:
		return fmt.Errorf("sending a signal to %s: %w", to.Short(), ErrNotMember)
	case m.SealKey == [32]byte{}:
		return fmt.Errorf("sending a signal to %s: %w", m.Name, ErrNoSealKey)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	env, err := wire.SealEnvelope(s.cfg.Self, to, m.SealKey, sig, id, s.cfg.Now())
	if err != nil {
		return fmt.Errorf("sending a signal to %s: %w", m.Name, err)
	}
	f := &wire.SignalFrame{Envelope: env}
	by, first := s.try(ctx, view, m, f, patience)
	if first != nil && ctx.Err() == nil {
		s.connect(ctx, wishes(m, s.self, s.cfg.Carrier.Connections()))
		var second error
		if by, second = s.try(ctx, view, m, f, 0); second == nil {
			first = nil
		}
	}
	if first == nil {
		s.sent.Add(1)
		s.cfg.Carried(to, by, true)
		return nil
	}
	s.failed.Add(1)
	return fmt.Errorf("sending a signal to %s: %w: %w", m.Name, ErrUnreachable, first)
}

// wishes returns the members worth a new connection in order to reach m: itself if strangers' packets reach it, and those who hold
// a connection to it; never those already connected.
func wishes(m *mesh.Member, self mesh.NodeID, conns []Conn) []mesh.NodeID {
	var out []mesh.NodeID
	add := func(id mesh.NodeID) {
		have := slices.ContainsFunc(conns, func(c Conn) bool { return c.ID == id })
		if id != self && !have && !slices.Contains(out, id) && len(out) < maxParallel {
			out = append(out, id)
		}
	}
	if m.Reachable {
		add(m.ID)
	}
	for _, id := range m.Via {
		add(id)
	}
	return out
}

// connect dials all ids at once and waits until one is there or all have failed.
func (s *Signal) connect(ctx context.Context, ids []mesh.NodeID) {
	ways := make([]way, 0, len(ids))
	for _, id := range ids {
		ways = append(ways, way{id, id.Short(), 0, func(ctx context.Context) error { return s.cfg.Carrier.Connect(ctx, id) }})
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	_, _ = race(ctx, ways, 0) // what counts is which connections there are afterwards
}

// try sends f by every way there is now and returns at the first acknowledgement, with the member that brought it: m itself where it went
// directly. For patience see race.
func (s *Signal) try(ctx context.Context, view *mesh.View, m *mesh.Member, f *wire.SignalFrame, patience time.Duration) (mesh.NodeID, error) {
	conns := s.cfg.Carrier.Connections()
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	var ways []way
	var head time.Duration
	if slices.ContainsFunc(conns, func(c Conn) bool { return c.ID == m.ID }) {
		ways = append(ways, way{m.ID, "directly", 0, s.frameTo(m.ID, f)})
		head = directHead
	}
	for _, id := range forwarders(view, m, conns, s.self) {
		ways = append(ways, way{id, "by " + nameOf(view, id), head, s.frameTo(id, f)})
	}
	if len(ways) == 0 {
		return mesh.NodeID{}, errors.New("this node has no control connection to it nor to anybody who could forward")
	}
	return race(ctx, ways, patience)
}

// forwarders picks whom to ask: those first that m's record names, then reachable members, then the nearest.
func forwarders(view *mesh.View, m *mesh.Member, conns []Conn, self mesh.NodeID) []mesh.NodeID {
	rank := func(c Conn) int {
		if slices.Contains(m.Via, c.ID) {
			return 0
		}
		if p, ok := view.Member(c.ID); ok && p.Reachable {
			return 1
		}
		return 2
	}
	conns = slices.DeleteFunc(slices.Clone(conns), func(c Conn) bool { return c.ID == m.ID || c.ID == self })
	slices.SortStableFunc(conns, func(a, b Conn) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.RTT, b.RTT), a.ID.Compare(b.ID))
	})
	var out []mesh.NodeID
	for _, c := range conns {
		if len(out) < maxParallel && !slices.Contains(out, c.ID) {
			out = append(out, c.ID)
		}
	}
	return out
}

// forward passes a frame on: straight to the receiver where there is a connection, else, as the first forwarder, to members that the
// receiver's record names.
func (s *Signal) forward(ctx context.Context, view *mesh.View, from, origin, to mesh.NodeID, f *wire.SignalFrame, delay time.Duration, arrived time.Time) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return errors.New("this member is forwarding too many signals at the moment")
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	m, ok := view.Member(to)
	if !ok {
		return fmt.Errorf("%s is not a member, as far as this member knows", to.Short())
	}
	next := onward(m, from, origin, s.self, f.GetHops(), s.cfg.Carrier.Connections())
	if len(next) == 0 && f.GetHops() == 0 {
		avoid := func(id mesh.NodeID) bool { return id == from || id == origin }
		s.connect(ctx, slices.DeleteFunc(wishes(m, s.self, nil), avoid))
		next = onward(m, from, origin, s.self, f.GetHops(), s.cfg.Carrier.Connections())
	}
	if len(next) == 0 {
		return fmt.Errorf("no connection to %s nor to a member that has one", m.Name)
	}
	g := proto.CloneOf(f)
	g.Hops++
	spent := max(s.cfg.Now().Sub(arrived), 0)
	g.Delay = uint32(min(delay+spent, maxDelay).Microseconds())
	ways := make([]way, 0, len(next))
	for _, id := range next {
		ways = append(ways, way{id, "by " + nameOf(view, id), 0, s.frameTo(id, g)})
	}
	_, err := race(ctx, ways, 0)
	return err
}

// onward picks the next hop: the receiver, or, where one more forwarder is allowed after this one, members that hold a connection to it.
func onward(m *mesh.Member, from, origin, self mesh.NodeID, hops uint32, conns []Conn) []mesh.NodeID {
	connected := func(id mesh.NodeID) bool {
		return slices.ContainsFunc(conns, func(c Conn) bool { return c.ID == id })
	}
	if connected(m.ID) {
		return []mesh.NodeID{m.ID}
	}
	if hops+1 >= maxHops {
		return nil
	}
	var out []mesh.NodeID
	for _, id := range m.Via {
		if id != from && id != origin && id != self && connected(id) && !slices.Contains(out, id) && len(out) < maxOnward {
			out = append(out, id)
		}
	}
	return out
}

func (s *Signal) frameTo(id mesh.NodeID, f *wire.SignalFrame) func(context.Context) error {
	return func(ctx context.Context) error {
		ack, err := s.cfg.Carrier.SendSignal(ctx, id, f)
		switch {
		case err != nil:
			return err
		case ack.GetDelivered():
			return nil
		}
		return errors.New(clip(ack.GetReason()))
	}
}

// way is one thing to try, after a head start for those before it.
type way struct {
	by    mesh.NodeID
	what  string
	after time.Duration
	do    func(context.Context) error
}

// race tries all ways and returns whose came first to success, ending the others; else one error that names what each said. A way with
// a head start before it begins at once when all begun ones have failed. With patience, the silent are given up that long after the last
// way began if another has failed; 0: only ctx bounds them.
func race(ctx context.Context, ways []way, patience time.Duration) (mesh.NodeID, error) {
	if len(ways) == 0 {
		return mesh.NodeID{}, errors.New("nobody to ask")
	}
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		n   int
		err error
	}
	results := make(chan result)
	begun, ended := 0, 0
	var late <-chan time.Time
	begin := func(after time.Duration) {
		for begun < len(ways) && ways[begun].after <= after {
			n := begun
			begun++
			go func() { results <- result{n, ways[n].do(ctx)} }() // race waits: one receive below for each
		}
		if begun == len(ways) && late == nil && patience > 0 {
			late = time.After(patience)
		}
	}
	defer func() { // whoever is still busy sees the cancelled context
		cancel()
		for ; ended < begun; ended++ {
			<-results
		}
	}()
	begin(0)
	errs := make([]string, len(ways))
	timer := time.NewTimer(ways[len(ways)-1].after)
	defer timer.Stop()
	given := false // the time of the silent is up
	for {
		if ended == begun || given && ended > 0 {
			if begun == len(ways) {
				return mesh.NodeID{}, errors.New(strings.Join(said(ways, errs), "; "))
			}
			begin(ways[len(ways)-1].after)
		}
		select {
		case r := <-results:
			ended++
			if r.err == nil {
				return ways[r.n].by, nil
			}
			errs[r.n] = r.err.Error()
		case <-timer.C:
			begin(ways[len(ways)-1].after)
		case <-late:
			given = true
		}
	}
}

// said puts the ways' names before their errors.
func said(ways []way, errs []string) []string {
	out := make([]string, len(ways))
	for i, w := range ways {
		out[i] = w.what + ": " + cmp.Or(errs[i], "no answer yet")
	}
	return out
}
