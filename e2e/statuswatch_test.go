//go:build linux

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// terminal is a real terminal with `gridwire status --watch` in it: what the program writes is interpreted, and its screen is looked at.
type terminal struct {
	*world
	host *lab.Host
	dir  string // of tmux's socket
}

func (w *world) terminal(h *lab.Host, columns, lines, env string) *terminal {
	w.Helper()
	term := &terminal{world: w, host: h, dir: w.TempDir()}
	w.Cleanup(func() { _, _ = term.tmux("kill-server") })
	line := "env " + env + " " + binary + " status --watch --state " + h.State() + " --socket " + h.Socket() + "; echo left with $?; sleep 60"
	must(term.tmux("-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", lines, line))(w)
	return term
}

func (t *terminal) tmux(args ...string) (string, error) {
	cmd := t.host.Command(t.ctx(10*time.Second), "tmux", append([]string{"-S", filepath.Join(t.dir, "tmux")}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TERM=xterm-256color")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (t *terminal) press(keys ...string) {
	t.Helper()
	must(t.tmux(append([]string{"send-keys"}, keys...)...))(t)
}

// shows waits until the screen has all of these, and returns it.
func (t *terminal) shows(want ...string) (text string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Log("the screen:\n" + text)
		}
	}()
	t.eventually(8*time.Second, "the screen shows "+strings.Join(want, ", "), func() bool {
		text, _ = t.tmux("capture-pane", "-p")
		for _, w := range want {
			if !strings.Contains(text, w) {
				return false
			}
		}
		return true
	})
	return text
}

// TestStatusWatch looks at the table in a terminal of 80 columns and 24 lines, and uses it.
func TestStatusWatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, carol := w.public("alice"), w.home("bob", home), w.home("carol", cone)
	w.mesh(alice, bob, carol)
	w.linkedAll(10*time.Second, alice, bob, carol)
	term := w.terminal(bob, "80", "24", "A=B")
	text := term.shows("This node is fine: 2 links are up", "bob in farm.internal", "PEER▼", "alice", "carol", "▅", "q quit")
	if lines := strings.Split(strings.TrimRight(text, "\n"), "\n"); len(lines) != 24 {
		t.Errorf("%d lines:\n%s", len(lines), text)
	}
	if colours, _ := term.tmux("capture-pane", "-p", "-e"); !strings.Contains(colours, "\x1b[32m") {
		t.Errorf("no colour: %q", colours)
	}
	term.press("Down", "Enter")
	term.shows("carol: ", "path", "lines 1 to 21", "esc back")
	term.press("NPage")
	term.shows("what happened lately")
	term.press("Escape")
	term.shows("PEER▼") // before the next key: an escape and a slash in one go are Alt-slash
	term.press("/", "a", "l", "i")
	if text := term.shows("/ali", "alice"); strings.Contains(text, "carol") {
		t.Errorf("the filter hides nothing:\n%s", text)
	}
	term.press("Escape")
	term.shows("carol")
	w.agents[carol].Kill()
	_, _ = bob.Gridwire(w.ctx(10*time.Second), "ping", "carol", "--count", "1") // an idle link would be found dead within 25 s only
	term.press("s")
	w.eventually(25*time.Second, "carol is shown as lost, above alice", func() bool {
		text, _ := term.tmux("capture-pane", "-p")
		lost := max(strings.Index(text, "carol          connecting"), strings.Index(text, "carol          unreachable"))
		return strings.Contains(text, "STATE▼") && lost > 0 && lost < strings.Index(text, "alice          connected")
	})
	term.press("q")
	term.shows("left with 0")

	plain := w.terminal(bob, "60", "12", "NO_COLOR=1")
	plain.shows("alice")
	if text, _ := plain.tmux("capture-pane", "-p", "-e"); strings.Contains(text, "\x1b[32m") || strings.Contains(text, "\x1b[33m") || strings.Contains(text, "\x1b[31m") {
		t.Errorf("colour with NO_COLOR: %q", text)
	}
	plain.press("C-c")
	plain.shows("left with 0")
}

// TestStatusWatchInAPipe: where the output is no terminal, the plain table is printed again and again, without a single escape.
func TestStatusWatchInAPipe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.public("bob")
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	cmd := bob.Command(w.ctx(20*time.Second), binary, "status", "--watch", "--state", bob.State(), "--socket", bob.Socket())
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(3500*time.Millisecond, func() { _ = cmd.Process.Signal(os.Interrupt) })
	if err := cmd.Wait(); err != nil {
		if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 0 {
			t.Errorf("after Ctrl-C: %v", err)
		}
	}
	if text := out.String(); strings.Count(text, "This node is fine: 1 link is up") < 2 || strings.Contains(text, "\x1b") {
		t.Errorf("%q", text)
	}
	if _, err := bob.Exec(w.ctx(5*time.Second), binary, "status", "--watch", "--socket", "/nowhere"); codeOf(err) != 3 {
		t.Errorf("without an agent: %v", err)
	}
}
