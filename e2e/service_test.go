//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// The service's user and group in these tests; nobody on the machine has them.
const serviceUID, serviceGID = 52820, 52821

// asService is a program that becomes the agent as deploy/gridwire.service starts it: not root, with exactly the unit's capabilities, nothing
// to be gained, /dev/net/tun as udev makes it, and /run/wireguard as deploy/tmpfiles.conf does (private ones: the machine's are shared).
func asService(t *testing.T, capabilities ...string) []string {
	t.Helper()
	unit, tmpfiles := deployed(t, "gridwire.service"), deployed(t, "tmpfiles.conf")
	for _, key := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
		if !strings.Contains(unit, "\n"+key+"=CAP_NET_ADMIN CAP_NET_BIND_SERVICE\n") {
			t.Fatalf("%s is not what this test gives", key)
		}
	}
	folder := regexp.MustCompile(`(?m)^d /run/wireguard (\d+) root gridwire -$`).FindStringSubmatch(tmpfiles)
	if folder == nil {
		t.Fatalf("no /run/wireguard in\n%s", tmpfiles)
	}
	set := "-all"
	for _, c := range capabilities {
		set += ",+" + c
	}
	// `ip netns exec` has made a mount namespace, which ends with the agent.
	script := fmt.Sprintf(`mkdir -p /run/wireguard && mount -t tmpfs -o mode=%s,uid=0,gid=%d tmpfs /run/wireguard &&
		mount -t tmpfs -o mode=755 tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 &&
		exec setpriv --reuid %d --regid %d --clear-groups --no-new-privs --bounding-set %[5]s --inh-caps %[5]s --ambient-caps %[5]s "$@"`,
		folder[1], serviceGID, serviceUID, serviceGID, set)
	return []string{"sh", "-c", script, "sh"}
}

func deployed(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// stateOf makes the state folder as deploy/tmpfiles.conf does.
func (w *world) stateOf(h *lab.Host) {
	w.Helper()
	if !strings.Contains(deployed(w.T, "tmpfiles.conf"), "\nd /var/lib/gridwire 0700 gridwire gridwire -\n") {
		w.Fatal("tmpfiles.conf makes another state folder than this test")
	}
	if err := os.Mkdir(h.State(), 0o700); err != nil {
		w.Fatal(err)
	}
	if err := h.GiveTo(serviceUID, serviceGID); err != nil {
		w.Fatal(err)
	}
}

// serve starts h's agent as the service.
func (w *world) serve(h *lab.Host, args ...string) *lab.Agent {
	w.Helper()
	a := must(h.StartAgentWith(lab.AgentConfig{Args: args, Wrap: asService(w.T, "net_admin", "net_bind_service")}))(w)
	if err := a.WaitReady(w.ctx(15 * time.Second)); err != nil {
		w.Fatalf("start the service on %s: %v", h.Label(), err)
	}
	return a
}

// TestServiceNeedsNoRoot: founded by root, run by a user with the unit's two capabilities and nothing else, on a machine where IPv6 is off.
func TestServiceNeedsNoRoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	for _, h := range []*lab.Host{alice, bob} {
		w.stateOf(h)
	}
	must(bob.Exec(w.ctx(5*time.Second), "sh", "-c", "for f in all default; do echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6; done"))(t)
	w.run(alice, "init", "farm", "--node", "alice")
	w.issuer = alice
	w.serve(alice)
	agent := w.serve(bob, "--join", w.token("bob"), "--metrics", "127.0.0.1:586") // a port below 1024
	w.linked(alice, bob, 10*time.Second)

	status := string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", agent.PID())))(t))
	for _, want := range []string{"Uid:\t52820\t52820\t52820\t52820", "Gid:\t52821\t52821\t52821\t52821", "CapEff:\t0000000000001400", "CapBnd:\t0000000000001400", "NoNewPrivs:\t1"} {
		if !strings.Contains(status, want) {
			t.Errorf("the agent is not as the unit starts it; want %q in\n%s", want, status)
		}
	}
	if rules := string(must(bob.Exec(w.ctx(5*time.Second), "nft", "list", "table", "ip6", "gridwire_"+bob.Interface()))(t)); !strings.Contains(rules, "drop") {
		t.Errorf("no leak guard:\n%s", rules)
	}
	inside := func(program string, args ...string) []byte { // where the agent's /run/wireguard is
		return must(bob.Exec(w.ctx(5*time.Second), "nsenter", append([]string{"-t", fmt.Sprint(agent.PID()), "-m", program}, args...)...))(t)
	}
	if out := string(inside("wg", "show", bob.Interface(), "peers")); strings.TrimSpace(out) != w.peer(bob, "alice").WireGuardPublicKey {
		t.Errorf("wg show: %q", out)
	}
	w.leaves(bob, agent)
}

// leaves stops the agent and looks for what it left.
func (w *world) leaves(h *lab.Host, a *lab.Agent) {
	w.Helper()
	if got := w.traces(h); len(got) < 4 {
		w.Fatalf("the running agent shows %q only: nothing would be seen", got)
	}
	if err := a.Stop(); err != nil {
		w.Error(err)
	}
	if left := w.traces(h); len(left) > 0 {
		w.Errorf("left behind: %q", left)
	}
}

// TestServiceDoctorAndGroup: doctor finds nothing wrong, and the socket is for the group alone.
func TestServiceDoctorAndGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	w.stateOf(alice)
	w.run(alice, "init", "farm", "--node", "alice")
	w.serve(alice)
	gridwire := func(args ...string) []string {
		return append(args, "--state", alice.State(), "--socket", alice.Socket())
	}
	as := asService(t, "net_admin", "net_bind_service")
	out, err := alice.Exec(w.ctx(10*time.Second), as[0], append(as[1:], gridwire(binary, "doctor")...)...)
	if err != nil {
		t.Errorf("doctor: %v", err)
	}
	for _, want := range []string{"ok    rights:", "ok    /dev/net/tun:", "ok    state folder:", "ok    IPv6:", "ok    disk:"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("doctor does not say %q:\n%s", want, out)
		}
	}
	for _, c := range []struct {
		gid  string
		code int
	}{{fmt.Sprint(serviceGID), 0}, {"52999", 4}} {
		args := append([]string{"--reuid", "52998", "--regid", c.gid, "--clear-groups"}, gridwire(binary, "status")...)
		_, err := alice.Exec(w.ctx(10*time.Second), "setpriv", args...)
		if got := codeOf(err); got != c.code {
			t.Errorf("status by a user of group %s: exit status %d, want %d: %v", c.gid, got, c.code, err)
		}
	}
}

func codeOf(err error) int {
	if e, ok := err.(*lab.CommandError); ok {
		return e.Code
	}
	return 0
}

// TestServiceNamesWhatItLacks: without one of its rights the agent ends with a sentence that names it.
func TestServiceNamesWhatItLacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	w.stateOf(alice)
	w.run(alice, "init", "farm", "--node", "alice")
	for _, c := range []struct {
		has  string
		args []string
		want string
	}{
		{"net_bind_service", nil, "CAP_NET_ADMIN"},
		{"net_admin", []string{"--listen", "443"}, "CAP_NET_BIND_SERVICE"},
	} {
		a := must(alice.StartAgentWith(lab.AgentConfig{Args: c.args, Wrap: asService(t, c.has)}))(t)
		err := a.Wait(w.ctx(10 * time.Second))
		if err == nil || !strings.Contains(a.Log(), c.want) {
			t.Errorf("with %s alone and %q: %v; want an error that names %s:\n%s", c.has, c.args, err, c.want, a.Log())
		}
		if left := w.traces(alice); len(left) > 0 {
			t.Errorf("with %s alone and %q it left %q", c.has, c.args, left)
		}
	}
	// Metrics are no reason to have no mesh.
	a := must(alice.StartAgentWith(lab.AgentConfig{Args: []string{"--metrics", "127.0.0.1:586"}, Wrap: asService(t, "net_admin")}))(t)
	if err := a.WaitReady(w.ctx(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	w.eventually(5*time.Second, "the log names what metrics lack", func() bool { return strings.Contains(a.Log(), "CAP_NET_BIND_SERVICE") })
}
