package ledger

import (
	"context"
	"slices"
	"testing"
	"time"
)

// FuzzOpen: whatever the files say, the ledger opens, counts, reports and stores.
func FuzzOpen(f *testing.F) {
	d := newDisk()
	l := Open(d, start, quiet)
	for i := range 200 {
		now := start.Add(time.Duration(i) * time.Minute)
		l.Record(now, read(bob, 1, uint64(i)*1000))
		if err := l.flush(now, false); err != nil {
			f.Fatal(err)
		}
	}
	for name, b := range d.files {
		f.Add(name, b, uint16(200))
		f.Add(name, b[:len(b)/2], uint16(300))
		f.Add(name, []byte(`{}`), uint16(5000))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte, minutes uint16) {
		disk := d.copy()
		if _, ours := disk.files[name]; !ours {
			return
		}
		disk.files[name] = slices.Clone(data)
		now := start.Add(time.Duration(minutes) * time.Minute)
		l := Open(disk, now, quiet)
		before := total(l)
		l.Record(now, read(bob, 2, 5000))
		l.Record(now.Add(time.Minute), read(bob, 2, 6000))
		if got := total(l); got.ReceiveBytes < before.ReceiveBytes && before.ReceiveBytes < 1<<63 {
			t.Fatalf("a counter went back from %+v to %+v", before, got)
		}
		l.Gaps(start)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Run(ctx, func(context.Context) []Reading { return nil }); err != nil {
			t.Fatal(err)
		}
		Open(disk, now.Add(time.Hour), quiet)
	})
}

func total(l *Ledger) (c Counters) {
	for _, t := range l.Totals() {
		if t.Key == bob {
			c = t.Counters
		}
	}
	return c
}
