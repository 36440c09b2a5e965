package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/agent/sdnotify"
	"github.com/gridwire/gridwire/mesh/directory"
	"github.com/gridwire/gridwire/mesh/wire"
	"github.com/gridwire/gridwire/nat"
)

const (
	selfDebounce  = 150 * time.Millisecond // several causes come together: a new mapping, a new forwarder
	overtakeEvery = time.Minute
	selfRefresh   = 12 * time.Hour // so that others see that this node lives, and for clocks
)

// self owns this node's own record: what is in it, and when it is signed anew.
type self struct {
	n       *node
	wake    chan struct{}
	current atomic.Pointer[wire.SignedRecord]
	fields  *wire.Record // of current; owned by run after first
	left    atomic.Bool  // a tombstone has been signed; nothing follows it
}

func newSelf(n *node) *self { return &self{n: n, wake: make(chan struct{}, 1)} }

// record returns the newest signed record; the control plane shows it in its hello.
func (s *self) record() *wire.SignedRecord { return s.current.Load() }

// nudge says that something in the record may have changed. It never blocks.
func (s *self) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// first makes the record that this run starts with. Where this node was reachable stays in it until it is known better: others would
// otherwise forget where a public member is whenever it restarts.
func (s *self) first() error {
	r := s.compose()
	if old, ok := s.n.dir.Record(s.n.membership.Load().ID()); ok {
		was := &wire.Record{}
		err := proto.Unmarshal(old.Record, was)
		if err == nil && sameAddrs(was.Lan, r.Lan) && len(r.Endpoints) == 0 {
			r.Endpoints, r.Reachable, r.Nat, r.Via = was.Endpoints, was.Reachable, was.Nat, was.Via
		}
		r.Workloads = was.GetWorkloads() // they outlive the agent, and their names must not vanish while it starts
	}
	return s.sign(r)
}

func sameAddrs(a, b [][]byte) bool { return slices.EqualFunc(a, b, slices.Equal[[]byte]) }

// compose describes this node as it is now.
func (s *self) compose() *wire.Record {
	n := s.n
	m := n.membership.Load()
	seal := m.SealPublic()
	r := &wire.Record{
		Version: 1, Chain: m.Chain, Boot: n.boot, SealKey: seal[:], Software: Version,
		Lan: wire.AddrPortsBytes(clip(n.localAddrPorts(), 16)), Nat: string(nat.Unknown),
	}
	r.Gateway = n.gateway.On()
	for _, key := range clip(n.gateway.Connected(), wire.MaxConnected) {
		r.Devices = append(r.Devices, key[:])
	}
	advertised := s.advertised()
	endpoints := advertised
	if n.reach != nil && n.reach.prober != nil {
		report := n.reach.prober.Report()
		r.Nat = string(report.Type)
		if report.Reachable {
			for _, a := range report.Mapped {
				if !slices.Contains(endpoints, a) {
					endpoints = append(endpoints, a)
				}
			}
		}
		r.Reachable = report.Reachable
	}
	if len(advertised) > 0 {
		r.Reachable = true
	}
	r.Endpoints = wire.AddrPortsBytes(clip(endpoints, 16))
	if n.control != nil {
		for _, id := range n.control.Via() {
			if len(r.Via) < 8 {
				r.Via = append(r.Via, id[:])
			}
		}
	}
	r.Workloads = s.workloads()
	return r
}

// workloads are what is up, and until that has been looked at once, what was announced last.
func (s *self) workloads() []*wire.Workload {
	if s.n.workloads != nil {
		if ws, known := s.n.workloads.Announced(); known {
			return wire.Workloads(ws)
		}
	}
	return s.fields.GetWorkloads()
}

func clip[T any](s []T, limit int) []T { return s[:min(len(s), limit)] }

func (s *self) sign(r *wire.Record) error {
	r.Sequence = s.n.dir.NextSequence()
	r.Time = s.n.dir.Now().UnixMilli()
	signed, err := wire.SignRecord(r, s.n.membership.Load().Identity)
	if err != nil {
		return fmt.Errorf("sign this node's record: %w", err)
	}
	s.fields = r
	s.current.Store(signed)
	return nil
}

// run feeds the directory what this node starts with, then keeps the record true.
func (s *self) run(ctx context.Context) error {
	for _, it := range s.n.membership.Load().Items {
		if v, err := s.n.dir.Submit(ctx, it); v == directory.Invalid {
			s.n.log.Warn("an item that came with the membership is invalid", "err", err)
		}
	}
	s.publish(ctx)
	if err := sdnotify.Send("READY=1\nSTATUS=a member"); err != nil {
		s.n.log.Warn("could not tell systemd that this agent is ready", "err", err)
	}
	refresh := time.NewTicker(selfRefresh)
	defer refresh.Stop()
	var overtaken time.Time
	for {
		force := false
		select {
		case <-ctx.Done():
			return nil
		case <-refresh.C:
			force = true
		case <-s.wake:
			select {
			case <-time.After(selfDebounce):
			case <-ctx.Done():
				return nil
			}
		}
		if s.left.Load() {
			continue
		}
		if me, ok := s.n.dir.View().Me(); ok && me.Seq > s.fields.Sequence && time.Since(overtaken) > overtakeEvery {
			// Others hold a higher one than this node ever signed: its state was lost, or went back. Or a second machine has its identity;
			// the two must not outbid each other for ever.
			force, overtaken = true, time.Now()
		}
		r := s.compose()
		if !s.learned() {
			// Nobody has answered yet: what was known before stands, unless this machine has moved.
			if sameAddrs(s.fields.Lan, r.Lan) && len(r.Endpoints) == 0 {
				r.Endpoints, r.Reachable, r.Nat = s.fields.Endpoints, s.fields.Reachable, s.fields.Nat
			}
		}
		if !force && sameRecord(s.fields, r) {
			continue
		}
		if err := s.sign(r); err != nil {
			return err
		}
		s.publish(ctx)
	}
}

// learned reports whether any member has answered what this node looks like from outside.
func (s *self) learned() bool { return len(s.n.reach.prober.Report().Mappings) > 0 }

func (s *self) publish(ctx context.Context) {
	it := &wire.Item{Item: &wire.Item_Record{Record: s.current.Load()}}
	if err := s.n.control.Publish(ctx, it); err != nil && ctx.Err() == nil {
		s.n.log.Warn("could not publish this node's record", "err", err)
	}
}

// sameRecord compares what others act on.
func sameRecord(a, b *wire.Record) bool {
	return sameAddrs(a.Endpoints, b.Endpoints) && sameAddrs(a.Lan, b.Lan) && sameAddrs(a.Via, b.Via) && sameAddrs(a.Chain, b.Chain) &&
		a.Reachable == b.Reachable && a.Nat == b.Nat && a.Software == b.Software && a.Boot == b.Boot && a.Gateway == b.Gateway && sameAddrs(a.Devices, b.Devices) &&
		slices.EqualFunc(a.Workloads, b.Workloads, sameWorkload)
}

func sameWorkload(a, b *wire.Workload) bool { return proto.Equal(a, b) }

// leave signs the tombstone, which outranks every record, and spreads it.
func (s *self) leave(ctx context.Context) error {
	s.left.Store(true)
	r := s.compose()
	r.Tombstone, r.Endpoints, r.Lan, r.Via, r.Reachable, r.Workloads = true, nil, nil, nil, false, nil
	r.Sequence = s.n.dir.NextSequence()
	r.Time = s.n.dir.Now().UnixMilli()
	signed, err := wire.SignRecord(r, s.n.membership.Load().Identity)
	if err != nil {
		return fmt.Errorf("sign the farewell: %w", err)
	}
	return s.n.control.Publish(ctx, &wire.Item{Item: &wire.Item_Record{Record: signed}})
}

// advertised are the addresses that the configuration says strangers reach this node at.
func (s *self) advertised() []netip.AddrPort {
	var out []netip.AddrPort
	for _, hp := range s.n.cfg.Advertise {
		out = append(out, s.resolve(hp)...)
	}
	return out
}
