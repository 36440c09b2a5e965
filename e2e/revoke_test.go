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

// TestRevoke: within 2 s everybody who is connected has dropped the revoked node's key, though the issuer dies right after; and it stays
// out, also when it restarts with the state that it had.
func TestRevoke(t *testing.T) {
	for _, after := range []string{"the issuer lives", "the issuer is killed right after"} {
		t.Run(after, func(t *testing.T) {
			w := newWorld(t, lab.Options{})
			alice, bob, carol := w.public("alice"), w.public("bob"), w.home("carol", home)
			dave, mallory := w.home("dave", home), w.home("mallory", cone)
			w.mesh(alice, bob, carol, dave, mallory)
			w.linkedAll(10*time.Second, alice, bob, carol, dave, mallory)
			key, id := w.status(mallory).Self.WireGuardPublicKey, w.status(mallory).Self.ID
			rest := []*lab.Host{bob, carol, dave}

			start := time.Now()
			w.run(alice, "revoke", "mallory")
			if strings.Contains(after, "killed") {
				w.agents[alice].Kill()
			} else {
				rest = append(rest, alice)
			}
			for _, h := range rest {
				for w.hasKey(h, key) {
					if time.Since(start) > 2*time.Second {
						t.Fatalf("2 s after the revocation, %s still has the key", h.Label())
					}
				}
				t.Logf("%s dropped the key within %v", h.Label(), time.Since(start).Round(time.Millisecond))
			}
			for _, h := range rest {
				if !w.is(h, "mallory", "revoked") {
					t.Errorf("%s lists %+v", h.Label(), w.members(h))
				}
			}

			for _, h := range rest {
				if control := w.run(h, "netcheck", "--json"); strings.Contains(control, id[:8]) || strings.Contains(control, `"mallory"`) {
					t.Errorf("%s still has a control connection to mallory:\n%s", h.Label(), control)
				}
			}

			w.agents[mallory].Kill()
			w.start(mallory)
			w.eventually(10*time.Second, "mallory is told that it is out", func() bool {
				return strings.Contains(w.run(mallory, "status"), "out of the network")
			})
			for _, h := range rest {
				if w.hasKey(h, key) {
					t.Errorf("%s has taken mallory in again", h.Label())
				}
				if _, err := w.WaitPing(w.ctx(time.Second), mallory, h.Label()); err == nil {
					t.Errorf("mallory still reaches %s", h.Label())
				}
			}
			w.linkedAll(10*time.Second, rest...)
		})
	}
}

// TestRevokedWhileOff: a member that was off starts its links with the list that it has, and drops the revoked one within 2 s of meeting
// anybody up to date.
func TestRevokedWhileOff(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob, mallory := w.public("alice"), w.public("bob"), w.public("mallory")
	w.mesh(alice, bob, mallory)
	w.linkedAll(10*time.Second, alice, bob, mallory)
	key, id := w.status(mallory).Self.WireGuardPublicKey, w.status(mallory).Self.ID
	w.agents[bob].Kill()
	w.run(alice, "revoke", "mallory")
	w.start(bob)
	w.eventually(2*time.Second, "bob has dropped mallory", func() bool { return !w.hasKey(bob, key) })
	w.linked(alice, bob, 10*time.Second)
	// It is on bob's disk: alone and restarted, he still knows.
	w.agents[alice].Kill()
	w.agents[bob].Kill()
	w.start(bob)
	out := func(m member) bool { return m.ID == id && m.Standing == "revoked" } // her name is in a cache only
	if w.hasKey(bob, key) || !slices.ContainsFunc(w.members(bob), out) {
		t.Errorf("after a restart bob lists %+v", w.members(bob))
	}
}

// TestRevokedNameIsFree for another machine, and the same machine may return with new keys and a new token only.
func TestRevokedNameIsFree(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.public("bob")
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	was := w.status(bob).Self
	w.run(alice, "revoke", "bob")
	w.eventually(5*time.Second, "bob knows", func() bool { return strings.Contains(w.run(bob, "status"), "out of the network") })
	w.run(bob, "leave") // what status tells it to do
	w.run(bob, "join", w.token("bob"))
	w.linked(alice, bob, 10*time.Second)
	if now := w.status(bob).Self; now.ID == was.ID || now.WireGuardPublicKey == was.WireGuardPublicKey {
		t.Error("bob came back with its old keys")
	}
}

// TestRevokedIssuerStaysOut: an issuer that is put out loses both its membership and its right to let anybody in, itself included; also
// when the root key is where it belongs, offline. Whom it had admitted stays, and gets another certificate elsewhere.
func TestRevokedIssuerStaysOut(t *testing.T) {
	for _, root := range []string{"with the root key at hand", "with the root key offline"} {
		t.Run(root, func(t *testing.T) { testRevokedIssuer(t, strings.Contains(root, "offline")) })
	}
}

func testRevokedIssuer(t *testing.T, offline bool) {
	w := newWorld(t, lab.Options{})
	alice, zoe, bob := w.public("alice"), w.public("zoe"), w.public("bob")
	w.mesh(alice, zoe)
	w.linked(alice, zoe, 10*time.Second)
	w.run(alice, "issuer", "add", "zoe")
	w.eventually(2*time.Second, "zoe is an issuer", func() bool { return w.status(zoe).Self.Issuer })
	w.issuer = zoe
	w.join(bob)
	w.linkedAll(10*time.Second, alice, zoe, bob)
	if offline {
		if err := os.Rename(filepath.Join(alice.State(), "root.key"), filepath.Join(w.Dir(), "root.key")); err != nil {
			t.Fatal(err)
		}
	}
	flow := w.flow(bob, alice, 20*time.Millisecond)
	back := w.invite(zoe, "--offline", "--name", "backdoor") // made while she might
	token := w.invite(zoe)
	key := w.status(zoe).Self.WireGuardPublicKey

	w.run(alice, "revoke", "zoe")
	for _, h := range []*lab.Host{alice, bob} {
		w.eventually(2*time.Second, h.Label()+" has dropped zoe", func() bool { return !w.hasKey(h, key) })
	}
	w.eventually(15*time.Second, "alice has renewed bob", func() bool { return strings.Contains(w.agents[bob].Log(), "renewed this node's certificate") })
	if lost := flow.lost(); len(lost) > 0 {
		t.Errorf("%v: %d were lost when the issuer who had admitted bob was put out: %v", flow, len(lost), lost)
	}
	if list := w.run(bob, "issuer", "list"); strings.Contains(list, "zoe") {
		t.Errorf("bob still lists zoe as an issuer:\n%s", list)
	}
	w.eventually(5*time.Second, "zoe is told", func() bool { return strings.Contains(w.run(zoe, "status"), "out of the network") })

	// Another machine of hers, with a certificate that she made, and one that she admits now.
	other := w.public("backdoor")
	w.run(other, "join", back)
	w.start(other)
	w.eventually(10*time.Second, "the backdoor is told that it is out", func() bool {
		return strings.Contains(w.run(other, "status"), "out of the network")
	})
	late := w.public("late")
	// zoe may not know better and admit it, but that is worth nothing.
	if _, err := late.Gridwire(w.ctx(30*time.Second), "join", token, "--name", "late"); err == nil {
		w.start(late)
		w.eventually(10*time.Second, "the latecomer is told that it is out", func() bool {
			return strings.Contains(w.run(late, "status"), "out of the network")
		})
	}
	for _, h := range []*lab.Host{alice, bob} {
		for _, m := range w.members(h) {
			if m.Standing == "member" && m.Name != "alice" && m.Name != "bob" {
				t.Errorf("%s lists %+v", h.Label(), m)
			}
		}
		if n := len(w.wgPeers(h)); n != 1 { // each other
			t.Errorf("%s has %d WireGuard peers, want 1", h.Label(), n)
		}
	}
}
