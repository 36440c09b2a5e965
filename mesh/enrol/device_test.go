package enrol

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

func deviceKey(n byte) mesh.WGKey { return mesh.WGKey{n, 31: 1} }

func (w *world) enterDevice(d *pki.Device) *mesh.Device {
	m := &mesh.Device{
		ID: d.ID, Name: d.Name, CertName: d.Name, WireGuard: d.WireGuard, Profiles: d.Profiles, Serial: d.Serial, IssuerID: d.Issuer, NotAfter: d.NotAfter,
	}
	w.view.Store(w.view.Load().WithDevice(m))
	return m
}

func v4(d *pki.Device) (out []netip.Addr) {
	for _, p := range d.Profiles {
		out = append(out, p.Addrs[1:]...)
	}
	return out
}

func TestExport(t *testing.T) {
	w, d := newWorld(t), &disk{}
	i := w.issuer(d)
	gateways := []mesh.NodeID{w.alice.ID(), {1}}
	der, phone, err := i.Export(DeviceRequest{Name: "phone", WireGuard: deviceKey(1), Gateways: gateways})
	w.must(err)
	if len(der) == 0 || phone.Name != "phone" || len(phone.Profiles) != 2 || phone.NotAfter.Sub(w.clock.now()) < pki.DeviceLifetime-time.Minute {
		t.Fatalf("device %+v", phone)
	}
	if a := v4(phone); len(a) != 2 || a[0] == a[1] {
		t.Errorf("IPv4 %v, want one for each gateway", a)
	}

	// Before anybody knows of it, and after a restart, its name, key and addresses are taken.
	i = w.issuer(d)
	_, _, err = i.Export(DeviceRequest{Name: "phone", WireGuard: deviceKey(2), Gateways: gateways})
	wantRefusal(t, err, wire.EnrolError_ENROL_NAME_TAKEN, "phone", "gridwire revoke phone")
	_, _, err = i.Export(DeviceRequest{Name: "tablet", WireGuard: deviceKey(1), Gateways: gateways})
	wantRefusal(t, err, wire.EnrolError_ENROL_BAD_REQUEST, "not new")
	_, _, err = i.Export(DeviceRequest{Name: "alice", WireGuard: deviceKey(2), Gateways: gateways})
	wantRefusal(t, err, wire.EnrolError_ENROL_NAME_TAKEN, "alice")
	_, tablet, err := i.Export(DeviceRequest{Name: "tablet", WireGuard: deviceKey(2), Gateways: gateways[:1]})
	w.must(err)
	bob := w.joined(i, w.invite(i, InviteRequest{Name: "bob"}), "bob")
	_, leaf, _, err := bob.Leaf()
	w.must(err)
	for _, a := range append(v4(phone), v4(tablet)...) {
		if slices.Contains(leaf.Addrs, a) || slices.Contains(v4(tablet), a) && slices.Contains(v4(phone), a) {
			t.Errorf("%v is given twice", a)
		}
	}
	_, err = w.join(i, w.invite(i, InviteRequest{}), newKeys(t), "tablet")
	wantRefusal(t, err, wire.EnrolError_ENROL_NAME_TAKEN, "tablet")
	if e, ok := i.CertifiedDevice("tablet"); !ok || e.ID != tablet.ID || e.Serial != tablet.Serial || e.Kind != pki.Member {
		t.Errorf("to be revoked: %+v, %v", e, ok)
	}
	if _, ok := i.CertifiedDevice("bob"); ok {
		t.Error("a member counts as a device")
	}
	w.must(w.revoke(pki.Revoked{ID: tablet.ID}))
	_, _, err = i.Export(DeviceRequest{Name: "tablet", WireGuard: deviceKey(3), Gateways: gateways})
	w.must(err)
}

func TestExtend(t *testing.T) {
	w, d := newWorld(t), &disk{}
	i := w.issuer(d)
	_, phone, err := i.Export(DeviceRequest{Name: "phone", WireGuard: deviceKey(1), Gateways: []mesh.NodeID{w.alice.ID()}})
	w.must(err)
	known := w.enterDevice(phone)
	w.clock.advance(300 * 24 * time.Hour)
	_, longer, err := i.Export(DeviceRequest{Extends: known})
	w.must(err)
	if longer.ID != phone.ID || longer.Serial == phone.Serial || !longer.NotAfter.After(phone.NotAfter.Add(200*24*time.Hour)) ||
		!slices.Equal(v4(longer), v4(phone)) || longer.Profiles[0].Gateway != w.alice.ID() {
		t.Errorf("%+v became %+v", phone, longer)
	}
	// Another issuer cannot give an address of this one's part.
	zoe := w.appoint(w.joined(i, w.invite(i, InviteRequest{Name: "zoe"}), "zoe"), 4, &disk{})
	_, _, err = zoe.Export(DeviceRequest{Extends: known})
	wantRefusal(t, err, wire.EnrolError_ENROL_BAD_REQUEST, "extend it there", "--replace")
}

func TestExportRefuses(t *testing.T) {
	w, d := newWorld(t), &disk{}
	i := w.issuer(d)
	for says, r := range map[string]DeviceRequest{
		"DNS label":   {Name: "my phone", WireGuard: deviceKey(1), Gateways: []mesh.NodeID{{1}}},
		"0 gateways":  {Name: "phone", WireGuard: deviceKey(1)},
		"named twice": {Name: "phone", WireGuard: deviceKey(1), Gateways: []mesh.NodeID{{1}, {1}}},
		"5 gateways":  {Name: "phone", WireGuard: deviceKey(1), Gateways: make([]mesh.NodeID, 5)},
		"zeros":       {Name: "phone", Gateways: []mesh.NodeID{{1}}},
		"belongs to alice": {Name: "phone", WireGuard: func() mesh.WGKey {
			_, leaf, _, err := w.alice.Leaf()
			w.must(err)
			return leaf.WireGuard
		}(), Gateways: []mesh.NodeID{{1}}},
	} {
		_, _, err := i.Export(r)
		wantRefusal(t, err, wire.EnrolError_ENROL_BAD_REQUEST, says)
	}
	before := d.newest()
	d.fail = errors.New("disk full")
	_, _, err := i.Export(DeviceRequest{Name: "phone", WireGuard: deviceKey(1), Gateways: []mesh.NodeID{{1}}})
	wantRefusal(t, err, wire.EnrolError_ENROL_UNREACHABLE, "disk full")
	d.fail = nil
	if d.newest() != before {
		t.Error("a refused export changed the state")
	}
	if _, _, err := i.Export(DeviceRequest{Name: "phone", WireGuard: deviceKey(1), Gateways: []mesh.NodeID{{1}}}); err != nil {
		t.Errorf("after the disk has room again: %v", err)
	}
}
