//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// demoProgram builds the program behind `make demo`.
func demoProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", path, "./demo").CombinedOutput(); err != nil {
		t.Fatalf("build the demo: %v\n%s", err, out)
	}
	return path
}

func demoCommand(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), "GRIDWIRE_BIN="+binary, "LC_ALL=C.UTF-8")
	return cmd
}

// nothingOfDemo checks that the lab of process pid is gone.
func nothingOfDemo(t *testing.T, pid int) {
	t.Helper()
	for _, pattern := range []string{"/run/netns/lab-%d-*", "/run/gridwire-lab/%d-*", "/etc/netns/lab-%d-*"} {
		if left, _ := filepath.Glob(fmt.Sprintf(pattern, pid)); len(left) > 0 {
			t.Errorf("the demo left %v behind", left)
		}
	}
}

// TestDemoEndsByItself: without a terminal the demo shows everything, plainly, and ends.
func TestDemoEndsByItself(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := demoCommand(ctx, demoProgram(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the demo: %v\n%s", err, out)
	}
	nothingOfDemo(t, cmd.Process.Pid)
	for line := range strings.Lines(string(out)) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 {
			t.Errorf("%d columns, want at most 100: %s", n, line)
		}
	}
	if bytes.ContainsRune(out, '\x1b') {
		t.Error("colours although nobody can see them")
	}
	for _, want := range []string{
		`laptop ↔ carol +direct through 3 NATs: the hotel's, the carrier's, carol's +\d+\.\d\d s\n`,
		`erin ↔ dana +direct`, `carol +10\.\S+ +connected +direct, NAT`, `http://127\.0\.0\.1:\d+/\n`, `(\d+) of (\d+) pings answered`, `all 10 links between the 5 are back`, `Cleaned up`,
		`curl http://web\.bob\.farm\.internal\n +Hello from bob's barn\.\n +from fd\S+\n +to   fd\S+:2\n`, `http://web\.bob\.farm\.internal answers again`,
	} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("the demo does not show %q:\n%s", want, out)
		}
	}
}

// TestDemoCommandsWork: on a terminal the demo stays until Ctrl-C, and what it invites to type works.
func TestDemoCommandsWork(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := demoCommand(ctx, demoProgram(t))
	screen := runOnTerminal(t, cmd)
	defer func() { _ = cmd.Process.Kill() }()
	for !strings.Contains(screen.text(), "Ctrl-C ends the demo") {
		select {
		case <-screen.done:
			t.Fatalf("the demo ended:\n%s", screen.text())
		case <-time.After(50 * time.Millisecond):
		}
	}
	tried := 0
	for line := range strings.Lines(screen.text()) {
		command := strings.TrimSpace(regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(line, ""))
		if command, _, _ = strings.Cut(command, "   "); !strings.HasPrefix(command, "/run/g") {
			continue
		}
		tried++
		tryCommand(ctx, t, command)
	}
	if tried < 10 {
		t.Errorf("the demo invites to %d commands, want 10:\n%s", tried, screen.text())
	}
	if _, err := screen.terminal.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	<-screen.done
	if err := cmd.Wait(); err != nil {
		t.Errorf("the demo after Ctrl-C: %v\n%s", err, screen.text())
	}
	nothingOfDemo(t, cmd.Process.Pid)
	if _, err := os.Lstat("/run/gw"); err == nil {
		t.Error("the demo left /run/gw behind")
	}
}

// tryCommand pastes a command into a shell. Those that stay in the foreground are ended once they have shown that they work.
func tryCommand(ctx context.Context, t *testing.T, command string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	line := command
	switch {
	case strings.Contains(command, "gridwire agent"):
		line = "timeout -s TERM 3 " + command // the agent ends in an orderly way, with status 0, which timeout turns into 124
	case strings.Contains(command, "tcpdump"):
		line = command + " & /run/gw/bob gridwire ping -c 4 laptop; wait $!" // something to see
	case strings.Count(command, " ") == 0:
		line = "echo gridwire status | " + command // a shell
	}
	out, err := exec.CommandContext(ctx, "sh", "-c", line).CombinedOutput()
	if code := exitStatus(err); code != 0 && !(code == 124 && strings.Contains(string(out), "link up")) {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
}

func exitStatus(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// terminalScreen is what a program on a terminal has printed.
type terminalScreen struct {
	terminal *os.File
	done     chan struct{} // closed when the program has closed the terminal

	mu  sync.Mutex // guards all
	all bytes.Buffer
}

func (s *terminalScreen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ReplaceAll(s.all.String(), "\r\n", "\n")
}

func (s *terminalScreen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(b)
}

// runOnTerminal starts cmd on a pseudo-terminal (pty(7)).
func runOnTerminal(t *testing.T, cmd *exec.Cmd) *terminalScreen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &terminalScreen{terminal: master, done: make(chan struct{})}
	go func() { // ends when the last process has closed the terminal
		defer close(s.done)
		_, _ = io.Copy(s, master)
	}()
	return s
}
