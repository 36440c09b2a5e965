//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// fakeClock builds gridwire with a time package whose wall clock is off by FAKE_CLOCK seconds. Nothing less will do: WireGuard's handshake
// timestamps, TLS and our own code all ask the same clock, and no namespace shifts it.
func fakeClock(t *testing.T) string {
	t.Helper()
	goroot := strings.TrimSpace(string(must(exec.Command("go", "env", "GOROOT").Output())(t)))
	source := filepath.Join(goroot, "src", "time", "time.go")
	text := string(must(os.ReadFile(source))(t))
	const before = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	patched := strings.Replace(text, before, before+"\tsec += fakeSeconds()\n", 1)
	patched += `
var fakeRead bool
var fakeOffset int64

// fakeSeconds shifts the wall clock, not the monotonic one.
func fakeSeconds() int64 {
	if !fakeRead {
		s, _ := syscall.Getenv("FAKE_CLOCK")
		n, sign := int64(0), int64(1)
		for _, c := range s {
			if c == '-' {
				sign = -1
			} else {
				n = 10*n + int64(c-'0')
			}
		}
		fakeOffset, fakeRead = sign*n, true
	}
	return fakeOffset
}
`
	patched = strings.Replace(patched, "import (\n", "import (\n\t\"syscall\"\n", 1)
	if !strings.Contains(patched, "sec += fakeSeconds()") || !strings.Contains(patched, `"syscall"`) {
		t.Fatalf("%s is not what this test knows how to patch", source)
	}
	dir := t.TempDir()
	file, overlay, out := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "gridwire")
	if err := os.WriteFile(file, []byte(patched), 0o644); err != nil {
		t.Fatal(err)
	}
	b := must(json.Marshal(map[string]any{"Replace": map[string]string{source: file}}))(t)
	if err := os.WriteFile(overlay, b, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-overlay", overlay, "-o", out, "../cmd/gridwire")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build with a fake clock: %v\n%s", err, msg)
	}
	return out
}

// TestBoxWithoutBattery: a member that boots in 2020 joins its mesh again. Its certificate is not valid yet by its own clock, and its
// handshakes carry older timestamps than its peers remember, for which WireGuard ignores them.
func TestBoxWithoutBattery(t *testing.T) {
	t.Parallel()
	box := fakeClock(t)
	w := newWorld(t, lab.Options{})
	alice, bob, carol := w.public("alice"), w.home("bob", home), w.home("carol", home)
	w.mesh(alice, bob, carol)
	w.linkedAll(10*time.Second, alice, bob, carol)
	w.agents[bob].Kill()

	back := time.Until(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)).Truncate(time.Second)
	a, err := bob.StartAgentWith(lab.AgentConfig{
		Args: []string{"--metrics", "off"}, Wrap: []string{"sh", "-c", `shift; exec "` + box + `" "$@"`, "sh"},
		Env: []string{fmt.Sprintf("FAKE_CLOCK=%d", int(back.Seconds()))},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.WaitReady(w.ctx(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(a.Log(), "time=2020-01-01") {
		t.Fatalf("the clock is not faked:\n%s", a.Log())
	}
	w.linked(bob, alice, 10*time.Second)
	w.linked(bob, carol, 10*time.Second)
	w.eventually(10*time.Second, "alice says that bob's clock is off", func() bool {
		return strings.Contains(w.run(alice, "status"), "clock")
	})
}
