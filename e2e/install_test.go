//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstall installs into a folder, as a packager does, and takes everything away again.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	root := must(filepath.Abs(".."))(t)
	vars := []string{"-s", "-C", root, "BIN=" + binary, "DESTDIR=" + dir, "PREFIX=/usr"}
	makes := func(target string) {
		t.Helper()
		cmd := exec.Command("make", append(vars, target)...)
		cmd.Env = append(os.Environ(), "MAKEFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	makes("install")
	want := map[string]os.FileMode{
		"/usr/bin/gridwire":                                  0o755,
		"/usr/lib/systemd/system/gridwire.service":           0o644,
		"/usr/lib/systemd/system/gridwire-resolver.socket":   0o644,
		"/usr/lib/systemd/system/gridwire-resolver@.service": 0o644,
		"/usr/share/polkit-1/rules.d/60-gridwire.rules":      0o644,
		"/usr/lib/sysusers.d/gridwire.conf":                  0o644,
		"/usr/lib/tmpfiles.d/gridwire.conf":                  0o644,
		"/usr/lib/cni/gridwire-cni":                          0o755,
	}
	for _, files := range []string{"prometheus/*.yml", "grafana/dashboards/*.json", "grafana/provisioning/*/*.yml"} {
		for _, f := range must(filepath.Glob(filepath.Join(root, "deploy", files)))(t) {
			want["/usr/share/gridwire"+strings.TrimPrefix(f, filepath.Join(root, "deploy"))] = 0o644
		}
	}
	for path, mode := range installed(t, dir) {
		if want[path] != mode {
			t.Errorf("%s has mode %#o, want %#o", path, mode, want[path])
		}
		delete(want, path)
	}
	if len(want) > 0 {
		t.Errorf("not installed: %v", want)
	}
	unit := string(must(os.ReadFile(filepath.Join(dir, "usr/lib/systemd/system/gridwire.service")))(t))
	if !strings.Contains(unit, "\nExecStart=/usr/bin/gridwire agent\n") {
		t.Errorf("the unit starts another program:\n%s", unit)
	}
	helper := string(must(os.ReadFile(filepath.Join(dir, "usr/lib/systemd/system/gridwire-resolver@.service")))(t))
	if !strings.Contains(helper, "\nExecStart=/usr/bin/gridwire resolver\n") {
		t.Errorf("the helper's unit starts another program:\n%s", helper)
	}
	if out, err := exec.Command(filepath.Join(dir, "usr/bin/gridwire"), "version").Output(); err != nil || !strings.HasPrefix(string(out), "gridwire ") {
		t.Errorf("version: %q, %v", out, err)
	}
	makes("uninstall")
	if left := installed(t, dir); len(left) > 0 {
		t.Errorf("uninstall left %v", left)
	}
}

func installed(t *testing.T, dir string) map[string]os.FileMode {
	t.Helper()
	out := map[string]os.FileMode{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			out[strings.TrimPrefix(path, dir)] = info.Mode().Perm()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestUnitIsSound asks systemd itself, where it is installed.
func TestUnitIsSound(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd is not installed")
	}
	dir := t.TempDir()
	for name, exposure := range map[string]string{"gridwire.service": "25", "gridwire-resolver@.service": "35", "gridwire-resolver.socket": ""} {
		unit := strings.ReplaceAll(deployed(t, name), "/usr/local/bin/gridwire", binary)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(unit), 0o644); err != nil {
			t.Fatal(err)
		}
		if exposure == "" {
			continue
		}
		if out, err := exec.Command(analyze, "security", "--offline=true", "--threshold="+exposure, filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Errorf("%s is more exposed than %s of 100: %v\n%s", name, exposure, err, out)
		}
	}
	for _, name := range []string{"gridwire.service", "gridwire-resolver@1.service", "gridwire-resolver.socket"} {
		if out, err := exec.Command(analyze, "verify", "--man=no", filepath.Join(dir, name)).CombinedOutput(); err != nil || strings.Contains(string(out), "gridwire") {
			t.Errorf("systemd-analyze verify %s: %v\n%s", name, err, out)
		}
	}
}
