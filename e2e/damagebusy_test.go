//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestDamagedFilesOfABusyMember tears and zeroes what a member's workloads, devices, networks and counters have on disk: links need none of it,
// so the agent starts as the same node every time; and what cannot be gone on with is named.
func TestDamagedFilesOfABusyMember(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob, m := w.beforeBusy()
	b := w.busyMember(bob, m, alice, 9586, "192.168.77.0/24", "198.18.7.0/24", "phone", false)
	w.agents[bob].Kill() // and so the kernel settings it changed are in the state
	whole := filepath.Join(t.TempDir(), "whole")
	w.copyState(bob.State(), whole)
	b.start()
	b.everything(alice)
	id := w.status(bob).Self.ID
	if err := w.agents[bob].Stop(); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"history*", "ledger*", "usage*", "workloads*", "gateway*", "devices*"} {
		files, _ := filepath.Glob(filepath.Join(bob.State(), pattern))
		for _, f := range files {
			text := must(os.ReadFile(f))(t)
			if err := os.WriteFile(filepath.Join(whole, filepath.Base(f)), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if len(files) == 0 {
			t.Errorf("no %s in the state: nothing of it would be damaged", pattern)
		}
	}
	lost := map[string]string{ // what may not go on as before, and what the log says then; by the file and its one generation
		"workloads": "workloads are off on this node",
		"gateway":   "gateway",
	}
	for _, f := range must(os.ReadDir(whole))(t) {
		name, _, _ := strings.Cut(f.Name(), "-") // of history
		switch strings.TrimSuffix(name, ".prev") {
		case "history", "ledger", "ledger.hour", "usage", "workloads", "gateway", "devices", "sysctl", "start.items", "endpoints":
		default:
			continue // TestDamagedStateFiles has those
		}
		for _, kind := range []string{"torn", "zeroed"} {
			restore(t, whole, bob.State())
			damage(t, filepath.Join(bob.State(), f.Name()), kind)
			b.start()
			st := w.status(bob)
			if st.Self.ID != id {
				t.Errorf("%s %s: started as %q, not as %q", f.Name(), kind, st.Self.ID, id)
			}
			if said := lost[f.Name()]; said != "" {
				w.eventually(3*time.Second, f.Name()+" "+kind+": it is said", func() bool { return strings.Contains(w.agents[bob].Log(), said) })
			} else if got, _ := bob.Gridwire(w.ctx(5*time.Second), "workload", "list"); !strings.Contains(got, "web") {
				t.Errorf("%s %s: the workload is gone: %s", f.Name(), kind, got)
			}
			for line := range strings.Lines(w.agents[bob].Log()) {
				if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") {
					t.Logf("%s %s: %s", f.Name(), kind, line)
				}
			}
			w.agents[bob].Kill()
		}
	}
}
