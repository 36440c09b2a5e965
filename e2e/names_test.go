//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/e2e/lab"
)

// dig asks h's own name server and returns the answers, one a line.
func (w *world) dig(h *lab.Host, args ...string) string {
	w.Helper()
	server := w.status(h).Self.Addresses[0].Addr().String()
	args = append([]string{"+short", "+time=2", "+tries=1", "@" + server}, args...)
	return strings.TrimSpace(string(must(h.Exec(w.ctx(10*time.Second), "dig", args...))(w)))
}

// TestNames: every member answers for the network's domain from what it knows itself, also alone.
func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	want := w.peer(bob, "alice").Addresses
	// A new member has its name within a second; views are collected before a zone is built.
	w.eventually(time.Second, "bob knows alice's AAAA", func() bool {
		return w.dig(bob, "alice.farm.internal", "AAAA") == want[0].Addr().String()
	})
	if got := w.dig(bob, "alice.farm.internal", "A"); got != want[1].Addr().String() {
		t.Errorf("A of alice: %q, want %v", got, want[1].Addr())
	}
	if got := w.dig(bob, "+tcp", "-x", want[0].Addr().String()); got != "alice.farm.internal." {
		t.Errorf("PTR of alice: %q", got)
	}
	refused := string(must(bob.Exec(w.ctx(10*time.Second), "dig", "+time=2", "+tries=1", "@"+w.status(bob).Self.Addresses[0].Addr().String(), "example.org"))(t))
	if !strings.Contains(refused, "status: REFUSED") {
		t.Errorf("it answers for names that are not its own:\n%s", refused)
	}
	carol := w.public("carol") // not a member: it must not be answered
	if out, err := carol.Exec(w.ctx(10*time.Second), "dig", "+time=1", "+tries=1", "@"+alice.Addr().String(), "alice.farm.internal"); err == nil {
		t.Errorf("a stranger was answered on the underlay:\n%s", out)
	}
	w.agents[alice].Kill()
	if got := w.dig(bob, "alice.farm.internal", "AAAA"); got != want[0].Addr().String() {
		t.Errorf("with alice dead: %q", got)
	}
}

// TestNamesFollowAddresses: while this machine's own networks clash with the pool, and so IPv4 is off, names are answered over IPv6 alone.
func TestNamesFollowAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	w.found(alice)
	serving := func() []string {
		var names api.Names
		if err := api.NewClient(alice.Socket()).Get(w.ctx(5*time.Second), "/v1/names", &names); err != nil {
			t.Fatal(err)
		}
		return names.Serving
	}
	w.eventually(5*time.Second, "both addresses are answered on", func() bool { return len(serving()) == 2 })
	ipv4 := w.status(alice).Self.Addresses[1].Addr()
	clash := ipv4.Next().Next().String() + "/24"
	must(alice.Exec(w.ctx(5*time.Second), "ip", "addr", "add", clash, "dev", "eth0"))(t)
	w.eventually(10*time.Second, "only IPv6 is answered on", func() bool { return len(serving()) == 1 })
	w.dig(alice, "alice.farm.internal", "AAAA")
	must(alice.Exec(w.ctx(5*time.Second), "ip", "addr", "del", clash, "dev", "eth0"))(t)
	w.eventually(10*time.Second, "both are answered on again", func() bool { return len(serving()) == 2 })
	if got := strings.TrimSpace(string(must(alice.Exec(w.ctx(10*time.Second), "dig", "+short", "+time=2", "+tries=1", "@"+ipv4.String(), "alice.farm.internal", "A"))(t))); got != ipv4.String() {
		t.Errorf("over IPv4: %q", got)
	}
}
