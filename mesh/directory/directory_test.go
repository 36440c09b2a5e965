package directory

import (
	"errors"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
	"google.golang.org/protobuf/proto"
)

const bob, carol = memberSeed + 1, memberSeed + 2

func TestRecordLifeInView(t *testing.T) {
	w := newWorld(t, 1)
	b := newBench(t, w, newMemory(), epoch)
	chain := w.chain(spec{key: key(bob), name: "bob"})
	first := w.recordOf(spec{key: key(bob), sequence: 5, software: "1"}, chain)
	b.want(Accepted, first)
	b.want(Stale, first)
	b.want(Accepted, w.recordOf(spec{key: key(bob), sequence: 7, software: "2"}, chain))
	b.want(Stale, w.recordOf(spec{key: key(bob), sequence: 6, software: "3"}, chain))
	m, ok := b.View().ByName("bob")
	if !ok || m.Software != "2" || m.Seq != 7 || len(m.Endpoints) != 1 || m.SealKey != [32]byte{} || m.Tags[0] != "t" {
		t.Fatalf("bob is %+v", m)
	}
	b.want(Accepted, w.recordOf(spec{key: key(bob), sequence: 6, tombstone: true}, chain)) // lower, yet it outranks
	b.want(Stale, w.recordOf(spec{key: key(bob), sequence: 99}, chain))
	if b.isMember(bob) {
		t.Fatal("bob is a member after its tombstone")
	}
	if g := b.Gone(); len(g) != 1 || g[0].Why != WhyLeft || g[0].Name != "bob" {
		t.Fatalf("gone: %+v", g)
	}
	if _, err := b.Judge(chain, b.Now()); !errors.Is(err, ErrLeft) {
		t.Fatalf("judging the chain of a member that left: %v", err)
	}
	if err := b.Revoked(chain); !errors.Is(err, ErrLeft) {
		t.Fatalf("asking about the chain of a member that left: %v", err)
	}
}

func TestInvalidItems(t *testing.T) {
	w, other := newWorld(t, 1), newWorld(t, 1)
	b := newBench(t, w, newMemory(), epoch)
	forged := w.record(spec{key: key(bob), name: "bob", sequence: 1})
	forged.GetRecord().Signature[3] ^= 1
	longName := strings.Repeat("a", 10) + "-" + idOf(key(carol)).String()
	for what, it := range map[string]*wire.Item{
		"empty":             {},
		"forged":            forged,
		"long expired":      w.record(spec{key: key(bob), name: "bob", sequence: 1, lifetime: time.Hour, issued: epoch.AddDate(0, 0, -8)}),
		"poses as carol":    w.record(spec{key: key(bob), name: longName, sequence: 1}),
		"damaged list":      {Item: &wire.Item_RevocationList{RevocationList: []byte("list")}},
		"damaged issuer":    {Item: &wire.Item_Issuer{Issuer: []byte("issuer")}},
		"foreign root list": func() *wire.Item { other.rootKey = key(77); return foreignList(t) }(),
	} {
		before := b.View()
		v, err := b.feed(it)
		if what == "empty" && errors.Is(err, wire.ErrVersion) {
			continue // perhaps of a newer version
		}
		if what == "foreign root list" {
			if v != Stale || err != nil || len(b.RevocationLists()) != 0 { // it might be by an issuer of ours that is not known yet
				t.Errorf("%s: %v %v", what, v, err)
			}
			continue
		}
		if v != Invalid || err == nil {
			t.Errorf("%s: %v %v", what, v, err)
		}
		if b.View() != before {
			t.Errorf("%s changed the View", what)
		}
	}
}

func foreignList(t *testing.T) *wire.Item {
	t.Helper()
	der, err := pki.NewRoot("other", "other.internal", netip.Prefix{}, key(77), epoch)
	if err != nil {
		t.Fatal(err)
	}
	root, err := pki.ParseRoot(der)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, root: root, rootKey: key(77)}
	return w.list(nil, 1, epoch)
}

// TestRevocation: by node ID a renewed certificate stays revoked, and the list is on disk when it is acknowledged.
func TestRevocation(t *testing.T) {
	w := newWorld(t, 2)
	disk := newMemory()
	b := newBench(t, w, disk, epoch)
	rec := w.record(spec{key: key(bob), name: "bob", sequence: 1})
	renewed := w.record(spec{key: key(bob), name: "bob", sequence: 2, by: w.issuers[1]})
	b.want(Accepted, rec)
	l := w.list(w.issuers[0], 1, epoch, w.revokedMember(rec))
	b.want(Accepted, l)
	b.want(Stale, l)
	b.want(Stale, renewed)
	if b.isMember(bob) {
		t.Fatal("bob is a member though revoked")
	}
	delete(disk.files, KindRecords) // the cache may be lost, and the file of issuers with it
	delete(disk.files, KindIssuers)
	again := newBench(t, w, disk, epoch)
	again.want(Stale, renewed)
	again.want(Stale, w.list(w.issuers[0], 1, epoch, w.revokedMember(rec)))
	body, _, err := wire.OpenRecord(renewed.GetRecord())
	w.check(err)
	if _, err := again.Judge(body.GetChain(), again.Now()); !errors.Is(err, ErrRevoked) {
		t.Fatalf("judging a revoked member's renewed chain: %v", err)
	}
	if err := again.Revoked(body.GetChain()); !errors.Is(err, ErrRevoked) {
		t.Fatalf("asking about it: %v", err)
	}
	if g := again.Gone(); len(g) != 1 || g[0].Why != WhyRevoked || !g[0].When.Equal(epoch) {
		t.Fatalf("gone: %+v", g)
	}
	again.want(Accepted, w.list(w.issuers[0], 2, epoch)) // only its signer can take it back
	if !again.isMember(bob) {
		t.Fatal("bob is no member though its revocation was taken back")
	}
}

// TestListBeforeIssuer: a list that comes before its signer's certificate applies once any member's chain brings that.
func TestListBeforeIssuer(t *testing.T) {
	w := newWorld(t, 2)
	disk := newMemory()
	b := newBench(t, w, disk, epoch)
	rec := w.record(spec{key: key(bob), name: "bob", sequence: 1})
	b.want(Accepted, rec)
	l := w.list(w.issuers[1], 1, epoch, w.revokedMember(rec))
	b.want(Stale, l)
	if !b.isMember(bob) {
		t.Fatal("a list by a signer nobody knows took effect")
	}
	b.want(Accepted, w.record(spec{key: key(carol), name: "carol", sequence: 1, by: w.issuers[1]}))
	if b.isMember(bob) || !b.isMember(carol) {
		t.Fatal("the list that waited did not take effect")
	}
	if newBench(t, w, disk, epoch).RevocationLists() == nil {
		t.Fatal("the list that waited is not on disk")
	}
}

func TestWaitingListsAreBounded(t *testing.T) {
	w := newWorld(t, 1)
	b := newBench(t, w, newMemory(), epoch)
	for i := range 300 {
		h := heldList{signer: mesh.KeyID{byte(i), byte(i >> 8)}, der: make([]byte, 100<<10)}
		b.owned.core.waiting.add(h)
		h.signer, h.der = mesh.KeyID{1}, []byte{byte(i), byte(i >> 8)}
		b.owned.core.waiting.add(h)
	}
	total, same := 0, 0
	for _, h := range b.owned.core.waiting.lists {
		total += len(h.der)
		if h.signer == (mesh.KeyID{1}) {
			same++
		}
	}
	if len(b.owned.core.waiting.lists) > maxHeldLists || total > maxHeldBytes || same > maxHeldPerSigner || same == 0 {
		t.Fatalf("%d lists of %d bytes wait, %d by one signer", len(b.owned.core.waiting.lists), total, same)
	}
}

// TestRemovedIssuer: its members go, whom it had put out stays out, and it is no issuer any more.
func TestRemovedIssuer(t *testing.T) {
	w := newWorld(t, 2)
	b := newBench(t, w, newMemory(), epoch)
	issuer1 := w.record(spec{key: w.issuers[1].key, name: "issuer1", sequence: 1})
	bobRec := w.record(spec{key: key(bob), name: "bob", sequence: 1})
	b.want(Accepted, issuer1)
	b.want(Accepted, bobRec)
	b.want(Accepted, issuerItem(w.issuers[1]))
	b.want(Stale, issuerItem(w.issuers[1]))
	b.want(Accepted, w.record(spec{key: key(carol), name: "carol", sequence: 1, by: w.issuers[1]}))
	b.want(Accepted, w.list(w.issuers[1], 1, epoch, w.revokedMember(bobRec)))
	if m, _ := b.View().ByName("issuer1"); m == nil || !m.Issuer || m.IssuerKey != w.issuers[1].KeyID || len(b.Issuers()) != 2 {
		t.Fatalf("issuer1 is %+v", m)
	}
	b.want(Accepted, w.list(nil, 1, epoch, w.revokedIssuer(w.issuers[1])))
	if m, _ := b.View().ByName("issuer1"); m == nil || m.Issuer || len(b.Issuers()) != 1 {
		t.Fatalf("after its removal as issuer, issuer1 is %+v", m)
	}
	if b.isMember(carol) || b.isMember(bob) {
		t.Fatalf("members %v after the removal of carol's issuer, which had revoked bob", b.names())
	}
}

func TestDuplicates(t *testing.T) {
	w := newWorld(t, 1)
	b := newBench(t, w, newMemory(), epoch)
	addr := w.issuers[0].IPv4.Addr().Next()
	b.want(Accepted, w.record(spec{key: key(bob), name: "bob", sequence: 1, wireGuard: 9, ipv4: addr}))
	b.want(Accepted, w.record(spec{key: key(carol), name: "bob", sequence: 1, wireGuard: 9, ipv4: addr, issued: epoch.AddDate(0, 0, -3)}))
	if b.isMember(bob) || !b.isMember(carol) {
		t.Fatalf("members %v, want the one with the older certificate", b.names())
	}
	if g := b.Gone(); len(g) != 1 || g[0].Why != WhyDuplicate {
		t.Fatalf("gone: %+v", g)
	}
	b.want(Accepted, w.record(spec{key: key(bob), name: "bob", sequence: 2, ipv4: addr}))
	m, ok := b.View().ByName(mesh.Name("bob-" + idOf(key(bob)).String()[:4]))
	if !ok || m.CertName != "bob" || len(m.Addrs) != 1 || !m.Addrs[0].Is6() {
		t.Fatalf("members %v", b.names())
	}
}

// Two issuers in a partition gave one name away twice. Whoever had it first keeps it, whenever the two renew.
func TestRenewalKeepsTheName(t *testing.T) {
	w := newWorld(t, 2)
	b := newBench(t, w, newMemory(), epoch)
	holds := func(when string) {
		t.Helper()
		if m, ok := b.View().ByName("web"); !ok || m.ID != idOf(key(bob)) {
			t.Fatalf("%s: members %v, want bob to be web", when, b.names())
		}
	}
	first := epoch.AddDate(0, 0, -20)
	b.want(Accepted, w.record(spec{key: key(bob), name: "web", sequence: 1, issued: first}))
	b.want(Accepted, w.record(spec{key: key(carol), name: "web", sequence: 1, issued: first.AddDate(0, 0, 5), by: w.issuers[1]}))
	holds("at first")
	b.want(Accepted, w.record(spec{key: key(bob), name: "web", sequence: 2, issued: epoch.Add(-time.Hour), admitted: first.Add(-pki.Backdate)}))
	holds("after bob's renewal")
	b.want(Accepted, w.record(spec{key: key(carol), name: "web", sequence: 2, issued: epoch.Add(-time.Hour), admitted: first.AddDate(0, 0, 5).Add(-pki.Backdate)}))
	holds("after carol's renewal")
}

func TestConflicts(t *testing.T) {
	w := newWorld(t, 1)
	chain := w.chain(spec{key: key(bob), name: "bob"})
	x := w.recordOf(spec{key: key(bob), sequence: 5, boot: 3, software: "x"}, chain)
	y := w.recordOf(spec{key: key(bob), sequence: 5, boot: 3, software: "y"}, chain)
	back := w.recordOf(spec{key: key(bob), sequence: 6, boot: 2}, chain)
	restart := w.recordOf(spec{key: key(bob), sequence: 7, boot: 4}, chain)
	for _, c := range []struct {
		items []*wire.Item
		want  int
	}{{[]*wire.Item{x, x, restart}, 0}, {[]*wire.Item{restart, x}, 0}, {[]*wire.Item{x, y}, 1}, {[]*wire.Item{y, x}, 1}, {[]*wire.Item{x, back}, 1}, {[]*wire.Item{back, x}, 1}} {
		b := newBench(t, w, newMemory(), epoch)
		for _, it := range c.items {
			b.feed(it)
		}
		got := b.Conflicts()
		if len(got) != c.want {
			t.Fatalf("conflicts %v, want %d", got, c.want)
		}
		if c.want == 1 && !strings.Contains(got[0].String(), "two machines use the identity of bob") {
			t.Fatal(got[0])
		}
	}
	// Of two members that hold one of the twins each at least one finds out, and they agree.
	a, b := newBench(t, w, newMemory(), epoch), newBench(t, w, newMemory(), epoch)
	a.feed(x)
	b.feed(y)
	syncOnce(t, a, b)
	ra, _ := a.Record(idOf(key(bob)))
	rb, _ := b.Record(idOf(key(bob)))
	if !proto.Equal(ra, rb) || len(a.Conflicts())+len(b.Conflicts()) == 0 {
		t.Fatal("after a sync the twins are not noticed, or the members hold different ones")
	}
}

func TestNextSequence(t *testing.T) {
	w := newWorld(t, 1)
	disk := newMemory()
	b := newBench(t, w, disk, epoch)
	ms := uint64(epoch.UnixMilli())
	if n, m := b.NextSequence(), b.NextSequence(); n != ms+1 || m != ms+2 {
		t.Fatalf("%d, %d, want %d and one more", n, m, ms+1)
	}
	b.feed(w.record(spec{key: key(memberSeed), name: "self", sequence: ms + 5000}))
	if n := b.NextSequence(); n != ms+5001 {
		t.Fatalf("%d after a copy with %d", n, ms+5000)
	}
	w.check(b.finish())
	if n := newBench(t, w, disk, epoch).NextSequence(); n != ms+5001 {
		t.Fatalf("%d after a restart, want %d", n, ms+5001)
	}
	b.feed(w.record(spec{key: key(memberSeed), name: "self", sequence: math.MaxUint64}))
	if n := b.NextSequence(); n != math.MaxUint64 {
		t.Fatalf("%d wrapped around", n)
	}
}

func TestExpiryAndForgetting(t *testing.T) {
	w := newWorld(t, 1)
	b := newBench(t, w, newMemory(), epoch)
	b.want(Accepted, w.record(spec{key: key(bob), name: "bob", sequence: 1, lifetime: 72 * time.Hour}))
	end := epoch.Add(24 * time.Hour)
	b.at(end)
	if !b.isMember(bob) {
		t.Fatal("bob expired at its last moment")
	}
	b.at(end.Add(time.Nanosecond))
	if b.isMember(bob) || b.Gone()[0].Why != WhyExpired || !b.Gone()[0].When.Equal(end) {
		t.Fatalf("bob is a member after it expired, or gone %+v", b.Gone())
	}
	b.at(end)
	if !b.isMember(bob) {
		t.Fatal("bob did not come back with the clock")
	}
	b.at(end.Add(KeepExpired))
	if _, ok := b.Record(idOf(key(bob))); !ok {
		t.Fatal("bob's record is forgotten too early")
	}
	b.at(end.Add(KeepExpired + 1))
	if _, ok := b.Record(idOf(key(bob))); ok || len(b.Gone()) != 0 {
		t.Fatal("bob's record is kept too long")
	}
	if c := b.owned.core; len(c.byIssuer)+len(c.bySerial)+c.trust.others+len(c.resources.ipv4)+len(c.resources.wireGuard)+
		len(c.resources.names.certified)+len(c.schedule) > 1 { // the appointment of the issuer remains
		t.Fatalf("something is left behind: %+v", c)
	}
}

func TestSlowClockJudges(t *testing.T) {
	w := newWorld(t, 1)
	b := newBench(t, w, newMemory(), time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC))
	chain := w.chain(spec{key: key(bob), name: "bob"})
	if leaf, err := b.Judge(chain, b.Now()); err != nil || leaf.Name != "bob" {
		t.Fatalf("a box in 2020 refuses a valid member: %v", err)
	}
	if _, err := b.Judge(append(chain, w.root.Cert.Raw), b.Now()); err != nil {
		t.Fatalf("a chain with the root: %v", err)
	}
	if _, err := b.Judge(chain, epoch.AddDate(1, 0, 0)); !errors.Is(err, pki.ErrExpired) {
		t.Fatalf("a year later: %v", err)
	}
	if _, err := b.Judge(nil, epoch); err == nil {
		t.Fatal("no chain is judged good")
	}
	if b.Revoked(nil) == nil || b.Revoked([][]byte{{1}, {2}}) == nil || b.Revoked([][]byte{chain[0], {2}}) == nil {
		t.Fatal("an unreadable chain is not revoked")
	}
}

// TestTrustOracle: the running count gives what sorting all offsets gives, before and after somebody sets the system clock right.
func TestTrustOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		tr := newTrust(epoch)
		var own time.Duration
		if r.IntN(2) == 0 {
			own = time.Duration(r.IntN(3000)-1000) * time.Minute
			tr.certified(epoch.Add(own), epoch)
		}
		var all []int
		for range r.IntN(60) {
			if len(all) > 0 && r.IntN(3) == 0 {
				i := r.IntN(len(all))
				tr.remove(all[i])
				all = slices.Delete(all, i, i+1)
				continue
			}
			all = append(all, r.IntN(40)-10)
			tr.add(all[len(all)-1])
		}
		slices.Sort(all)
		slices.Reverse(all)
		need, want := 2+len(all)/10, time.Duration(0)
		if own >= time.Hour {
			need, want = need-1, own
		}
		if len(all) >= need {
			want = max(want, time.Duration(all[need-1])*time.Hour)
		}
		if got := tr.now(epoch); !got.Equal(epoch.Add(want)) {
			t.Fatalf("%v ahead, want %v, of %v and own %v", got.Sub(epoch), want, all, own)
		}
	}
}

// TestClockSetRight: once the system clock has been set, a certificate that it was behind of proves nothing any more, and one member
// whose clock runs ahead cannot use it.
func TestClockSetRight(t *testing.T) {
	tr := newTrust(epoch)
	tr.certified(epoch.Add(1000*time.Hour), epoch)
	tr.add(2000)
	if got := tr.now(epoch).Sub(epoch); got != 2000*time.Hour {
		t.Fatalf("behind its own certificate: %v ahead", got)
	}
	set := epoch.Add(1001 * time.Hour)
	if got := clockOf(tr).at(set, epoch.Add(time.Minute)); !got.Equal(set) {
		t.Fatalf("after it was set: %v ahead", got.Sub(set))
	}
}

// TestOneFastClock: a member whose clock runs ahead expires nobody.
func TestOneFastClock(t *testing.T) {
	w := newWorld(t, 1)
	b := newBench(t, w, newMemory(), epoch)
	b.want(Accepted, w.record(spec{key: key(bob), name: "bob", sequence: 1}))
	b.want(Accepted, w.record(spec{key: key(carol), name: "carol", sequence: 1, lifetime: 2000 * time.Hour, time: epoch.AddDate(0, 2, 0)}))
	if !b.isMember(bob) || !b.Now().Equal(epoch) {
		t.Fatalf("one record moved the time to %v", b.Now())
	}
}

func TestDiskTrouble(t *testing.T) {
	w := newWorld(t, 1)
	disk := newMemory()
	b := newBench(t, w, disk, epoch)
	rec := w.record(spec{key: key(bob), name: "bob", sequence: 1})
	b.want(Accepted, rec)
	disk.failWith(errors.New("no space left"))
	l := w.list(w.issuers[0], 1, epoch, w.revokedMember(rec))
	if v, err := b.feed(l); v != Accepted || !errors.Is(err, ErrNotSaved) || b.isMember(bob) {
		t.Fatalf("a list that cannot be saved: %v %v, bob a member: %v", v, err, b.isMember(bob))
	}
	if v, err := b.feed(l); v != Stale || !errors.Is(err, ErrNotSaved) {
		t.Fatalf("the same again was acknowledged: %v %v", v, err)
	}
	disk.failWith(nil)
	b.want(Stale, l)
	if len(newBench(t, w, disk, epoch).RevocationLists()) != 1 {
		t.Fatal("acknowledged, and not on disk")
	}
}

func TestStoredFilesDamaged(t *testing.T) {
	w := newWorld(t, 1)
	for _, kind := range []string{KindIssuers, KindRevocations} {
		bad, err := proto.Marshal(&wire.SyncFrame{Items: []*wire.Item{issuerItem(w.issuers[0]), {Item: &wire.Item_Issuer{Issuer: []byte{1}}}}})
		w.check(err)
		for _, content := range [][]byte{bad, []byte("\xff\xff")} {
			disk := newMemory()
			disk.files[kind] = content
			_, err := New(Config{Root: w.root, Self: idOf(key(bob)), Persist: disk, Now: func() time.Time { return epoch }})
			if err == nil || !strings.Contains(err.Error(), kind) {
				t.Fatalf("damaged %s: %v", kind, err)
			}
		}
	}
	disk := newMemory()
	disk.files[KindRecords] = []byte("\xff\xff")
	if newBench(t, w, disk, epoch).View().Len() != 0 {
		t.Fatal("members out of a damaged cache")
	}
}

func TestSettled(t *testing.T) {
	w := newWorld(t, 1)
	isSettled := func(d *Directory) bool {
		select {
		case <-d.Settled():
			return true
		default:
			return false
		}
	}
	if !isSettled(newBench(t, w, newMemory(), epoch).Directory) {
		t.Fatal("a directory whose state is whole has to wait")
	}
	d, err := New(Config{Root: w.root, Self: idOf(key(bob)), Persist: newMemory(), Now: func() time.Time { return epoch }, Rollback: true})
	w.check(err)
	other := newBench(t, w, newMemory(), epoch)
	other.feed(issuerItem(w.issuers[0]))
	other.feed(w.list(w.issuers[0], 3, epoch))
	digest, err := other.Digest(ctx())
	w.check(err)
	if _, want, _ := d.Diff(ctx(), digest); len(want.GetRevocationLists()) != 1 || isSettled(d) {
		t.Fatal("settled before the other's lists have come")
	}
	if _, _, err := d.Diff(ctx(), &wire.Digest{}); err != nil || !isSettled(d) {
		t.Fatal("not settled when the other has no list that we lack")
	}
}
