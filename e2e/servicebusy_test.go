//go:build linux

package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/gridwire/gridwire/e2e/lab"
)

// strict is ProtectSystem=strict with the unit's exceptions: the machine's file system may not be written to. Its /run, with the control
// socket and the state in the lab, and /proc are mounts of their own.
func strict(t *testing.T) []string {
	t.Helper()
	for _, want := range []string{"\nProtectSystem=strict\n", "\nReadWritePaths=-/run/wireguard\n", "\nPrivateTmp=yes\n"} {
		if !strings.Contains(deployed(t, "gridwire.service"), want) {
			t.Fatalf("the unit is not what this test does; want %q", want)
		}
	}
	script := `mount -n --bind / / && mount -n -o remount,bind,ro / && mount -n --bind /etc /etc && mount -n -o remount,bind,ro /etc && exec "$@"`
	return append([]string{"unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"}, asService(t, "net_admin", "net_bind_service")...)
}

// TestServiceDoesEverything: the service, as its unit starts it, has all the rights that everything in use needs, with the helper for the
// machine's resolver; it says nothing of a right that it lacks, and leaves nothing.
func TestServiceDoesEverything(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob, m := w.beforeBusy()
	w.stateOf(bob)
	p := &pc{m, w, bob}
	p.helper(bySystemd)
	before := p.condition()
	b := &busy{pc: p, h: bob, port: 586, lan: "192.168.77.0/24", far: "198.18.7.0/24", wrap: slices.Concat(p.Wrap(), strict(t))}
	b.join(alice, "phone")
	w.run(bob, "usage")
	w.run(bob, "netcheck")
	if err := w.agents[bob].Stop(); err != nil {
		t.Error(err)
	}
	if got := changed(before, p.condition(), p.outlives(bob)...); len(got) > 0 {
		t.Errorf("the machine is not as it was:\n%s", strings.Join(got, "\n"))
	}
	for line := range strings.Lines(w.agents[bob].Log()) {
		if strings.Contains(line, "level=DEBUG") {
			continue
		}
		if strings.Contains(line, "CAP_") || strings.Contains(line, "not permitted") || strings.Contains(line, "ermission") || strings.Contains(line, "ead-only") {
			t.Errorf("it lacks a right: %s", line)
		}
	}
}
