//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// traces lists what an agent has on its machine: interface, routes, nftables, sockets.
func (w *world) traces(h *lab.Host) []string {
	w.Helper()
	ctx := w.ctx(10 * time.Second)
	var found []string
	look := func(what string, cmd ...string) {
		out, err := h.Exec(ctx, cmd[0], cmd[1:]...)
		if err != nil {
			w.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, h.Interface()) {
				found = append(found, what+": "+strings.TrimSpace(line))
			}
		}
	}
	look("interface", "ip", "-o", "link")
	look("IPv4 route", "ip", "route", "show", "table", "all")
	look("IPv6 route", "ip", "-6", "route", "show", "table", "all")
	look("nftables", "nft", "list", "ruleset")
	look("UDP socket", "ss", "-ulnp")
	for _, path := range []string{h.Socket(), "/var/run/wireguard/" + h.Interface() + ".sock"} {
		if _, err := os.Stat(path); err == nil {
			found = append(found, "file: "+path)
		}
	}
	return found
}

func TestSIGTERMEndsWithinTwoSecondsAndLeavesNothing(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	for _, h := range []*lab.Host{alice, bob} {
		if got := w.traces(h); len(got) < 5 {
			t.Fatalf("the running agent on %s shows %q only: this test would see nothing", h.Label(), got)
		}
		start := time.Now()
		if err := w.agents[h].Stop(); err != nil {
			t.Errorf("stop %s: %v", h.Label(), err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s took %v to end", h.Label(), took)
		}
		if left := w.traces(h); len(left) > 0 {
			t.Errorf("%s left behind: %q", h.Label(), left)
		}
	}
}

func TestKillAndRestartReplacesWhatIsLeft(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	before := len(w.traces(bob))
	for range 3 {
		w.agents[bob].Kill()
		w.start(bob)
		w.linked(bob, alice, 10*time.Second)
	}
	if after := len(w.traces(bob)); after != before {
		t.Errorf("after kill -9 and restart: %d traces, %d before: %q", after, before, w.traces(bob))
	}
}

func TestWgShowsThePeers(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.public("bob")
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	out := string(must(alice.Exec(w.ctx(5*time.Second), "wg", "show", alice.Interface()))(t))
	key := w.peer(alice, "bob").WireGuardPublicKey
	if !strings.Contains(out, "peer: "+key) || !strings.Contains(out, "latest handshake") || !strings.Contains(out, "listening port: 51820") {
		t.Errorf("wg show:\n%s", out)
	}
}

// TestNeighbourCannotReachTheOverlay: Linux accepts packets for any of its addresses on any interface, so a machine on the same LAN could
// speak to overlay listeners, with a forged overlay source even.
func TestNeighbourCannotReachTheOverlay(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	r := w.router("r", home, nil)
	bob, mallory := must(r.Host("bob"))(t), must(r.Host("mallory"))(t)
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	ctx := w.ctx(20 * time.Second)
	st := must(bob.Status(ctx))(t)
	forged := must(alice.Status(ctx))(t).Self.Addresses
	for i, target := range st.Self.Addresses {
		bits := "-4"
		if target.Addr().Is6() {
			bits = "-6"
		}
		gateway := bob.Addr().String()
		if target.Addr().Is6() {
			out := string(must(bob.Exec(ctx, "ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"))(t))
			gateway, _, _ = strings.Cut(strings.Fields(out)[3], "/")
		}
		must(mallory.Exec(ctx, "ip", bits, "route", "add", target.String(), "via", gateway, "dev", "eth0"))(t)
		must(mallory.Exec(ctx, "ip", bits, "addr", "add", forged[i].String(), "dev", "lo"))(t)
		for _, source := range [][]string{nil, {"-I", forged[i].Addr().String()}} {
			args := append([]string{"-n", "-c", "2", "-i", "0.2", "-W", "1"}, source...)
			if out, err := mallory.Exec(ctx, "ping", append(args, target.Addr().String())...); err == nil {
				t.Errorf("a neighbour reached %v from %q:\n%s", target, source, out)
			}
		}
	}
	rules := string(must(bob.Exec(ctx, "nft", "list", "ruleset"))(t))
	if !strings.Contains(rules, "gridwire_"+bob.Interface()) || !dropped(rules) {
		t.Errorf("the leak guard dropped nothing:\n%s", rules)
	}
	if err := w.Ping(ctx, alice, "bob", 3); err != nil {
		t.Errorf("the overlay itself: %v", err)
	}
}

func dropped(rules string) bool {
	for line := range strings.Lines(rules) {
		if strings.Contains(line, "drop") && strings.Contains(line, "counter packets") && !strings.Contains(line, "packets 0 ") {
			return true
		}
	}
	return false
}

func TestTwoNetworksOnOneMachine(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, zoe, shared := w.public("alice"), w.public("zoe"), w.public("shared")
	second := must(shared.Another("second"))(t)
	w.mesh(alice, shared)
	w.run(zoe, "init", "other", "--node", "zoe")
	w.issuer = zoe
	w.start(zoe)
	w.join(second)
	w.linked(alice, shared, 10*time.Second)
	w.linked(zoe, second, 10*time.Second)
	if a, b := w.status(shared), w.status(second); a.Self.ListenPort == b.Self.ListenPort || a.Network.ID == b.Network.ID {
		t.Errorf("ports %d and %d, networks %s and %s", a.Self.ListenPort, b.Self.ListenPort, a.Network.Name, b.Network.Name)
	}
	if err := w.agents[shared].Stop(); err != nil {
		t.Error(err)
	}
	if err := w.Ping(w.ctx(10*time.Second), zoe, "second", 3); err != nil {
		t.Errorf("the other network after this one's agent ended: %v", err)
	}
}

// TestWideKeysAreRefused: keys that others on the machine can read are no keys.
func TestWideKeysAreRefused(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	w.found(alice)
	if err := w.agents[alice].Stop(); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(alice.State(), "identity.key")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	a := must(alice.StartAgent("--metrics", "off"))(t)
	if err := a.WaitReady(w.ctx(10 * time.Second)); err == nil {
		t.Fatal("the agent started with a key that everybody can read")
	}
	if log := a.Log(); !strings.Contains(log, "chmod 600") || !strings.Contains(log, "identity.key") {
		t.Errorf("it does not say what to do:\n%s", log)
	}
}
