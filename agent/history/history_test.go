package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
)

type disk struct {
	mu     sync.Mutex // guards all: the clock of synctest orders nothing
	files  map[string][]byte
	writes map[string]int
	full   bool
}

func newDisk() *disk { return &disk{files: map[string][]byte{}, writes: map[string]int{}} }

func (d *disk) ReadCache(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b, ok := d.files[name]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("reading %s: %w", name, fs.ErrNotExist)
}

func (d *disk) WriteCache(name string, b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return errors.New("no space left on device")
	}
	d.files[name] = slices.Clone(b)
	d.writes[name]++
	return nil
}

var quiet = slog.New(slog.DiscardHandler)

var (
	bob  = mesh.NodeID{2}
	noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
)

// reading is bob's link in the minute of that number: a round trip takes as many milliseconds as the number's last digits, and it carries so
// many bytes a minute.
func reading(minute int64, total uint64) []Reading {
	rtt := time.Duration(minute%100+1) * time.Millisecond
	return []Reading{{
		Peer: bob, State: links.Connected, Path: "direct", RxBytes: total, TxBytes: 2 * total,
		Minute: links.Minute{Number: minute, Min: rtt / 2, Max: 2 * rtt, Sum: 4 * rtt, Answered: 4, Lost: 1, Down: minute%7 == 0},
	}}
}

func about(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > want*0.001 {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestADay(t *testing.T) {
	h := Open(newDisk(), noon, quiet)
	first := noon.Unix() / 60
	total := uint64(0)
	for i := range int64(3 * 24 * 60) {
		total += uint64(i)
		h.Record(first+i, reading(first+i, total))
	}
	now := noon.Add(3*24*time.Hour - time.Second)
	got := h.Samples(bob, 100*Span, now)
	if len(got) < 24*60 || len(got) > 24*60+1 {
		t.Fatalf("%d samples, want a day's", len(got))
	}
	for _, s := range got {
		minute := s.Start.Unix() / 60
		rtt := float64(minute%100+1) * 1e6
		about(t, "average", float64(s.Avg), rtt)
		about(t, "minimum", float64(s.Min), rtt/2)
		about(t, "maximum", float64(s.Max), 2*rtt)
		about(t, "received", float64(s.RxBytes), float64(minute-first))
		about(t, "sent", float64(s.TxBytes), 2*float64(minute-first))
		if s.State != links.Connected || s.Path != "direct" || s.Probes != 5 || s.Lost != 1 || s.Interrupted != (minute%7 == 0) {
			t.Fatalf("%+v", s)
		}
	}
	if got := h.Samples(bob, 10*time.Minute, now); len(got) != 11 {
		t.Errorf("%d samples of 10 minutes, the one that has begun included", len(got))
	}
	if got := h.Samples(mesh.NodeID{9}, Span, now); len(got) != 0 {
		t.Errorf("%d samples of nobody", len(got))
	}
	if len(h.blocks) > hours+1 {
		t.Errorf("%d hours are kept", len(h.blocks))
	}
}

// TestRareValues that links can have.
func TestRareValues(t *testing.T) {
	minute := noon.Unix() / 60
	for name, r := range map[string]Reading{
		"never up":       {Peer: bob, State: links.Unreachable, Path: "none"},
		"just a member":  {Peer: bob},
		"no probes":      {Peer: bob, State: links.Connected, Path: "direct", Minute: links.Minute{Number: minute - 1, Answered: 9, Sum: time.Hour}},
		"all lost":       {Peer: bob, State: links.Connecting, Path: "relay", Minute: links.Minute{Number: minute, Lost: 300}},
		"tiny and large": {Peer: bob, State: links.Idle, RxBytes: 1, TxBytes: math.MaxUint64, Minute: links.Minute{Number: minute, Answered: 1, Min: 1, Sum: 1, Max: time.Hour}},
	} {
		h := Open(newDisk(), noon, quiet)
		h.Record(minute, []Reading{r})
		got := h.Samples(bob, time.Minute, noon)
		if len(got) != 1 {
			t.Fatalf("%s: %d samples", name, len(got))
		}
		s := got[0]
		if r.State != "" && s.State != r.State || r.Path != "" && s.Path != r.Path {
			t.Errorf("%s: %+v", name, s)
		}
		switch name {
		case "no probes":
			if s.Probes != 0 || s.Avg != 0 {
				t.Errorf("another minute's probes: %+v", s)
			}
		case "all lost":
			if s.Probes != 255 || s.Lost != 255 || s.Avg != 0 {
				t.Errorf("%+v", s)
			}
		case "tiny and large":
			if s.RxBytes != 1 || s.TxBytes < math.MaxUint64/1000*999 || s.Min != 1 {
				t.Errorf("%+v", s)
			}
		}
	}
}

func TestTheDayInAFewNumbers(t *testing.T) {
	h := Open(newDisk(), noon, quiet)
	first := noon.Unix() / 60
	now := noon.Add(30 * time.Hour)
	if d := h.Day(bob, now); d != (Day{}) {
		t.Errorf("of nothing: %+v", d)
	}
	for i := range int64(30 * 60) {
		r := Reading{Peer: bob, State: links.Connected, Path: "direct", Minute: links.Minute{Number: first + i, Answered: 2}}
		switch {
		case i < 120: // more than 24 hours ago
			r.State = links.Unreachable
		case i == 1000:
			r.Minute.Down = true // back before the minute was over
		case i >= 1200 && i < 1203:
			r.State, r.Minute = links.Connecting, links.Minute{Number: first + i, Lost: 4, Down: i == 1200}
		case i >= 1300 && i < 1400:
			continue // no agent ran
		}
		h.Record(first+i, []Reading{r})
	}
	want := Day{
		Known: 24*60 - 100, Down: 3, Interruptions: 2, LastDown: noon.Add(1202 * time.Minute), Probes: 2*(24*60-100-3) + 12, Lost: 12,
	}
	if d := h.Day(bob, now.Add(-time.Second)); d.Known < want.Known || d.Known > want.Known+1 || d.Probes < want.Probes || d.Probes > want.Probes+2 {
		t.Errorf("%+v, want %+v", d, want)
	} else if d.Known, d.Probes = want.Known, want.Probes; d != want {
		t.Errorf("%+v, want %+v", d, want)
	}
}

func TestItIsBackAfterARestart(t *testing.T) {
	d := newDisk()
	h := Open(d, noon, quiet)
	first, dirty := noon.Unix()/60, map[int64]bool{}
	for i := range int64(26 * 60) {
		h.record(first+i, reading(first+i, uint64(100*i)), dirty)
		if err := h.save(dirty); err != nil {
			t.Fatal(err)
		}
	}
	now := noon.Add(26*time.Hour - time.Second)
	want := h.Samples(bob, Span, now)
	if got := Open(d, now, quiet).Samples(bob, 23*time.Hour, now); !slices.Equal(got, want[len(want)-len(got):]) || len(got) < 23*60 {
		t.Errorf("%d samples came back", len(got))
	}
	if len(d.files) != hours {
		t.Errorf("%d files", len(d.files))
	}
	// A torn file is an hour without history; so is one of another day.
	d.files[fileOf(now.Unix()/3600)] = d.files[fileOf(now.Unix()/3600)][:100]
	if got := Open(d, now, quiet).Samples(bob, 2*time.Hour, now); len(got) < 59 || len(got) > 61 {
		t.Errorf("%d samples of the hour before", len(got))
	}
	later := now.Add(40 * time.Hour)
	if got := Open(d, later, quiet).Samples(bob, Span, later); len(got) != 0 {
		t.Errorf("%d samples of two days ago", len(got))
	}
}

// TestAMinuteWithARestartInIt is made of what both runs have seen.
func TestAMinuteWithARestartInIt(t *testing.T) {
	d := newDisk()
	minute, dirty := noon.Unix()/60, map[int64]bool{}
	one := func(answered, lost int, rtt time.Duration, bytes uint64) []Reading {
		m := links.Minute{Number: minute, Answered: answered, Lost: lost, Min: rtt, Max: rtt, Sum: time.Duration(answered) * rtt, Down: lost > 0}
		return []Reading{{Peer: bob, State: links.Connected, Path: "direct", RxBytes: bytes, TxBytes: bytes, Minute: m}}
	}
	for i, readings := range [][]Reading{one(3, 1, 10*time.Millisecond, 1000), one(0, 0, 0, 10), one(1, 0, 50*time.Millisecond, 500)} {
		h := Open(d, noon, quiet)
		h.record(minute, readings, dirty)
		if err := h.save(dirty); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			continue
		}
		s := h.Samples(bob, time.Minute, noon)[0]
		about(t, "received", float64(s.RxBytes), 1510)
		about(t, "minimum", float64(s.Min), 10e6)
		about(t, "average", float64(s.Avg), 20e6)
		about(t, "maximum", float64(s.Max), 50e6)
		if s.Probes != 5 || s.Lost != 1 || !s.Interrupted {
			t.Errorf("%+v", s)
		}
	}
}

func TestTheClockWasWrong(t *testing.T) {
	h := Open(newDisk(), noon, quiet)
	future, now := noon.Add(1000*time.Hour), noon
	h.Record(future.Unix()/60, reading(future.Unix()/60, 1))
	h.Record(now.Unix()/60, reading(now.Unix()/60, 2))
	if len(h.blocks) != 1 || len(h.Samples(bob, Span, now)) != 1 {
		t.Errorf("%d hours, of which one is in the future", len(h.blocks))
	}
}

// TestMemoryIsBounded and what the package comment says.
func TestMemoryIsBounded(t *testing.T) {
	if got := unsafe.Sizeof(row{}); got != rowSize {
		t.Errorf("a row has %d bytes", got)
	}
	h := Open(newDisk(), noon, quiet)
	var all []Reading
	for i := range 2 * maxPeers {
		all = append(all, Reading{Peer: mesh.NodeID{byte(i), byte(i >> 8), 1}})
	}
	h.Record(noon.Unix()/60, all)
	if n := len(h.blocks[noon.Unix()/3600]); n != maxPeers {
		t.Errorf("%d peers are remembered", n)
	}
	if day := (hours + 1) * int(unsafe.Sizeof(block{})); day > 21_000 || 300*day > 6_400_000 {
		t.Errorf("a peer's day takes %d bytes", day)
	}
}

func TestRunRecordsEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		h := Open(d, time.Now(), quiet)
		ctx, cancel := context.WithCancel(t.Context())
		var asked []int64
		done := make(chan error)
		go func() {
			done <- h.Run(ctx, func(_ context.Context, minute int64) []Reading {
				d.mu.Lock()
				defer d.mu.Unlock()
				asked = append(asked, minute)
				return reading(minute, uint64(len(asked)))
			})
		}()
		start := time.Now().Unix() / 60
		time.Sleep(30*time.Minute + 30*time.Second)
		synctest.Wait()
		d.mu.Lock()
		for i, m := range asked {
			if m != start+int64(i) {
				t.Fatalf("asked for minutes %v from %d on", asked, start)
			}
		}
		if len(asked) != 30 {
			t.Errorf("asked %d times in 30 minutes", len(asked))
		}
		writes := 0
		for _, n := range d.writes {
			writes += n
		}
		if writes < 4 || writes > 7 {
			t.Errorf("%d writes in 30 minutes", writes)
		}
		d.full = true
		d.mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		d.mu.Lock()
		d.full = false
		d.mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		if got := Open(d, now, quiet).Samples(bob, time.Hour, now); len(got) != 41 {
			t.Errorf("%d minutes are on disk after the end, want 41", len(got))
		}
	})
}

func FuzzDecode(f *testing.F) {
	h := Open(newDisk(), noon, quiet)
	h.Record(noon.Unix()/60, reading(noon.Unix()/60, 7))
	good := encode(noon.Unix()/3600, h.blocks[noon.Unix()/3600])
	f.Add(good)
	f.Add(good[:headSize])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		hour, links, err := decode(b)
		if err != nil {
			return
		}
		again, back, err := decode(encode(hour, links))
		if err != nil || again != hour || !maps.EqualFunc(links, back, func(x, y *block) bool { return *x == *y }) {
			t.Errorf("%d links of hour %d do not come back: %v", len(links), hour, err)
		}
		if len(links) == 1 && len(b) == len(encode(hour, links)) && !bytes.Equal(b[:headSize], encode(hour, links)[:headSize]) {
			t.Error("the head changes")
		}
	})
}
