//go:build linux

// Package observe runs a real Prometheus, and a Grafana where there is one, on a host of the lab, with the configuration, rules and
// dashboards that gridwire ships, and asks Prometheus by PromQL. Tests and `make observe` share it.
//
// It owns the processes and their folders, gone after Stop. It changes nothing in the shipped files but how often things happen, and paths.
package observe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// Config says what to run.
type Config struct {
	Deploy   string                 // the folder deploy/prometheus
	Interval time.Duration          // of scrapes, of rules and of service discovery; zero: as shipped
	Before   func(dir string) error // called with the data folder before the start, to put history there; may be nil
}

// Prometheus is a running one.
type Prometheus struct{ *process }

// Tool returns the path of prometheus or promtool: unpacked by `make testtools`, or installed.
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
		return "", fmt.Errorf("find %s: neither %s nor in PATH; make testtools unpacks it", name, unpacked)
	}
	return installed, nil
}

// Start starts Prometheus on h and waits until it answers.
func Start(ctx context.Context, h *lab.Host, c Config) (*Prometheus, error) {
	program, err := Tool("prometheus")
	if err != nil {
		return nil, err
	}
	process, err := newProcess(h, "prometheus", "127.0.0.1:9090")
	if err != nil {
		return nil, err
	}
	p := &Prometheus{process}
	if err = p.prepare(c); err == nil {
		err = p.start(ctx, "/-/ready", nil, program, p.args(program)...)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start Prometheus on %s: %w", h.Label(), err), p.Stop())
	}
	return p, nil
}

// prepare copies what is shipped into the folder, with other intervals.
func (p *Prometheus) prepare(c Config) error {
	files, err := filepath.Glob(filepath.Join(c.Deploy, "*.yml"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s has no configuration for Prometheus", c.Deploy)
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
	if err := os.Mkdir(p.data(), 0o755); err != nil {
		return err
	}
	if c.Before == nil {
		return nil
	}
	return c.Before(p.data())
}

func (p *Prometheus) data() string { return filepath.Join(p.dir, "data") }

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

func (p *Prometheus) args(program string) []string {
	args := []string{
		"--config.file=" + filepath.Join(p.dir, "prometheus.yml"), "--storage.tsdb.path=" + p.data(),
		"--web.listen-address=" + p.addr, "--log.level=warn",
	}
	if web := pages(program); web != "" {
		args = append(args, "--web.local-assets="+web)
	}
	return args
}
