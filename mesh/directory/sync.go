package directory

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

// A digest entry's key is the 32 or 20 bytes that wire.proto names, for records and revocation lists followed by markSize bytes that
// tell apart what has the same number: the highest bit says that it is a tombstone, the other 31 are of a hash. An entry without them
// is compared by number alone. Without the mark, two different records under one sequence number would never be noticed by two members
// that each hold one of them.
const (
	markSize      = 4
	markTombstone = 1 << 31
)

// version is what a digest says about one thing.
type version struct {
	number uint64
	mark   uint32
	marked bool
}

// lacks reports whether the holder of v should be sent o.
func (v version) lacks(o version) bool {
	if v.marked && o.marked {
		if vt, ot := v.mark&markTombstone, o.mark&markTombstone; vt != ot {
			return ot != 0
		}
	}
	if v.number != o.number {
		return v.number < o.number
	}
	return v.marked && o.marked && v.mark != o.mark
}

func digestEntry(key []byte, v version) *wire.Digest_Entry {
	if v.marked {
		key = binary.BigEndian.AppendUint32(slices.Clip(key), v.mark)
	}
	return &wire.Digest_Entry{Key: key, Number: v.number}
}

// readEntries indexes digest entries with keys of size bytes, and ignores others, which a later version may send.
func readEntries[K comparable](es []*wire.Digest_Entry, size int, key func([]byte) K) map[K]version {
	out := make(map[K]version, min(len(es), MaxRecords))
	for _, e := range es {
		if len(out) >= MaxRecords {
			break
		}
		switch b := e.GetKey(); len(b) {
		case size:
			out[key(b)] = version{number: e.GetNumber()}
		case size + markSize:
			out[key(b[:size])] = version{e.GetNumber(), binary.BigEndian.Uint32(b[size:]), true}
		}
	}
	return out
}

func nodeKey(b []byte) mesh.NodeID      { return mesh.NodeID(b) }
func signerKey(b []byte) mesh.KeyID     { return mesh.KeyID(b) }
func sumKey(b []byte) [sha256.Size]byte { return [sha256.Size]byte(b) }

func (e *entry) version() version {
	m := binary.BigEndian.Uint32(e.hash[:]) &^ markTombstone
	if e.tombstone {
		m |= markTombstone
	}
	return version{e.sequence, m, true}
}

// versions returns one version for each signer: twins are hashed together.
func (s *snapshot) listVersions() map[mesh.KeyID]version {
	sums := make(map[mesh.KeyID][]byte)
	out := make(map[mesh.KeyID]version)
	for _, l := range s.lists { // in the order of their hashes
		sums[l.Signer] = append(sums[l.Signer], l.hash[:]...)
		sum := sha256.Sum256(sums[l.Signer])
		out[l.Signer] = version{l.Number, binary.BigEndian.Uint32(sum[:]) &^ markTombstone, true}
	}
	return out
}

// digest says what is held.
func (s *snapshot) digest() *wire.Digest {
	d := &wire.Digest{Records: make([]*wire.Digest_Entry, 0, s.entries.Len())}
	for it := s.entries.Iterator(); !it.Done(); {
		id, e, _ := it.Next()
		d.Records = append(d.Records, digestEntry(id[:], e.version()))
	}
	for signer, v := range s.listVersions() {
		d.RevocationLists = append(d.RevocationLists, digestEntry(signer[:], v))
	}
	for _, iss := range s.issuers {
		d.Issuers = append(d.Issuers, digestEntry(iss.sum[:], version{}))
	}
	s.digestDevices(d)
	sortEntries(d)
	return d
}

func sortEntries(d *wire.Digest) {
	byKey := func(a, b *wire.Digest_Entry) int { return bytes.Compare(a.GetKey(), b.GetKey()) }
	slices.SortFunc(d.Records, byKey)
	slices.SortFunc(d.RevocationLists, byKey)
	slices.SortFunc(d.Issuers, byKey)
	slices.SortFunc(d.Devices, byKey)
}

// diff compares what is held with another member's digest.
func (s *snapshot) diff(theirs *wire.Digest) (send []*wire.Item, want *wire.Digest) {
	want = new(wire.Digest)

	sums := readEntries(theirs.GetIssuers(), sha256.Size, sumKey)
	for _, iss := range s.issuers {
		if _, ok := sums[iss.sum]; !ok {
			send = append(send, iss.item())
		}
		delete(sums, iss.sum)
	}
	for sum := range sums {
		want.Issuers = append(want.Issuers, digestEntry(sum[:], version{}))
	}

	signers := readEntries(theirs.GetRevocationLists(), len(mesh.KeyID{}), signerKey)
	ours := s.listVersions()
	for _, l := range s.lists {
		if v, ok := signers[l.Signer]; !ok || v.lacks(ours[l.Signer]) {
			send = append(send, l.item())
		}
	}
	for signer, v := range signers {
		if o, ok := ours[signer]; !ok || o.lacks(v) {
			want.RevocationLists = append(want.RevocationLists, digestEntry(signer[:], v))
		}
	}

	nodes := readEntries(theirs.GetRecords(), len(mesh.NodeID{}), nodeKey)
	for it := s.entries.Iterator(); !it.Done(); {
		id, e, _ := it.Next()
		v, ok := nodes[id]
		if !ok || v.lacks(e.version()) {
			send = append(send, e.item())
		}
		if ok && !e.version().lacks(v) {
			delete(nodes, id)
		}
	}
	for id, v := range nodes {
		want.Records = append(want.Records, digestEntry(id[:], v))
	}
	send = append(send, s.diffDevices(theirs, want)...)
	sortEntries(want)
	return send, want
}

// items returns what want names, as far as it is held: issuers first, then revocation lists, then records, then devices.
func (s *snapshot) items(want *wire.Digest) []*wire.Item {
	var out []*wire.Item
	sums := readEntries(want.GetIssuers(), sha256.Size, sumKey)
	for _, iss := range s.issuers {
		if _, ok := sums[iss.sum]; ok {
			out = append(out, iss.item())
		}
	}
	signers := readEntries(want.GetRevocationLists(), len(mesh.KeyID{}), signerKey)
	for _, l := range s.lists {
		if _, ok := signers[l.Signer]; ok {
			out = append(out, l.item())
		}
	}
	for id := range readEntries(want.GetRecords(), len(mesh.NodeID{}), nodeKey) {
		if e, ok := s.entries.Get(id); ok {
			out = append(out, e.item())
		}
	}
	return append(out, s.wantedDevices(want)...)
}

func (r *record) item() *wire.Item {
	if r.device != nil {
		return &wire.Item{Item: &wire.Item_Device{Device: r.der}}
	}
	return &wire.Item{Item: &wire.Item_Record{Record: r.signed}}
}
func (l *list) item() *wire.Item {
	return &wire.Item{Item: &wire.Item_RevocationList{RevocationList: l.DER}}
}
func (i *issuer) item() *wire.Item { return &wire.Item{Item: &wire.Item_Issuer{Issuer: i.Cert.Raw}} }
