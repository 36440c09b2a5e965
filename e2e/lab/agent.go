//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopLimit is how long Stop waits for an agent that was told to end; the agent itself promises 2 s.
const stopLimit = 10 * time.Second

// Agent is a running `gridwire agent`.
type Agent struct {
	host   *Host
	cmd    *exec.Cmd
	log    string
	offset int64         // where in the log this agent begins
	ready  chan struct{} // closed at sd_notify READY=1
	done   chan struct{} // closed when the process has ended; err is valid from then on
	err    error
}

// AgentConfig says how to start an agent in an unusual way.
type AgentConfig struct {
	Args []string // after `gridwire agent`
	Env  []string // added to the environment
	Wrap []string // a program and its arguments that becomes the agent, such as setpriv
}

// StartAgent starts `gridwire agent` with the given arguments and does not wait for it to be ready. Whatever still runs at
// Lab.Close is stopped there.
func (h *Host) StartAgent(args ...string) (*Agent, error) {
	return h.StartAgentWith(AgentConfig{Args: args})
}

// StartAgentWith is StartAgent with more to say.
func (h *Host) StartAgentWith(c AgentConfig) (*Agent, error) {
	if h.lab.opts.Binary == "" {
		return nil, errors.New("start an agent in the lab: Options.Binary is not set")
	}
	log, err := os.OpenFile(h.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start the agent on %s: %w", h.label, err)
	}
	defer log.Close() // the process has its own
	info, err := log.Stat()
	if err != nil {
		return nil, fmt.Errorf("start the agent on %s: %w", h.label, err)
	}
	a := &Agent{host: h, log: h.LogFile(), offset: info.Size(), ready: make(chan struct{}), done: make(chan struct{})}
	notify, err := a.listen()
	if err != nil {
		return nil, err
	}
	line := append(slices.Clone(c.Wrap), h.lab.opts.Binary)
	line = append(line, h.arguments(append([]string{"agent"}, h.agentArgs(c.Args)...))...)
	a.cmd = command(context.Background(), h.ns, line[0], line[1:]...)
	a.cmd.Stdout, a.cmd.Stderr = log, log
	a.cmd.Env = append(append(a.cmd.Env, "NOTIFY_SOCKET="+notify.LocalAddr().String()), c.Env...)
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in a terminal is for the program that uses the lab
	if err := h.lab.begin(a); err != nil {
		notify.Close()
		return nil, fmt.Errorf("start the agent on %s: %w", h.label, err)
	}
	var watch sync.WaitGroup
	watch.Go(func() { a.awaitReady(notify) })
	go func() { // Stop, Kill and Lab.Close wait for it by done
		a.err = a.cmd.Wait()
		notify.Close()
		watch.Wait()
		os.Remove(notify.LocalAddr().String())
		close(a.done)
	}()
	return a, nil
}

// begin starts the process, unless the lab is being closed, which would miss it.
func (l *Lab) begin(a *Agent) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("the lab is closed")
	}
	if err := a.cmd.Start(); err != nil {
		return err
	}
	l.agents = append(l.agents, a)
	return nil
}

// agentArgs adds what makes agents in namespaces of one machine not collide, where the caller does not say it himself.
func (h *Host) agentArgs(args []string) []string {
	out := slices.Clone(args)
	add := func(flag, value string) {
		has := func(a string) bool { return a == flag || strings.HasPrefix(a, flag+"=") }
		if !slices.ContainsFunc(args, has) {
			out = append(out, flag, value)
		}
	}
	add("--interface", h.wireguard)
	add("--log-level", h.lab.opts.LogLevel)
	add("--resolver", "off") // a test that wants it gives the host an /etc of its own: see Machine
	return out
}

// listen makes the socket for sd_notify(3).
func (a *Agent) listen() (*net.UnixConn, error) {
	path := filepath.Join(filepath.Dir(a.host.socket), fmt.Sprintf("notify.%d", time.Now().UnixNano()))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("start the agent on %s: make the socket for its readiness: %w", a.host.label, err)
	}
	return conn, os.Chmod(path, 0o777) // an agent may run as another user
}

func (a *Agent) awaitReady(conn *net.UnixConn) {
	buf := make([]byte, 4096)
	for ready := false; ; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if !ready && slices.Contains(strings.Split(string(buf[:n]), "\n"), "READY=1") {
			ready = true
			close(a.ready)
		}
	}
}

// WaitReady waits until the agent has said READY=1 (sd_notify), has ended, which is an error, or ctx is done.
func (a *Agent) WaitReady(ctx context.Context) error {
	select {
	case <-a.ready:
		return nil
	default:
	}
	select {
	case <-a.ready:
		return nil
	case <-a.done:
		return fmt.Errorf("the agent on %s ended before it was ready: %w; its log:\n%s", a.host.label, a.exit(), tail(a.Log(), 20))
	case <-ctx.Done():
		return fmt.Errorf("wait for the agent on %s to be ready: %w; its log:\n%s", a.host.label, ctx.Err(), tail(a.Log(), 20))
	}
}

// exit turns "no error" of an ended process into something to wrap.
func (a *Agent) exit() error {
	if a.err == nil {
		return errors.New("exit status 0")
	}
	return a.err
}

// Stop sends SIGTERM and waits until the process has ended; after 10 s it kills it and says so. It returns the process's error, nil
// for exit status 0, for one that has ended already, and for one that died of the signal before it was ready to handle any.
func (a *Agent) Stop() error {
	if !a.Running() {
		return nil
	}
	_ = a.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended just now
	select {
	case <-a.done:
		if a.err != nil && !a.diedEarly() {
			return fmt.Errorf("the agent on %s, told to end, ended badly: %w; its log:\n%s", a.host.label, a.err, tail(a.Log(), 20))
		}
		return nil
	case <-time.After(stopLimit):
		a.Kill()
		return fmt.Errorf("the agent on %s did not end within %v of SIGTERM and was killed; its log:\n%s", a.host.label, stopLimit, tail(a.Log(), 20))
	}
}

func (a *Agent) diedEarly() bool {
	select {
	case <-a.ready:
		return false
	default:
		status, ok := a.cmd.ProcessState.Sys().(syscall.WaitStatus)
		return ok && status.Signaled() && status.Signal() == syscall.SIGTERM
	}
}

// Kill sends SIGKILL and waits until the process is gone.
func (a *Agent) Kill() {
	_ = a.cmd.Process.Kill() // fails only if it has ended
	<-a.done
}

// Wait waits until the process has ended and returns its error: nil, or an *exec.ExitError; or ctx's.
func (a *Agent) Wait(ctx context.Context) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the agent on %s to end: %w", a.host.label, ctx.Err())
	}
}

// Running reports whether the process has not ended.
func (a *Agent) Running() bool {
	select {
	case <-a.done:
		return false
	default:
		return true
	}
}

// PID returns the agent's process ID (with AgentConfig.Wrap: what the wrapper became).
func (a *Agent) PID() int { return a.cmd.Process.Pid }

// Host returns where it runs.
func (a *Agent) Host() *Host { return a.host }

// Log returns what this agent, not an earlier one of the same host, has written so far.
func (a *Agent) Log() string {
	f, err := os.Open(a.log)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, a.offset, 1<<30))
	if err != nil {
		return fmt.Sprintf("%s(log ends: %v)", b, err)
	}
	return string(b)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
