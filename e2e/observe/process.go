//go:build linux

package observe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// stopLimit is how long a program may take to write what it has; nobody needs that here.
const stopLimit = 5 * time.Second

// process is a program that serves HTTP in a host's namespace, with a folder of its own.
type process struct {
	name   string
	host   *lab.Host
	addr   string // where it listens, in the host's namespace
	dir    string
	cmd    *exec.Cmd
	done   chan struct{} // closed when it has ended; err is valid from then on
	err    error
	client *http.Client
}

// newProcess makes the folder, and starts nothing.
func newProcess(h *lab.Host, name, addr string) (*process, error) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("gridwire-%s-%d-", name, os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("make a folder for %s: %w", name, err)
	}
	p := &process{name: name, host: h, addr: addr, dir: dir, done: make(chan struct{})}
	p.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) }}}
	return p, nil
}

// start starts the program and waits until it answers a path with 200.
func (p *process) start(ctx context.Context, ready string, env []string, program string, args ...string) error {
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	p.cmd = p.host.Command(context.Background(), program, args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in a terminal is for whoever stops it here
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() { // stop waits for it by done
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	for {
		_, err := p.fetch(ctx, ready)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended (%v); its log:\n%s", p.name, p.err, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w; its log:\n%s", p.name, err, p.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Log returns what the program has written so far.
func (p *process) Log() string {
	b, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return string(b)
}

// Stop ends the program, if it runs, and removes its folder.
func (p *process) Stop() error {
	p.client.CloseIdleConnections()
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
		select {
		case <-p.done:
		case <-time.After(stopLimit):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
	return os.RemoveAll(p.dir)
}

// dial connects to the program in its namespace.
func (p *process) dial(ctx context.Context) (net.Conn, error) { return p.host.Dial(ctx, p.addr) }

// Forward makes the program reachable from the namespace of this process, as lab.Host.Forward does.
func (p *process) Forward(ctx context.Context, listen string, at func(net.Addr)) error {
	return p.host.Forward(ctx, listen, p.addr, at)
}

// fetch gets a path; any answer but 200 is an error, returned with what came.
func (p *process) fetch(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s says: %s", p.name, resp.Status)
	}
	return body, err
}
