//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestFlushedByOthers: reloading a firewall often begins with `nft flush ruleset`, and systemd-networkd removes routing rules that it does not
// know. The leak guard, what workloads may send, and the way to networks behind members come back by themselves.
func TestFlushedByOthers(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob, m := w.beforeBusy()
	b := w.busyMember(bob, m, alice, 9586, "192.168.77.0/24", "198.18.7.0/24", "phone", false)
	of := func(before []string) (out []string) { // without what has no number of its own or counts
		for _, line := range before {
			if strings.HasPrefix(line, "nftables: ") || strings.HasPrefix(line, "rule: ") {
				out = append(out, line)
			}
		}
		return out
	}
	before := of(b.condition())
	w.exec(bob, "nft", "flush", "ruleset")
	w.exec(bob, "sh", "-c", "for f in -4 -6; do ip $f rule flush; ip $f rule add from all lookup main pref 32766; done; ip rule add from all lookup default pref 32767")
	if len(changed(before, of(b.condition()))) < 10 {
		t.Fatal("flushing changes nothing: this test would see nothing")
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		got := changed(before, of(b.condition()))
		if len(got) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("5 s after everything was flushed:\n%s", strings.Join(got, "\n"))
		}
		time.Sleep(100 * time.Millisecond)
	}
	if log := w.agents[bob].Log(); strings.Count(log, "another program removed") > 3 {
		t.Errorf("it says so again and again:\n%s", log)
	}
}
