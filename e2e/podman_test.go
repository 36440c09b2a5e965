//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// podman runs Debian's podman on a host, unpacked and with all its state in a folder of the test's.
type podman struct {
	*runtime
	dir  string
	libs string
	pid  int // whose mount namespace all commands share
}

func (w *world) podman(h *lab.Host) *podman {
	w.Helper()
	p := &podman{runtime: w.runtime(h), dir: must(os.MkdirTemp("/var/tmp", "gw-podman"))(w)} // its sockets' paths are to be short
	w.Cleanup(func() { _ = os.RemoveAll(p.dir) })
	var libs []string
	for _, pkg := range []string{"podman", "conmon", "crun", "busybox-static"} {
		debian(w.T, pkg)
	}
	// Its libraries, whichever of them this release of Debian has and the machine lacks.
	libs = must(filepath.Glob(filepath.Dir(debian(w.T, "podman")) + "/lib*/usr/lib/*-linux-gnu"))(w)
	p.libs = strings.Join(libs, ":")
	conf := fmt.Sprintf(`[containers]
cgroups = "disabled"
log_driver = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
conmon_path = [%q]
[engine.runtimes]
crun = [%q]
[network]
network_backend = "cni"
cni_plugin_dirs = [%s]
network_config_dir = %q
`, debian(w.T, "conmon")+"/usr/bin/conmon", p.dir+"/crun", `"`+strings.ReplaceAll(p.plugins, ":", `", "`)+`"`, p.netdir)
	for path, text := range map[string]string{"containers.conf": conf, "rootfs/www/index.html": "from a container\n"} {
		path = filepath.Join(p.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			w.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(p.dir, "rootfs", dir), 0o755); err != nil {
			w.Fatal(err)
		}
	}
	// conmon starts it without our environment.
	wrapper := fmt.Sprintf("#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/usr/bin/crun \"$@\"\n", p.libs, debian(w.T, "crun"))
	if err := os.WriteFile(p.dir+"/crun", []byte(wrapper), 0o755); err != nil {
		w.Fatal(err)
	}
	busybox := must(filepath.Glob(debian(w.T, "busybox-static") + "/*bin/busybox"))(w)
	if err := os.WriteFile(p.dir+"/rootfs/bin/busybox", must(os.ReadFile(busybox[0]))(w), 0o755); err != nil {
		w.Fatal(err)
	}
	p.hold()
	return p
}

// hold starts a process with a mount namespace for podman: what it mounts is seen by its next command, and ends with the test. Its cgroups
// are version 2 there, whatever this machine has; a container's runtime only looks at them.
func (p *podman) hold() {
	p.Helper()
	script := "umount -R -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs none /dev/shm && echo ready && exec cat"
	cmd := exec.Command("nsenter", "--net=/run/netns/"+p.host.Namespace(), "unshare", "--mount", "--propagation", "private", "sh", "-c", script)
	in := must(cmd.StdinPipe())(p)
	out := must(cmd.StdoutPipe())(p)
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	p.Cleanup(func() {
		_, _ = p.run("rm", "--force", "--all", "--time", "0")
		_ = in.Close()
		_ = cmd.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		p.Skip("no mount namespace with cgroups here, which podman needs: ", err)
	}
}

// run runs a podman command on the host.
func (p *podman) run(args ...string) (string, error) {
	cmd := exec.CommandContext(p.ctx(40*time.Second), "nsenter", append([]string{
		"--target", strconv.Itoa(p.pid), "--mount", "--net", debian(p.T, "podman") + "/usr/bin/podman",
		"--root", p.dir + "/storage", "--runroot", p.dir + "/run", "--tmpdir", p.dir + "/tmp", "--storage-driver", "vfs",
	}, args...)...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+p.libs, "CONTAINERS_CONF="+p.dir+"/containers.conf", "XDG_RUNTIME_DIR="+p.dir)
	out, err := cmd.Output()
	if e, ok := err.(*exec.ExitError); ok {
		err = fmt.Errorf("podman %s: %w: %s", strings.Join(args, " "), err, e.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// TestPodman: a container that Debian's podman starts on the network is in the mesh under its own name, and asks its node
// for others'.
func TestPodman(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	w.mesh(alice, bob)
	p := w.podman(alice)
	p.configure("10-gridwire.conflist")
	must(p.run("run", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--detach", "--name", "web", "--network", p.network,
		"--rootfs", p.dir+"/rootfs", "/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"))(t)
	row, ok := w.workloads(alice)["web"]
	if !ok || row.Health != "up" {
		t.Fatalf("the container is not in the mesh: %+v", w.workloads(alice))
	}
	url := "http://" + netip.AddrPortFrom(row.Addresses[0].Addr(), 8080).String()
	w.eventually(10*time.Second, "bob reaches the container", func() bool {
		got, err := bob.Exec(w.ctx(3*time.Second), "curl", "-sS", "--max-time", "2", url)
		return err == nil && string(got) == "from a container\n"
	})
	if conf := must(p.run("exec", "web", "/bin/busybox", "cat", "/etc/resolv.conf"))(t); !strings.Contains(conf, "nameserver "+w.overlay6(alice).String()) {
		t.Errorf("the container asks others for names:\n%s", conf)
	}
	must(p.run("rm", "--force", "--time", "0", "web"))(t)
	if all := w.workloads(alice); len(all) != 0 || len(w.vethsOf(alice)) != 0 {
		t.Errorf("the container is gone, and left %+v", all)
	}
}
