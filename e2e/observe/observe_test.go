//go:build linux

package observe

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const deploy = "../../deploy"

// TestHurryChangesIntervalsOnly: how long an alert waits is what is shipped, and stays.
func TestHurryChangesIntervalsOnly(t *testing.T) {
	text := "global:\n  scrape_interval: 15s # often\nrule_files: [a.yml]\ngroups:\n  - name: a\n    interval: 2m\n    rules:\n      - expr: rate(a[5m])\n        for: 10m\n"
	want := "global:\n  scrape_interval: 1s\nrule_files: [a.yml]\ngroups:\n  - name: a\n    interval: 1s\n    rules:\n      - expr: rate(a[5m])\n        for: 10m\n"
	if got := hurry(text, time.Second); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestGrafanaFindsTheDashboards: the copied provisioning files lead to what is in this tree, and the home page is one of them.
func TestGrafanaFindsTheDashboards(t *testing.T) {
	from, err := filepath.Abs(filepath.Join(deploy, "grafana"))
	if err != nil {
		t.Fatal(err)
	}
	g := &Grafana{&process{dir: t.TempDir(), addr: "127.0.0.1:3000"}}
	if err := g.provision(from); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, e := range g.env(from) {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	b, err := os.ReadFile(filepath.Join(env["GF_PATHS_PROVISIONING"], "dashboards", "gridwire.yml"))
	if err != nil {
		t.Fatal(err)
	}
	path := regexp.MustCompile(`path: (\S+)`).FindStringSubmatch(string(b))
	if path == nil {
		t.Fatalf("no path for dashboards:\n%s", b)
	}
	if files, _ := filepath.Glob(filepath.Join(path[1], "*.json")); len(files) != 4 {
		t.Errorf("%d dashboards in %s, want 4", len(files), path[1])
	}
	if _, err := os.Stat(env["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]); err != nil {
		t.Errorf("the home page: %v", err)
	}
	if _, err := os.Stat(filepath.Join(env["GF_PATHS_PROVISIONING"], "datasources", "gridwire.yml")); err != nil {
		t.Errorf("the data source: %v", err)
	}
	if env["GF_SERVER_HTTP_ADDR"] != "127.0.0.1" || env["GF_SERVER_HTTP_PORT"] != "3000" {
		t.Errorf("Grafana listens at %s, port %s", env["GF_SERVER_HTTP_ADDR"], env["GF_SERVER_HTTP_PORT"])
	}
}
