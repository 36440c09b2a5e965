// Package history remembers the last 24 hours of every link, minute by minute: round trip times, loss, traffic, state and path. So status and
// the page can show what happened before anybody looked.
//
//	links, once a minute -> Record -> blocks of an hour in memory -> every 5 minutes: disk
//
// A minute takes 14 bytes, a peer's day 21 kB, 300 peers 6.4 MB; more than maxPeers have none. It owns the files history-00 to history-23 of
// the state folder, one for each hour of the day, so that an hour that is over is never written again. They are caches: a torn one is an hour
// without history. It judges nothing.
package history

import (
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
)

const (
	// Span is for how long a link is remembered.
	Span = 24 * time.Hour
	// Step is what a sample is of.
	Step     = time.Minute
	perHour  = 60
	hours    = 24
	maxPeers = 512 // that are remembered of an hour: 10.7 MB
	rowSize  = 14  // bytes, see row
)

// Sample is one minute of a link. RTTs are zero where no probe was answered.
type Sample struct {
	Start            time.Time
	State            links.State // at its end
	Path             string      // direct, relay or none, at its end
	Interrupted      bool        // the link was lost in it, perhaps for a moment
	Min, Avg, Max    time.Duration
	Probes, Lost     int // at most 255
	RxBytes, TxBytes uint64
}

// Reading is a link when a minute is over. Bytes are counted since the agent was started.
type Reading struct {
	Peer             mesh.NodeID
	State            links.State
	Path             string
	Minute           links.Minute // of that minute; another one: nothing was measured in it
	RxBytes, TxBytes uint64
}

// Store is the state folder (mesh/store): caches only.
type Store interface {
	ReadCache(name string) ([]byte, error)
	WriteCache(name string, data []byte) error
}

// History is made by Open.
type History struct {
	store Store
	log   *slog.Logger

	mu     sync.Mutex // guards the rest; never held while the disk is used
	blocks map[int64]map[mesh.NodeID]*block
	bytes  map[mesh.NodeID][2]uint64 // of the last reading
}

// block is an hour of one link.
type block [perHour]row

// row is a minute, packed: RTTs and bytes by their logarithm, in steps of 0.04 and 0.07 %.
type row struct {
	min, avg, max uint16
	rx, tx        uint16
	probes, lost  uint8
	flags         uint8
	_             uint8
}

// What flags say: a state, a path, and that the row is there at all.
const (
	flagThere       = 1
	flagInterrupted = 2
	stateShift      = 2
	pathShift       = 4
	twoBits         = 3
)

var (
	states = [4]links.State{links.Unreachable, links.Connecting, links.Idle, links.Connected}
	paths  = [4]string{"none", "direct", "relay", ""}
)

func index[T comparable](in [4]T, v T) uint8 {
	for i, x := range in {
		if x == v {
			return uint8(i)
		}
	}
	return 0
}

// log16 keeps a number of at least 1 with the same relative precision everywhere; k is how many steps there are for a factor of 2.
func log16(v, k float64) uint16 {
	if v < 1 {
		return 0
	}
	return uint16(min(1+math.Round(math.Log2(v)*k), math.MaxUint16))
}

func exp16(c uint16, k float64) float64 {
	if c == 0 {
		return 0
	}
	return math.Exp2(float64(c-1) / k)
}

const (
	rttSteps  = 1638 // up to 2^40 ns, 18 minutes
	byteSteps = 1023 // up to 2^64
)

func packRTT(d time.Duration) uint16   { return log16(float64(d), rttSteps) }
func unpackRTT(c uint16) time.Duration { return time.Duration(math.Round(exp16(c, rttSteps))) }
func packBytes(n uint64) uint16        { return log16(float64(n), byteSteps) }

func unpackBytes(c uint16) uint64 {
	if f := math.Round(exp16(c, byteSteps)); f < math.MaxUint64 {
		return uint64(f)
	}
	return math.MaxUint64
}

func (r row) sample(start time.Time) Sample {
	return Sample{
		Start: start, State: states[r.flags>>stateShift&twoBits], Path: paths[r.flags>>pathShift&twoBits], Interrupted: r.flags&flagInterrupted != 0,
		Min: unpackRTT(r.min), Avg: unpackRTT(r.avg), Max: unpackRTT(r.max), Probes: int(r.probes), Lost: int(r.lost),
		RxBytes: unpackBytes(r.rx), TxBytes: unpackBytes(r.tx),
	}
}

// Record takes what links were like in the minute of that number (since 1970), which is over.
func (h *History) Record(minute int64, readings []Reading) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hour := minute / perHour
	h.forget(hour)
	at := h.blocks[hour]
	if at == nil {
		at = map[mesh.NodeID]*block{}
		h.blocks[hour] = at
	}
	seen := make(map[mesh.NodeID][2]uint64, len(readings))
	for _, r := range readings {
		before, now := h.bytes[r.Peer], [2]uint64{r.RxBytes, r.TxBytes}
		if now[0] < before[0] || now[1] < before[1] {
			before = [2]uint64{}
		}
		seen[r.Peer] = now
		b := at[r.Peer]
		if b == nil {
			if len(at) >= maxPeers {
				continue
			}
			b = new(block)
			at[r.Peer] = b
		}
		slot := &b[minute%perHour]
		*slot = r.row(minute, now[0]-before[0], now[1]-before[1]).and(*slot)
	}
	h.bytes = seen
}

func (r Reading) row(minute int64, rx, tx uint64) row {
	out := row{flags: flagThere | index(states, r.State)<<stateShift | index(paths, r.Path)<<pathShift, rx: packBytes(rx), tx: packBytes(tx)}
	m := r.Minute
	if m.Number != minute {
		return out
	}
	if m.Down {
		out.flags |= flagInterrupted
	}
	out.probes, out.lost = uint8(min(m.Answered+m.Lost, 255)), uint8(min(m.Lost, 255))
	if m.Answered > 0 {
		out.min, out.avg, out.max = packRTT(m.Min), packRTT(m.Sum/time.Duration(m.Answered)), packRTT(m.Max)
	}
	return out
}

// and adds what another run of the agent has recorded of the same minute, before this one.
func (r row) and(before row) row {
	if before.flags&flagThere == 0 {
		return r
	}
	switch answered, earlier := float64(r.probes-r.lost), float64(before.probes-before.lost); {
	case earlier == 0:
	case answered == 0:
		r.min, r.avg, r.max = before.min, before.avg, before.max
	default:
		r.min, r.max = min(r.min, before.min), max(r.max, before.max)
		r.avg = packRTT(time.Duration((float64(unpackRTT(r.avg))*answered + float64(unpackRTT(before.avg))*earlier) / (answered + earlier)))
	}
	r.probes, r.lost = uint8(min(int(r.probes)+int(before.probes), 255)), uint8(min(int(r.lost)+int(before.lost), 255))
	r.rx, r.tx = packBytes(unpackBytes(r.rx)+unpackBytes(before.rx)), packBytes(unpackBytes(r.tx)+unpackBytes(before.tx))
	r.flags |= before.flags & flagInterrupted
	return r
}

// forget drops what is older than Span, and what is of the future: the clock was wrong then.
func (h *History) forget(hour int64) {
	for at := range h.blocks {
		if at <= hour-hours-1 || at > hour {
			delete(h.blocks, at)
		}
	}
}

// Samples returns what is known of a link in the last span of time, at most Span, oldest first. Minutes of which nothing is known, because no
// agent ran or the peer was no member, are not there.
func (h *History) Samples(peer mesh.NodeID, span time.Duration, now time.Time) []Sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := []Sample{}
	end := now.Unix() / 60
	for m := end - int64(min(span, Span)/Step); m <= end; m++ {
		b := h.blocks[m/perHour][peer]
		if b == nil {
			continue
		}
		if r := b[m%perHour]; r.flags&flagThere != 0 {
			out = append(out, r.sample(time.Unix(m*60, 0).UTC()))
		}
	}
	return out
}
