//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// The bus of a machine, with the rules of Debian's system.conf: who is not allowed to is refused, and each service brings its own rules.
const busConf = `<busconfig>
<type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow user="*"/><deny own="*"/><deny send_type="method_call"/><allow send_type="signal"/><allow send_requested_reply="true" send_type="method_return"/>
<allow send_requested_reply="true" send_type="error"/><allow receive_type="method_call"/><allow receive_type="method_return"/>
<allow receive_type="error"/><allow receive_type="signal"/><allow send_destination="org.freedesktop.DBus"/>
</policy>
<includedir>/usr/share/dbus-1/system.d</includedir>
</busconfig>
`

const busAddress = "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/dbus/system_bus_socket"

// daemon runs a service in the machine until the test ends, or until what it returns is called. up says when it is ready.
func (p *pc) daemon(up func() bool, name string, args ...string) (stop func()) {
	p.w.Helper()
	cmd := p.Command(context.Background(), name, args...)
	cmd.Env = append(cmd.Env, busAddress)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		p.w.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // stop waits for it
		_ = cmd.Wait()
		close(ended)
	}()
	stop = func() {
		_ = cmd.Process.Kill()
		<-ended
	}
	p.w.Cleanup(func() {
		stop()
		if p.w.Failed() {
			p.w.Logf("%s: %s", name, log.String())
		}
	})
	p.w.eventually(15*time.Second, name+" is up", func() bool {
		select {
		case <-ended:
			p.w.Fatalf("%s ended: %s", name, log.String())
		default:
		}
		return up()
	})
	return stop
}

// owned reports whether somebody has a name on the bus.
func (p *pc) owned(name string) bool {
	cmd := p.Command(p.w.ctx(5*time.Second), "dbus-send", "--system", "--print-reply=literal", "--dest=org.freedesktop.DBus",
		"/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner", "string:"+name)
	cmd.Env = append(cmd.Env, busAddress)
	out, _ := cmd.Output()
	return strings.Contains(string(out), "true")
}

func (p *pc) bus() {
	p.w.Helper()
	p.put("bus.conf", busConf)
	p.daemon(func() bool {
		_, err := p.Exec(p.w.ctx(5*time.Second), "test", "-S", "/run/dbus/system_bus_socket")
		return err == nil
	}, "dbus-daemon", "--nofork", "--nosyslog", "--config-file=/etc/bus.conf")
}

func (p *pc) resolved() (stop func()) {
	p.w.Helper()
	return p.daemon(func() bool { return p.owned("org.freedesktop.resolve1") }, "/lib/systemd/systemd-resolved")
}

func (p *pc) put(name, text string) {
	p.w.Helper()
	if err := os.WriteFile(p.Etc(name), []byte(text), 0o644); err != nil {
		p.w.Fatal(err)
	}
}

// resolvectl asks systemd-resolved.
func (p *pc) resolvectl(args ...string) string {
	cmd := p.Command(p.w.ctx(10*time.Second), "resolvectl", args...)
	cmd.Env = append(cmd.Env, busAddress)
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// withResolved is a machine as Debian, Ubuntu or Fedora install it: systemd-resolved, and everybody asks it.
func (w *world) withResolved() (p *pc, alice string, isp *isp) {
	w.Helper()
	for _, tool := range []string{"dbus-daemon", "dbus-send"} {
		if _, err := exec.LookPath(tool); err != nil {
			w.Skip("no ", tool, " here: make testtools")
		}
	}
	a, b := w.public("alice"), w.home("bob", home)
	w.found(a)
	isp = w.isp("isp")
	var packages []string
	for _, name := range []string{"libseccomp2", "libkmod2", "libip4tc2", "libsystemd-shared", "systemd-resolved"} { // not all machines have its libraries
		packages = append(packages, debian(w.T, name))
	}
	p = w.pc(b, lab.MachineConfig{
		ResolvConf: "nameserver 127.0.0.53\noptions edns0 trust-ad\n", Hosts: "files dns", Packages: packages,
		Users: []string{"systemd-resolve:x:997:997::/:/usr/sbin/nologin", fmt.Sprintf("gridwire:x:%d:%d::/:/usr/sbin/nologin", serviceUID, serviceGID)},
	})
	if out, err := p.Exec(w.ctx(10*time.Second), "/lib/systemd/systemd-resolved", "--version"); err != nil {
		w.Skipf("systemd-resolved does not run here, where not all of its libraries are installed: %v, %s", err, out)
	}
	p.put("systemd/resolved.conf", "[Resolve]\nDNS="+isp.addr+"\nDNSSEC=no\n")
	p.bus()
	return p, w.status(a).Self.Addresses[0].Addr().String(), isp
}

// TestResolved: with systemd-resolved only the network's names come to the agent, also from clients that validate, and resolved's restart and the
// agent's death leave nothing behind.
func TestResolved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	p, alice, isp := w.withResolved()
	agent := p.start([]string{busAddress}, "--join", w.token("bob"))
	w.eventually(10*time.Second, "status says that resolved is not there yet", func() bool {
		return strings.Contains(w.run(p.h, "status", "--json"), "leaves names to systemd-resolved, which is not available at the moment")
	})
	stop := p.resolved()
	if by := p.configured(); by != "systemd-resolved" {
		t.Errorf("configured by %s", by)
	}
	p.finds("alice.farm.internal", alice)
	p.finds(www, wwwAddr)
	if out := must(p.Exec(w.ctx(10*time.Second), "getent", "hosts", alice))(t); !strings.Contains(string(out), "alice.farm.internal") {
		t.Errorf("the name of %s: %q", alice, out)
	}
	link := p.resolvectl("status", p.h.Interface())
	w.says("resolvectl", link, "-DefaultRoute")
	w.says("resolvectl", link, "DNSSEC=no")
	w.says("resolvectl", link, "~farm.internal")
	// It restarts, and validates now: nothing below .internal exists in the signed root, but for our link that is off.
	stop()
	p.put("systemd/resolved.conf", "[Resolve]\nDNS="+isp.addr+"\nDNSSEC=yes\n")
	stop = p.resolved()
	p.finds("alice.farm.internal", alice)
	stop()
	p.put("systemd/resolved.conf", "[Resolve]\nDNS="+isp.addr+"\nDNSSEC=no\n")
	p.resolved()
	p.finds("alice.farm.internal", alice)
	before := isp.ours.Load()
	agent.Kill()
	p.finds(www, wwwAddr)
	if got := p.getent("alice.farm.internal"); got != "" {
		t.Errorf("with the agent dead alice has the address %q", got)
	}
	agent = p.start([]string{busAddress})
	p.configured()
	p.finds("alice.farm.internal", alice)
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	p.finds(www, wwwAddr)
	if before > 0 {
		t.Errorf("the provider was asked %d times for names of the mesh while the agent ran", before)
	}
}

// TestResolvedByPolkit: the service is not root. The rule that `make install` brings lets it configure systemd-resolved itself; without it, it says
// what is lacking, and the helper does it.
func TestResolvedByPolkit(t *testing.T) {
	t.Parallel()
	const polkitd = "/usr/lib/polkit-1/polkitd"
	if _, err := os.Stat(polkitd); err != nil {
		t.Skip("no polkit here:", err)
	}
	w := newWorld(t, lab.Options{})
	p, alice, _ := w.withResolved()
	w.stateOf(p.h)
	if err := os.MkdirAll(p.Etc("polkit-1/rules.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.daemon(func() bool { return p.owned("org.freedesktop.PolicyKit1") }, polkitd, "--no-debug")
	p.resolved()
	service := append(p.Wrap(), append([]string{"unshare", "-m"}, asService(t, "net_admin", "net_bind_service")...)...)
	agent := p.startAs(service, []string{busAddress}, "--join", w.token("bob"))
	w.eventually(5*time.Second, "the log says what is lacking", func() bool {
		return strings.Contains(agent.Log(), "it takes root, or a polkit rule that allows org.freedesktop.resolve1.set-d")
	})
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	p.put("polkit-1/rules.d/60-gridwire.rules", deployed(t, "polkit.rules"))
	agent = p.startAs(service, []string{busAddress})
	if by := p.configured(); by != "systemd-resolved" {
		t.Errorf("configured by %s", by)
	}
	p.finds("alice.farm.internal", alice)
	link := p.resolvectl("status", p.h.Interface())
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"-DefaultRoute", "-LLMNR", "-mDNS", "-DNSOverTLS", "DNSSEC=no", "~farm.internal"} {
		w.says("resolvectl", link, want)
	}
}
