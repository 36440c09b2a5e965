//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestEverybodyIsListed, online or not, by everybody, also by who has just started and has met nobody yet.
func TestEverybodyIsListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.public("bob")
	carol, dave := w.home("carol", home), w.home("dave", home)
	all := []*lab.Host{alice, bob, carol, dave}
	w.mesh(all...)
	w.linkedAll(10*time.Second, all...)
	names := []string{"alice", "bob", "carol", "dave"}
	lists := func(h *lab.Host) bool {
		var got []string
		for _, m := range w.members(h) {
			if m.Standing == "member" {
				got = append(got, m.Name)
			}
		}
		slices.Sort(got)
		return slices.Equal(got, names) && len(w.status(h).Peers) == len(names)-1
	}
	for _, h := range all {
		if !lists(h) {
			t.Errorf("%s lists %+v", h.Label(), w.members(h))
		}
	}

	for _, h := range []*lab.Host{alice, bob, carol} {
		w.agents[h].Kill()
	}
	if !lists(dave) {
		t.Errorf("with everybody else off, dave lists %+v", w.members(dave))
	}
	w.eventually(30*time.Second, "dave says that nobody is reachable", func() bool {
		return !slices.ContainsFunc(w.status(dave).Peers, func(p lab.PeerStatus) bool { return p.State == "connected" })
	})
	w.agents[dave].Kill()
	w.start(dave)
	if !lists(dave) {
		t.Errorf("after a restart with everybody else off, dave lists %+v", w.members(dave))
	}
}

// TestRecordsSpreadAcrossTime: two members that were never on at the same time know of each other through a third.
func TestRecordsSpreadAcrossTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, carol := w.public("alice"), w.public("bob"), w.public("carol")
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	w.agents[bob].Kill()
	w.join(carol)
	w.linked(alice, carol, 10*time.Second)
	if !w.is(carol, "bob", "member") {
		t.Errorf("carol lists %+v", w.members(carol))
	}
	w.agents[carol].Kill()
	w.start(bob)
	w.eventually(5*time.Second, "bob knows carol", func() bool { return w.is(bob, "carol", "member") })
	w.agents[alice].Kill() // nobody introduces them
	w.start(carol)
	w.linked(bob, carol, 10*time.Second)
}

// TestLeave: a farewell that outranks what was said before, keys that are gone, and an agent that may join again.
func TestLeave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, carol := w.public("alice"), w.public("bob"), w.public("carol")
	w.mesh(alice, bob, carol)
	w.linkedAll(10*time.Second, alice, bob, carol)
	was := w.status(bob).Self
	old := filepath.Join(w.Dir(), "old")
	w.copyState(bob.State(), old)
	w.agents[carol].Kill() // hears of it later

	if said := w.run(bob, "leave"); !strings.Contains(said, "bob has left farm") {
		t.Errorf("leave says %q", said)
	}
	if said := w.run(bob, "status"); !strings.Contains(said, "no member") { // at once
		t.Errorf("after leave, status says %q", said)
	}
	if _, err := bob.Exec(w.ctx(5*time.Second), "ip", "link", "show", bob.Interface()); err == nil {
		t.Error("after leave, the interface is still there")
	}
	w.eventually(2*time.Second, "alice has dropped bob's key", func() bool { return !w.hasKey(alice, was.WireGuardPublicKey) })
	w.eventually(2*time.Second, "alice lists bob as left", func() bool { return w.is(alice, "bob", "left") })
	for _, name := range []string{"identity.key", "wireguard.key", "seal.key", "chain.pem", "network.secret"} {
		for _, suffix := range []string{"", ".prev"} {
			if _, err := os.Stat(filepath.Join(bob.State(), name+suffix)); !os.IsNotExist(err) {
				t.Errorf("%s%s is still there (%v)", name, suffix, err)
			}
		}
	}
	w.eventually(3*time.Second, "nothing of the network is left in bob's state folder", func() bool {
		left := must(os.ReadDir(bob.State()))(t)
		return !slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() != "lock" })
	})
	if !w.agents[bob].Running() {
		t.Fatal("bob's agent has ended")
	}

	w.start(carol)
	w.eventually(5*time.Second, "carol has heard of it", func() bool {
		return w.is(carol, "bob", "left") && !w.hasKey(carol, was.WireGuardPublicKey)
	})

	// The old state does not bring the old bob back.
	w.stop(bob)
	fresh := filepath.Join(w.Dir(), "fresh")
	w.copyState(bob.State(), fresh)
	w.copyState(old, bob.State())
	w.start(bob)
	w.eventually(10*time.Second, "the old bob is told that it is out", func() bool { return strings.Contains(w.run(bob, "status"), "out of the network") })
	if w.hasKey(alice, was.WireGuardPublicKey) || w.hasKey(carol, was.WireGuardPublicKey) {
		t.Error("somebody has taken the old bob in again")
	}
	w.stop(bob)
	w.copyState(fresh, bob.State())

	// The name is free, and the machine may come back with a new token.
	w.start(bob)
	w.run(bob, "join", w.token("bob"))
	w.linked(alice, bob, 10*time.Second)
	w.linked(carol, bob, 10*time.Second)
	if now := w.status(bob).Self; now.ID == was.ID || now.WireGuardPublicKey == was.WireGuardPublicKey {
		t.Error("bob came back with its old keys")
	}
}

// TestRootKeySurvives leaving, and founding another network where one was founded before.
func TestRootKeySurvives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	w.found(alice)
	path := filepath.Join(alice.State(), "root.key")
	key := must(os.ReadFile(path))(t)
	w.run(alice, "leave", "--yes")
	w.eventually(5*time.Second, "the agent waits", func() bool { return strings.Contains(w.run(alice, "status"), "no member") })
	if now, err := os.ReadFile(path); err != nil || string(now) != string(key) {
		t.Errorf("the root key after leaving: %v", err)
	}
	w.fails(alice, statusRefused, []string{"root key of a network", path, "move it"}, "init", "ranch", "--node", "alice")
	if err := os.Rename(path, filepath.Join(w.Dir(), "root.key")); err != nil {
		t.Fatal(err)
	}
	w.run(alice, "init", "ranch", "--node", "alice")
	w.eventually(5*time.Second, "the agent has picked it up", func() bool { return w.status(alice).Network.Name == "ranch" })
}

// TestIssuersOutliveTheFounder: zoe, appointed by the founder, admits, renews and revokes when the founder is dead.
func TestIssuersOutliveTheFounder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, zoe := w.public("alice"), w.public("bob"), w.public("zoe")
	w.found(alice, "--certificate-lifetime", "30s")
	w.join(bob)
	w.join(zoe, "--certificate-lifetime", "30s")
	w.linkedAll(10*time.Second, alice, bob, zoe)
	w.fails(zoe, statusRefused, []string{"no issuer"}, "invite", "--name", "carol")

	if said := w.run(alice, "issuer", "add", "zoe"); !strings.Contains(said, "zoe is an issuer now") {
		t.Errorf("issuer add says %q", said)
	}
	w.eventually(2*time.Second, "zoe knows that she is an issuer", func() bool { return w.status(zoe).Self.Issuer })
	if list := w.run(bob, "issuer", "list"); !strings.Contains(list, "alice") || !strings.Contains(list, "zoe") {
		t.Errorf("bob lists the issuers\n%s", list)
	}
	w.agents[alice].Kill()

	carol := w.public("carol")
	w.issuer = zoe
	w.join(carol)
	w.linked(zoe, carol, 10*time.Second)
	w.linked(bob, carol, 10*time.Second)
	w.fails(w.public("eve"), statusRefused, []string{"the name bob is taken"}, "join", w.invite(zoe), "--name", "bob")

	before := w.status(bob).Self
	w.eventually(40*time.Second, "zoe has renewed bob", func() bool {
		return w.status(bob).Self.CertificateExpires.After(before.CertificateExpires)
	})
	after := w.status(bob).Self
	if before.ID != after.ID || before.WireGuardPublicKey != after.WireGuardPublicKey {
		t.Errorf("renewal changed bob's keys: %+v, %+v", before, after)
	}
	w.linkedAll(10*time.Second, bob, carol, zoe)
	w.reachesByIPv4(zoe, bob) // zoe's part of the pool is another one: bob's address has changed
	w.reachesByIPv4(bob, carol)

	key := w.status(carol).Self.WireGuardPublicKey
	w.run(zoe, "revoke", "carol")
	w.eventually(2*time.Second, "bob has dropped carol", func() bool { return !w.hasKey(bob, key) })
}

// reachesByIPv4 pings the IPv4 address that a shows for b.
func (w *world) reachesByIPv4(a, b *lab.Host) {
	w.Helper()
	w.eventually(5*time.Second, a.Label()+" reaches "+b.Label()+" by IPv4", func() bool {
		for _, p := range w.peer(a, b.Label()).Addresses {
			if p.Addr().Is4() {
				return w.Ping(w.ctx(5*time.Second), a, p.Addr().String(), 1) == nil
			}
		}
		return false
	})
}
