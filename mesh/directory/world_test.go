package directory

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

var epoch = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// key derives a key from a number, so that a failing seed fails again.
func key(n int) ed25519.PrivateKey {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], uint64(n))
	return ed25519.NewKeyFromSeed(seed[:])
}

func idOf(k ed25519.PrivateKey) mesh.NodeID { return mesh.NodeIDOf(k.Public().(ed25519.PublicKey)) }

// world is a network seen by somebody who holds all keys.
type world struct {
	t       testing.TB
	rootKey ed25519.PrivateKey
	root    *pki.Root
	issuers []*authority
	read    map[*wire.Item]candidate // what the oracle has read already: reading is most of its time
}

type authority struct {
	key ed25519.PrivateKey
	*pki.Issuer
}

const rootSeed, issuerSeed, memberSeed = 1, 100, 1000

func newWorld(t testing.TB, issuers int) *world {
	t.Helper()
	w := &world{t: t, rootKey: key(rootSeed), read: make(map[*wire.Item]candidate)}
	der, err := pki.NewRoot("farm", "farm.internal", netip.MustParsePrefix("10.77.0.0/16"), w.rootKey, epoch.AddDate(-10, 0, 0))
	w.check(err)
	w.root, err = pki.ParseRoot(der)
	w.check(err)
	for i := range issuers {
		w.appoint(key(issuerSeed+i), mesh.Name(fmt.Sprintf("issuer%d", i)), i, epoch.AddDate(0, -6, 0))
	}
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) appoint(k ed25519.PrivateKey, name mesh.Name, index int, at time.Time) *authority {
	w.t.Helper()
	der, err := pki.NewIssuer(w.root, w.rootKey, k.Public().(ed25519.PublicKey), name, index, at)
	w.check(err)
	i, err := pki.ParseIssuer(der, w.root)
	w.check(err)
	a := &authority{k, i}
	w.issuers = append(w.issuers, a)
	return a
}

// spec describes a member's certificate and record; zero fields get what a plain member has.
type spec struct {
	key       ed25519.PrivateKey
	name      string
	by        *authority
	wireGuard byte
	ipv4      netip.Addr
	issued    time.Time
	admitted  time.Time
	lifetime  time.Duration
	serial    int64
	sequence  uint64
	boot      uint64
	time      time.Time
	tombstone bool
	software  string
	routes    []netip.Prefix
	workloads []mesh.Workload
}

func (w *world) chain(s spec) [][]byte {
	w.t.Helper()
	if s.by == nil {
		s.by = w.issuers[0]
	}
	if s.issued.IsZero() {
		s.issued = epoch.Add(-48 * time.Hour)
	}
	id := idOf(s.key)
	wg := mesh.WGKey(id)
	if s.wireGuard != 0 {
		wg = mesh.WGKey{s.wireGuard}
	}
	var serial *big.Int
	if s.serial != 0 {
		serial = big.NewInt(s.serial)
	}
	der, err := s.by.Sign(s.by.key, w.root, pki.LeafRequest{
		Identity: s.key.Public().(ed25519.PublicKey), WireGuard: wg, Name: mesh.Name(s.name), IPv4: s.ipv4,
		Lifetime: s.lifetime, Serial: serial, Admitted: s.admitted, Tags: []string{"t"}, Routes: s.routes,
	}, s.issued)
	w.check(err)
	return [][]byte{der, s.by.Cert.Raw}
}

func (w *world) record(s spec) *wire.Item { return w.recordOf(s, w.chain(s)) }

func (w *world) recordOf(s spec, chain [][]byte) *wire.Item {
	w.t.Helper()
	if s.time.IsZero() {
		s.time = epoch.Add(-time.Hour)
	}
	signed, err := wire.SignRecord(&wire.Record{
		Chain: chain, Sequence: s.sequence, Boot: s.boot, Time: s.time.UnixMilli(), SealKey: make([]byte, 32), Tombstone: s.tombstone,
		Software: s.software, Reachable: true,
		Endpoints: [][]byte{wire.AddrPortBytes(netip.MustParseAddrPort("198.51.100.7:51820"))}, Workloads: wire.Workloads(s.workloads),
	}, s.key)
	w.check(err)
	return &wire.Item{Item: &wire.Item_Record{Record: signed}}
}

// list makes a revocation list; by nil is the root.
func (w *world) list(by *authority, number uint64, at time.Time, entries ...pki.Revoked) *wire.Item {
	w.t.Helper()
	cert, k := w.root.Cert, w.rootKey
	if by != nil {
		cert, k = by.Cert, by.key
	}
	der, err := pki.NewRevocationList(cert, k, number, entries, at)
	w.check(err)
	return &wire.Item{Item: &wire.Item_RevocationList{RevocationList: der}}
}

func issuerItem(a *authority) *wire.Item {
	return &wire.Item{Item: &wire.Item_Issuer{Issuer: a.Cert.Raw}}
}

// revokedMember names a record's certificate.
func (w *world) revokedMember(it *wire.Item) pki.Revoked {
	w.t.Helper()
	r, _, err := wire.OpenRecord(it.GetRecord())
	w.check(err)
	leaf, _, err := pki.VerifyAtAnyTime(r.GetChain(), w.root)
	w.check(err)
	return pki.Revoked{Issuer: leaf.Issuer, Serial: leaf.Serial, ID: leaf.ID, Kind: pki.Member}
}

func (w *world) revokedIssuer(a *authority) pki.Revoked {
	return pki.Revoked{Issuer: w.root.KeyID(), Serial: a.Serial, ID: a.NodeID, Kind: pki.IssuerCert}
}

// memory is a Persister.
type memory struct {
	mu    sync.Mutex
	files map[string][]byte
	fail  error
}

func newMemory() *memory { return &memory{files: make(map[string][]byte)} }

func (m *memory) SaveItems(kind string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.files[kind] = data
	return nil
}

func (m *memory) LoadItems(kind string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.files[kind]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (m *memory) has(kind string) bool {
	_, err := m.LoadItems(kind)
	return err == nil
}

func (m *memory) failWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// bench is a Directory whose owner is the test: no goroutine, and a clock to be set.
type bench struct {
	*Directory
	t   testing.TB
	now time.Time
}

func newBench(t testing.TB, w *world, p Persister, now time.Time) *bench {
	t.Helper()
	b := &bench{t: t, now: now}
	d, err := New(Config{Root: w.root, Self: idOf(key(memberSeed)), Persist: p, Now: func() time.Time { return b.now }})
	if err != nil {
		t.Fatal(err)
	}
	b.Directory = d
	b.owned.saver.begin(d.View().Len())
	return b
}

func (b *bench) finish() error {
	return b.owned.saver.finish(b.snapshot.Load(), b.owned.core.waiting.stored())
}

// feed does what Submit and Run do together.
func (b *bench) feed(it *wire.Item) (Verdict, error) {
	b.t.Helper()
	ev, err := b.open(it)
	if err != nil {
		return Invalid, err
	}
	if ev == nil {
		return Stale, nil
	}
	r := request{event: ev, reply: make(chan reply, 1)}
	b.apply([]request{r})
	a := <-r.reply
	return a.verdict, a.err
}

func (b *bench) want(v Verdict, it *wire.Item) {
	b.t.Helper()
	got, err := b.feed(it)
	if got != v || (err != nil) != (v == Invalid) {
		b.t.Fatalf("verdict %v (error %v), want %v", got, err, v)
	}
}

// at moves the clock.
func (b *bench) at(now time.Time) {
	b.now = now
	b.apply([]request{{event: tick{}}})
}

func (b *bench) names() map[mesh.Name]mesh.NodeID {
	out := make(map[mesh.Name]mesh.NodeID)
	for m := range b.View().All() {
		out[m.Name] = m.ID
	}
	return out
}

func (b *bench) isMember(n int) bool {
	_, ok := b.View().Member(idOf(key(n)))
	return ok
}

func ctx() context.Context { return context.Background() }

func shuffled(r *rand.Rand, items []*wire.Item) []*wire.Item {
	out := append([]*wire.Item(nil), items...)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
