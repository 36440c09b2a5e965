package directory

import (
	"errors"
	"testing"

	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// TestDismissedIssuer: what an issuer signs after its dismissal is worth nothing, whoever spoke the word, and those it had admitted stay.
func TestDismissedIssuer(t *testing.T) {
	for _, how := range []string{"by the root", "as a member by another issuer", "by both"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, 2)
			alice, zoe := w.issuers[0], w.issuers[1]
			own := w.record(spec{key: zoe.key, name: "zoe", sequence: 1, by: alice})
			bobs := w.record(spec{key: key(bob), name: "bob", sequence: 1, by: zoe})
			b := newBench(t, w, newMemory(), epoch)
			b.want(Accepted, issuerItem(zoe))
			b.want(Accepted, own)
			b.want(Accepted, bobs)

			kept := w.revokedMember(bobs)
			kept.Kind = pki.Kept
			if how != "by the root" {
				b.want(Accepted, w.list(alice, 1, epoch, w.revokedMember(own), kept))
			}
			if how != "as a member by another issuer" {
				b.want(Accepted, w.list(nil, 1, epoch, w.revokedIssuer(zoe), kept))
			}
			if len(b.Issuers()) != 1 || b.Issuers()[0].NodeID != alice.NodeID {
				t.Errorf("issuers: %v", b.Issuers())
			}
			if m, ok := b.View().Member(zoe.NodeID); ok && m.Issuer {
				t.Error("zoe is shown as an issuer")
			}
			if !b.isMember(bob) {
				t.Error("bob is out with his issuer")
			}
			b.want(Accepted, w.recordOf(spec{key: key(bob), sequence: 2}, chainIn(w, bobs))) // he lives on
			if _, err := b.Judge(chainIn(w, bobs), b.Now()); err != nil {
				t.Errorf("judging bob: %v", err)
			}

			// Backdated, under a new key, and for bob's own: nobody has kept these.
			for name, it := range map[string]*wire.Item{
				"a new member":     w.record(spec{key: key(carol), name: "carol", sequence: 1, by: zoe, issued: epoch.AddDate(0, 0, -20)}),
				"another for bob":  w.record(spec{key: key(bob), name: "bob", sequence: 3, by: zoe}),
				"the same serial":  w.record(spec{key: key(carol + 1), name: "dave", sequence: 1, by: zoe, serial: 7}),
				"herself, renewed": w.record(spec{key: zoe.key, name: "zoe", sequence: 2, by: zoe}),
			} {
				if v, err := b.feed(it); v != Stale || err != nil {
					t.Errorf("%s: %v, %v", name, v, err)
				}
				if _, err := b.Judge(chainIn(w, it), b.Now()); !errors.Is(err, ErrRevoked) {
					t.Errorf("%s is judged %v", name, err)
				}
			}
		})
	}
}

// TestDismissedIssuerCannotKeep: her own list, which goes on counting, keeps nobody whom the others' lists do not keep.
func TestDismissedIssuerCannotKeep(t *testing.T) {
	w := newWorld(t, 2)
	alice, zoe := w.issuers[0], w.issuers[1]
	own := w.record(spec{key: zoe.key, name: "zoe", sequence: 1, by: alice})
	backdoor := w.record(spec{key: key(carol), name: "carol", sequence: 1, by: zoe})
	kept := w.revokedMember(backdoor)
	kept.Kind = pki.Kept
	b := newBench(t, w, newMemory(), epoch)
	b.want(Accepted, issuerItem(alice))
	b.want(Accepted, issuerItem(zoe))
	b.want(Accepted, w.list(zoe, 1, epoch, kept, w.revokedMember(own)))
	b.want(Accepted, w.list(alice, 1, epoch, w.revokedMember(own)))
	if b.want(Stale, backdoor); b.isMember(carol) {
		t.Error("the backdoor is open")
	}
}

// TestIssuerThatLeft issues no more, for its keys are wiped; whom it had admitted stays.
func TestIssuerThatLeft(t *testing.T) {
	w := newWorld(t, 2)
	zoe := w.issuers[1]
	b := newBench(t, w, newMemory(), epoch)
	b.want(Accepted, w.record(spec{key: zoe.key, name: "zoe", sequence: 1, by: w.issuers[0]}))
	b.want(Accepted, w.record(spec{key: key(bob), name: "bob", sequence: 1, by: zoe}))
	if len(b.Issuers()) != 2 {
		t.Fatalf("%d issuers", len(b.Issuers()))
	}
	b.want(Accepted, w.record(spec{key: zoe.key, name: "zoe", sequence: 2, by: w.issuers[0], tombstone: true}))
	if len(b.Issuers()) != 1 || b.Issuers()[0].NodeID != w.issuers[0].NodeID {
		t.Errorf("issuers: %v", b.Issuers())
	}
	if !b.isMember(bob) {
		t.Error("bob is out with his issuer")
	}
}

// TestRevocationItems can be checked with nothing but the root: the lists of dismissed issuers too.
func TestRevocationItems(t *testing.T) {
	w := newWorld(t, 2)
	zoe := w.issuers[1]
	bobs := w.record(spec{key: key(bob), name: "bob", sequence: 1, by: w.issuers[0]})
	b := newBench(t, w, newMemory(), epoch)
	b.want(Accepted, issuerItem(zoe))
	b.want(Accepted, w.list(zoe, 1, epoch, w.revokedMember(bobs)))
	b.want(Accepted, w.list(nil, 1, epoch, w.revokedIssuer(zoe)))
	joiner := newBench(t, w, newMemory(), epoch)
	for _, it := range b.RevocationItems() {
		joiner.want(Accepted, it)
	}
	if joiner.want(Stale, bobs); joiner.isMember(bob) {
		t.Error("a joiner lets in whom a dismissed issuer had put out")
	}
}

func chainIn(w *world, it *wire.Item) [][]byte {
	r, _, err := wire.OpenRecord(it.GetRecord())
	w.check(err)
	return r.GetChain()
}
