package enrol

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

func TestOfflineBundle(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	tok := w.invite(i, InviteRequest{Name: "laptop", Offline: true, Tags: []string{"mobile"}})
	m, err := Join(context.Background(), tok, newKeys(t), "ignored", nil, w.clock.now)
	w.must(err)
	_, leaf, _, err := m.Leaf()
	w.must(err)
	if leaf.Name != "laptop" || !m.Bundle || len(leaf.Tags) != 1 || len(m.Items) != 1 || !bytes.Equal(m.Secret, w.alice.Secret) {
		t.Errorf("%+v", m)
	}
	if life := leaf.NotAfter.Sub(day0); life != 24*time.Hour {
		t.Errorf("the certificate lives %v", life)
	}
	if _, err := w.join(i, w.invite(i, InviteRequest{}), newKeys(t), "laptop"); err == nil {
		t.Error("a second laptop was admitted")
	}
	if _, err := Renew(context.Background(), m, nil, sendTo(i), w.clock.now); err == nil {
		t.Error("a bundle was renewed instead of rekeyed")
	}
	w.clock.advance(24*time.Hour + time.Second)
	_, err = JoinOffline(tok, w.clock.now())
	wantRefusal(t, err, wire.EnrolError_ENROL_EXPIRED, "expired on 2026-03-02T12:00:00Z")
	tok.Expires += 1e9
	tok.Offline.Chain = w.alice.Chain
	_, err = JoinOffline(tok, day0)
	wantRefusal(t, err, wire.EnrolError_ENROL_FORGED, "forged or damaged")
}

func TestRekey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := &disk{}
		cfg := w.config(d)
		offset := time.Until(day0)
		now := func() time.Time { return time.Now().Add(offset) } // the bubble's clock, for Run
		cfg.Now = now
		i, err := NewIssuer(cfg)
		w.must(err)
		ctx, stop := context.WithCancel(context.Background())
		ran := make(chan error)
		go func() { ran <- i.Run(ctx) }()

		tok := w.invite(i, InviteRequest{Name: "laptop", Offline: true})
		bundle, err := JoinOffline(tok, now())
		w.must(err)
		w.enter(bundle, false)
		files := newMemFiles()
		w.must(Save(files, bundle))
		next, err := NextKeys(files)
		w.must(err)
		issuers := []*mesh.Member{w.member(w.alice)}
		fresh, err := Rekey(ctx, bundle, next, issuers, sendTo(i), now)
		w.must(err)
		_, old, _, _ := bundle.Leaf()
		_, leaf, _, err := fresh.check()
		w.must(err)
		if fresh.Bundle || leaf.Name != "laptop" || leaf.ID == old.ID || leaf.WireGuard == old.WireGuard || leaf.NotAfter.Sub(now()) < 29*24*time.Hour {
			t.Errorf("rekeyed to %+v", leaf)
		}
		if w.isRevoked(old.ID) {
			t.Error("revoked before the answer can have arrived")
		}
		// A second user of the bundle, at once and later.
		thief, err := JoinOffline(tok, now())
		w.must(err)
		_, err = Rekey(ctx, thief, newKeys(t), issuers, sendTo(i), now)
		wantRefusal(t, err, wire.EnrolError_ENROL_REVOKED, "replaced by another one", "somebody else has used the same bundle")
		time.Sleep(rekeyGrace + time.Second)
		synctest.Wait()
		if !w.isRevoked(old.ID) || len(w.entries) != 1 || w.entries[0].Serial != old.Serial || w.entries[0].Issuer != old.Issuer {
			t.Errorf("revoked: %+v", w.entries)
		}
		_, err = Rekey(ctx, thief, newKeys(t), issuers, sendTo(i), now)
		wantRefusal(t, err, wire.EnrolError_ENROL_REVOKED)

		// The answer was lost and the machine restarted: the same keys get the same certificate, though the old one is revoked.
		next, err = NextKeys(files)
		w.must(err)
		again, err := Rekey(ctx, bundle, next, issuers, sendTo(i), now)
		w.must(err)
		if !bytes.Equal(again.Chain[0], fresh.Chain[0]) {
			t.Error("another certificate for the same rekeying")
		}
		w.must(Save(files, again))
		loaded, err := Load(files)
		w.must(err)
		if loaded.Bundle || loaded.ID() != fresh.ID() {
			t.Error("the stored membership is still the bundle's")
		}
		if other, err := NextKeys(files); err != nil || other.ID() == fresh.ID() {
			t.Errorf("the keys for rekeying are the ones in use: %v", err)
		}
		stop()
		w.must(<-ran)
	})
	goleak.VerifyNone(t)
}

// An issuer that crashed between a rekeying and its revocation makes up for it at its next start.
func TestRekeyRevokesAfterRestart(t *testing.T) {
	w := newWorld(t)
	d := &disk{}
	i := w.issuer(d)
	bundle, err := JoinOffline(w.invite(i, InviteRequest{Name: "laptop", Offline: true}), w.clock.now())
	w.must(err)
	_, err = Rekey(context.Background(), bundle, newKeys(t), []*mesh.Member{w.member(w.alice)}, sendTo(i), w.clock.now)
	w.must(err)
	i = w.issuer(d)
	wait, err := i.revokeDue(w.clock.now())
	if err != nil || wait != rekeyGrace || w.isRevoked(bundle.ID()) {
		t.Errorf("wait %v, %v", wait, err)
	}
	w.clock.advance(rekeyGrace)
	wait, err = i.revokeDue(w.clock.now())
	if err != nil || wait != 0 || !w.isRevoked(bundle.ID()) {
		t.Errorf("wait %v, %v, revoked %v", wait, err, w.isRevoked(bundle.ID()))
	}
	i = w.issuer(d)
	if _, err = i.revokeDue(w.clock.now()); err != nil || len(w.entries) != 1 {
		t.Errorf("revoked %d times, %v", len(w.entries), err)
	}
	cfg := w.config(&disk{})
	cfg.Revoke = nil
	i, err = NewIssuer(cfg)
	w.must(err)
	b2, err := JoinOffline(w.invite(i, InviteRequest{Name: "tablet", Offline: true}), w.clock.now())
	w.must(err)
	_, err = Rekey(context.Background(), b2, newKeys(t), []*mesh.Member{w.member(w.alice)}, sendTo(i), w.clock.now)
	wantRefusal(t, err, wire.EnrolError_ENROL_BAD_REQUEST, "cannot replace keys")
}
