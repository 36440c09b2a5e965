package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/agent/usage"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	usageSample  = usage.Period / 60 // how often probes' results are taken, the clock is looked at, and changes are written down
	usageSendFor = 10 * time.Second
	usageSends   = 4 // at a time
	usageReplies = 64
	clockStep    = 2 * time.Second // the wall clock was set, if it has moved by so much against the monotonic one
)

// accounting exchanges statements of usage with the peers: it reads the counters at each full hour, and carries what the book says.
type accounting struct {
	n       *node
	book    *usage.Book
	log     *slog.Logger
	replies chan usage.Send // answers to what has arrived
	slots   chan struct{}
	wg      sync.WaitGroup
}

// newAccounting reads what earlier runs have left; the ledger is open already.
func newAccounting(n *node) *accounting {
	a := &accounting{n: n, log: n.log.With("part", "usage"), replies: make(chan usage.Send, usageReplies), slots: make(chan struct{}, usageSends)}
	now := time.Now()
	a.book = usage.Open(usage.Config{
		Network: n.root.Network.ID, Key: n.membership.Load().Identity, Chain: a.chain, Store: n.store, Log: a.log,
	}, now, a.totals(), n.meters.ledger.Gaps(now.Add(-24*usage.Period)))
	return a
}

// chain returns a member's certificates as they are now.
func (a *accounting) chain(id mesh.NodeID) [][]byte {
	if id == a.n.membership.Load().ID() {
		return a.n.membership.Load().Chain
	}
	signed, ok := a.n.dir.Record(id)
	if !ok {
		return nil
	}
	r := &wire.Record{}
	if proto.Unmarshal(signed.Record, r) != nil {
		return nil
	}
	return r.Chain
}

// totals are what the ledger has counted with each peer.
func (a *accounting) totals() map[mesh.NodeID]ledger.Counters {
	out := map[mesh.NodeID]ledger.Counters{}
	for _, t := range a.n.meters.ledger.Totals() {
		if t.Key.Kind != ledger.Peer {
			continue
		}
		if id, err := mesh.ParseNodeID(t.Key.ID); err == nil {
			out[id] = t.Counters
		}
	}
	return out
}

// run closes each period when it ends and carries statements until ctx ends.
func (a *accounting) run(ctx context.Context) error {
	defer a.wg.Wait()
	a.close() // what was in progress when the agent stopped
	clock := newClock(time.Now())
	sample := time.NewTicker(usageSample)
	defer sample.Stop()
	for {
		sends, next := a.book.Due(time.Now())
		for _, s := range sends {
			a.send(ctx, s)
		}
		end := usage.NextPeriod(time.Now())
		if end.Before(next) {
			next = end
		}
		timer := time.NewTimer(min(time.Until(next), usage.Period))
		select {
		case <-ctx.Done():
			timer.Stop()
			a.save()
			return nil
		case s := <-a.replies:
			a.send(ctx, s)
		case <-sample.C:
			a.sample(ctx)
			a.save()
		case <-timer.C:
		}
		timer.Stop()
		now := time.Now()
		if clock.set(now) {
			a.log.Warn("the clock was set: this hour's counters have a gap")
			a.book.Gap()
		}
		if !now.Before(end) || clock.back {
			a.readCounters(ctx, end, now)
			a.close()
		}
	}
}

// readCounters takes what has passed until now into the ledger. At the end of a period that belongs to the period; the moment since is less
// than the time between two readings, most of which would be counted to the next one otherwise.
func (a *accounting) readCounters(ctx context.Context, end, now time.Time) {
	if late := now.Sub(end); late >= 0 && late < time.Second {
		now = end.Add(-time.Millisecond)
	}
	rctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	table := a.n.links.Measure(rctx)
	a.n.meters.ledger.Record(now, counting{a.n}.read(table))
}

func (a *accounting) close() {
	now := time.Now()
	if err := a.book.Close(now, a.totals(), a.n.control.Skew()); err != nil {
		a.log.Error("could not sign what was counted", "err", err)
	}
	a.save()
}

func (a *accounting) save() {
	if err := a.book.Save(time.Now()); err != nil {
		a.log.Warn("could not write down statements of usage; trying again", "err", err)
	}
}

// sample takes over what the links' probes have found. The shortest window is as long as the time between two samples, or longer.
func (a *accounting) sample(ctx context.Context) {
	rctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for id, l := range a.n.links.Snapshot(rctx) {
		if l.State == links.Connected {
			a.book.Probed(id, l.Losses[0].Probes, l.Losses[0].Lost)
		}
	}
}

// send carries a statement in the background.
func (a *accounting) send(ctx context.Context, s usage.Send) {
	a.wg.Go(func() { // run waits
		select {
		case a.slots <- struct{}{}:
			defer func() { <-a.slots }()
		case <-ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(ctx, usageSendFor)
		defer cancel()
		err := a.n.signal.Send(ctx, s.To, &wire.Signal{Boot: a.n.boot, Body: &wire.Signal_Usage{Usage: s.Usage}})
		if err != nil {
			a.log.Debug("a statement of usage could not be delivered; it is tried again for a day", "to", s.To.Short(), "err", err)
			return
		}
		a.book.Sent(s)
	})
}

// received takes a peer's statement. It runs in signalling's goroutine and does not block.
func (a *accounting) received(from mesh.NodeID, u *wire.SignedUsage) {
	before := a.book.Disputes(from)
	answer, err := a.book.Received(from, u, time.Now())
	if err != nil {
		a.log.Warn("a peer's statement of usage is not accepted", "from", memberName(a.n.dir.View(), from), "err", err)
	} else if !before && a.book.Disputes(from) {
		a.log.Warn("a peer's counters differ from ours; see `gridwire usage`", "peer", memberName(a.n.dir.View(), from))
	}
	if answer == nil {
		return
	}
	select {
	case a.replies <- usage.Send{To: from, Usage: answer, Period: -1}:
	default: // it asks again
	}
}

// clock notices when the wall clock is set.
type clock struct {
	start, last time.Time
	back        bool // it was set back
}

func newClock(now time.Time) *clock { return &clock{start: now, last: now} }

func (c *clock) set(now time.Time) bool {
	ahead := func(t time.Time) time.Duration { return t.Round(0).Sub(c.start.Round(0)) - t.Sub(c.start) }
	step := ahead(now) - ahead(c.last)
	c.last, c.back = now, step < -clockStep
	return step.Abs() > clockStep
}

// usageWarnings names the members with whom this node does not agree on what their link carried.
func (n report) usageWarnings(view *mesh.View) []string {
	var names []string
	for id, disputed := range n.usage.book.Disputed() {
		if disputed {
			names = append(names, memberName(view, id))
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return []string{fmt.Sprintf("for an hour of the last day, this node's traffic counters and those of %s differ, or it refused to sign; gridwire usage, here and there, shows who says what",
		strings.Join(names, ", "))}
}

// usageReport answers `gridwire usage`.
func (n report) usageReport(_ context.Context, q api.UsageRequest) (*usage.Report, error) {
	now := time.Now()
	n.meters.ledger.Record(now, counting(n).readings(context.Background()))
	u, err := n.meters.ledger.Usage(q.Since, now)
	if err != nil {
		n.log.Warn("some of what was counted cannot be read", "err", err)
	}
	me := n.membership.Load()
	r := &usage.Report{
		Network: usage.ReportNetwork{Name: string(n.root.Network.Name), ID: n.root.Network.ID.String(), Root: n.root.Cert.Raw},
		Node:    usage.ReportNode{Name: memberName(n.dir.View(), me.ID()), ID: me.ID().String()}, From: u.From, To: u.To,
		Peers: []usage.ReportRow{}, Workloads: []usage.ReportRow{}, Gaps: u.Gaps,
	}
	for _, t := range u.Rows {
		row := usage.ReportRow{
			Name: t.Name, ReceiveBytes: t.ReceiveBytes, TransmitBytes: t.TransmitBytes, ReceivePackets: t.ReceivePackets, TransmitPackets: t.TransmitPackets,
		}
		if t.Key.Kind == ledger.Workload {
			r.Workloads = append(r.Workloads, row)
			continue
		}
		row.ID = t.Key.ID
		r.Peers = append(r.Peers, row)
	}
	if err := n.usage.book.Report(r, now); err != nil {
		return nil, fmt.Errorf("reading the statements of usage: %w", err)
	}
	return r, nil
}
