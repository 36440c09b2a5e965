//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// networkManager is a machine where NetworkManager is in charge of names, in the given way, in a mesh with alice.
func (w *world) networkManager(dns string, more ...string) (p *pc, alice string, isp *isp, connection func(dns string)) {
	w.Helper()
	var packages []string
	for _, name := range append([]string{"libndp0", "libnm0", "network-manager"}, more...) {
		packages = append(packages, debian(w.T, name))
	}
	for _, tool := range []string{"dbus-daemon", "dbus-send"} {
		if _, err := exec.LookPath(tool); err != nil {
			w.Skip("no ", tool, " here: make testtools")
		}
	}
	a, b := w.public("alice"), w.home("bob", home)
	w.found(a)
	isp = w.isp("isp")
	p = w.pc(b, lab.MachineConfig{Hosts: "files dns", Packages: packages})
	programs := "NetworkManager --version && nmcli --version"
	if dns == "dnsmasq" {
		programs += " && dnsmasq --version"
	}
	if out, err := p.Exec(w.ctx(10*time.Second), "sh", "-c", programs); err != nil {
		w.Skipf("NetworkManager does not run here, where not all of its libraries are installed: %v, %s", err, out)
	}
	p.bus()
	connection = func(server string) {
		w.Helper()
		p.put("NetworkManager/system-connections/home.nmconnection", fmt.Sprintf("[connection]\nid=home\nuuid=5b0b9a5c-0000-4000-8000-000000000001\n"+
			"type=ethernet\ninterface-name=eth0\nautoconnect=true\n[ipv4]\nmethod=manual\naddress1=%v/24,192.168.2.1\ndns=%s;\n[ipv6]\nmethod=ignore\n",
			b.Addr(), server))
		if err := os.Chmod(p.Etc("NetworkManager/system-connections/home.nmconnection"), 0o600); err != nil {
			w.Fatal(err)
		}
	}
	p.put("NetworkManager/NetworkManager.conf", "[main]\nplugins=keyfile\ndns="+dns+"\nrc-manager=file\n[device]\nmatch-device=interface-name:eth0\nmanaged=1\n")
	connection(isp.addr)
	// Without udev, which NetworkManager takes for granted unless /sys is read-only, as in a container.
	must(p.Exec(w.ctx(5*time.Second), "sh", "-ec", "mount -n -o remount,ro /sys; mkdir -p /run/NetworkManager"))(w)
	p.daemon(func() bool { return strings.Contains(p.text("resolv.conf"), "nameserver") }, "NetworkManager", "--no-daemon")
	return p, w.status(a).Self.Addresses[0].Addr().String(), isp, connection
}

// TestNetworkManager: where NetworkManager writes resolv.conf, as on a Debian desktop, the agent puts itself first in it, and again when
// NetworkManager writes it anew because the network has changed.
func TestNetworkManager(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	p, alice, _, connection := w.networkManager("default")
	second := w.isp("second")
	agent := p.start([]string{busAddress}, "--join", w.token("bob"))
	if by := p.configured(); by != "NetworkManager (/etc/resolv.conf)" {
		t.Errorf("configured by %q", by)
	}
	p.finds("alice.farm.internal", alice)
	p.finds(www, wwwAddr)
	connection(second.addr)
	nmcli := p.Command(w.ctx(10*time.Second), "sh", "-ec", "nmcli connection reload; nmcli connection up home")
	nmcli.Env = append(nmcli.Env, busAddress)
	if out, err := nmcli.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.eventually(15*time.Second, "the agent is first again, before the new name server", func() bool {
		text := p.text("resolv.conf")
		return strings.Contains(text, second.addr) && strings.HasPrefix(text, "# >>> gridwire")
	})
	p.finds("alice.farm.internal", alice)
	p.finds(www, wwwAddr)
	if second.asked.Load() == 0 {
		t.Error("the new name server was not asked")
	}
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	if text := p.text("resolv.conf"); strings.Contains(text, "gridwire") || !strings.Contains(text, second.addr) {
		t.Errorf("after the end:\n%s", text)
	}
}

// TestNetworkManagerDnsmasq: where NetworkManager runs dnsmasq, that is told about the network's domain, and nothing else changes.
func TestNetworkManagerDnsmasq(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	p, alice, isp, _ := w.networkManager("dnsmasq", "dnsmasq-base")
	p.finds(www, wwwAddr)
	before := p.text("resolv.conf")
	agent := p.start([]string{busAddress}, "--join", w.token("bob"))
	if by := p.configured(); by != "NetworkManager (dnsmasq)" {
		t.Errorf("configured by %q", by)
	}
	p.finds("alice.farm.internal", alice)
	p.finds(www, wwwAddr)
	ours := isp.ours.Load()
	if ours > 0 || p.text("resolv.conf") != before {
		t.Errorf("the provider was asked %d times for names of the mesh; resolv.conf is\n%s", ours, p.text("resolv.conf"))
	}
	agent.Kill()
	p.finds(www, wwwAddr)
	w.says("doctor", p.doctor(), "a killed agent left its settings: /etc/NetworkManager/dnsmasq.d/gridwire-")
	agent = p.start([]string{busAddress})
	p.configured()
	p.finds("alice.farm.internal", alice)
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	p.finds(www, wwwAddr)
	if left, _ := os.ReadDir(p.Etc("NetworkManager/dnsmasq.d")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
