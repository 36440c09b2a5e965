//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestDamagedStateFiles tears and zeroes every file of a member's state, one at a time: the agent starts as the same node, or names the
// file to restore. It never starts with another identity, and never forgets a revocation.
func TestDamagedStateFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, eve := w.public("alice"), w.public("bob"), w.public("eve")
	w.mesh(alice, bob, eve)
	w.linkedAll(10*time.Second, alice, bob, eve)
	evil := w.peer(bob, "eve").WireGuardPublicKey
	w.run(alice, "revoke", "eve")
	w.eventually(2*time.Second, "bob drops eve", func() bool { return !w.hasKey(bob, evil) })
	id := w.status(bob).Self.ID
	if err := w.agents[bob].Stop(); err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(t.TempDir(), "whole")
	w.copyState(bob.State(), whole)
	names := must(os.ReadDir(whole))(t)
	if len(names) < 8 {
		t.Fatalf("only %d files of state", len(names))
	}
	started, refused := 0, 0
	for _, f := range names {
		for _, kind := range []string{"torn", "zeroed"} {
			if f.Name() == "lock" {
				continue
			}
			restore(t, whole, bob.State())
			damage(t, filepath.Join(bob.State(), f.Name()), kind)
			if w.startsAs(bob, id, evil, f.Name()+" "+kind) {
				started++
			} else {
				refused++
			}
		}
	}
	t.Logf("%d damages survived, %d refused with the file's name", started, refused)
	if started == 0 {
		t.Error("no damage at all was survived")
	}
}

// startsAs starts h's agent on damaged state and reports whether it runs.
func (w *world) startsAs(h *lab.Host, id, revoked, what string) bool {
	w.Helper()
	a := must(h.StartAgent("--metrics", "off"))(w)
	defer a.Kill()
	if err := a.WaitReady(w.ctx(15 * time.Second)); err != nil {
		name := strings.Fields(what)[0]
		if !strings.Contains(a.Log(), strings.TrimSuffix(name, ".prev")) {
			w.Errorf("%s: the agent does not start and does not name the file:\n%s", what, a.Log())
		}
		return false
	}
	st := w.status(h)
	if st.Self.ID != id {
		w.Errorf("%s: the agent started as %q, not as %q", what, st.Self.ID, id)
	}
	if slices.Contains(w.wgPeers(h), revoked) {
		w.Errorf("%s: the agent forgot a revocation", what)
	}
	return true
}

func damage(t *testing.T, path, kind string) {
	t.Helper()
	b := must(os.ReadFile(path))(t)
	if kind == "torn" {
		b = b[:len(b)/2]
	} else {
		clear(b)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func restore(t *testing.T, from, to string) {
	t.Helper()
	for _, f := range must(os.ReadDir(to))(t) {
		if err := os.RemoveAll(filepath.Join(to, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range must(os.ReadDir(from))(t) {
		b := must(os.ReadFile(filepath.Join(from, f.Name())))(t)
		if err := os.WriteFile(filepath.Join(to, f.Name()), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
