// Package ledger keeps counters that go on where they were when the agent starts again: bytes and packets by peer and by workload, both
// ways, since the first start and by the hour.
//
//	what counts (tunnel, meter) -> Record -> totals, this hour -> every 10 s: disk
//
// Those who count begin at zero with each run; a Reading says in which run it was taken, so that the ledger can tell a new start from what
// has grown. What it has on disk is never more than flushEvery old, and the time between the last flush and the next start is a Gap that
// everybody can see: after an orderly stop nothing is missing from it, after a crash up to flushEvery of traffic is.
//
// It owns the files ledger, ledger.hour and ledger-YYYYMMDD (a day's hours, UTC) of the state folder, and decides nothing about what the
// numbers mean. All methods may be called from any goroutine; only Run touches the disk for writing.
package ledger

import (
	"log/slog"
	"sync"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

const (
	flushEvery = 10 * time.Second // how much a crash may lose
	restEvery  = time.Minute      // between flushes while nothing is counted
	// keepDays is for how long hours are kept: more than a month and the days in which its bill is disputed.
	keepDays = 45
	maxGaps  = 1000
	// clockStep is by how many hours a clock may be set back before that is taken seriously.
	clockStep = 2
	// maxEntries bounds what names that come and go (short-lived workloads) take: 6 MB.
	maxEntries = 20_000
)

// Counters are bytes and packets, both ways, as this node sees them.
type Counters struct {
	ReceiveBytes, TransmitBytes     uint64
	ReceivePackets, TransmitPackets uint64
}

func (c Counters) plus(d Counters) Counters {
	return Counters{
		c.ReceiveBytes + d.ReceiveBytes, c.TransmitBytes + d.TransmitBytes,
		c.ReceivePackets + d.ReceivePackets, c.TransmitPackets + d.TransmitPackets,
	}
}

func (c Counters) larger(d Counters) Counters {
	return Counters{
		max(c.ReceiveBytes, d.ReceiveBytes), max(c.TransmitBytes, d.TransmitBytes),
		max(c.ReceivePackets, d.ReceivePackets), max(c.TransmitPackets, d.TransmitPackets),
	}
}

// grown returns what was added since before; false: at least one of them fell, so counting began anew.
func (c Counters) grown(before Counters) (Counters, bool) {
	if c.ReceiveBytes < before.ReceiveBytes || c.TransmitBytes < before.TransmitBytes ||
		c.ReceivePackets < before.ReceivePackets || c.TransmitPackets < before.TransmitPackets {
		return c, false
	}
	return Counters{
		c.ReceiveBytes - before.ReceiveBytes, c.TransmitBytes - before.TransmitBytes,
		c.ReceivePackets - before.ReceivePackets, c.TransmitPackets - before.TransmitPackets,
	}, true
}

// Kind is what a row is about.
type Kind string

// The kinds of rows.
const (
	Peer     Kind = "peer"     // traffic through the tunnel with one member, WireGuard's overhead included in the bytes
	Workload Kind = "workload" // traffic of one workload of this node through the tunnel, IP headers included
)

// Key names a row. ID is a peer's node ID, which stays when its name changes, or a workload's name.
type Key struct {
	Kind Kind
	ID   string
}

// PeerKey returns the key of a member's row.
func PeerKey(id mesh.NodeID) Key { return Key{Peer, id.String()} }

// WorkloadKey returns the key of a workload's row.
func WorkloadKey(name mesh.Name) Key { return Key{Workload, string(name)} }

// Reading is a counter as it is now. Epoch names the run in which it was zero at first (the agent's boot number).
type Reading struct {
	Key   Key
	Name  string // for people; empty: the one that is known already
	Epoch uint64
	Final bool // this counter ends here; should there be another one in this run, it begins at zero
	Counters
}

// Total is a row of the ledger: everything since Since, when it was first counted.
type Total struct {
	Key   Key
	Name  string // the newest
	Since time.Time
	Counters
}

// Gap is a time in which nothing was counted because no agent ran. Orderly: the agent had stopped by itself and everything before From is
// counted. Otherwise what passed in the moments after From (flushEvery, or since the last time the disk took anything) is missing.
type Gap struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Orderly bool      `json:"orderly"`
}

// Store is the state folder (mesh/store).
type Store interface {
	Read(name string) ([]byte, error)
	Write(name string, data []byte) error // durable
	ReadCache(name string) ([]byte, error)
	WriteCache(name string, data []byte) error // a power cut may tear it; ReadCache notices
	Remove(name string) error
}

// Ledger is the open ledger.
type Ledger struct {
	store Store
	log   *slog.Logger

	mu      sync.Mutex // guards everything below; never held while the disk is used
	since   time.Time
	entries map[Key]*entry
	hour    int64                      // of the rows that grow, since 1970
	closed  map[int64]map[Key]Counters // hours that are over and not yet in their day's file
	// recovered says that closed was found in the state at the start.
	recovered bool
	days      map[int64]bool // of which there is a file
	gaps      []Gap
	flushed   time.Time
	changed   bool
}

type entry struct {
	name        string
	since, seen time.Time
	epoch       uint64
	last        Counters // the newest reading
	total, hour Counters
}

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }
func dayOf(hour int64) int64   { return hour / 24 }

// Record takes readings into account. It is cheap and does not touch the disk: whoever shows totals records first, so that they are of now.
func (l *Ledger) Record(now time.Time, readings []Reading) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if hour := hourOf(now); hour > l.hour || l.hour-hour > clockStep {
		l.turn(hour)
	}
	for _, r := range readings {
		e, ok := l.entries[r.Key]
		if !ok {
			e = &entry{since: now, epoch: r.Epoch}
			l.entries[r.Key] = e
		}
		delta := r.Counters
		if e.epoch == r.Epoch {
			delta, _ = r.Counters.grown(e.last)
		}
		if delta != (Counters{}) {
			l.changed = true
		}
		if r.Name != "" {
			e.name = r.Name
		}
		e.epoch, e.last, e.seen = r.Epoch, r.Counters, now
		if r.Final {
			e.last = Counters{}
		}
		e.total, e.hour = e.total.plus(delta), e.hour.plus(delta)
	}
}

// turn closes the hour. The clock may also have been set back: by little, and the hour goes on; by more, and an earlier one grows again.
func (l *Ledger) turn(hour int64) {
	rows := map[Key]Counters{}
	for k, e := range l.entries {
		if e.hour != (Counters{}) {
			rows[k] = e.hour
		}
		e.hour = Counters{}
	}
	if len(rows) > 0 {
		l.add(l.hour, rows)
	}
	l.hour = hour
}

// add puts rows to what waits to be written of an hour.
func (l *Ledger) add(hour int64, rows map[Key]Counters) {
	if l.closed[hour] == nil {
		l.closed[hour] = rows
		return
	}
	for k, c := range rows {
		l.closed[hour][k] = l.closed[hour][k].plus(c)
	}
}

// Totals returns every row, in no order.
func (l *Ledger) Totals() []Total {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Total, 0, len(l.entries))
	for k, e := range l.entries {
		out = append(out, Total{Key: k, Name: e.name, Since: e.since, Counters: e.total})
	}
	return out
}

// Total returns one row; the zero value if there is none.
func (l *Ledger) Total(k Key) Total {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.entries[k]
	if !ok {
		return Total{Key: k}
	}
	return Total{Key: k, Name: e.name, Since: e.since, Counters: e.total}
}

// Since returns when counting began on this machine, and the time of the last flush: what is on disk is of then.
func (l *Ledger) Since() (began, flushed time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since, l.flushed
}

// Gaps returns the gaps that end after t, oldest first.
func (l *Ledger) Gaps(t time.Time) []Gap {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []Gap{}
	for _, g := range l.gaps {
		if g.To.After(t) {
			out = append(out, g)
		}
	}
	return out
}
