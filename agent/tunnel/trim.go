package tunnel

import (
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	trimInterval = RestInterval
	// trimQuiet is how long traffic must have been low before memory is given back: long enough for a pause between two downloads,
	// because getting 150 MB back from the system, page by page, costs 2 % of the processor time of the seconds that follow (measured).
	trimQuiet = 10 * time.Second
	// trimFloor in packets per second: below it the buffer pools do not grow beyond what an idle device holds.
	trimFloor = 2000
	// trimDrop is the part of its peak below which traffic counts as low. Relative, so that a steady small stream after a big one
	// does not keep the big one's memory.
	trimDrop = 8
	// settleAfter is when the memory that the start took is given back: keys, certificates and first sessions are made by then.
	settleAfter = 30 * time.Second
	// quietGC is the garbage collector's percentage (GOGC) while there is little traffic. The device's buffers count as 25 MB of heap, though
	// hardly any of that is ever touched, so at the usual 100 % an idle process would collect another 30 MB of garbage, which is touched.
	// Under load it is 100: each collection empties the buffer pools.
	quietGC = 20
	busyGC  = 100
)

// trimmer decides when to give memory back. wireguard-go takes its 64 KiB packet buffers from sync.Pools without a bound, so a burst
// leaves 150 MB and more behind, and an idle process runs the garbage collector only each two minutes. Bounding the pools or setting a
// memory limit costs throughput (measured: half); cleaning up once after the burst costs none.
type trimmer struct {
	last       uint64 // packets counted at lastAt
	lastAt     time.Time
	peak       float64 // highest packets per second since the last trim
	quietSince time.Time
}

// RestInterval is between two looks at what an idle agent looks at now and then, and NextRest says when the next one is: at a full interval of
// the clock, so that all of them come in the same moment, because it is waking up that costs.
const RestInterval = 2 * time.Second

// NextRest returns the first full interval of the clock after now.
func NextRest(now time.Time) time.Time { return now.Truncate(RestInterval).Add(RestInterval) }

// step takes the count of packets so far and reports whether to trim now.
func (t *trimmer) step(packets uint64, now time.Time) bool {
	elapsed := now.Sub(t.lastAt).Seconds()
	started := !t.lastAt.IsZero()
	rate := float64(packets-t.last) / elapsed
	t.last, t.lastAt = packets, now
	if !started || elapsed <= 0 {
		return false
	}
	if rate > t.peak {
		t.peak = rate
	}
	if t.peak < trimFloor || rate > t.peak/trimDrop {
		t.quietSince = time.Time{}
		return false
	}
	if t.quietSince.IsZero() {
		t.quietSince = now
		return false
	}
	if now.Sub(t.quietSince) < trimQuiet {
		return false
	}
	t.peak, t.quietSince = rate, time.Time{}
	return true
}

// busy reports whether there is, or was until a moment ago, enough traffic for the pools to grow.
func (t *trimmer) busy() bool { return t.peak >= trimFloor }

// collector sets the garbage collector's percentage, which belongs to the process, unless its user has set it (GOGC).
type collector struct {
	theirs  bool
	percent int // as set; 0: not yet
	before  int // what it was
}

func newCollector() *collector {
	_, set := os.LookupEnv("GOGC")
	return &collector{theirs: set}
}

func (c *collector) set(percent int) {
	if c.theirs || c.percent == percent {
		return
	}
	old := debug.SetGCPercent(percent)
	if c.percent == 0 {
		c.before = old
	}
	c.percent = percent
}

// restore undoes set.
func (c *collector) restore() {
	if c.percent != 0 {
		debug.SetGCPercent(c.before)
	}
}

// releaseMemory empties all sync.Pools (an object survives one collection in the pool's victim cache, so it takes two; the second is
// FreeOSMemory's) and returns the pages to the system.
func releaseMemory() {
	runtime.GC()
	debug.FreeOSMemory()
}
