package agent

import (
	"context"
	"net/netip"
	"time"

	"github.com/gridwire/gridwire/agent/history"
	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/agent/meter"
	"github.com/gridwire/gridwire/mesh"
)

// meters are what this node counts of its traffic and remembers of its links, over all its starts.
type meters struct {
	started time.Time
	ledger  *ledger.Ledger
	history *history.History
}

func newMeters(n *node) *meters {
	now := time.Now()
	return &meters{
		started: now, ledger: ledger.Open(n.store, now, n.log.With("part", "ledger")), history: history.Open(n.store, now, n.log.With("part", "history")),
	}
}

// counting fills the ledger.
type counting struct{ *node }

// run keeps the ledger until ctx ends.
func (n counting) run(ctx context.Context) error { return n.meters.ledger.Run(ctx, n.readings) }

// viewed has this node's own workloads counted.
func (n counting) viewed(v *mesh.View) {
	own := map[mesh.Name][]netip.Addr{}
	if me, ok := v.Me(); ok {
		for _, w := range me.Workloads {
			own[w.Name] = w.Addrs
		}
	}
	n.base.tun.Meter().SetWorkloads(own)
}

// gone takes the last of what a link has carried: its peer was put out, or has left.
func (n counting) gone(g links.Gone) {
	last := n.reading(g.Peer, "", g.Volume)
	last.Final = true
	n.meters.ledger.Record(time.Now(), []ledger.Reading{last})
}

// reading is a peer's counters; an empty name leaves the one that the ledger has.
func (n counting) reading(id mesh.NodeID, name mesh.Name, v links.Volume) ledger.Reading {
	return ledger.Reading{
		Key: ledger.PeerKey(id), Name: string(name), Epoch: n.boot,
		Counters: ledger.Counters{ReceiveBytes: v.RxBytes, TransmitBytes: v.TxBytes, ReceivePackets: v.RxPackets, TransmitPackets: v.TxPackets},
	}
}

// readings are the counters as they are now.
func (n counting) readings(ctx context.Context) []ledger.Reading {
	return n.read(n.links.Snapshot(ctx))
}

// read makes readings of a snapshot.
func (n counting) read(table map[mesh.NodeID]links.Status) []ledger.Reading {
	out := make([]ledger.Reading, 0, len(table))
	view := n.dir.View()
	for id, l := range table {
		m, ok := view.Member(id)
		if !ok {
			continue // put out just now
		}
		out = append(out, n.reading(id, m.Name, l.Volume))
	}
	n.base.tun.Meter().Workloads(func(name mesh.Name, c meter.Count) {
		out = append(out, ledger.Reading{
			// A workload that was removed and comes back is counted from zero.
			Key: ledger.WorkloadKey(name), Name: string(name), Epoch: n.boot + c.Life,
			Counters: ledger.Counters{ReceiveBytes: c.RxBytes, TransmitBytes: c.TxBytes, ReceivePackets: c.RxPackets, TransmitPackets: c.TxPackets},
		})
	})
	return out
}
