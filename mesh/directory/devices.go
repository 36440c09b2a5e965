package directory

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/benbjohnson/immutable"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// Limits of how many devices are kept, those that are revoked or have just expired included.
const (
	MaxDevices          = 4096
	MaxDevicesPerIssuer = 1000 // so that one issuer's carelessness leaves room for the others'
)

// A device is kept as a record is, with its certificate in place of the signed record and the time of issue in place of the sequence, so that
// names, keys, addresses, revocation and time are judged by the same rules for both. Its ID is mesh.DeviceID.

// deviceRules is what the core does about devices.
type deviceRules struct{ *core }

// deviceItem is the event that brings a device's certificate.
type deviceItem struct{ *record }

// devices are those that are known, and how many of them each issuer has certified.
type devices struct {
	entries  *entries
	byIssuer map[mesh.KeyID]int
}

func newDevices() devices {
	return devices{immutable.NewMap[mesh.NodeID, *entry](idHasher{}), make(map[mesh.KeyID]int)}
}

// set replaces held (nil: nothing) by next (nil: nothing).
func (d *devices) set(held, next *entry) {
	if held != nil {
		if d.byIssuer[held.cert.issuer.KeyID]--; d.byIssuer[held.cert.issuer.KeyID] == 0 {
			delete(d.byIssuer, held.cert.issuer.KeyID)
		}
	}
	if next == nil {
		d.entries = d.entries.Delete(held.cert.id)
		return
	}
	d.byIssuer[next.cert.issuer.KeyID]++
	d.entries = d.entries.Set(next.cert.id, next)
}

// device checks everything about a device's certificate that does not depend on time and on other items. It returns nothing if the signer is
// not known: its certificate comes first in every exchange, and then the device's comes with the next.
func (o *opener) device(der []byte) (*record, error) {
	signer, err := pki.DeviceSigner(der)
	if err != nil {
		return nil, err
	}
	var refused error
	for _, iss := range o.signers(signer) {
		d, err := iss.VerifyDevice(der, o.root)
		if err != nil {
			refused = err
			continue
		}
		if posesAs(d.Name, d.ID) {
			return nil, fmt.Errorf("device: the name %s is reserved for another node: issue a certificate with another name", d.Name)
		}
		return o.recordOf(d, iss, der), nil
	}
	return nil, refused
}

func (o *opener) recordOf(d *pki.Device, iss *issuer, der []byte) *record {
	template := &mesh.Device{
		ID: d.ID, CertName: d.Name, WireGuard: d.WireGuard, Block: mesh.DeviceBlock(o.root.Network.ID, d.WireGuard), Profiles: d.Profiles,
		Serial: d.Serial, IssuerID: d.Issuer, Issued: d.Issued, NotBefore: d.Cert.NotBefore, NotAfter: d.NotAfter,
	}
	sum := sha256.Sum256(der)
	return &record{
		cert: &cert{
			sum: sum, id: d.ID, name: d.Name, wireGuard: d.WireGuard, addrs: template.Addrs(), block: template.Block,
			serial: d.Serial, serialNumber: d.Cert.SerialNumber.Bytes(), issuer: iss,
			issued: d.Issued, notBefore: d.Cert.NotBefore, admitted: d.Cert.NotBefore, notAfter: d.NotAfter,
		},
		hash: sum, sequence: uint64(max(d.Issued.Unix(), 0)), time: d.Issued, der: bytes.Clone(der), device: template,
	}
}

// byKey returns those of the certificates that have this key, the one that lasts longest first: an issuer that was appointed again has more
// than one, with one key, and a device's certificate does not say under which it was signed.
func byKey(all []*issuer, key mesh.KeyID) []*issuer {
	var out []*issuer
	for _, iss := range all {
		if iss.KeyID == key {
			out = append(out, iss)
		}
	}
	slices.SortFunc(out, func(a, b *issuer) int {
		if c := b.Cert.NotAfter.Compare(a.Cert.NotAfter); c != 0 {
			return c
		}
		return bytes.Compare(a.sum[:], b.sum[:])
	})
	return out
}

func (c deviceRules) apply(r *record, a *actions) {
	held, known := c.devices.entries.Get(r.cert.id)
	key := r.cert.issuer.KeyID
	switch {
	case known && !r.outranks(held.record):
		return
	case c.swept.After(r.cert.notAfter.Add(KeepExpired)):
		a.verdict, a.err = Invalid, fmt.Errorf("device %s: its certificate expired on %s, more than %d days ago", r.cert.name,
			r.cert.notAfter.Format(time.RFC3339), int(KeepExpired.Hours()/24))
		return
	case !known && (c.devices.entries.Len() >= MaxDevices || c.devices.byIssuer[key] >= MaxDevicesPerIssuer):
		a.verdict, a.err = Invalid, fmt.Errorf("device %s: the directory is full, it holds %d devices, %d of issuer %s", r.cert.name,
			c.devices.entries.Len(), c.devices.byIssuer[key], r.cert.issuer.Name)
		return
	}
	next := c.judge(c.intern(r))
	c.put(held, next, a)
	a.dirty.devices = true
	if next.why == "" {
		a.verdict = Accepted
	}
}

// reopen judges the devices of an issuer again when another certificate of its key has become known, so that it does not matter which came
// first.
func (c deviceRules) reopen(key mesh.KeyID, a *actions) {
	if c.devices.byIssuer[key] == 0 {
		return
	}
	o := &opener{root: c.root, signers: func(key mesh.KeyID) []*issuer { return byKey(c.sortedIssuers(), key) }}
	for it := c.devices.entries.Iterator(); !it.Done(); {
		_, e, _ := it.Next()
		if e.cert.issuer.KeyID != key {
			continue
		}
		if r, err := o.device(e.der); err == nil && r != nil && r.cert.issuer.sum != e.cert.issuer.sum {
			c.put(e, c.judge(r), a)
		}
	}
}

// place makes the View say what the state says about one device. It returns false if id is none.
func (c deviceRules) place(id mesh.NodeID) bool {
	e, known := c.devices.entries.Get(id)
	held, present := c.view.Device(id)
	d := c.device(e)
	switch {
	case d == nil && present:
		c.view = c.view.WithoutDevice(id)
	case d != nil && (!present || !sameDevice(held, d)):
		c.view = c.view.WithDevice(d)
	}
	return known || present
}

// device is what member is for nodes.
func (c deviceRules) device(e *entry) *mesh.Device {
	ct := e.live()
	if ct == nil || c.resources.wireGuard.holder(ct.wireGuard) != ct || c.resources.block.holder(ct.block) != ct {
		return nil
	}
	d := *e.device
	d.Name = c.resources.names.of(ct)
	own := c.resources.addrs(ct)
	d.Profiles = slices.Clone(d.Profiles)
	for i, p := range d.Profiles {
		d.Profiles[i].Addrs = nil
		for _, a := range p.Addrs {
			if slices.Contains(own, a) {
				d.Profiles[i].Addrs = append(d.Profiles[i].Addrs, a)
			}
		}
	}
	return &d
}

// sameDevice compares what can differ between two states of one device.
func sameDevice(a, b *mesh.Device) bool {
	return a.Name == b.Name && a.Serial == b.Serial && a.IssuerID == b.IssuerID && a.NotAfter.Equal(b.NotAfter) &&
		slices.EqualFunc(a.Profiles, b.Profiles, func(p, q mesh.Profile) bool {
			return p.Gateway == q.Gateway && slices.Equal(p.Addrs, q.Addrs)
		})
}

// DeviceCount returns how many devices are kept, and how many of them by one issuer.
func (d *Directory) DeviceCount(issuer mesh.KeyID) (all, own int) {
	s := d.snapshot.Load()
	for it := s.devices.Iterator(); !it.Done(); {
		if _, e, _ := it.Next(); e.cert.issuer.KeyID == issuer {
			own++
		}
	}
	return s.devices.Len(), own
}

// GoneDevice returns the newest certificate of a device that counts no more, by its name: it has expired, or was revoked.
func (d *Directory) GoneDevice(name mesh.Name) (*mesh.Device, Why, bool) {
	s := d.snapshot.Load()
	var best *entry
	for it := s.devices.Iterator(); !it.Done(); {
		if _, e, _ := it.Next(); e.why != "" && e.cert.name == name && (best == nil || e.sequence > best.sequence) {
			best = e
		}
	}
	if best == nil {
		return nil, "", false
	}
	out := *best.device
	out.Name = out.CertName
	return &out, best.why, true
}

func (s *snapshot) deviceItems() []*wire.Item {
	out := make([]*wire.Item, 0, s.devices.Len())
	for it := s.devices.Iterator(); !it.Done(); {
		_, e, _ := it.Next()
		out = append(out, e.item())
	}
	slices.SortFunc(out, func(a, b *wire.Item) int { return bytes.Compare(a.GetDevice(), b.GetDevice()) }) // equal states, equal files
	return out
}

// The devices' part of anti-entropy. A member whose program does not know devices sends no entry at all, and would be sent all of them each
// time, for nothing; so one that knows them says so with an entry that has no key.

func (s *snapshot) digestDevices(d *wire.Digest) {
	d.Devices = append(d.Devices, &wire.Digest_Entry{})
	for it := s.devices.Iterator(); !it.Done(); {
		_, e, _ := it.Next()
		d.Devices = append(d.Devices, digestEntry(e.cert.wireGuard[:], e.version()))
	}
}

func (s *snapshot) diffDevices(theirs, want *wire.Digest) (send []*wire.Item) {
	keys := readEntries(theirs.GetDevices(), len(mesh.WGKey{}), deviceKey)
	knows := len(theirs.GetDevices()) > 0
	for it := s.devices.Iterator(); !it.Done(); {
		_, e, _ := it.Next()
		v, ok := keys[e.cert.wireGuard]
		if knows && (!ok || v.lacks(e.version())) {
			send = append(send, e.item())
		}
		if ok && !e.version().lacks(v) {
			delete(keys, e.cert.wireGuard)
		}
	}
	for k, v := range keys {
		want.Devices = append(want.Devices, digestEntry(k[:], v))
	}
	return send
}

func (s *snapshot) wantedDevices(want *wire.Digest) (out []*wire.Item) {
	for key := range readEntries(want.GetDevices(), len(mesh.WGKey{}), deviceKey) {
		if e, ok := s.devices.Get(mesh.DeviceID(key)); ok {
			out = append(out, e.item())
		}
	}
	return out
}

func deviceKey(b []byte) mesh.WGKey { return mesh.WGKey(b) }
