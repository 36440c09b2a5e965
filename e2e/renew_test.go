//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestRenewalLosesNoPacket: certificates are renewed from two thirds of their life, and end, under traffic at 100 packets a second in which
// none is lost; WireGuard's keys and sessions stay as they are. Who was off when its certificate ended gets another when it is back.
func TestRenewalLosesNoPacket(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob, carol, dave, erin := w.public("alice"), w.home("bob", home), w.home("carol", home), w.public("dave"), w.public("erin")
	w.found(alice, "--certificate-lifetime", "30s")
	for _, h := range []*lab.Host{dave, erin, bob, carol} {
		w.join(h)
	}
	w.linkedAll(10*time.Second, alice, bob, carol, dave, erin)
	w.agents[dave].Kill()
	w.agents[erin].Kill()

	before := map[*lab.Host]lab.Status{bob: w.status(bob), carol: w.status(carol)}
	ends := before[bob].Self.CertificateExpires
	if c := before[carol].Self.CertificateExpires; c.After(ends) {
		ends = c
	}
	if left := time.Until(ends); left > 30*time.Second || left < 15*time.Second {
		t.Fatalf("the certificates end in %v, want what is left of 30 s", left)
	}
	var flows []*flow
	for range 2 { // ping's timer is coarse: each sends some 60 packets a second here
		flows = append(flows, w.flow(bob, carol, 10*time.Millisecond), w.flow(carol, alice, 10*time.Millisecond))
	}
	w.eventually(time.Until(ends)+5*time.Second, "the first certificates have ended", func() bool { return time.Since(ends) > 2*time.Second })
	for _, f := range flows {
		if lost := f.lost(); len(lost) > 0 {
			t.Errorf("%v: %d were lost: %v", f, len(lost), lost)
		}
		if n := len(f.answers()); n < 600 {
			t.Errorf("%v: %d answers", f, n)
		}
	}
	for h, was := range before {
		now := w.status(h)
		if !now.Self.CertificateExpires.After(was.Self.CertificateExpires) {
			t.Errorf("%s has the certificate that ended at %v", h.Label(), now.Self.CertificateExpires)
		}
		if now.Self.ID != was.Self.ID || now.Self.WireGuardPublicKey != was.Self.WireGuardPublicKey || fmt.Sprint(now.Self.Addresses) != fmt.Sprint(was.Self.Addresses) {
			t.Errorf("%s was %+v and is %+v", h.Label(), was.Self, now.Self)
		}
		if log := w.agents[h].Log(); strings.Contains(log, "member gone\" part=directory name=carol") || strings.Contains(log, "member gone\" part=directory name=bob") {
			t.Errorf("%s saw somebody go who renewed in time", h.Label())
		}
	}

	if !w.is(alice, "dave", "expired") {
		t.Errorf("alice lists %+v", w.members(alice))
	}
	eve := w.public("eve")
	w.fails(eve, statusRefused, []string{"the name dave is taken", "gridwire revoke dave"}, "join", w.invite(alice), "--name", "dave")
	w.run(alice, "revoke", "erin") // what that says to do
	w.run(eve, "join", w.invite(alice), "--name", "erin")
	w.start(dave)
	w.linked(alice, dave, 10*time.Second)
	w.linked(bob, dave, 10*time.Second)
	if !w.is(alice, "dave", "member") {
		t.Errorf("alice lists %+v", w.members(alice))
	}
}
