//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// curl runs curl on h and returns what it printed.
func (w *world) curl(h *lab.Host, args ...string) string {
	w.Helper()
	return string(must(h.Exec(w.ctx(20*time.Second), "curl", append([]string{"--silent", "--show-error", "--max-time", "5"}, args...)...))(w))
}

// TestHealthPage looks at the page of a real agent. What a browser makes of it is tested in e2e/page.
func TestHealthPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	const at = "http://127.0.0.1:9587/"
	w.mesh(alice, bob)
	w.linkedAll(10*time.Second, alice, bob)

	if got := w.curl(bob, at); !strings.Contains(got, "<title>gridwire</title>") {
		t.Errorf("the page: %q", got)
	}
	if got := w.curl(bob, at+"api/state"); !strings.Contains(got, `"name":"alice"`) || !strings.Contains(got, "This node is fine: 1 link is up, direct.") {
		t.Errorf("the state: %s", got)
	}
	if got := w.curl(bob, "--unix-socket", bob.Socket(), "http://localhost/"); !strings.Contains(got, "<title>gridwire</title>") {
		t.Errorf("the page on the control socket: %q", got)
	}
	if got := w.curl(bob, "--resolve", "evil.example:9587:127.0.0.1", "http://evil.example:9587/api/state"); strings.Contains(got, "alice") {
		t.Errorf("a name that was pointed here reads the state: %s", got)
	}
	if _, err := bob.Exec(w.ctx(10*time.Second), "curl", "--silent", "--max-time", "3", "http://"+bob.Addr().String()+":9587/"); err == nil {
		t.Error("the page answers on the LAN")
	}

	want := func(token string) string {
		return w.curl(alice, "--data", `{"name":"zoe"}`, "--header", "X-Gridwire-Token: "+token, at+"api/invite")
	}
	address := strings.TrimSpace(w.run(alice, "page"))
	url, token, ok := strings.Cut(address, "#token=")
	if !ok || url != at {
		t.Fatalf("gridwire page says %q", address)
	}
	if got := want("guessed"); !strings.Contains(got, "read-only") {
		t.Errorf("a wrong token: %s", got)
	}
	if got := want(token); !strings.Contains(got, `"token":"gw1`) {
		t.Errorf("an invitation by the page: %s", got)
	}
}
