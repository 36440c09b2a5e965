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

// TestUsageDisputed: something on the way drops the large packets and lets probes through, so what one end sent is not what the other got, and no
// measured loss explains it. That is said wherever somebody may look.
func TestUsageDisputed(t *testing.T) {
	shortHours(t)
	w := newWorld(t, lab.Options{})
	r := w.router("r", home, nil)
	alice, bob := w.public("alice"), must(r.Host("bob"))(t)
	w.found(alice, "--metrics", "127.0.0.1:9586")
	w.join(bob)
	w.linked(alice, bob, 10*time.Second)
	defer w.drop(r, "inet", "forward", "meta l4proto udp @th,64,8 4 @th,72,24 0 udp length > 500")()
	to := w.peer(alice, "bob").Addresses[0].Addr().String()
	w.eventually(30*time.Second, "alice says that the counters differ", func() bool {
		_, _ = alice.Exec(w.ctx(20*time.Second), "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do ping -q -f -w 5 -s 1200 "+to+" & done; wait") // ping waits 10 ms for each answer
		return strings.Contains(w.exec(alice, "curl", "-s", "--max-time", "5", "http://127.0.0.1:9586/metrics"), `gridwire_usage_disputed{peer="bob"} 1`)
	})
	if text := w.run(alice, "status"); !strings.Contains(text, "those of bob differ") || !strings.Contains(text, "This node is fine") {
		t.Errorf("status:\n%s", text)
	}
	if got := w.curl(alice, "http://127.0.0.1:9587/api/state"); !strings.Contains(got, "those of bob differ") {
		t.Errorf("the page: %s", got)
	}
	if text := w.run(alice, "usage"); !strings.Contains(text, "diverging with bob") {
		t.Errorf("usage:\n%s", text)
	}
	file := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(file, []byte(w.run(alice, "usage", "--json")), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := bob.Gridwire(w.ctx(10*time.Second), "usage", "verify", file); err == nil || !strings.Contains(err.Error(), "the two ends differ about") {
		t.Errorf("verify: %v\n%s", err, out)
	}
}
