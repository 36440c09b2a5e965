//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/usage"
	"github.com/gridwire/gridwire/e2e/lab"
)

// shortHours makes this test's world use a program whose hours last 6 seconds.
func shortHours(t *testing.T) {
	t.Helper()
	built := filepath.Join(t.TempDir(), "gridwire")
	if out, err := exec.Command("go", "build", "-tags", "gridwire_short_hours", "-o", built, "../cmd/gridwire").CombinedOutput(); err != nil {
		t.Fatalf("build gridwire with short hours: %v\n%s", err, out)
	}
	old := binary
	binary = built
	t.Cleanup(func() { binary = old })
}

func (w *world) usage(h *lab.Host) (r usage.Report) {
	w.Helper()
	if err := json.Unmarshal([]byte(w.run(h, "usage", "--since", "1h", "--json")), &r); err != nil {
		w.Fatal(err)
	}
	return r
}

// TestUsage: the two ends of a link countersign what it carried; a machine that is no member checks the report offline; a forged one, and
// a restart, are seen.
func TestUsage(t *testing.T) {
	shortHours(t)
	w := newWorld(t, lab.Options{})
	alice, bob, auditor := w.public("alice"), w.home("bob", home), w.public("auditor")
	w.found(alice, "--metrics", "127.0.0.1:9586")
	w.join(bob)
	w.linked(alice, bob, 10*time.Second)
	to := w.peer(alice, "bob").Addresses[0].Addr().String()
	load := func() { // about 1 MB each way
		if out, err := alice.Exec(w.ctx(20*time.Second), "ping", "-q", "-f", "-c", "800", "-s", "1200", to); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	load()
	agreed := func(h *lab.Host) int {
		r := w.usage(h)
		if len(r.Peers) != 1 {
			return 0
		}
		return r.Peers[0].Agreed
	}
	w.eventually(20*time.Second, "both ends have signed what the link carried", func() bool { return agreed(alice) >= 1 && agreed(bob) >= 1 })
	for _, h := range []*lab.Host{alice, bob} {
		if text := w.run(h, "usage"); !strings.Contains(text, "HOURS AGREED") || !strings.Contains(text, "iB") {
			t.Errorf("usage on %s:\n%s", h.Label(), text)
		}
	}
	if got := w.exec(alice, "curl", "-s", "http://127.0.0.1:9586/metrics"); !strings.Contains(got, `gridwire_usage_disputed{peer="bob"} 0`) {
		t.Errorf("no metric says that bob agrees")
	}

	file := filepath.Join(t.TempDir(), "alice.json")
	report := w.run(alice, "usage", "--since", "1h", "--json")
	if err := os.WriteFile(file, []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	network := w.status(alice).Network.ID
	text := w.run(auditor, "usage", "verify", file, "--network", network)
	if !strings.Contains(text, "report of alice in farm") || !strings.Contains(text, "bob") || !strings.Contains(text, "Two ends that lie together are not detected") {
		t.Errorf("verify:\n%s", text)
	}
	fails := func(what, want string, args ...string) {
		t.Helper()
		_, err := auditor.Gridwire(w.ctx(10*time.Second), append([]string{"usage", "verify"}, args...)...)
		var failed *lab.CommandError
		if !errors.As(err, &failed) || failed.Code != 1 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q and exit status 1", what, err, want)
		}
	}
	fails("another network", "is of another network", file, "--network", strings.Repeat("0", 64))
	var forged usage.Report
	if err := json.Unmarshal([]byte(report), &forged); err != nil {
		t.Fatal(err)
	}
	forged.Hours[0].Ours.Statement[len(forged.Hours[0].Ours.Statement)-1] ^= 1
	b, err := json.Marshal(forged)
	if err == nil {
		err = os.WriteFile(file, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	fails("a forged statement", "proves nothing", file)
	fails("no file", "reading the report", filepath.Join(t.TempDir(), "none"))

	// After a crash the counters go on, the gap is shown, and the two ends agree again.
	loaded := time.Now()
	w.eventually(15*time.Second, "bob's counters are on disk", func() bool {
		st, err := os.Stat(filepath.Join(bob.State(), "ledger"))
		return err == nil && st.ModTime().After(loaded)
	})
	before := w.usage(bob).Peers[0]
	w.agents[bob].Kill()
	w.start(bob)
	w.linked(alice, bob, 10*time.Second)
	if after := w.usage(bob); after.Peers[0].ReceiveBytes < before.ReceiveBytes || len(after.Gaps) != 1 || after.Gaps[0].Orderly {
		t.Errorf("after a crash: %+v, gaps %+v; before: %+v", after.Peers[0], after.Gaps, before)
	}
	if text := w.run(bob, "usage"); !strings.Contains(text, "gap from") {
		t.Errorf("the gap is not shown:\n%s", text)
	}
	count := agreed(alice)
	load()
	w.eventually(25*time.Second, "the two ends agree again", func() bool { return agreed(alice) > count })
	// What was counted to a neighbouring hour is put right when that is over.
	w.eventually(20*time.Second, "nothing is in dispute", func() bool {
		p, q := w.usage(alice).Peers[0], w.usage(bob).Peers[0]
		return p.Diverging+p.Refused+q.Diverging+q.Refused == 0
	})
}
