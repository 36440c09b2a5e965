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

// TestNetworkManager: where NetworkManager writes resolv.conf, as on a Debian desktop, the agent puts itself first in it, and again when
// NetworkManager writes it anew because the network has changed.
func TestNetworkManager(t *testing.T) {
	var packages []string
	for _, name := range []string{"libndp0", "libnm0", "network-manager"} {
		packages = append(packages, debian(t, name))
	}
	for _, tool := range []string{"dbus-daemon", "dbus-send"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("no ", tool, " here: make tools")
		}
	}
	w := newWorld(t, lab.Options{})
	a, b := w.public("alice"), w.home("bob", home)
	w.found(a)
	isp, second := w.isp("isp"), w.isp("second")
	alice := w.status(a).Self.Addresses[0].Addr().String()
	p := w.pc(b, lab.MachineConfig{ResolvConf: "", Hosts: "files dns", Packages: packages})
	if out, err := p.Exec(w.ctx(10*time.Second), "sh", "-c", "NetworkManager --version && nmcli --version"); err != nil {
		t.Skipf("NetworkManager does not run here, where not all of its libraries are installed: %v, %s", err, out)
	}
	p.bus()
	connection := func(dns string) {
		t.Helper()
		p.put("NetworkManager/system-connections/home.nmconnection", fmt.Sprintf("[connection]\nid=home\nuuid=5b0b9a5c-0000-4000-8000-000000000001\n"+
			"type=ethernet\ninterface-name=eth0\nautoconnect=true\n[ipv4]\nmethod=manual\naddress1=%s,192.168.2.1\ndns=%s;\n[ipv6]\nmethod=ignore\n",
			b.Addr().String()+"/24", dns))
		if err := os.Chmod(p.Etc("NetworkManager/system-connections/home.nmconnection"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.put("NetworkManager/NetworkManager.conf", "[main]\nplugins=keyfile\ndns=default\nrc-manager=file\n[device]\nmatch-device=interface-name:eth0\nmanaged=1\n")
	connection(isp.addr)
	// Without udev, which NetworkManager takes for granted unless /sys is read-only, as in a container.
	must(p.Exec(w.ctx(5*time.Second), "sh", "-ec", "mount -n -o remount,ro /sys; mkdir -p /run/NetworkManager"))(t)
	p.daemon(func() bool { return strings.Contains(p.text("resolv.conf"), isp.addr) }, "NetworkManager", "--no-daemon")
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
