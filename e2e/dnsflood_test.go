//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// dnsperf has h ask a server at a rate, with so many questions on their way at most, and returns how many it sent and how many were not answered.
// On a busy machine more than some hundred at once would not fit into its own socket.
func (w *world) dnsperf(h *lab.Host, server, questions string, rate, atOnce, seconds int) (sent, lost int) {
	w.Helper()
	out := must(h.Exec(w.ctx(time.Duration(seconds)*time.Second+20*time.Second), "dnsperf", "-s", server, "-d", questions,
		"-l", strconv.Itoa(seconds), "-Q", strconv.Itoa(rate), "-q", strconv.Itoa(atOnce), "-t", "2"))(w)
	for what, n := range map[string]*int{"sent": &sent, "lost": &lost} {
		m := regexp.MustCompile(`Queries ` + what + `: +(\d+)`).FindSubmatch(out)
		if m == nil {
			w.Fatalf("dnsperf says\n%s", out)
		}
		*n, _ = strconv.Atoi(string(m[1]))
	}
	return sent, lost
}

// TestQuestionsOfOneMemberDoNotStarveOthers: a member that asks more than its share gets that and no more; another member, and the node itself,
// do not notice.
func TestQuestionsOfOneMemberDoNotStarveOthers(t *testing.T) {
	if _, err := exec.LookPath("dnsperf"); err != nil {
		t.Skip("no dnsperf here: make testtools")
	}
	w := newWorld(t, lab.Options{LogLevel: "info"})
	alice, bob, carol := w.public("alice"), w.public("bob"), w.public("carol")
	w.mesh(alice, bob, carol)
	w.linkedAll(10*time.Second, alice, bob, carol)
	server := w.status(alice).Self.Addresses[0].Addr().String()
	questions := filepath.Join(t.TempDir(), "questions")
	if err := os.WriteFile(questions, []byte("alice.farm.internal AAAA\nbob.farm.internal A\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	type result struct{ sent, lost int }
	flood := make(chan result, 1)
	go func() { // awaited below
		sent, lost := w.dnsperf(bob, server, questions, 8000, 10000, 3)
		flood <- result{sent, lost}
	}()
	for _, h := range []*lab.Host{carol, alice} {
		if sent, lost := w.dnsperf(h, server, questions, 300, 100, 1); lost > 0 || sent < 100 {
			t.Errorf("%s: of %d questions %d were not answered while bob flooded", h.Label(), sent, lost)
		}
	}
	got := <-flood
	answered := got.sent - got.lost
	t.Logf("bob asked %d times in 3 s and was answered %d times", got.sent, answered)
	if got.sent < 9000 {
		t.Skipf("this machine is too busy for a flood: %d questions", got.sent)
	}
	if answered < 2500 || answered > 7000 { // 2,000 at once, and 1,000 a second
		t.Errorf("bob was answered %d times", answered)
	}
	// What the node itself asks has no limit. (How much that is within a second depends on what else the machine does.)
	if sent, lost := w.dnsperf(alice, server, questions, 5000, 100, 1); lost > 0 {
		t.Errorf("alice herself: of %d questions %d were not answered", sent, lost)
	}
}
