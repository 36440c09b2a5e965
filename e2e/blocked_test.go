//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestBlockedUDP: a network that lets no UDP through is told as what it is, on both ends, and a member that comes out of it is back by
// itself.
func TestBlockedUDP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, carol := w.public("alice"), w.home("bob", home), w.home("carol", home)
	w.mesh(alice, bob, carol)
	w.linkedAll(10*time.Second, alice, bob, carol)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(bob.BlockUDP())
	for _, name := range []string{"alice", "carol"} { // an idle link is not looked at for 25 s
		if out, err := bob.Gridwire(w.ctx(20*time.Second), "ping", name); err == nil {
			t.Errorf("ping with UDP blocked: %s", out)
		}
	}
	w.eventually(60*time.Second, "bob's NAT is blocked and he says that no link works", func() bool {
		st, err := bob.Status(w.ctx(5 * time.Second))
		if err != nil || st.Self.NAT != "blocked" || len(st.Peers) != 2 {
			return false
		}
		for _, p := range st.Peers {
			if p.State != "unreachable" || !strings.Contains(p.Reason, "UDP") {
				return false
			}
		}
		return strings.Contains(w.run(bob, "netcheck"), "UDP")
	})
	if out, err := alice.Gridwire(w.ctx(20*time.Second), "ping", "bob"); err == nil {
		t.Errorf("alice pings bob, whose UDP is blocked: %s", out)
	}
	w.eventually(30*time.Second, "alice says that bob is unreachable", func() bool { return w.peer(alice, "bob").State == "unreachable" })
	if p := w.peer(alice, "carol"); p.State != "connected" {
		t.Errorf("alice's link to carol is %q", p.State)
	}
	check(bob.UnblockUDP())
	w.linkedAll(20*time.Second, alice, bob, carol)

	// The same for one that starts in there.
	check(w.agents[bob].Stop())
	check(bob.BlockUDP())
	w.start(bob)
	w.eventually(30*time.Second, "bob's NAT is blocked", func() bool {
		st, err := bob.Status(w.ctx(5 * time.Second))
		return err == nil && st.Self.NAT == "blocked"
	})
	check(bob.UnblockUDP())
	w.linkedAll(20*time.Second, alice, bob, carol)
}
