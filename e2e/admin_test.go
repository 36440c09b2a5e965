//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
	"github.com/gridwire/gridwire/mesh/wire"
)

// The exit statuses that scripts rely on (DESIGN section 4).
const (
	statusFailure = 1
	statusUsage   = 2
	statusNoAgent = 3
	statusRefused = 4
	statusTimeout = 5
)

// member is a row of `gridwire members --json`: what an outsider reads.
type member struct {
	Name      string    `json:"name"`
	ID        string    `json:"id"`
	Addresses []string  `json:"addresses"`
	Standing  string    `json:"standing"`
	State     string    `json:"state"`
	Issuer    bool      `json:"issuer"`
	Expires   time.Time `json:"certificate_expires"`
	Tags      []string  `json:"tags"`
}

// members lists whom h knows of.
func (w *world) members(h *lab.Host) []member {
	w.Helper()
	var out []member
	text := w.run(h, "members", "--json")
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		w.Fatalf("members of %s: %v in:\n%s", h.Label(), err, text)
	}
	return out
}

// standing returns what h says about the members with this name, in order: more than one where somebody came back under it.
func (w *world) standing(h *lab.Host, name string) []string {
	w.Helper()
	var out []string
	for _, m := range w.members(h) {
		if m.Name == name {
			out = append(out, m.Standing)
		}
	}
	slices.Sort(out)
	return out
}

// is reports whether h lists name exactly once, with this standing.
func (w *world) is(h *lab.Host, name, standing string) bool {
	w.Helper()
	return slices.Equal(w.standing(h, name), []string{standing})
}

// status returns what h says about itself and its peers.
func (w *world) status(h *lab.Host) lab.Status {
	w.Helper()
	return must(h.Status(w.ctx(5 * time.Second)))(w)
}

// wgPeers returns the public keys that h's WireGuard interface has, as `wg` says.
func (w *world) wgPeers(h *lab.Host) []string {
	w.Helper()
	out := must(h.Exec(w.ctx(5*time.Second), "wg", "show", h.Interface(), "peers"))(w)
	return strings.Fields(string(out))
}

// hasKey reports whether h's WireGuard interface has the peer with this key.
func (w *world) hasKey(h *lab.Host, key string) bool {
	w.Helper()
	return slices.Contains(w.wgPeers(h), key)
}

// fails runs a command on h that must end with this exit status and say all of these words on stderr, and nothing on stdout.
func (w *world) fails(h *lab.Host, status int, says []string, args ...string) {
	w.Helper()
	_, err := h.Gridwire(w.ctx(30*time.Second), args...)
	var failed *lab.CommandError
	if !errors.As(err, &failed) {
		w.Fatalf("on %s: %s succeeded (%v), want exit status %d", h.Label(), brief(args), err, status)
	}
	w.Logf("%s: gridwire %s\n\t%s", h.Label(), brief(args), strings.TrimSpace(failed.Stderr))
	if failed.Code != status {
		w.Errorf("on %s: %s: exit status %d, want %d: %s", h.Label(), brief(args), failed.Code, status, failed.Stderr)
	}
	if failed.Stdout != "" {
		w.Errorf("on %s: %s failed and printed on stdout %q", h.Label(), brief(args), failed.Stdout)
	}
	w.mustSay(failed.Stderr, says, h.Label()+": "+brief(args))
}

// agentFails starts an agent on h that must end with this exit status by itself, having said all of these words.
func (w *world) agentFails(h *lab.Host, status int, says []string, args ...string) {
	w.Helper()
	a := must(h.StartAgent(append([]string{"--metrics", "off"}, args...)...))(w)
	err := a.Wait(w.ctx(30 * time.Second))
	var failed interface{ ExitCode() int }
	if !errors.As(err, &failed) || failed.ExitCode() != status {
		w.Errorf("on %s: agent %s: %v, want exit status %d; its log:\n%s", h.Label(), brief(args), err, status, a.Log())
		return
	}
	last := "(nothing)" // what it said to people, as against its log
	for line := range strings.Lines(a.Log()) {
		if strings.HasPrefix(line, "gridwire: ") {
			last = strings.TrimSpace(line)
		}
	}
	w.Logf("%s: gridwire agent %s\n\t%s", h.Label(), brief(args), last)
	w.mustSay(last, says, h.Label()+": agent "+brief(args))
}

func (w *world) mustSay(text string, says []string, what string) {
	w.Helper()
	for _, s := range says {
		if !strings.Contains(text, s) {
			w.Errorf("%s: it says %q, which lacks %q", what, text, s)
		}
	}
}

// brief shows a command line without the middle of its tokens.
func brief(args []string) string {
	var out []string
	for _, a := range args {
		if len(a) > 60 {
			a = a[:20] + "..."
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

// invite makes a token on h, which need not be the founder.
func (w *world) invite(h *lab.Host, args ...string) string {
	w.Helper()
	out := strings.TrimSpace(w.run(h, append([]string{"invite"}, args...)...))
	return out[strings.LastIndexByte(out, '\n')+1:]
}

// edited returns the token with something changed in it and everything that protects its text made anew: what a person with bad
// intentions, not a bad clipboard, hands on.
func (w *world) edited(token string, change func(*wire.Token)) string {
	w.Helper()
	t := must(wire.DecodeToken(token))(w)
	change(t)
	return wire.EncodeToken(t)
}

// apart keeps h from exchanging any packet with the address of another, as a firewall in between would.
func (w *world) apart(h, other *lab.Host) {
	w.Helper()
	script := strings.ReplaceAll(`add table inet apart
add chain inet apart out { type filter hook output priority 0; }
add chain inet apart in { type filter hook input priority 0; }
add rule inet apart out ip daddr ADDR counter drop
add rule inet apart in ip saddr ADDR counter drop
`, "ADDR", other.Addr().String())
	cmd := h.Command(w.ctx(5*time.Second), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Fatalf("keep %s and %s apart: %v: %s", h.Label(), other.Label(), err, out)
	}
}

// copyState copies a state folder: what a backup would hold.
func (w *world) copyState(from, to string) {
	w.Helper()
	if err := os.RemoveAll(to); err != nil {
		w.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		w.Fatal(err)
	}
	// CopyFS widens modes by the umask; the agent refuses a state that others may read.
	entries := must(os.ReadDir(to))(w)
	for _, e := range entries {
		if err := os.Chmod(to+"/"+e.Name(), 0o600); err != nil {
			w.Fatal(err)
		}
	}
	if err := os.Chmod(to, 0o700); err != nil {
		w.Fatal(err)
	}
}

// stop ends h's agent in the orderly way.
func (w *world) stop(h *lab.Host) {
	w.Helper()
	if err := w.agents[h].Stop(); err != nil {
		w.Fatal(err)
	}
}
