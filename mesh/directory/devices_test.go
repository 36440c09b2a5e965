package directory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
	"google.golang.org/protobuf/proto"
)

// deviceSpec describes a device's certificate; zero fields get what a plain device has.
type deviceSpec struct {
	key      int
	name     string
	by       *authority
	ipv4     netip.Addr
	issued   time.Time
	lifetime time.Duration
	serial   int64
	gateways []mesh.NodeID
}

func wgKey(n int) mesh.WGKey { return mesh.WGKey(idOf(key(n))) }

func (w *world) device(s deviceSpec) *wire.Item {
	w.t.Helper()
	if s.by == nil {
		s.by = w.issuers[0]
	}
	if s.issued.IsZero() {
		s.issued = epoch.Add(-48 * time.Hour)
	}
	if s.gateways == nil {
		s.gateways = []mesh.NodeID{idOf(key(bob))}
	}
	r := pki.DeviceRequest{WireGuard: wgKey(s.key), Name: mesh.Name(s.name), Lifetime: s.lifetime}
	for i, g := range s.gateways {
		r.Gateways = append(r.Gateways, pki.DeviceGateway{Node: g})
		if i == 0 {
			r.Gateways[0].IPv4 = s.ipv4
		}
	}
	if s.serial != 0 {
		r.Serial = big.NewInt(s.serial)
	}
	der, err := s.by.SignDevice(s.by.key, w.root, r, s.issued)
	w.check(err)
	return &wire.Item{Item: &wire.Item_Device{Device: der}}
}

func (w *world) readDevice(it *wire.Item) *pki.Device {
	w.t.Helper()
	for _, a := range w.issuers {
		if d, err := a.VerifyDevice(it.GetDevice(), w.root); err == nil {
			return d
		}
	}
	w.t.Fatal("no issuer signed it")
	return nil
}

func (w *world) revokedDevice(it *wire.Item) pki.Revoked {
	d := w.readDevice(it)
	return pki.Revoked{Issuer: d.Issuer, Serial: d.Serial, ID: d.ID, Kind: pki.Member}
}

const phone, tablet = 7001, 7002

// devices of a View, as text that two Views can be compared by.
func (b *bench) devices() map[mesh.Name]string {
	out := make(map[mesh.Name]string)
	for d := range b.View().Devices() {
		out[d.Name] = fmt.Sprint(d.WireGuard, d.Serial, d.IssuerID, d.Profiles, d.NotAfter)
	}
	return out
}

func (b *bench) hasDevice(n int) bool {
	_, ok := b.View().Device(mesh.DeviceID(wgKey(n)))
	return ok
}

func TestDevice(t *testing.T) {
	w := newWorld(t, 2)
	b := newBench(t, w, newMemory(), epoch)
	it := w.device(deviceSpec{key: phone, name: "phone", gateways: []mesh.NodeID{idOf(key(bob)), idOf(key(carol))}})
	b.want(Stale, it) // nobody knows its issuer yet
	b.want(Accepted, issuerItem(w.issuers[0]))
	b.want(Accepted, it)
	b.want(Stale, it)
	d, ok := b.View().DeviceByName("phone")
	if !ok || d.WireGuard != wgKey(phone) || len(d.Profiles) != 2 || d.ID != mesh.DeviceID(d.WireGuard) {
		t.Fatalf("device %+v, %v", d, ok)
	}
	p, ok := d.At(idOf(key(carol)))
	if !ok || p.Addrs[0] != mesh.DeviceAddr(w.root.Network.ID, d.WireGuard, 1) || !d.Block.Contains(p.Addrs[0]) {
		t.Errorf("at carol: %+v, %v", p, ok)
	}
	if b.View().Len() != 0 {
		t.Error("a device counts as a member")
	}

	// Extended: what was issued last counts, also where another issuer did it, and the old certificate does not come back.
	later := w.device(deviceSpec{key: phone, name: "phone", by: w.issuers[1], issued: epoch.Add(-time.Hour)})
	b.want(Accepted, issuerItem(w.issuers[1]))
	b.want(Accepted, later)
	b.want(Stale, it)
	if d, _ := b.View().DeviceByName("phone"); d.IssuerID != w.issuers[1].KeyID || len(d.Profiles) != 1 {
		t.Errorf("after it was extended: %+v", d)
	}

	// Revoked by its key: the first certificate, which somebody may keep, is worth nothing either.
	b.want(Accepted, w.list(w.issuers[0], 1, epoch, w.revokedDevice(later)))
	b.want(Stale, it)
	if b.hasDevice(phone) {
		t.Error("a revoked device is in the View")
	}
	gone := b.Gone()
	if len(gone) != 1 || !gone[0].Device || gone[0].Name != "phone" || gone[0].Why != WhyRevoked {
		t.Errorf("gone: %+v", gone)
	}
	if d, why, ok := b.GoneDevice("phone"); !ok || why != WhyRevoked || d.Name != "phone" {
		t.Errorf("gone: %+v %v %v", d, why, ok)
	}
	if err := b.finish(); err != nil {
		t.Fatal(err)
	}
}

func TestDeviceExpires(t *testing.T) {
	w := newWorld(t, 1)
	b := newBench(t, w, newMemory(), epoch)
	b.want(Accepted, issuerItem(w.issuers[0]))
	it := w.device(deviceSpec{key: phone, name: "phone", issued: epoch, lifetime: 24 * time.Hour})
	b.want(Accepted, it)
	b.at(epoch.Add(24 * time.Hour))
	if !b.hasDevice(phone) {
		t.Error("it ends before its time")
	}
	b.at(epoch.Add(24*time.Hour + time.Second))
	if b.hasDevice(phone) {
		t.Error("an expired device is in the View")
	}
	if g := b.Gone(); len(g) != 1 || g[0].Why != WhyExpired || !g[0].Device {
		t.Errorf("gone: %+v", g)
	}
	b.at(epoch.Add(23 * time.Hour)) // somebody has set the clock right
	if !b.hasDevice(phone) {
		t.Error("it does not come back with the clock")
	}
	b.at(epoch.Add(24*time.Hour + KeepExpired + time.Second))
	if all, own := b.DeviceCount(w.issuers[0].KeyID); all != 0 || own != 0 || len(b.Gone()) != 0 {
		t.Errorf("%d devices are kept for ever, %d of the issuer", all, own)
	}
	b.want(Invalid, it)
}

// TestDeviceNames: a name, a key and an address go to the older certificate, whether it is a member's or a device's.
func TestDeviceNames(t *testing.T) {
	w := newWorld(t, 2)
	v4 := w.issuers[0].IPv4.Addr().Next()
	older, newer := epoch.Add(-90*time.Hour), epoch.Add(-60*time.Hour)
	member := w.record(spec{key: key(bob), name: "x", issued: newer, ipv4: v4, sequence: 1})
	device := w.device(deviceSpec{key: phone, name: "x", issued: older, ipv4: v4})
	second := w.device(deviceSpec{key: tablet, name: "x", issued: epoch.Add(-50 * time.Hour)})
	thief := w.record(spec{key: key(carol), name: "thief", issued: newer, sequence: 1}) // its WireGuard key is its ID: see wgKey
	same := w.device(deviceSpec{key: carol, name: "same", issued: older})
	items := []*wire.Item{issuerItem(w.issuers[0]), member, device, second, thief, same}
	for seed := range uint64(20) {
		b := newBench(t, w, newMemory(), epoch)
		for range 2 { // a device that comes before its issuer comes again
			for _, it := range shuffled(rand.New(rand.NewPCG(seed, 1)), items) {
				b.feed(it)
			}
		}
		d, _ := b.View().Device(mesh.DeviceID(wgKey(phone)))
		if d == nil || d.Name != "x" || len(d.Profiles[0].Addrs) != 2 {
			t.Fatalf("the older certificate: %+v", d)
		}
		m, _ := b.View().Member(idOf(key(bob)))
		if m == nil || m.Name != suffixed("x", m.ID.String()[:4]) || len(m.Addrs) != 1 {
			t.Fatalf("the newer certificate: %+v", m)
		}
		s, _ := b.View().Device(mesh.DeviceID(wgKey(tablet)))
		if s == nil || s.Name != suffixed("x", s.ID.String()[:4]) {
			t.Fatalf("the newest certificate: %+v", s)
		}
		if b.isMember(carol) || !b.hasDevice(carol) {
			t.Fatal("two peers have one WireGuard key")
		}
		// With the device gone the member has its name and address.
		b.want(Accepted, w.list(w.issuers[0], 1, epoch, w.revokedDevice(device), w.revokedDevice(same)))
		if m, _ := b.View().Member(idOf(key(bob))); m.Name != "x" || len(m.Addrs) != 2 {
			t.Fatalf("after the revocation: %+v", m)
		}
		if !b.isMember(carol) {
			t.Fatal("the key is not free again")
		}
	}
}

// TestDeviceOfDismissedIssuer: a device goes with its issuer unless the list that dismisses it keeps it, as a member does.
func TestDeviceOfDismissedIssuer(t *testing.T) {
	w := newWorld(t, 2)
	b := newBench(t, w, newMemory(), epoch)
	b.want(Accepted, issuerItem(w.issuers[1]))
	a := w.device(deviceSpec{key: phone, name: "phone", by: w.issuers[1]})
	c := w.device(deviceSpec{key: tablet, name: "tablet", by: w.issuers[1]})
	b.want(Accepted, a)
	b.want(Accepted, c)
	keep := w.revokedDevice(c)
	keep.Kind = pki.Kept
	b.want(Accepted, w.list(nil, 1, epoch, w.revokedIssuer(w.issuers[1]), keep))
	if b.hasDevice(phone) || !b.hasDevice(tablet) {
		t.Errorf("phone %v, tablet %v", b.hasDevice(phone), b.hasDevice(tablet))
	}
}

// TestDeviceOrder: what is known of devices follows from the set of items.
func TestDeviceOrder(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 3))
		w, items := randomItems(t, r)
		for _, a := range w.issuers {
			items = append(items, issuerItem(a))
		}
		var certs []*wire.Item
		for range 2 + r.IntN(8) {
			by := w.issuers[r.IntN(4)]
			s := deviceSpec{
				key: phone + r.IntN(4), name: []string{"alice", "phone", "tablet"}[r.IntN(3)], by: by, serial: 1 + r.Int64N(40),
				issued: epoch.Add(-time.Duration(48+24*r.IntN(3)) * time.Hour), lifetime: time.Duration(2+r.IntN(8)) * 24 * time.Hour,
			}
			if r.IntN(2) == 0 {
				s.ipv4 = by.IPv4.Addr().Next()
			}
			certs = append(certs, w.device(s))
		}
		items = append(items, certs...)
		for range r.IntN(3) {
			items = append(items, w.list(w.issuers[r.IntN(3)], 1+r.Uint64N(9), epoch, w.revokedDevice(certs[r.IntN(len(certs))])))
		}
		now := epoch.Add(time.Duration(r.IntN(5)) * 24 * time.Hour)
		var first *bench
		for range 4 {
			disk := newMemory()
			b := newBench(t, w, disk, now)
			for range 2 {
				for _, it := range shuffled(r, items) {
					b.feed(it)
				}
			}
			if first == nil {
				first = b
			}
			sameState(t, seed, first, b)
			// And from disk.
			if err := b.finish(); err != nil {
				t.Fatal(err)
			}
			sameState(t, seed, first, newBench(t, w, disk, now))
		}
		// An empty member learns all of it in two exchanges, and then there is nothing left to say.
		empty := newBench(t, w, newMemory(), now)
		syncOnce(t, first, empty)
		syncOnce(t, empty, first)
		sameState(t, seed, first, empty)
		if send, want := diffOf(t, first, empty); len(send) != 0 || len(want.Devices) != 0 {
			t.Fatalf("seed %d: after the exchange %d items to send, wanted %v", seed, len(send), want)
		}
	}
}

func sameState(t *testing.T, seed uint64, a, b *bench) {
	t.Helper()
	if x, y := a.devices(), b.devices(); fmt.Sprint(x) != fmt.Sprint(y) {
		t.Fatalf("seed %d: devices differ:\n%v\n%v", seed, x, y)
	}
	if x, y := a.names(), b.names(); fmt.Sprint(x) != fmt.Sprint(y) {
		t.Fatalf("seed %d: members differ:\n%v\n%v", seed, x, y)
	}
}

// TestDevicesAndOldProgram: a program that does not know devices is sent none, because it would be sent all of them each time.
func TestDevicesAndOldProgram(t *testing.T) {
	w := newWorld(t, 1)
	b := newBench(t, w, newMemory(), epoch)
	b.want(Accepted, issuerItem(w.issuers[0]))
	b.want(Accepted, w.device(deviceSpec{key: phone, name: "phone"}))
	old, err := newBench(t, w, newMemory(), epoch).Digest(ctx())
	w.check(err)
	sent := func(d *wire.Digest) int {
		send, _, err := b.Diff(ctx(), d)
		w.check(err)
		return len(slices.DeleteFunc(send, func(it *wire.Item) bool { return it.GetDevice() == nil }))
	}
	if n := sent(old); n != 1 {
		t.Errorf("a program that knows devices is sent %d", n)
	}
	old.Devices = nil
	if n := sent(old); n != 0 {
		t.Errorf("an old program is sent %d devices", n)
	}
	// And what it does with one that reaches it: the item's kind is unknown there, as field 9 is here.
	unknown := new(wire.Item)
	if err := proto.Unmarshal([]byte{9<<3 | 2, 1, 0}, unknown); err != nil {
		t.Fatal(err)
	}
	if v, err := b.Submit(ctx(), unknown); v != Stale || !errors.Is(err, wire.ErrVersion) {
		t.Errorf("an item of an unknown kind: %v, %v; want it ignored without blame", v, err)
	}
}

func TestDevicesAreBounded(t *testing.T) {
	w := newWorld(t, 2)
	b := newBench(t, w, newMemory(), epoch)
	b.want(Accepted, issuerItem(w.issuers[0]))
	b.want(Accepted, issuerItem(w.issuers[1]))
	b.want(Accepted, w.device(deviceSpec{key: 10000, name: "d0"}))
	one, _ := b.snapshot.Load().devices.Get(mesh.DeviceID(wgKey(10000)))
	read := w.readDevice(one.item())
	for i := 1; i < MaxDevicesPerIssuer; i++ { // without signing and saving each, which would be nearly all of this test's time
		d := *read
		d.WireGuard = mesh.WGKey{1, byte(i), byte(i >> 8)}
		d.ID, d.Name, d.Profiles = mesh.DeviceID(d.WireGuard), mesh.Name(fmt.Sprintf("d%d", i)), nil
		r := b.opener(b.snapshot.Load()).recordOf(&d, one.cert.issuer, binary.BigEndian.AppendUint32(nil, uint32(i)))
		if a := b.owned.core.step(deviceItem{r}, b.now); a.verdict != Accepted {
			t.Fatalf("device %d: %v %v", i, a.verdict, a.err)
		}
	}
	b.want(Invalid, w.device(deviceSpec{key: phone, name: "phone"}))
	b.want(Accepted, w.device(deviceSpec{key: phone, name: "phone", by: w.issuers[1]}))
	b.want(Accepted, w.device(deviceSpec{key: 10000, name: "d0", issued: epoch})) // one that is known can still be extended
	if all, own := b.DeviceCount(w.issuers[0].KeyID); all != MaxDevicesPerIssuer+1 || own != MaxDevicesPerIssuer {
		t.Errorf("%d devices, %d of the first issuer", all, own)
	}
}

// TestDeviceIsDurable: whoever is told that a device is in force can rely on the disk.
func TestDeviceIsDurable(t *testing.T) {
	w := newWorld(t, 1)
	disk := newMemory()
	b := newBench(t, w, disk, epoch)
	b.want(Accepted, issuerItem(w.issuers[0]))
	it := w.device(deviceSpec{key: phone, name: "phone"})
	disk.failWith(errors.New("disk full"))
	if v, err := b.feed(it); v != Accepted || !errors.Is(err, ErrNotSaved) {
		t.Errorf("with a full disk: %v, %v", v, err)
	}
	disk.failWith(nil)
	if v, err := b.feed(it); v != Stale || err != nil {
		t.Errorf("again: %v, %v", v, err)
	}
	if !newBench(t, w, disk, epoch).hasDevice(phone) {
		t.Error("it is not on disk")
	}
	disk.files[KindDevices] = []byte{1, 2, 3}
	if again := newBench(t, w, disk, epoch); again.hasDevice(phone) { // it starts, without them
		t.Error("a damaged file was read")
	}
}
