//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gridwire/gridwire/e2e/observe"
)

const prometheusFolder = "../deploy/prometheus"

// promtool runs Prometheus' own checker.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	program := must(observe.Tool("promtool"))(t)
	cmd := exec.Command(program, args...)
	cmd.Dir = prometheusFolder
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestAlertRules: Prometheus takes the configuration and the rules that we ship, and each alert fires when it should and not when it should not.
func TestAlertRules(t *testing.T) {
	promtool(t, "check", "config", "prometheus.yml")
	promtool(t, "check", "rules", "--lint-fatal", "gridwire.rules.yml", "gridwire.alerts.yml")
	files, err := filepath.Glob(filepath.Join(prometheusFolder, "tests", "*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests of rules: %v", err)
	}
	var tests strings.Builder
	args := []string{"test", "rules"}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(b)
		args = append(args, filepath.Join("tests", filepath.Base(f)))
	}
	promtool(t, args...)
	for _, alert := range alerts(t) {
		quiet := regexp.MustCompile(`alertname: ` + alert + `, eval_time: \w+, exp_alerts: \[\]`).MatchString(tests.String())
		fires := regexp.MustCompile(`alertname: ` + alert + `\n +eval_time: \w+\n +exp_alerts:\n +- exp_labels`).MatchString(tests.String())
		if !quiet || !fires {
			t.Errorf("%s: no test shows that it fires (%v) and that it stays quiet (%v)", alert, fires, quiet)
		}
	}
}

// alerts returns the names of the alerts that we ship.
func alerts(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(prometheusFolder, "gridwire.alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(`- alert: (\w+)\n`).FindAllStringSubmatch(string(b), -1) {
		out = append(out, m[1])
	}
	if len(out) < 10 {
		t.Fatalf("%d alerts found: were they read?", len(out))
	}
	return out
}

// TestAlertsAreExplained: whoever is woken finds a text about each alert where it links to, and the page explains no alert that is not there.
func TestAlertsAreExplained(t *testing.T) {
	text := page(t, "docs/alerts.md")
	rules := string(must(os.ReadFile(filepath.Join(prometheusFolder, "gridwire.alerts.yml")))(t))
	named := map[string]bool{}
	for _, alert := range alerts(t) {
		named[alert] = true
		if !hasHeading(text, strings.ToLower(alert)) {
			t.Errorf("docs/alerts.md does not explain %s", alert)
		}
		if !strings.Contains(rules, "docs/alerts.md#"+strings.ToLower(alert)+"\n") {
			t.Errorf("%s does not link to its explanation", alert)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^#+ (Gridwire\w+)$`).FindAllStringSubmatch(text, -1) {
		if !named[m[1]] {
			t.Errorf("docs/alerts.md explains %s, which is no alert", m[1])
		}
	}
}

// TestWatchingIsSetUp does what docs/operations.md says under "Watch the mesh", below a folder: Prometheus takes the result, and Grafana is sent
// to where the dashboards are.
func TestWatchingIsSetUp(t *testing.T) {
	dir := t.TempDir()
	for _, needed := range []string{"/etc/prometheus", "/etc/grafana/provisioning/datasources", "/etc/grafana/provisioning/dashboards"} {
		if err := os.MkdirAll(dir+needed, 0o755); err != nil { // as their packages make them
			t.Fatal(err)
		}
	}
	install := exec.Command("make", "-s", "-C", "..", "install", "BIN="+binary, "DESTDIR="+dir)
	install.Env = append(os.Environ(), "MAKEFLAGS=")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	ran := 0
	for _, b := range blocks(t, page(t, "docs/operations.md")) {
		if b.how != "tested by TestWatchingIsSetUp" {
			continue
		}
		for line := range strings.Lines(b.text) {
			if strings.HasPrefix(line, "sudo systemctl restart ") {
				continue
			}
			line = regexp.MustCompile(` /(usr|etc)/`).ReplaceAllString(strings.TrimPrefix(line, "sudo "), " "+dir+"/$1/")
			if out, err := exec.Command("sh", "-ec", line).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			ran++
		}
	}
	if ran != 2 {
		t.Errorf("%d commands found, want 2", ran)
	}
	promtool(t, "check", "config", filepath.Join(dir, "etc/prometheus/prometheus.yml"))
	provider := string(must(os.ReadFile(filepath.Join(dir, "etc/grafana/provisioning/dashboards/gridwire.yml")))(t))
	path := regexp.MustCompile(`path: (\S+)`).FindStringSubmatch(provider)
	if path == nil {
		t.Fatalf("no path for dashboards in:\n%s", provider)
	}
	if files, err := filepath.Glob(filepath.Join(dir, path[1], "*.json")); err != nil || len(files) != 4 {
		t.Errorf("Grafana is sent to %s, where the dashboards are %v (%v)", path[1], files, err)
	}
}

// TestWhatIsAskedForExists: every metric that a rule or a dashboard asks for is one of the agent's, as the table in docs/operations.md has them, or
// recorded by a rule; and so are the labels that it is chosen by.
func TestWhatIsAskedForExists(t *testing.T) {
	labels := map[string][]string{"up": nil}
	for _, m := range regexp.MustCompile("(?m)^\\| `(gridwire_\\w+)` \\| (\\w+) \\| ([\\w, ]*) \\|").FindAllStringSubmatch(page(t, "docs/operations.md"), -1) {
		own := strings.Split(m[3], ", ")
		labels[m[1]] = own
		if m[2] == "histogram" {
			labels[m[1]+"_sum"], labels[m[1]+"_count"], labels[m[1]+"_bucket"] = own, own, append(own, "le")
		}
	}
	recorded := string(must(os.ReadFile(filepath.Join(prometheusFolder, "gridwire.rules.yml")))(t))
	for _, m := range regexp.MustCompile(`- record: (\S+)`).FindAllStringSubmatch(recorded, -1) {
		labels[m[1]] = []string{"peer"}
	}
	if len(labels) < 30 {
		t.Fatalf("%d metrics only: was the table read?", len(labels))
	}
	target := []string{"job", "instance", "network", "node", "tags"}
	selector := regexp.MustCompile(`\b(gridwire[_:][\w:]+|up)\b(?:\{([^}]*)\})?`)
	used := 0
	for _, pattern := range []string{"../deploy/prometheus/gridwire.*.yml", "../deploy/grafana/dashboards/*.json"} {
		for _, f := range must(filepath.Glob(pattern))(t) {
			for line := range strings.Lines(strings.ReplaceAll(string(must(os.ReadFile(f))(t)), `\"`, `"`)) {
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") || strings.HasPrefix(line, "runbook_url") {
					continue
				}
				for _, m := range selector.FindAllStringSubmatch(line, -1) {
					if m[1] == "up" && m[2] == "" {
						continue // the word
					}
					used++
					own, known := labels[m[1]]
					if !known {
						t.Errorf("%s: there is no metric %s", f, m[1])
					}
					for _, l := range regexp.MustCompile(`(\w+) *(?:=~|!~|!=|=)`).FindAllStringSubmatch(m[2], -1) {
						if !slices.Contains(own, l[1]) && !slices.Contains(target, l[1]) {
							t.Errorf("%s: %s has no label %s", f, m[1], l[1])
						}
					}
				}
			}
		}
	}
	if used < 150 {
		t.Errorf("%d metrics asked for: were the files read?", used)
	}
}
