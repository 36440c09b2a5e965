package enrol

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// TestCertified: a bundle that was lost on its way can be named for a revocation, which frees its name.
func TestCertified(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	tok := w.invite(i, InviteRequest{Name: "laptop", Offline: true})
	bundle, err := JoinOffline(tok, w.clock.now())
	w.must(err)
	_, leaf, _, err := bundle.Leaf()
	w.must(err)
	e, ok := i.Certified("laptop")
	if !ok || e.ID != leaf.ID || e.Serial != leaf.Serial || e.Issuer != leaf.Issuer || e.Kind != pki.Member {
		t.Errorf("named %+v, %v", e, ok)
	}
	if _, ok := i.Certified("desktop"); ok {
		t.Error("named somebody who never was")
	}
	w.must(w.revoke(e))
	if _, ok := i.Certified("laptop"); ok {
		t.Error("named somebody who is revoked")
	}
	w.invite(i, InviteRequest{Name: "laptop", Offline: true})
	w.clock.advance(48 * time.Hour)
	if _, ok := i.Certified("laptop"); ok {
		t.Error("named a certificate that has ended")
	}
}

func TestFinal(t *testing.T) {
	for code, want := range map[wire.EnrolError]bool{
		wire.EnrolError_ENROL_SPENT: true, wire.EnrolError_ENROL_NAME_TAKEN: true, wire.EnrolError_ENROL_BAD_REQUEST: true,
		wire.EnrolError_ENROL_UNREACHABLE: false, wire.EnrolError_ENROL_RATE_LIMITED: false,
	} {
		if Final(fmt.Errorf("joining: %w", &Error{Code: code})) != want {
			t.Errorf("%v: final is %v", code, !want)
		}
	}
	if Final(nil) || Final(errors.New("no route to host")) {
		t.Error("what is no refusal is final")
	}
}
