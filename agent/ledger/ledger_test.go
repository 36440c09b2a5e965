package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// disk is a state folder in memory. It fails while full is set.
type disk struct {
	mu    sync.Mutex // guards all: the clock of synctest orders nothing
	files map[string][]byte
	full  bool
	caps  map[string]int // writes by name
}

func newDisk() *disk { return &disk{files: map[string][]byte{}, caps: map[string]int{}} }

func (d *disk) Read(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.files[name]
	if !ok {
		return nil, fmt.Errorf("reading %s: %w", name, fs.ErrNotExist)
	}
	return b, nil
}

func (d *disk) Write(name string, b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return errors.New("no space left on device")
	}
	d.caps[name]++
	d.files[name] = slices.Clone(b)
	return nil
}

func (d *disk) ReadCache(name string) ([]byte, error)     { return d.Read(name) }
func (d *disk) WriteCache(name string, data []byte) error { return d.Write(name, data) }
func (d *disk) Remove(name string) error                  { delete(d.files, name); return nil }

func (d *disk) copy() *disk { return &disk{files: maps.Clone(d.files), caps: map[string]int{}} }

var quiet = slog.New(slog.DiscardHandler)

var start = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

var bob = Key{Peer, "02"}

func read(k Key, epoch, n uint64) []Reading {
	return []Reading{{Key: k, Name: "bob", Epoch: epoch, Counters: Counters{n, 2 * n, 3 * n, 4 * n}}}
}

func want(t *testing.T, got Counters, n uint64) {
	t.Helper()
	if got != (Counters{n, 2 * n, 3 * n, 4 * n}) {
		t.Errorf("counted %+v, want %d and its multiples", got, n)
	}
}

func flush(t *testing.T, l *Ledger, now time.Time, orderly bool) {
	t.Helper()
	if err := l.flush(now, orderly); err != nil {
		t.Fatal(err)
	}
}

func TestCountersGoOnAfterARestart(t *testing.T) {
	d := newDisk()
	l := Open(d, start, quiet)
	l.Record(start, read(bob, 1, 100))
	l.Record(start.Add(10*time.Second), read(bob, 1, 150))
	want(t, l.Total(bob).Counters, 150)
	flush(t, l, start.Add(10*time.Second), true)

	l = Open(d, start.Add(time.Minute), quiet)
	want(t, l.Total(bob).Counters, 150)
	l.Record(start.Add(time.Minute), read(bob, 2, 7)) // another run counts from zero, whether it has counted more or less
	want(t, l.Total(bob).Counters, 157)
	l.Record(start.Add(time.Minute), read(bob, 2, 1007))
	want(t, l.Total(bob).Counters, 1157)
	l.Record(start.Add(time.Minute), read(bob, 2, 3)) // and so does a counter that falls
	want(t, l.Total(bob).Counters, 1160)
	nameless := read(bob, 2, 3)
	nameless[0].Name = ""
	l.Record(start.Add(time.Minute), nameless)
	if got := l.Total(bob); got.Since != start || got.Name != "bob" {
		t.Errorf("%+v", got)
	}
	gaps := l.Gaps(start)
	if len(gaps) != 1 || !gaps[0].Orderly || gaps[0].From != start.Add(10*time.Second) || gaps[0].To != start.Add(time.Minute) {
		t.Errorf("gaps %+v", gaps)
	}
}

// TestACountThatSurvivesTheAgentHasNoHole: the system's own counters go on while the agent is off; their epoch stays.
func TestACountThatSurvivesTheAgentHasNoHole(t *testing.T) {
	d := newDisk()
	l := Open(d, start, quiet)
	l.Record(start, read(bob, 9, 100))
	flush(t, l, start, false)
	l = Open(d, start.Add(time.Hour), quiet)
	l.Record(start.Add(time.Hour), read(bob, 9, 130))
	want(t, l.Total(bob).Counters, 130)
}

// TestACounterThatEnds: a member that is put out and comes back in the same run is counted from zero, however much it carries at once.
func TestACounterThatEnds(t *testing.T) {
	l := Open(newDisk(), start, quiet)
	l.Record(start, read(bob, 1, 100))
	last := read(bob, 1, 110)
	last[0].Final = true
	l.Record(start, last)
	l.Record(start, read(bob, 1, 500))
	want(t, l.Total(bob).Counters, 610)
}

func TestACrashIsAGap(t *testing.T) {
	d := newDisk()
	l := Open(d, start, quiet)
	l.Record(start, read(bob, 1, 100))
	flush(t, l, start, false)
	l.Record(start.Add(9*time.Second), read(bob, 1, 190)) // lost: it crashes now
	l = Open(d, start.Add(20*time.Second), quiet)
	want(t, l.Total(bob).Counters, 100)
	gaps := l.Gaps(start)
	if len(gaps) != 1 || gaps[0].Orderly || gaps[0].From != start || gaps[0].To != start.Add(20*time.Second) {
		t.Errorf("gaps %+v", gaps)
	}
	if len(l.Gaps(start.Add(time.Minute))) != 0 {
		t.Error("a gap is shown to who asks for a later time")
	}
}

// TestHoursAddUp runs for two months with restarts, crashes in the worst places and a clock that is set back, against plain sums.
func TestHoursAddUp(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	d, now := newDisk(), start
	l := Open(d, now, quiet)
	var run, epoch, all uint64 = 0, 1, 0
	type step struct {
		at time.Time
		n  uint64
	}
	var steps []step
	for range 3000 {
		now = now.Add(time.Duration(rnd.IntN(50)) * time.Minute)
		n := rnd.Uint64N(1000)
		run, all = run+n, all+n
		l.Record(now, read(bob, epoch, run))
		steps = append(steps, step{now, n})
		switch rnd.IntN(20) {
		case 0: // nothing is written for a while
			continue
		case 1: // a crash after the days' files and before the state
			flush(t, l, now, false)
			now = now.Add(70 * time.Minute)
			torn := d.copy()
			l.Record(now, read(bob, epoch, run))
			flush(t, l, now, false)
			for name, b := range d.files {
				if strings.HasPrefix(name, "ledger-") {
					torn.files[name] = b
				}
			}
			d = torn
			l, epoch, run = Open(d, now, quiet), epoch+1, 0
		case 2:
			flush(t, l, now, true)
			l, epoch, run = Open(d, now, quiet), epoch+1, 0
		default:
			flush(t, l, now, false)
		}
	}
	flush(t, l, now, false)
	want(t, l.Total(bob).Counters, all)
	for _, back := range []time.Duration{0, time.Hour, 26 * time.Hour, 20 * 24 * time.Hour, 40 * 24 * time.Hour} {
		from := now.Add(-back)
		u, err := l.Usage(from, now)
		if err != nil {
			t.Fatal(err)
		}
		var sum uint64
		for _, s := range steps {
			if hourOf(s.at) >= hourOf(from) {
				sum += s.n
			}
		}
		var got Counters
		for _, r := range u.Rows {
			got = got.plus(r.Counters)
		}
		t.Logf("since %v: %d", back, sum)
		want(t, got, sum)
	}
	days := 0
	for name, b := range d.files {
		if strings.HasPrefix(name, "ledger-") {
			days++
			if len(b) > 2000 {
				t.Errorf("%s has %d bytes for one peer", name, len(b))
			}
		}
	}
	if days < 40 || days > keepDays+1 {
		t.Errorf("%d days are kept, want %d", days, keepDays)
	}
}

func TestTheClockIsSetBack(t *testing.T) {
	d := newDisk()
	l := Open(d, start, quiet)
	l.Record(start, read(bob, 1, 10))
	l.Record(start.Add(5*time.Hour), read(bob, 1, 30))
	flush(t, l, start.Add(5*time.Hour), false)
	l.Record(start.Add(time.Minute), read(bob, 1, 70)) // the first hour again
	l.Record(start.Add(6*time.Hour), read(bob, 1, 150))
	flush(t, l, start.Add(6*time.Hour), false)
	var got []string
	if err := l.Hours(start, func(h Hour) bool {
		got = append(got, fmt.Sprint(h.Start.Hour(), ":", h.Rows[bob].ReceiveBytes))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if s := strings.Join(got, " "); s != "10:50 15:20 16:80" {
		t.Errorf("hours %s", s)
	}
}

func TestDamageIsGivenUpAndSaid(t *testing.T) {
	d := newDisk()
	l := Open(d, start, quiet)
	l.Record(start, read(bob, 1, 100))
	l.Record(start.Add(2*time.Hour), read(bob, 1, 101))
	flush(t, l, start.Add(2*time.Hour), false)
	l.Record(start.Add(2*time.Hour), read(bob, 1, 500))
	flush(t, l, start.Add(2*time.Hour+time.Minute), false)
	delete(d.files, stateFile) // as ReadCache does with a torn one
	l = Open(d, start.Add(3*time.Hour), quiet)
	want(t, l.Total(bob).Counters, 101) // of the last hour that was written durably
	if g := l.Gaps(start); len(g) != 1 || g[0].From != start.Add(2*time.Hour) {
		t.Errorf("gaps %+v: want one from the durable state on", g)
	}
	for _, bad := range []string{"", "{", `{"version":2}`, `[]`, "null"} {
		d.files[stateFile], d.files[hourFile] = []byte(bad), []byte(bad)
		l = Open(d, start.Add(3*time.Hour), quiet)
		want(t, l.Total(bob).Counters, 0)
		u, err := l.Usage(start, start.Add(3*time.Hour)) // the days' files are found again
		if err != nil || len(u.Rows) != 1 || u.Rows[0].Name != "bob" {
			t.Errorf("state %q: usage %+v, %v", bad, u, err)
		}
	}
	for _, bad := range []string{"{", `{"version":1,"hours":{"495106":[[1,1,1,1,1]]}}`, `{"version":2}`} {
		d.files["ledger-20261120"] = []byte(bad)
		if _, err := l.Usage(start, start.Add(time.Hour)); err == nil {
			t.Errorf("day %q is believed", bad)
		}
	}
}

func TestRowsThatNobodyCountsAreForgotten(t *testing.T) {
	l := Open(newDisk(), start, quiet)
	for i := range maxEntries + 500 {
		l.Record(start.Add(time.Duration(i)*time.Millisecond), read(Key{Workload, fmt.Sprint(i)}, 1, 1))
	}
	flush(t, l, start.Add(time.Minute), false)
	if n := len(l.Totals()); n != maxEntries {
		t.Errorf("%d rows, want at most %d", n, maxEntries)
	}
	if l.Total(Key{Workload, "0"}).Since != (time.Time{}) {
		t.Error("the oldest row was kept")
	}
	flush(t, l, start.Add((keepDays+1)*24*time.Hour), false)
	if n := len(l.Totals()); n != 0 {
		t.Errorf("%d rows that nobody has counted for %d days", n, keepDays)
	}
}

func TestRunFlushesEvery10SecondsAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		l := Open(d, time.Now(), quiet)
		ctx, cancel := context.WithCancel(t.Context())
		n := uint64(0)
		done := make(chan error)
		go func() {
			done <- l.Run(ctx, func(context.Context) []Reading {
				d.mu.Lock()
				defer d.mu.Unlock()
				n += 5
				return read(bob, 1, n)
			})
		}()
		time.Sleep(31 * time.Second)
		synctest.Wait()
		d.mu.Lock()
		if got := d.caps[stateFile]; got != 4 { // the first says that this run is on
			t.Errorf("%d flushes in 31 s", got)
		}
		d.full = true
		d.mu.Unlock()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if _, flushed := l.Since(); time.Since(flushed) < 20*time.Second {
			t.Error("a flush that failed counts")
		}
		d.mu.Lock()
		d.full = false
		d.mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		var s fileState
		if err := json.Unmarshal(d.files[stateFile], &s); err != nil || !s.Orderly || s.Entries[0].Total[0] != n || n != 30 {
			t.Errorf("after the end: %+v, %v, want %d", s, err, n)
		}
	})
}

func TestIdleCountersCostFewWrites(t *testing.T) {
	d := newDisk()
	l := Open(d, start, quiet)
	for i := range 360 { // an hour
		now := start.Add(time.Duration(i) * flushEvery)
		l.Record(now, read(bob, 1, 5))
		flush(t, l, now, false)
	}
	if got := d.caps[stateFile]; got > 61 {
		t.Errorf("%d writes in an hour in which nothing was counted", got)
	}
}
