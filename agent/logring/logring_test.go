package logring

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

func TestLinesAreKeptAndPassedOn(t *testing.T) {
	var out bytes.Buffer
	r := New()
	log := slog.New(r.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))).With("part", "links")
	log.Debug("not wanted")
	log.WithGroup("g").Info("link up", "peer", "bob")
	lines, dropped := r.Lines()
	if len(lines) != 1 || dropped != 0 || !strings.Contains(lines[0], `msg="link up" part=links g.peer=bob`) {
		t.Errorf("%q, %d", lines, dropped)
	}
	if got := strings.TrimSpace(out.String()); got != lines[0] {
		t.Errorf("passed on %q, kept %q", got, lines[0])
	}
}

func TestTheRingIsBounded(t *testing.T) {
	r := New()
	for i := range 5 * maxLines {
		fmt.Fprintf(r, "line %d\n", i)
	}
	lines, dropped := r.Lines()
	if len(lines) != maxLines || lines[0] != fmt.Sprintf("line %d", 4*maxLines) || lines[maxLines-1] != fmt.Sprintf("line %d", 5*maxLines-1) || dropped != 4*maxLines {
		t.Errorf("%d lines from %q to %q, %d dropped", len(lines), lines[0], lines[len(lines)-1], dropped)
	}
	if n := cap(r.lines); n > 4*maxLines {
		t.Errorf("room for %d lines", n)
	}
	long := strings.Repeat("é", maxLine)
	for range 2 * maxBytes / maxLine {
		fmt.Fprintln(r, long)
	}
	lines, _ = r.Lines()
	sum := 0
	for _, l := range lines {
		sum += len(l)
		if len(l) > maxLine+3 || !strings.HasSuffix(l, "é...") {
			t.Fatalf("a line of %d bytes: %q", len(l), l[len(l)-8:])
		}
	}
	if sum > maxBytes || len(lines) < maxBytes/maxLine-1 {
		t.Errorf("%d lines with %d bytes", len(lines), sum)
	}
}

func TestManyWriters(t *testing.T) {
	r := New()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range maxLines {
				fmt.Fprintln(r, "x")
				r.Lines()
			}
		})
	}
	wg.Wait()
	if lines, dropped := r.Lines(); len(lines) != maxLines || dropped != 7*maxLines {
		t.Errorf("%d lines, %d dropped", len(lines), dropped)
	}
}
