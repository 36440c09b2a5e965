package agent

import (
	"context"
	"time"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
)

// meters are what this node counts of its traffic, over all its starts.
type meters struct {
	ledger *ledger.Ledger
}

func newMeters(n *node) *meters {
	return &meters{ledger: ledger.Open(n.store, time.Now(), n.log.With("part", "ledger"))}
}

// counting fills the ledger.
type counting struct{ *node }

// run keeps the ledger until ctx ends.
func (n counting) run(ctx context.Context) error { return n.meters.ledger.Run(ctx, n.readings) }

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
		out = append(out, ledger.Reading{
			Key: ledger.PeerKey(id), Name: string(m.Name), Epoch: n.boot, Counters: ledger.Counters{ReceiveBytes: l.RxBytes, TransmitBytes: l.TxBytes},
		})
	}
	return out
}
