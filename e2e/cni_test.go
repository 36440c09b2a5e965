//go:build linux

package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// debian returns where a Debian package is unpacked that must not be installed here; without it the test is skipped.
func debian(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(cmp.Or(os.Getenv("GRIDWIRE_DEBS"), "../bin/deb"), name)
	dir = must(filepath.Abs(dir))(t)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("%s is not unpacked in %s: make testtools", name, dir)
	}
	return dir
}

// runtime plays a container runtime on a host, with cnitool or by itself.
type runtime struct {
	*world
	host    *lab.Host
	tool    string
	plugins string // folders, as CNI_PATH
	netdir  string
	network string
}

func (w *world) runtime(h *lab.Host) *runtime {
	w.Helper()
	dir := w.TempDir()
	r := &runtime{world: w, host: h, tool: filepath.Join(dir, "cnitool"), netdir: filepath.Join(dir, "net.d"), network: fmt.Sprintf("gridwire-e2e-%d", os.Getpid())}
	if err := os.MkdirAll(r.netdir, 0o755); err != nil {
		w.Fatal(err)
	}
	plugin := filepath.Join(dir, "gridwire-cni")
	for out, pkg := range map[string]string{r.tool: "github.com/containernetworking/cni/cnitool", plugin: "../cmd/gridwire-cni"} {
		if b, err := exec.CommandContext(w.ctx(3*time.Minute), "go", "build", "-o", out, pkg).CombinedOutput(); err != nil {
			w.Fatalf("build %s: %v\n%s", pkg, err, b)
		}
	}
	r.plugins = dir + ":" + debian(w.T, "containernetworking-plugins") + "/usr/lib/cni"
	return r
}

// configure installs one of the example configurations, with the given changes.
func (r *runtime) configure(example string, changes ...string) {
	r.Helper()
	text := strings.NewReplacer(append(changes, `"type": "gridwire-cni"`, fmt.Sprintf(`"type": "gridwire-cni", "socket": %q`, r.host.Socket()))...).Replace(deployed(r.T, "cni/"+example))
	var list map[string]any
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		r.Fatalf("%s: %v", example, err)
	}
	list["name"] = r.network
	b := must(json.Marshal(list))(r.T)
	if err := os.WriteFile(filepath.Join(r.netdir, "net.conflist"), b, 0o644); err != nil {
		r.Fatal(err)
	}
}

// cni runs cnitool; args are CNI_ARGS.
func (r *runtime) cni(command string, n *lab.Namespace, args string) (string, error) {
	cmd := r.host.Command(r.ctx(25*time.Second), r.tool, command, r.network, n.Path())
	cmd.Env = append(os.Environ(), "CNI_PATH="+r.plugins, "NETCONFPATH="+r.netdir, "CNI_ARGS="+args)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("cnitool %s: %w: %s%s", command, err, errs.String(), out.String())
	}
	return out.String(), nil
}

// cniResult is what a plugin answers, as far as the tests ask.
type cniResult struct {
	Interfaces []struct{ Name, Sandbox string }
	IPs        []struct{ Address netip.Prefix }
	DNS        struct{ Nameservers, Search []string }
}

func (r *runtime) add(n *lab.Namespace, args string) cniResult {
	r.Helper()
	var res cniResult
	if out := must(r.cni("add", n, args))(r.T); json.Unmarshal([]byte(out), &res) != nil {
		r.Fatalf("cnitool add says %s", out)
	}
	return res
}

// TestCNI: a container runtime puts containers into the mesh, by the specification: ADD, CHECK, DEL, GC, STATUS, VERSION.
func TestCNI(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	r := w.runtime(alice)
	r.configure("10-gridwire.conflist", `"cniVersion": "1.0.0"`, `"cniVersion": "1.1.0"`)
	box := w.namespace(alice, "box")
	if _, err := r.cni("status", box, ""); err == nil || !strings.Contains(err.Error(), "the gridwire agent cannot be asked") {
		t.Errorf("STATUS without an agent: %v", err)
	}
	if _, err := r.cni("add", box, ""); err == nil || !strings.Contains(err.Error(), "no gridwire agent is running") {
		t.Errorf("ADD without an agent: %v", err)
	}
	w.mesh(alice, bob)
	must(r.cni("status", box, ""))(t)
	res := r.add(box, "IgnoreUnknown=1;K8S_POD_NAME=My_Web;GRIDWIRE_PORTS=http:8080")
	row := w.workloads(alice)["my-web"]
	if len(res.IPs) != 1 || row.Health != "up" || res.IPs[0].Address != row.Addresses[0] || len(res.Interfaces) != 2 || res.Interfaces[1].Name != "eth0" ||
		len(res.DNS.Nameservers) != 1 || res.DNS.Nameservers[0] != w.overlay6(alice).String() {
		t.Fatalf("ADD says %+v, the list %+v", res, row)
	}
	w.mirror(box, 8080)
	w.sees(bob, w.overlay6(bob), netip.AddrPortFrom(row.Addresses[0].Addr(), 8080), 10*time.Second)
	must(r.cni("check", box, ""))(t)
	must(box.Exec(w.ctx(5*time.Second), "ip", "addr", "del", row.Addresses[0].String(), "dev", "eth0"))(t)
	if _, err := r.cni("check", box, ""); err == nil || !strings.Contains(err.Error(), "has lost its address") {
		t.Errorf("CHECK of a container without its address: %v", err)
	}
	twin := w.namespace(alice, "twin")
	r.add(twin, "K8S_POD_NAME=my-web")
	if all := w.workloads(alice); len(all) != 2 {
		t.Errorf("a second container of that name: %+v", all)
	}
	must(r.cni("del", box, ""))(t)
	must(r.cni("del", box, ""))(t) // again
	if out := must(box.Exec(w.ctx(5*time.Second), "ip", "-br", "link"))(t); strings.Contains(string(out), "eth0") {
		t.Errorf("after DEL:\n%s", out)
	}
	if all := w.workloads(alice); len(all) != 1 || len(w.vethsOf(alice)) != 1 {
		t.Errorf("after DEL: %+v", all)
	}
	must(r.cni("gc", twin, ""))(t) // cnitool has nothing be kept
	if all := w.workloads(alice); len(all) != 0 || len(w.vethsOf(alice)) != 0 {
		t.Errorf("after GC: %+v", all)
	}
	r.add(box, "K8S_POD_NAME=again")
	w.agents[alice].Kill()
	must(r.cni("del", box, ""))(t)
	if left := w.vethsOf(alice); len(left) != 0 {
		t.Errorf("DEL without an agent left %v", left)
	}
	w.start(alice)
	if all := w.workloads(alice); len(all) != 0 {
		t.Errorf("a container that ended while the agent was off: %+v", all)
	}
}

// TestCNIChain: behind Debian's bridge plugin, a container is on the bridge and in the mesh.
func TestCNIChain(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.public("bob")
	w.mesh(alice, bob)
	r := w.runtime(alice)
	// Without masquerading, which takes iptables, and with host-local's files where they are swept away.
	r.configure("20-bridge-gridwire.conflist", `"ipMasq": true`, `"ipMasq": false`, `"host-local",`, fmt.Sprintf(`"host-local", "dataDir": %q,`, t.TempDir()))
	box := w.namespace(alice, "box")
	res := r.add(box, "IgnoreUnknown=1;K8S_POD_NAME=web")
	row := w.workloads(alice)["web"]
	if row.Health != "up" || len(res.IPs) != 2 || res.IPs[1].Address != row.Addresses[0] || res.Interfaces[len(res.Interfaces)-1].Name != "gw0" {
		t.Fatalf("ADD says %+v, the list %+v", res, row)
	}
	w.mirror(box, 8080)
	w.sees(bob, w.overlay6(bob), netip.AddrPortFrom(row.Addresses[0].Addr(), 8080), 10*time.Second)
	must(box.Exec(w.ctx(5*time.Second), "ping", "-n", "-c", "1", "-W", "2", "10.89.77.1"))(t)
	// No CHECK here: the bridge plugin takes every address of the chain for its own interface's.
	must(r.cni("del", box, ""))(t)
	if all := w.workloads(alice); len(all) != 0 {
		t.Errorf("after DEL: %+v", all)
	}
	if out := must(box.Exec(w.ctx(5*time.Second), "ip", "-br", "link"))(t); strings.Count(string(out), "\n") != 1 {
		t.Errorf("after DEL:\n%s", out)
	}
}
