//go:build linux

package observe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/gridwire/gridwire/e2e/lab"
)

// ErrNoGrafana means that this machine has none; Debian has no package of it.
var ErrNoGrafana = errors.New("no grafana-server in PATH")

// Grafana is a running one, for whoever opens it, without a password.
type Grafana struct{ *process }

// shareGrafana is where Grafana's packages put what it needs besides its program.
const shareGrafana = "/usr/share/grafana"

// StartGrafana starts Grafana on the host where Prometheus runs, with the data source and the dashboards that are in the folder
// deploy/grafana, and waits until it answers.
func StartGrafana(ctx context.Context, h *lab.Host, deploy string) (*Grafana, error) {
	program, err := exec.LookPath("grafana-server")
	if err != nil {
		return nil, ErrNoGrafana
	}
	if deploy, err = filepath.Abs(deploy); err != nil {
		return nil, err
	}
	process, err := newProcess(h, "grafana", "127.0.0.1:3000")
	if err != nil {
		return nil, err
	}
	g := &Grafana{process}
	if err = g.provision(deploy); err == nil {
		err = g.start(ctx, "/api/health", g.env(deploy), program, "--homepath", shareGrafana)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start Grafana on %s: %w", h.Label(), err), g.Stop())
	}
	return g, nil
}

// provision copies the shipped provisioning files, with the path of the dashboards in this tree.
func (g *Grafana) provision(deploy string) error {
	for _, kind := range []string{"datasources", "dashboards"} {
		to := filepath.Join(g.dir, "provisioning", kind)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(deploy, "provisioning", kind, "gridwire.yml"))
		if err != nil {
			return err
		}
		text := strings.ReplaceAll(string(b), "/usr/local/share/gridwire/grafana/dashboards", filepath.Join(deploy, "dashboards"))
		if err := os.WriteFile(filepath.Join(to, "gridwire.yml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// env is Grafana's configuration: nothing of this machine's, nothing that asks the internet, and everybody may look.
func (g *Grafana) env(deploy string) []string {
	host, port, _ := strings.Cut(g.addr, ":")
	return []string{
		"GF_PATHS_PROVISIONING=" + filepath.Join(g.dir, "provisioning"), "GF_PATHS_DATA=" + filepath.Join(g.dir, "data"),
		"GF_PATHS_LOGS=" + filepath.Join(g.dir, "logs"), "GF_PATHS_PLUGINS=" + filepath.Join(g.dir, "plugins"),
		"GF_SERVER_HTTP_ADDR=" + host, "GF_SERVER_HTTP_PORT=" + port,
		"GF_AUTH_ANONYMOUS_ENABLED=true", "GF_AUTH_ANONYMOUS_ORG_ROLE=Viewer", "GF_AUTH_DISABLE_LOGIN_FORM=true",
		"GF_ANALYTICS_REPORTING_ENABLED=false", "GF_ANALYTICS_CHECK_FOR_UPDATES=false", "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false",
		"GF_PLUGINS_PREINSTALL_DISABLED=true", "GF_NEWS_NEWS_FEED_ENABLED=false",
		"GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH=" + filepath.Join(deploy, "dashboards", "overview.json"), "GF_LOG_LEVEL=warn",
	}
}
