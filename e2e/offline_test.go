//go:build linux

package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
	"github.com/gridwire/gridwire/mesh/wire"
)

// TestOfflineBundle: a laptop joins with no issuer on, is a member like any other, and gets keys of its own at the first issuer seen: the
// key that was carried around is revoked then.
func TestOfflineBundle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, laptop := w.public("alice"), w.public("bob"), w.public("laptop")
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	bundle := w.invite(alice, "--offline", "--name", "laptop")
	w.agents[alice].Kill()

	if said := w.run(laptop, "join", bundle); !strings.Contains(said, "laptop is a member of farm") {
		t.Errorf("join says %q", said)
	}
	w.start(laptop)
	w.linked(bob, laptop, 10*time.Second)
	carried := w.status(laptop).Self

	w.start(alice)
	w.eventually(20*time.Second, "the laptop has keys of its own", func() bool {
		self := w.status(laptop).Self
		return self.Name == "laptop" && self.ID != carried.ID && self.WireGuardPublicKey != carried.WireGuardPublicKey
	})
	fresh := w.status(laptop).Self
	for _, h := range []*lab.Host{alice, bob} {
		w.eventually(15*time.Second, h.Label()+" knows the laptop by its new keys alone", func() bool {
			keys := w.wgPeers(h)
			return slices.Contains(keys, fresh.WireGuardPublicKey) && !slices.Contains(keys, carried.WireGuardPublicKey)
		})
		w.eventually(10*time.Second, h.Label()+" lists the old identity as revoked and the laptop under its own name", func() bool {
			return slices.Equal(w.standing(h, "laptop"), []string{"member", "revoked"}) && w.peer(h, "laptop").ID == fresh.ID
		})
	}
	w.linkedAll(10*time.Second, alice, bob, laptop)
	// Also after a restart: the new keys are on disk, the old ones are not.
	w.stop(laptop)
	w.start(laptop)
	w.linked(bob, laptop, 10*time.Second)
	if now := w.status(laptop).Self.ID; now != fresh.ID {
		t.Errorf("after a restart the laptop is %s, was %s", now, fresh.ID)
	}

	// Who finds the bundle now holds nothing.
	thief := w.public("thief")
	w.run(thief, "join", bundle)
	w.start(thief)
	w.eventually(10*time.Second, "the thief is told that it is out", func() bool {
		return strings.Contains(w.run(thief, "status"), "out of the network")
	})
	if keys := w.wgPeers(bob); slices.Contains(keys, carried.WireGuardPublicKey) {
		t.Error("bob has taken the thief in")
	}
	w.linked(bob, laptop, 10*time.Second)
}

// TestOfflineBundleUsedTwice is noticed and named where both run before any issuer is seen.
func TestOfflineBundleUsedTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, laptop, thief := w.public("alice"), w.public("bob"), w.public("laptop"), w.public("thief")
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	bundle := w.invite(alice, "--offline", "--name", "laptop")
	w.agents[alice].Kill()
	for _, h := range []*lab.Host{laptop, thief} {
		w.run(h, "join", bundle)
		w.start(h)
	}
	w.eventually(20*time.Second, "bob says that two machines use one identity", func() bool {
		return strings.Contains(w.run(bob, "status"), "two machines use the identity of laptop")
	})
}

// TestLostBundle can be revoked before anybody has used it; its name is free then.
func TestLostBundle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, finder, laptop := w.public("alice"), w.public("bob"), w.public("finder"), w.public("laptop")
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	bundle := w.invite(alice, "--offline", "--name", "laptop")
	w.fails(alice, statusRefused, []string{"the name laptop is taken", "gridwire revoke laptop"}, "invite", "--offline", "--name", "laptop")
	w.run(alice, "revoke", "laptop")
	w.run(finder, "join", bundle)
	w.start(finder)
	w.eventually(10*time.Second, "the finder is told that it is out", func() bool { return strings.Contains(w.run(finder, "status"), "out of the network") })
	w.join(laptop)
	w.linked(bob, laptop, 10*time.Second)
	if n := len(w.wgPeers(bob)); n != 2 {
		t.Errorf("bob has %d WireGuard peers, want alice and the laptop", n)
	}
}

// TestBadBundlesAreRefused with no issuer to ask.
func TestBadBundlesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, laptop := w.public("alice"), w.public("laptop")
	w.found(alice)
	expired := w.invite(alice, "--offline", "--name", "laptop", "--expires", "2s")
	good := w.invite(alice, "--offline", "--name", "other")
	w.agents[alice].Kill()
	w.eventually(4*time.Second, "the bundle has expired", func() bool {
		return time.Now().UnixMilli() > must(wire.DecodeToken(expired))(w).Expires
	})
	w.fails(laptop, statusRefused, []string{"offline bundle", "expired on"}, "join", expired)
	w.fails(laptop, statusRefused, []string{"forged or damaged"}, "join", w.edited(good, func(tok *wire.Token) { tok.Offline.Chain[0][200] ^= 1 }))
	w.fails(laptop, statusRefused, []string{"forged or damaged"}, "join", w.edited(good, func(tok *wire.Token) { tok.Offline.IdentitySeed[0] ^= 1 }))
	w.fails(laptop, statusRefused, []string{"the token is incomplete"}, "join", good[:len(good)/2])
	w.run(laptop, "join", good)
}
