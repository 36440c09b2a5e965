package directory

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// candidate is a record as the oracle reads it.
type candidate struct {
	rec    *wire.Record
	leaf   *pki.Leaf
	issuer *pki.Issuer
	hash   [32]byte
}

func (a candidate) older(b candidate) int {
	return cmp.Or(a.leaf.Cert.NotBefore.Compare(b.leaf.Cert.NotBefore), a.leaf.Cert.SerialNumber.Cmp(b.leaf.Cert.SerialNumber),
		a.leaf.ID.Compare(b.leaf.ID))
}

// oracle computes the members from the whole set of items, in the plainest way, with no index and no state.
func oracle(t testing.TB, w *world, items []*wire.Item, now time.Time) map[mesh.NodeID]mesh.Member {
	t.Helper()
	best, issuers := oracleRecords(t, w, items)
	lists := oracleLists(t, w, items, issuers)
	says := func(what func(pki.Revoked) bool) bool { // whether any list has such an entry
		return slices.ContainsFunc(lists, func(l *pki.RevocationList) bool { return slices.ContainsFunc(l.Entries, what) })
	}
	revoked := func(i *pki.Issuer) bool { return says(func(e pki.Revoked) bool { return e.CoversIssuer(i) }) }
	orphan := func(c candidate) bool {
		return slices.ContainsFunc(lists, func(l *pki.RevocationList) bool {
			return slices.ContainsFunc(l.Entries, func(e pki.Revoked) bool { return e.CoversIssuer(c.issuer) }) &&
				!slices.ContainsFunc(l.Entries, func(e pki.Revoked) bool { return e.Keeps(c.leaf) })
		})
	}
	var active []candidate
	for _, c := range best {
		out := says(func(e pki.Revoked) bool { return e.Covers(c.leaf) }) || orphan(c) ||
			c.rec.GetTombstone() || now.After(c.leaf.NotAfter)
		if !out {
			active = append(active, c)
		}
	}
	slices.SortFunc(active, candidate.older)

	names, wg, blocks, v4 := oracleNames(active), map[mesh.WGKey]bool{}, map[netip.Prefix]bool{}, map[netip.Addr]bool{}
	view := make(map[mesh.NodeID]mesh.Member)
	for _, c := range active { // oldest certificate first: who comes first, has it
		block := mesh.Block(w.root.Network.ID, c.leaf.ID)
		present := !wg[c.leaf.WireGuard] && !blocks[block]
		wg[c.leaf.WireGuard], blocks[block] = true, true
		m := mesh.Member{
			ID: c.leaf.ID, Name: names[c.leaf.ID], CertName: c.leaf.Name, WireGuard: c.leaf.WireGuard, Block: block,
			Tags: c.leaf.Tags, Routes: c.leaf.Routes, Serial: c.leaf.Serial, IssuerID: c.leaf.Issuer,
			NotBefore: c.leaf.Cert.NotBefore, NotAfter: c.leaf.NotAfter, Seq: c.rec.GetSequence(), Boot: c.rec.GetBoot(),
			Updated: time.UnixMilli(c.rec.GetTime()).UTC(), Reachable: c.rec.GetReachable(), Software: c.rec.GetSoftware(),
		}
		for _, a := range c.leaf.Addrs {
			if a.Is6() || !v4[a] {
				m.Addrs = append(m.Addrs, a)
			}
			v4[a] = true
		}
		for _, b := range c.rec.GetEndpoints() {
			a, _ := wire.ParseAddrPort(b)
			m.Endpoints = append(m.Endpoints, a)
		}
		for _, i := range issuers {
			if i.NodeID == m.ID && !revoked(i) && !now.After(i.Cert.NotAfter) {
				m.Issuer, m.IssuerKey = true, i.KeyID
			}
		}
		if present {
			view[m.ID] = m
		}
	}
	return view
}

func oracleRecords(t testing.TB, w *world, items []*wire.Item) (map[mesh.NodeID]candidate, map[string]*pki.Issuer) {
	t.Helper()
	best, issuers := make(map[mesh.NodeID]candidate), make(map[string]*pki.Issuer)
	for _, it := range items {
		if it.GetRevocationList() != nil {
			continue
		}
		c, known := w.read[it]
		if !known {
			c = readItem(w, it)
			w.read[it] = c
		}
		issuers[string(c.issuer.Cert.Raw)] = c.issuer
		if c.rec == nil {
			continue
		}
		o, ok := best[c.leaf.ID]
		tomb, otherTomb := c.rec.GetTombstone(), ok && o.rec.GetTombstone()
		switch {
		case !ok, tomb && !otherTomb:
			best[c.leaf.ID] = c
		case tomb != otherTomb:
		case c.rec.GetSequence() > o.rec.GetSequence(),
			c.rec.GetSequence() == o.rec.GetSequence() && bytes.Compare(c.hash[:], o.hash[:]) < 0:
			best[c.leaf.ID] = c
		}
	}
	return best, issuers
}

func readItem(w *world, it *wire.Item) candidate {
	if der := it.GetIssuer(); der != nil {
		i, err := pki.ParseIssuer(der, w.root)
		w.check(err)
		return candidate{issuer: i}
	}
	r, _, err := wire.OpenRecord(it.GetRecord())
	w.check(err)
	leaf, iss, err := pki.VerifyAtAnyTime(r.GetChain(), w.root)
	w.check(err)
	return candidate{r, leaf, iss, sha256.Sum256(it.GetRecord().GetRecord())}
}

func oracleLists(t testing.TB, w *world, items []*wire.Item, issuers map[string]*pki.Issuer) []*pki.RevocationList {
	t.Helper()
	lists := make(map[mesh.KeyID]map[string]*pki.RevocationList)
	for _, it := range items {
		der := it.GetRevocationList()
		if der == nil {
			continue
		}
		l, err := pki.ParseRevocationList(der, w.root, func(k mesh.KeyID) *pki.Issuer {
			for _, i := range issuers {
				if i.KeyID == k {
					return i
				}
			}
			return nil
		})
		if err != nil {
			continue // its signer is in none of the items
		}
		if lists[l.Signer] == nil {
			lists[l.Signer] = make(map[string]*pki.RevocationList)
		}
		lists[l.Signer][string(der)] = l
	}
	var out []*pki.RevocationList
	for _, byDER := range lists {
		var top uint64
		for _, l := range byDER {
			top = max(top, l.Number)
		}
		for _, l := range byDER {
			if l.Number == top {
				out = append(out, l)
			}
		}
	}
	return out
}

func oracleNames(active []candidate) map[mesh.NodeID]mesh.Name {
	certified, short, out := map[mesh.Name]bool{}, map[mesh.Name]bool{}, map[mesh.NodeID]mesh.Name{}
	for _, c := range active {
		if !certified[c.leaf.Name] {
			certified[c.leaf.Name] = true
			out[c.leaf.ID] = c.leaf.Name
		}
	}
	for _, c := range active {
		if out[c.leaf.ID] != "" {
			continue
		}
		base := string(c.leaf.Name)
		n := mesh.Name(strings.TrimRight(base[:min(len(base), 58)], "-") + "-" + c.leaf.ID.String()[:4])
		if certified[n] || short[n] {
			out[c.leaf.ID] = mesh.Name(strings.TrimRight(base[:min(len(base), 10)], "-") + "-" + c.leaf.ID.String())
			short[n] = true
			continue
		}
		short[n] = true
		out[c.leaf.ID] = n
	}
	return out
}

// compare checks a View, its indexes included, against the oracle.
func compare(t testing.TB, v *mesh.View, want map[mesh.NodeID]mesh.Member, when string) {
	t.Helper()
	if v.Len() != len(want) {
		t.Fatalf("%s: %d members, the oracle says %d", when, v.Len(), len(want))
	}
	for m := range v.All() {
		w := want[m.ID]
		got := *m
		got.SealKey = [32]byte{}
		if !reflect.DeepEqual(got, w) {
			t.Fatalf("%s: member\n%+v\nthe oracle says\n%+v", when, got, w)
		}
		if n, ok := v.ByName(m.Name); !ok || n.ID != m.ID {
			t.Fatalf("%s: name %s does not lead to its member", when, m.Name)
		}
		if n, ok := v.ByWireGuard(m.WireGuard); !ok || n.ID != m.ID {
			t.Fatalf("%s: WireGuard key of %s does not lead to it", when, m.Name)
		}
	}
}

// randomItems makes a small network full of trouble: few names, shared keys and addresses, two certificates of one issuer, lists that
// take revocations back, lists with one number, twins of records, tombstones, expired certificates.
func randomItems(t testing.TB, r *rand.Rand) (*world, []*wire.Item) {
	t.Helper()
	w := newWorld(t, 3)
	w.appoint(key(issuerSeed), "issuer0", 0, epoch.AddDate(0, -1, 0)) // a second certificate for the key of the first
	w.appoint(key(issuerSeed+7), "old", 3, epoch.AddDate(-5, 0, -2).AddDate(0, 0, r.IntN(4)).Add(time.Hour))
	var items []*wire.Item
	for _, a := range w.issuers {
		if r.IntN(2) == 0 {
			items = append(items, issuerItem(a))
		}
	}
	names := []string{"alice", "bob", strings.Repeat("n", 62)}
	members := 4 + r.IntN(6)
	for m := range members {
		k := key(memberSeed + m)
		if r.IntN(5) == 0 { // members that are issuers
			k = w.issuers[r.IntN(len(w.issuers))].key
		}
		if r.IntN(4) == 0 { // a certified name that is somebody's short name
			names = append(names, "bob-"+idOf(k).String()[:4])
		}
		for range 1 + r.IntN(4) {
			items = append(items, randomRecord(w, r, k, names))
		}
	}
	records := slices.DeleteFunc(slices.Clone(items), func(it *wire.Item) bool { return it.GetRecord() == nil })
	for range r.IntN(6) {
		by := w.issuers[r.IntN(3)]
		var entries []pki.Revoked
		for range r.IntN(4) {
			e := w.revokedMember(records[r.IntN(len(records))])
			switch r.IntN(3) {
			case 0:
				e.ID = idOf(key(5000 + r.IntN(9))) // by serial alone
			case 1:
				e.Kind = pki.Kept
			}
			entries = append(entries, e)
		}
		if r.IntN(4) == 0 {
			by = nil
			if r.IntN(2) == 0 {
				entries = append(entries, w.revokedIssuer(w.issuers[r.IntN(len(w.issuers))]))
				for _, rec := range records {
					if r.IntN(2) == 0 {
						e := w.revokedMember(rec)
						e.Kind = pki.Kept
						entries = append(entries, e)
					}
				}
			}
		}
		items = append(items, w.list(by, 1+r.Uint64N(3), epoch.Add(-time.Duration(r.IntN(100))*time.Hour), entries...))
	}
	return w, items
}

func randomRecord(w *world, r *rand.Rand, k []byte, names []string) *wire.Item {
	by := w.issuers[r.IntN(4)]
	s := spec{
		key: k, name: names[r.IntN(len(names))], by: by, serial: 1 + r.Int64N(40),
		issued:   epoch.Add(-time.Duration(48+24*r.IntN(3)) * time.Hour),
		lifetime: time.Duration(2+r.IntN(8)) * 24 * time.Hour,
		sequence: 1 + r.Uint64N(4), boot: r.Uint64N(3), tombstone: r.IntN(10) == 0, software: fmt.Sprint(r.IntN(2)),
		time: epoch.Add(-time.Duration(1+r.IntN(40)) * time.Hour),
	}
	if r.IntN(3) == 0 {
		s.wireGuard = byte(1 + r.IntN(2))
	}
	if r.IntN(2) == 0 {
		p := by.IPv4.Addr().As4()
		p[3] = byte(1 + r.IntN(3))
		s.ipv4 = netip.AddrFrom4(p)
	}
	return w.record(s)
}

// TestOrderIndependence: after every item, and whatever the clock did on the way, the View is what the oracle makes of the set.
func TestOrderIndependence(t *testing.T) {
	for seed := range 15 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		w, items := randomItems(t, r)
		for order := range 3 {
			b := newBench(t, w, newMemory(), epoch)
			var fed []*wire.Item
			for n, it := range shuffled(r, items) {
				if order > 0 && r.IntN(3) == 0 {
					// Forward and back, but not so far that a record is forgotten.
					b.at(epoch.Add(time.Duration(r.IntN(4*24)) * time.Hour))
				}
				if r.IntN(5) == 0 {
					again := items[r.IntN(len(items))]
					b.feed(again)
					fed = append(fed, again)
				}
				b.feed(it)
				fed = append(fed, it)
				if r.IntN(3) == 0 {
					compare(t, b.View(), oracle(t, w, fed, b.now), fmt.Sprintf("seed %d, order %d, after item %d", seed, order, n))
				}
			}
			for _, now := range []time.Time{epoch, epoch.Add(100 * time.Hour), epoch.Add(30 * time.Hour)} {
				b.at(now)
				compare(t, b.View(), oracle(t, w, items, now), fmt.Sprintf("seed %d, order %d, at %v", seed, order, now))
			}
		}
	}
}

// TestOrderIndependenceSlowClock: on a machine that booted in 2020 all orders end in one View and one trusted time, which are the
// oracle's.
func TestOrderIndependenceSlowClock(t *testing.T) {
	boot := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for seed := range 10 {
		r := rand.New(rand.NewPCG(uint64(seed), 3))
		w, items := randomItems(t, r)
		items = append(items, w.record(spec{key: key(memberSeed), name: "self", sequence: 9})) // proves that the clock is behind
		var first time.Time
		for order := range 4 {
			b := newBench(t, w, newMemory(), boot)
			for _, it := range shuffled(r, items) {
				b.feed(it)
			}
			when := fmt.Sprintf("seed %d, order %d", seed, order)
			compare(t, b.View(), oracle(t, w, items, b.Now()), when)
			if order == 0 {
				first = b.Now()
			}
			if !b.Now().Equal(first) || first.Before(epoch.Add(-97*time.Hour)) || first.After(epoch) {
				t.Fatalf("%s: trusted time %v, in the first order %v", when, b.Now(), first)
			}
		}
	}
}

// TestReloadAndSync: what was saved gives the same View; so does what another member gets by anti-entropy.
func TestReloadAndSync(t *testing.T) {
	for seed := range 10 {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		w, items := randomItems(t, r)
		want := oracle(t, w, items, epoch)
		disk := newMemory()
		a := newBench(t, w, disk, epoch)
		for _, it := range shuffled(r, items) {
			a.feed(it)
		}
		if err := a.finish(); err != nil {
			t.Fatal(err)
		}
		compare(t, newBench(t, w, disk, epoch).View(), want, fmt.Sprintf("seed %d, loaded", seed))

		half := items[:r.IntN(len(items))]
		b, c := newBench(t, w, newMemory(), epoch), newBench(t, w, newMemory(), epoch)
		for _, it := range shuffled(r, half) {
			b.feed(it)
		}
		for _, it := range shuffled(r, items[len(half):]) {
			c.feed(it)
		}
		// A list whose signer only the other side knows travels in no digest before that signer is known.
		for range 2 {
			syncOnce(t, b, c)
			syncOnce(t, c, b)
		}
		compare(t, b.View(), want, fmt.Sprintf("seed %d, synced listener", seed))
		compare(t, c.View(), want, fmt.Sprintf("seed %d, synced dialler", seed))
		if send, wants := diffOf(t, b, c); len(send)+len(wants.GetRecords())+len(wants.GetRevocationLists())+len(wants.GetIssuers()) > 0 {
			t.Fatalf("seed %d: after a sync %d items are to be sent and %v wanted", seed, len(send), wants)
		}
	}
}

func diffOf(t testing.TB, listener, dialler *bench) ([]*wire.Item, *wire.Digest) {
	t.Helper()
	digest, err := dialler.Digest(ctx())
	if err != nil {
		t.Fatal(err)
	}
	send, want, err := listener.Diff(ctx(), digest)
	if err != nil {
		t.Fatal(err)
	}
	return send, want
}

func syncOnce(t testing.TB, listener, dialler *bench) {
	t.Helper()
	send, want := diffOf(t, listener, dialler)
	for _, it := range send {
		dialler.feed(it)
	}
	items, err := dialler.Items(ctx(), want)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		listener.feed(it)
	}
}
