//go:build linux

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/doctor"
	"github.com/gridwire/gridwire/e2e/lab"
)

// TestDoctorsCommandsMend: a firewall that drops everything is named with commands, and these commands, run as they are printed, mend it.
func TestDoctorsCommandsMend(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	type answer struct {
		OK     bool
		Checks []doctor.Result
	}
	examine := func(code int) (a answer) {
		t.Helper()
		out, err := alice.Gridwire(w.ctx(20*time.Second), "doctor", "--json")
		if codeOf(err) != code {
			t.Errorf("doctor: exit status %d, want %d: %v", codeOf(err), code, err)
		}
		if err := json.Unmarshal([]byte(out), &a); err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		if a.OK != (code == 0) {
			t.Errorf("ok %v with exit status %d", a.OK, code)
		}
		return a
	}
	if a := examine(0); len(a.Checks) < 12 {
		t.Errorf("%d checks", len(a.Checks))
	}
	for _, rule := range []string{
		"add table inet filter", "add chain inet filter input { type filter hook input priority 0; policy drop; }",
		"add rule inet filter input iif lo accept", "add rule inet filter input ct state established,related accept",
		"add rule inet filter input icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
	} {
		must(alice.Exec(w.ctx(5*time.Second), "nft", rule))(t)
	}
	var commands []string
	for _, r := range examine(1).Checks {
		if r.Topic == "firewall" {
			command, _, _ := strings.Cut(r.Remedy, "   (")
			commands = append(commands, command)
		}
	}
	if len(commands) != 2 {
		t.Fatalf("commands: %q, want one for %s and one for the UDP port", commands, alice.Interface())
	}
	for _, c := range commands {
		must(alice.Exec(w.ctx(5*time.Second), "sh", "-c", c))(t)
	}
	for _, r := range examine(0).Checks {
		if r.Topic == "firewall" && r.Grade != doctor.OK {
			t.Errorf("after the commands: %+v", r)
		}
	}
	carol := w.home("carol", symmetric) // to whom alice is reachable only if strangers' packets get in
	w.join(carol)
	w.linked(carol, alice, 10*time.Second)
	if text := w.run(alice, "doctor"); !strings.Contains(text, "ok    firewall: lets in UDP") || !strings.Contains(text, "ok    certificate: renewed") {
		t.Errorf("doctor:\n%s", text)
	}
}
