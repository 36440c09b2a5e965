package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh/store"
)

// TestBootNumbersRise whatever the clock says, and through a torn file.
func TestBootNumbersRise(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	next := func(now time.Time) uint64 {
		st, err := store.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		n, err := nextBoot(st, now)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	last := next(now)
	for _, at := range []time.Time{now, now.Add(time.Hour), now.AddDate(-6, 0, 0), time.Unix(0, 0), now.Add(2 * time.Hour)} {
		n := next(at)
		if n <= last {
			t.Fatalf("at %v: %d after %d", at, n, last)
		}
		last = n
	}
	path := filepath.Join(dir, bootFile)
	for _, damaged := range [][]string{{path}, {path, path + ".prev"}} {
		for _, file := range damaged {
			if err := os.WriteFile(file, []byte("torn"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n := next(now)
		if n <= last {
			t.Errorf("with %v torn: %d after %d", damaged, n, last)
		}
		last = n
	}
}
