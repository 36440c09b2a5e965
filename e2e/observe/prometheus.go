//go:build linux

// Package observe runs a real Prometheus on a host of the lab, with the configuration and the rules that gridwire ships, and asks it by
// PromQL. Tests and `make observe` share it.
//
// It owns the process and its folder, both gone after Stop. It changes nothing in the shipped files but how often things happen.
package observe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// address is where Prometheus listens, in its host's namespace.
const address = "127.0.0.1:9090"

// stopLimit is how long Stop waits for Prometheus to write what it has; nobody needs that here.
const stopLimit = 5 * time.Second

// Config says what to run.
type Config struct {
	Deploy   string                 // the folder deploy/prometheus
	Interval time.Duration          // of scrapes, of rules and of service discovery; zero: as shipped
	Before   func(dir string) error // called with the data folder before the start, to put history there; may be nil
}

// Prometheus is a running one.
type Prometheus struct {
	host   *lab.Host
	dir    string
	cmd    *exec.Cmd
	done   chan struct{} // closed when the process has ended; err is valid from then on
	err    error
	client *http.Client
}

// Tool returns the path of prometheus or promtool: unpacked by `make tools`, or installed.
func Tool(name string) (string, error) {
	debs := os.Getenv("GRIDWIRE_DEBS")
	if debs == "" {
		debs = filepath.Join("..", "bin", "deb")
	}
	unpacked := filepath.Join(debs, "prometheus", "usr", "bin", name)
	if _, err := os.Stat(unpacked); err == nil {
		return filepath.Abs(unpacked)
	}
	installed, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s: neither %s nor in PATH; make tools unpacks it", name, unpacked)
	}
	return installed, nil
}

// Start starts Prometheus on h and waits until it answers.
func Start(ctx context.Context, h *lab.Host, c Config) (*Prometheus, error) {
	program, err := Tool("prometheus")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "gridwire-prometheus")
	if err != nil {
		return nil, fmt.Errorf("make a folder for Prometheus: %w", err)
	}
	p := &Prometheus{host: h, dir: dir, done: make(chan struct{})}
	p.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) }}}
	if err = p.prepare(c); err == nil {
		err = p.run(program)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start Prometheus on %s: %w", h.Label(), err), os.RemoveAll(dir))
	}
	for {
		if _, err = p.get(ctx, "/-/ready", nil); err == nil {
			return p, nil
		}
		select {
		case <-p.done:
			err = fmt.Errorf("start Prometheus on %s: it ended: %w; its log:\n%s", h.Label(), p.err, p.Log())
			return nil, errors.Join(err, os.RemoveAll(dir))
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("start Prometheus on %s: %w; its log:\n%s", h.Label(), err, p.Log()), p.Stop())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// prepare copies what is shipped into the folder, with other intervals.
func (p *Prometheus) prepare(c Config) error {
	files, err := filepath.Glob(filepath.Join(c.Deploy, "*.yml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("%s has no configuration for Prometheus (%w)", c.Deploy, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		text := string(b)
		if c.Interval > 0 {
			text = hurry(text, c.Interval)
		}
		if err := os.WriteFile(filepath.Join(p.dir, filepath.Base(f)), []byte(text), 0o644); err != nil {
			return err
		}
	}
	data := filepath.Join(p.dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	if c.Before == nil {
		return nil
	}
	return c.Before(data)
}

// hurry replaces every interval in a configuration; how long an alert waits stays.
func hurry(text string, d time.Duration) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		key, _, found := strings.Cut(strings.TrimSpace(line), ":")
		if found && (key == "interval" || strings.HasSuffix(key, "_interval")) {
			lines[i] = line[:strings.Index(line, key)] + key + ": " + d.String()
		}
	}
	return strings.Join(lines, "\n")
}

func (p *Prometheus) run(program string) error {
	log, err := os.Create(p.logFile())
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	args := []string{
		"--config.file=" + filepath.Join(p.dir, "prometheus.yml"), "--storage.tsdb.path=" + filepath.Join(p.dir, "data"),
		"--web.listen-address=" + address, "--log.level=warn",
	}
	if web := pages(program); web != "" {
		args = append(args, "--web.local-assets="+web)
	}
	p.cmd = p.host.Command(context.Background(), program, args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in a terminal is for whoever stops it here
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() { // Stop waits for it by done
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return nil
}

func (p *Prometheus) logFile() string { return filepath.Join(p.dir, "log") }

// Log returns what Prometheus has complained about so far.
func (p *Prometheus) Log() string {
	b, err := os.ReadFile(p.logFile())
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return string(b)
}

// Stop ends Prometheus and removes its folder.
func (p *Prometheus) Stop() error {
	p.client.CloseIdleConnections()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-p.done:
	case <-time.After(stopLimit):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return os.RemoveAll(p.dir)
}

// dial connects to Prometheus in its namespace.
func (p *Prometheus) dial(ctx context.Context) (conn net.Conn, err error) {
	err = p.host.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}
