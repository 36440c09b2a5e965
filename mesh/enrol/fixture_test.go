package enrol

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// day0 is when the tests' networks are founded.
var day0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var addrAlice = netip.MustParseAddrPort("198.51.100.1:51820")

// clock is the tests' time; it moves by hand.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(day0.UnixNano())
	return c
}
func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// disk keeps the generations that an issuer saved.
type disk struct {
	mu   sync.Mutex
	gens [][]byte
	fail error
	slow bool // others get their turn while one saves
}

func (d *disk) save(b []byte) error {
	for range 1000 {
		if d.slow {
			runtime.Gosched()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	d.gens = append(d.gens, bytes.Clone(b))
	return nil
}

func (d *disk) load() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.gens) == 0 {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(d.gens[len(d.gens)-1]), nil
}

func (d *disk) newest() string {
	b, _ := d.load()
	return string(b)
}

// world is a network with its founder alice, who issues; other issuers can be appointed.
type world struct {
	t       testing.TB
	clock   *clock
	alice   *Membership
	rootKey pki.Key
	root    *pki.Root
	view    atomic.Pointer[mesh.View]

	mu      sync.Mutex
	revoked map[mesh.NodeID]bool
	entries []pki.Revoked
	taken   map[mesh.Name]bool
}

func newWorld(t testing.TB) *world { return newNamedWorld(t, "farm") }

func newNamedWorld(t testing.TB, name mesh.Name) *world {
	t.Helper()
	w := &world{t: t, clock: newClock(), revoked: map[mesh.NodeID]bool{}, taken: map[mesh.Name]bool{}}
	var err error
	w.alice, w.rootKey, _, err = NewNetwork(name, "alice", "", netip.Prefix{}, w.clock.now())
	w.must(err)
	w.root, err = pki.ParseRoot(w.alice.Root)
	w.must(err)
	w.view.Store(mesh.NewView(w.root.Network, w.alice.ID()))
	w.enter(w.alice, true)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// enter puts a member into the view, as its first record would.
func (w *world) enter(m *Membership, issuer bool) *mesh.Member {
	w.t.Helper()
	_, leaf, _, err := m.Leaf()
	w.must(err)
	member := &mesh.Member{
		ID: leaf.ID, Name: leaf.Name, CertName: leaf.Name, WireGuard: leaf.WireGuard, SealKey: m.SealPublic(), Addrs: leaf.Addrs,
		Serial: leaf.Serial, NotAfter: leaf.NotAfter, Issuer: issuer,
	}
	w.view.Store(w.view.Load().With(member))
	return member
}

func (w *world) member(m *Membership) *mesh.Member {
	v, ok := w.view.Load().Member(m.ID())
	if !ok {
		w.t.Fatal("no such member")
	}
	return v
}

func (w *world) revoke(e pki.Revoked) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revoked[e.ID] = true
	w.entries = append(w.entries, e)
	return nil
}

func (w *world) isRevoked(id mesh.NodeID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.revoked[id]
}

// config is alice's, with this disk.
func (w *world) config(d *disk) IssuerConfig {
	_, _, issuer, err := w.alice.Leaf()
	w.must(err)
	return IssuerConfig{
		Key: w.alice.Identity, Seal: w.alice.Seal, Root: w.root, Issuer: issuer,
		View:  w.view.Load,
		Taken: func(n mesh.Name) bool { w.mu.Lock(); defer w.mu.Unlock(); return w.taken[n] },
		Gone:  func() map[mesh.NodeID]bool { w.mu.Lock(); defer w.mu.Unlock(); return maps.Clone(w.revoked) },
		Revoked: func(chain [][]byte) error {
			leaf, _, err := pki.VerifyAtAnyTime(chain, w.root)
			if err != nil {
				return err
			}
			if w.isRevoked(leaf.ID) {
				return errors.New("by alice, today")
			}
			return nil
		},
		Revoke: w.revoke,
		Start: func() ([]*wire.Item, []byte) {
			return w.alice.Items, w.alice.Secret
		},
		Save: d.save, Load: d.load, Now: w.clock.now, Log: slog.New(slog.DiscardHandler),
	}
}

func (w *world) issuer(d *disk) *Issuer {
	w.t.Helper()
	i, err := NewIssuer(w.config(d))
	w.must(err)
	return i
}

// appoint makes zoe, a member, an issuer too.
func (w *world) appoint(m *Membership, index int, d *disk) *Issuer {
	w.t.Helper()
	_, leaf, _, err := m.Leaf()
	w.must(err)
	der, err := pki.NewIssuer(w.root, w.rootKey, leaf.ID.PublicKey(), leaf.Name, index, w.clock.now())
	w.must(err)
	cfg := w.config(d)
	cfg.Key, cfg.Seal = m.Identity, m.Seal
	cfg.Issuer, err = pki.ParseIssuer(der, w.root)
	w.must(err)
	i, err := NewIssuer(cfg)
	w.must(err)
	w.enter(m, true)
	return i
}

func (w *world) invite(i *Issuer, r InviteRequest) *wire.Token {
	w.t.Helper()
	if r.Members == nil {
		r.Members = []*wire.TokenMember{{NodeId: i.self[:], Addresses: [][]byte{wire.AddrPortBytes(addrAlice)}}}
	}
	text, _, err := i.Invite(r)
	w.must(err)
	tok, err := wire.DecodeToken(text)
	w.must(err)
	return tok
}

func newKeys(t testing.TB) Keys {
	t.Helper()
	k, err := NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// join redeems a token straight at the issuer.
func (w *world) join(i *Issuer, tok *wire.Token, keys Keys, name mesh.Name) (*Membership, error) {
	return Join(context.Background(), tok, keys, name, pipeTo(func(f *wire.EnrolFrame) *wire.EnrolResponse {
		return i.Handle(f.GetSealedRequest())
	}), w.clock.now)
}

func (w *world) joined(i *Issuer, tok *wire.Token, name mesh.Name) *Membership {
	w.t.Helper()
	m, err := w.join(i, tok, newKeys(w.t), name)
	w.must(err)
	return m
}

// sendTo is a Send that reaches the issuers given.
func sendTo(issuers ...*Issuer) Send {
	return func(_ context.Context, to mesh.NodeID, f *wire.EnrolFrame) (*wire.EnrolResponse, error) {
		for _, i := range issuers {
			if i.self == to {
				return i.Handle(f.GetSealedRequest()), nil
			}
		}
		return nil, errors.New("no route to host")
	}
}

func nameOfMembership(t testing.TB, m *Membership) mesh.Name {
	t.Helper()
	_, leaf, _, err := m.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	return leaf.Name
}

// wantRefusal checks the code and that the sentence says these things.
func wantRefusal(t *testing.T, err error, code wire.EnrolError, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("admitted, want %v", code)
	}
	if Code(err) != code {
		t.Errorf("code %v, want %v: %v", Code(err), code, err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("the sentence does not say %q: %v", s, err)
		}
	}
}

// memFiles is a Files whose writes fail after left operations, as if the machine had stopped then; a negative left never does.
type memFiles struct {
	files map[string][]byte
	left  int
}

var errStopped = errors.New("the machine stopped")

func newMemFiles() *memFiles { return &memFiles{files: map[string][]byte{}, left: -1} }

func (m *memFiles) clone() *memFiles { return &memFiles{files: maps.Clone(m.files), left: -1} }

func (m *memFiles) step() error {
	if m.left == 0 {
		return errStopped
	}
	m.left--
	return nil
}

func (m *memFiles) Read(name string) ([]byte, error) {
	b, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(b), nil
}

func (m *memFiles) Write(name string, data []byte) error {
	if err := m.step(); err != nil {
		return err
	}
	m.files[name] = slices.Clone(data)
	return nil
}

func (m *memFiles) Remove(name string) error {
	if err := m.step(); err != nil {
		return err
	}
	if _, ok := m.files[name]; !ok {
		return fs.ErrNotExist
	}
	delete(m.files, name)
	return nil
}
