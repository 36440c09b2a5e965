package directory

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh/wire"
	"google.golang.org/protobuf/proto"
)

// seeds are items of each kind.
func seeds(w *world) []*wire.Item {
	rec := w.record(spec{key: key(bob), name: "bob", sequence: 1})
	return []*wire.Item{
		rec,
		w.record(spec{key: key(carol), name: "bob", sequence: 2, tombstone: true}),
		w.list(w.issuers[0], 2, epoch, w.revokedMember(rec)),
		w.list(nil, 1, epoch, w.revokedIssuer(w.issuers[0])),
		issuerItem(w.issuers[0]),
		w.device(deviceSpec{key: phone, name: "phone", serial: 7}),
	}
}

// FuzzSubmit: whatever bytes another member sends as an item, the answer is a verdict, an error exactly with Invalid, and nothing but
// an accepted item changes the View. Certificates differ in each process of the fuzzer, so the input says how to change an item:
// with pick below the number of seeds, patch overwrites that seed's encoding at an offset; otherwise patch is a record's encoding, which
// gets a valid chain and signature.
func FuzzSubmit(f *testing.F) {
	w := newWorld(f, 1)
	chain := w.chain(spec{key: key(bob), name: "bob"})
	all := seeds(w)
	for i, it := range all {
		f.Add(uint8(i), uint16(proto.Size(it)), []byte{})
		f.Add(uint8(i), uint16(proto.Size(it)/2), []byte{0xff, 0})
		f.Add(uint8(i), uint16(0), []byte{0x1a})
		if s := it.GetRecord(); s != nil {
			r, _, err := wire.OpenRecord(s)
			w.check(err)
			r.Chain = nil
			b, err := proto.Marshal(r)
			w.check(err)
			f.Add(uint8(len(all)), uint16(0), b)
		}
	}
	f.Fuzz(func(t *testing.T, pick uint8, at uint16, patch []byte) {
		it := new(wire.Item)
		if int(pick) < len(all) {
			b, err := proto.Marshal(all[pick])
			if err != nil {
				t.Fatal(err)
			}
			from := min(int(at), len(b))
			copy(b[from:], patch)
			if proto.Unmarshal(b, it) != nil {
				return
			}
		} else {
			r := new(wire.Record)
			if proto.Unmarshal(patch, r) != nil {
				return
			}
			r.Chain = chain
			b, err := proto.Marshal(r)
			if err != nil {
				return
			}
			sig := ed25519.Sign(key(bob), append([]byte("gridwire record v1\n"), b...))
			it.Item = &wire.Item_Record{Record: &wire.SignedRecord{Record: b, Signature: sig}}
		}
		b := newBench(t, w, newMemory(), epoch)
		before := b.View()
		v, err := b.feed(it)
		if (v == Invalid) != (err != nil) {
			t.Fatalf("%v with error %v", v, err)
		}
		if v != Accepted && b.View() != before {
			t.Fatalf("%v, and the View changed", v)
		}
		if again, _ := b.feed(it); again == Accepted {
			t.Fatal("accepted twice")
		}
	})
}

// FuzzDigest: whatever digest another member sends, it is sent only what is held, each thing once, and asked only for what it named.
func FuzzDigest(f *testing.F) {
	w := newWorld(f, 1)
	b := newBench(f, w, newMemory(), epoch)
	items := seeds(w)
	for _, it := range items {
		b.feed(it)
	}
	own, err := b.Digest(ctx())
	w.check(err)
	higher := proto.CloneOf(own)
	for _, e := range append(higher.Records, higher.RevocationLists...) {
		e.Number++
	}
	short := proto.CloneOf(own)
	for _, e := range short.Records {
		e.Key = e.Key[:32]
	}
	for _, d := range []*wire.Digest{own, higher, short, {}, {Records: []*wire.Digest_Entry{{Key: []byte{1}}, nil}}} {
		data, err := proto.Marshal(d)
		w.check(err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := new(wire.Digest)
		if proto.Unmarshal(data, d) != nil {
			return
		}
		send, want, err := b.Diff(ctx(), d)
		if err != nil || len(send) > len(items) {
			t.Fatalf("%d items to send out of %d, error %v", len(send), len(items), err)
		}
		if len(want.GetRecords()) > len(d.GetRecords()) || len(want.GetRevocationLists()) > len(d.GetRevocationLists()) ||
			len(want.GetIssuers()) > len(d.GetIssuers()) || len(want.GetDevices()) > len(d.GetDevices()) {
			t.Fatalf("more is wanted than was named: %v", want)
		}
		if got, err := b.Items(ctx(), d); err != nil || len(got) > len(items) {
			t.Fatalf("%d items, error %v", len(got), err)
		}
	})
}

// FuzzStored: whatever stands in the files, New says what is wrong or makes a Directory whose next start gives the same View.
func FuzzStored(f *testing.F) {
	w := newWorld(f, 1)
	items := seeds(w)
	for _, sel := range [][]*wire.Item{items[:2], items[2:3], items[4:5], items[5:], items, nil} {
		b, err := proto.Marshal(&wire.SyncFrame{Items: sel})
		w.check(err)
		f.Add(b, b, b, b)
		f.Add(b, []byte(nil), b[:len(b)/2], b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, records, revocations, issuers, devices []byte) {
		disk := newMemory()
		disk.files[KindRecords], disk.files[KindRevocations], disk.files[KindIssuers] = records, revocations, issuers
		disk.files[KindDevices] = devices
		d, err := New(Config{Root: w.root, Self: idOf(key(bob)), Persist: disk, Now: func() time.Time { return epoch }})
		if err != nil {
			return
		}
		d.owned.saver.mark(allKinds())
		if err := d.owned.saver.finish(d.snapshot.Load(), d.owned.core.waiting.stored()); err != nil {
			t.Fatal(err)
		}
		again, err := New(Config{Root: w.root, Self: idOf(key(bob)), Persist: disk, Now: func() time.Time { return epoch }})
		if err != nil {
			t.Fatalf("what it saved it does not load: %v", err)
		}
		if again.View().Len() != d.View().Len() || len(again.RevocationLists()) != len(d.RevocationLists()) {
			t.Fatal("after a restart the View differs")
		}
	})
}
