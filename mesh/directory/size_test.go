package directory

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

// synthetic makes records without signatures, for tests of size.
func synthetic(n int, iss *issuer) *record {
	id := mesh.NodeID(sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n))))
	c := &cert{
		id: id, name: mesh.Name("m" + id.String()[:20]), wireGuard: mesh.WGKey(id), addrs: []netip.Addr{mesh.NodeAddr(mesh.NetworkID{}, id)},
		block: mesh.Block(mesh.NetworkID{}, id), serial: id.String(), serialNumber: id[:16], issuer: iss,
		notBefore: epoch.Add(-time.Hour), notAfter: epoch.Add(700 * time.Hour), issued: epoch.Add(-time.Hour), sum: id,
	}
	r := &record{cert: c, signed: &wire.SignedRecord{Record: id[:]}, hash: id, sequence: 1, time: epoch}
	r.template = c.member(&wire.Record{}, epoch)
	return r
}

func filled(t testing.TB, n int) (*core, *issuer) {
	w := newWorld(t, 1)
	iss := newIssuer(w.issuers[0].Issuer)
	c := newCore(w.root, mesh.NodeID{}, epoch)
	for i := range n {
		if a := c.step(synthetic(i, iss), epoch); a.verdict != Accepted {
			t.Fatalf("record %d: %v %v", i, a.verdict, a.err)
		}
	}
	return c, iss
}

// TestApplyIsNotLinear counts bytes instead of time: a record may cost a few tree nodes more in a network 50 times as large.
func TestApplyIsNotLinear(t *testing.T) {
	cost := func(n int) uint64 {
		c, iss := filled(t, n)
		var updates []*record
		for i := range 50 {
			r := *synthetic(i, iss)
			r.sequence, r.hash[0] = 2, r.hash[0]+1
			updates = append(updates, &r)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for _, r := range updates {
			c.step(r, epoch)
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / 50
	}
	small, large := cost(100), cost(5000)
	t.Logf("bytes allocated for one record: %d among 100, %d among 5000", small, large)
	if large > 4*small {
		t.Fatalf("one record costs %d bytes among 5000 members and %d among 100", large, small)
	}
}

func TestFullDirectory(t *testing.T) {
	c, iss := filled(t, MaxRecords)
	if a := c.step(synthetic(MaxRecords, iss), epoch); a.verdict != Invalid || a.err == nil {
		t.Fatalf("one too many: %v", a.verdict)
	}
	r := *synthetic(7, iss)
	r.sequence, r.hash[0] = 2, r.hash[0]+1
	if a := c.step(&r, epoch); a.verdict != Accepted {
		t.Fatalf("an update in a full directory: %v %v", a.verdict, a.err)
	}
	s := &snapshot{entries: c.entries, issuers: c.sortedIssuers(), devices: newDevices().entries}
	digest := s.digest()
	for i := range MaxDevices {
		digest.Devices = append(digest.Devices, digestEntry(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(i)), version{uint64(epoch.Unix()), 7, true}))
	}
	if n := proto.Size(&wire.SyncFrame{Digest: digest}); n > wire.MaxFrame {
		t.Fatalf("the digest of a full directory has %d bytes, a frame %d", n, wire.MaxFrame)
	}
}

func BenchmarkApply5000(b *testing.B) {
	c, iss := filled(b, 5000)
	r := *synthetic(7, iss)
	for b.Loop() {
		next := r
		r.sequence++
		next.sequence = r.sequence
		next.hash[0], next.hash[1] = byte(r.sequence), byte(r.sequence>>8)
		c.step(&next, epoch)
	}
}

func BenchmarkSubmitNewMember(b *testing.B) {
	w := newWorld(b, 1)
	d := newBench(b, w, newMemory(), epoch)
	d.feed(issuerItem(w.issuers[0]))
	it := w.record(spec{key: key(bob), name: "bob", sequence: 1})
	for b.Loop() {
		if _, err := d.open(it); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad1000 is what a restart costs for 1,000 records on disk.
func BenchmarkLoad1000(b *testing.B) {
	w := newWorld(b, 1)
	disk := newMemory()
	d := newBench(b, w, disk, epoch)
	for i := range 1000 {
		d.feed(w.record(spec{key: key(bob + i), name: "m" + idOf(key(bob + i)).String()[:20], sequence: 1}))
	}
	w.check(d.finish())
	for b.Loop() {
		if n := newBench(b, w, disk, epoch).View().Len(); n != 1000 {
			b.Fatalf("%d members", n)
		}
	}
}
