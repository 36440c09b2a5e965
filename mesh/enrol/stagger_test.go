package enrol

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

// TestSilentIssuerHoldsNobodyUp: an issuer that was killed is still connected for all that is known, and does not answer.
func TestSilentIssuerHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	bob := w.joined(i, w.invite(i, InviteRequest{Name: "bob"}), "")
	w.enter(bob, false)
	zoe := w.joined(i, w.invite(i, InviteRequest{Name: "zoe"}), "")
	iz := w.appoint(zoe, 1, &disk{})
	issuers := []*mesh.Member{w.member(w.alice), w.member(zoe)}
	synctest.Test(t, func(t *testing.T) {
		silent := func(ctx context.Context, to mesh.NodeID, f *wire.EnrolFrame) (*wire.EnrolResponse, error) {
			if to == w.alice.ID() {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
			return sendTo(iz)(ctx, to, f)
		}
		start := time.Now()
		chain, err := Renew(t.Context(), bob, issuers, silent, w.clock.now)
		w.must(err)
		m := &Membership{Keys: bob.Keys, Chain: chain, Root: bob.Root}
		if _, _, by, err := m.Leaf(); err != nil || by.NodeID != zoe.ID() {
			t.Errorf("renewed by %v, %v", by, err)
		}
		if took := time.Since(start); took != renewStagger {
			t.Errorf("it took %v, want %v", took, renewStagger)
		}

		nobody := func(ctx context.Context, _ mesh.NodeID, _ *wire.EnrolFrame) (*wire.EnrolResponse, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		ctx, cancel := context.WithTimeout(t.Context(), renewStagger+time.Second)
		defer cancel()
		_, err = Renew(ctx, bob, issuers, nobody, w.clock.now)
		wantRefusal(t, err, wire.EnrolError_ENROL_UNREACHABLE, "interrupted", "alice", "zoe")
		_, err = Renew(t.Context(), bob, issuers, nobody, w.clock.now)
		wantRefusal(t, err, wire.EnrolError_ENROL_UNREACHABLE, "no issuer gave one", "alice", "zoe")
	})
}
