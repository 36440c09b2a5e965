//go:build linux

package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// CommandError is a command that failed on a host.
type CommandError struct {
	Host   string
	Args   []string
	Code   int    // exit code; -1: ended by a signal or never started
	Stdout string // what it had answered
	Stderr string
	Err    error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("on %s: %s: %v: %s", e.Host, strings.Join(e.Args, " "), e.Err, strings.TrimSpace(e.Stderr+e.Stdout))
}

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// Exec runs a program on the host or router and returns its stdout. A failure is a *CommandError.
func (n *node) Exec(ctx context.Context, name string, args ...string) ([]byte, error) {
	return output(n.name, n.Command(ctx, name, args...), append([]string{name}, args...))
}

// Command prepares a program on the host or router, for what Exec cannot do: input, output as it comes, running beside. Whoever starts it
// waits for it.
func (n *node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return command(ctx, n.ns, name, args...)
}

func output(host string, cmd *exec.Cmd, shown []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), &CommandError{
			Host: host, Args: shown, Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String(), Err: err,
		}
	}
	return stdout.Bytes(), nil
}

// noBus keeps programs in the lab away from the machine's D-Bus, which namespaces share: its systemd-resolved would be told about an
// interface that has another meaning there. A test with a bus of its own sets another address.
const noBus = "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent/the-lab-has-no-bus"

// command prepares a program in a namespace, with that namespace's own resolv.conf. `ip netns exec` becomes the program, so its
// pid is the program's.
func command(ctx context.Context, ns, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", ns, program}, args...)...)
	cmd.Env = append(os.Environ(), noBus)
	cmd.WaitDelay = time.Second // a grandchild may hold the output open
	return cmd
}
