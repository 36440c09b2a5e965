//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// orphans makes a network of alice, the founder who admitted everybody, zoe, an issuer too, bob and carol, with pings between the last two.
func orphans(w *world) (alice, zoe, bob, carol *lab.Host, flows []*flow) {
	w.Helper()
	alice, zoe, bob, carol = w.public("alice"), w.public("zoe"), w.home("bob", home), w.home("carol", home)
	w.mesh(alice, zoe, bob, carol)
	w.linkedAll(10*time.Second, alice, zoe, bob, carol)
	w.run(alice, "issuer", "add", "zoe")
	w.eventually(2*time.Second, "zoe is an issuer", func() bool { return w.status(zoe).Self.Issuer })
	return alice, zoe, bob, carol, []*flow{w.flow(bob, carol, 20*time.Millisecond), w.flow(carol, zoe, 20*time.Millisecond)}
}

func (w *world) renewed(limit time.Duration, hosts ...*lab.Host) {
	w.Helper()
	for _, h := range hosts {
		w.eventually(limit, h.Label()+" has a certificate by another issuer", func() bool {
			return strings.Contains(w.agents[h].Log(), "renewed this node's certificate")
		})
	}
}

func (w *world) lostNothing(flows []*flow) {
	w.Helper()
	for _, f := range flows {
		if lost := f.lost(); len(lost) > 0 {
			w.Errorf("%v: %d were lost: %v", f, len(lost), lost)
		}
	}
}

// TestRetiredIssuer: the founder who admitted everybody hands over. Nobody is out, nothing is lost, and everybody gets a certificate by
// the new issuer.
func TestRetiredIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, zoe, bob, carol, flows := orphans(w)
	if said := w.run(alice, "issuer", "remove", "alice"); !strings.Contains(said, "alice is no issuer any more") {
		t.Errorf("issuer remove says %q", said)
	}
	w.eventually(2*time.Second, "everybody knows one issuer", func() bool {
		for _, h := range []*lab.Host{alice, zoe, bob, carol} {
			if list := w.run(h, "issuer", "list"); strings.Contains(list, "alice") || !strings.Contains(list, "zoe") {
				return false
			}
		}
		return true
	})
	w.renewed(10*time.Second, alice, zoe, bob, carol)
	w.lostNothing(flows)
	w.linkedAll(5*time.Second, alice, zoe, bob, carol)
	w.fails(alice, statusRefused, []string{"no issuer", "run this on zoe"}, "invite", "--name", "dave")
	w.fails(alice, statusRefused, []string{"alice was dismissed", "leave and join again"}, "issuer", "add", "alice")
	w.fails(alice, statusRefused, []string{"zoe is the only issuer"}, "issuer", "remove", "zoe")
	w.issuer = zoe
	dave := w.public("dave")
	w.join(dave)
	w.linked(dave, bob, 10*time.Second)
}

// TestStolenFounder: the founder's machine is gone with the root key on it, and everybody was admitted by it. The other issuer puts it out.
func TestStolenFounder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, zoe, bob, carol, flows := orphans(w)
	key := w.status(alice).Self.WireGuardPublicKey
	w.stop(alice) // not killed: it is to remember everybody when it is back
	w.run(zoe, "revoke", "alice")
	for _, h := range []*lab.Host{zoe, bob, carol} {
		w.eventually(2*time.Second, h.Label()+" has dropped alice", func() bool { return !w.hasKey(h, key) })
	}
	w.renewed(15*time.Second, zoe, bob, carol)
	w.lostNothing(flows)

	w.start(alice) // the thief turns it on
	mole := w.public("mole")
	token := w.invite(alice)
	if _, err := mole.Gridwire(w.ctx(30*time.Second), "join", token, "--name", "mole"); err == nil {
		w.start(mole)
		w.eventually(10*time.Second, "the mole is told that it is out", func() bool { return strings.Contains(w.run(mole, "status"), "out of the network") })
	}
	for _, h := range []*lab.Host{zoe, bob, carol} {
		if n := len(w.wgPeers(h)); n != 2 {
			t.Errorf("%s has %d WireGuard peers, want 2", h.Label(), n)
		}
	}
	w.linkedAll(5*time.Second, zoe, bob, carol)
}
