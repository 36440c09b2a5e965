// Package directory is the one place that knows who is a member: records, revocation lists and issuers' certificates go in, the
// immutable mesh.View comes out.
//
// It owns that state and the four files in which it survives: "records", a cache that may be lost; "revocations", "issuers" and "devices",
// which are durable before anybody is told that they arrived. What it says follows from the set of items it has seen and from the time, not
// from the order in which they came, so that all members that have seen the same say the same:
//
//   - Of two records by one key the one that counts is a tombstone, else has the higher sequence, else the lower hash.
//   - Of the revocation lists by one signer the one with the highest number counts; the union over all signers applies, and
//     outlives the signer. A member is revoked by its node ID or by (issuer, serial), or with its issuer.
//   - A record counts while its chain is valid, not revoked, and it is no tombstone.
//   - A device has a certificate in place of a record, and the one that was issued last counts; all else is as for members.
//   - What two valid certificates claim (name, WireGuard key, address) goes to the lower (NotBefore, serial, key).
//
// Applying one record costs O(log n). Signatures are checked on the goroutine of whoever submits; lookups read snapshots and never wait.
//
// It never opens a socket, dials, gossips, or decides who may join: mesh/control carries items between members, mesh/enrol admits.
package directory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// Persister keeps the directory's files. Its methods are called from one goroutine at a time for each kind, "records" perhaps while
// another kind is written; data belongs to the callee. SaveItems returns when data is on disk, for "records" at the callee's discretion. LoadItems
// returns an error that wraps fs.ErrNotExist if nothing was saved.
type Persister interface {
	SaveItems(kind string, data []byte) error
	LoadItems(kind string) ([]byte, error)
}

// Config is what a Directory is made of. Log may be nil.
type Config struct {
	Root    *pki.Root
	Self    mesh.NodeID
	Persist Persister
	Now     func() time.Time // the system clock, best with its monotonic reading; see trust for what is made of it
	Log     *slog.Logger
	// Rollback says that our state went back a generation: revocations may be missing until another member has been asked, see
	// Settled.
	Rollback bool
}

// Verdict says what to do with a submitted item.
type Verdict int

// The verdicts.
const (
	// Accepted: it is new and counts. Pass it on.
	Accepted Verdict = iota + 1
	// Stale: known, older than what is held, or of no use here now (the record of a revoked or expired member, which is kept; a list
	// whose signer is not known yet, which waits; an item that needs a newer program). Ignore it, and do not blame the sender.
	Stale
	// Invalid: nobody who checks what it passes on would have sent it. The error says why.
	Invalid
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	switch v {
	case Accepted:
		return "accepted"
	case Stale:
		return "stale"
	case Invalid:
		return "invalid"
	}
	return fmt.Sprintf("verdict %d", int(v))
}

// Sentinels of Submit.
var (
	ErrStopped  = errors.New("the directory has stopped")
	ErrNotSaved = errors.New("in force, but not on disk")
)

// Directory knows who is a member. Its methods may be called from any goroutine, before, during and after Run; only Submit needs Run.
type Directory struct {
	cfg      Config
	snapshot atomic.Pointer[snapshot]
	sequence atomic.Uint64 // the highest of our own that was used or seen
	unsaved  atomic.Bool   // the snapshot has lists, issuers or devices that are not on disk
	watchers watchers
	settling settling

	requests chan request
	started  atomic.Bool
	stopped  chan struct{} // closed when Run has ended

	owned owned // by New until Run starts, then by Run
}

// snapshot is the state at one moment. Immutable.
type snapshot struct {
	view      *mesh.View
	entries   *entries
	issuers   []*issuer // by sum
	lists     []*list   // by signer, then hash
	revoked   *revocations
	conflicts []Conflict
	clock     clock
	devices   *entries
}

// New loads what is stored, checks it and returns the Directory. It starts nothing.
func New(cfg Config) (*Directory, error) {
	if cfg.Root == nil || cfg.Persist == nil || cfg.Now == nil || cfg.Self.IsZero() {
		return nil, errors.New("making a directory: Root, Self, Persist and Now must be set")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Directory{
		cfg: cfg, requests: make(chan request), stopped: make(chan struct{}), settling: newSettling(cfg.Rollback),
		owned: owned{core: newCore(cfg.Root, cfg.Self, cfg.Now())},
	}
	d.owned.saver = saver{persist: cfg.Persist, log: cfg.Log, unsaved: &d.unsaved}
	d.watchers.init()
	d.publish(kinds{}, true)
	if err := load(d); err != nil {
		return nil, fmt.Errorf("loading who is a member: %w", err)
	}
	return d, nil
}

// View returns who is a member now. It never blocks.
func (d *Directory) View() *mesh.View { return d.snapshot.Load().view }

// Watch returns a mailbox that holds the newest View, the present one to begin with, and a function that ends it. The mailbox is never
// closed; a View that nobody took in time is replaced by the next.
func (d *Directory) Watch() (<-chan *mesh.View, func()) { return d.watchers.add(d.View) }

// Submit judges an item and applies it. It waits for Run, and for the disk unless the item is a record.
// Such an item that took effect but could not be saved gives Accepted (or Stale) and an error that wraps ErrNotSaved: it is not
// acknowledged; saving is tried again every few seconds. Other errors with Accepted do not occur. A done ctx or a stopped directory
// gives Stale and the reason.
func (d *Directory) Submit(ctx context.Context, it *wire.Item) (Verdict, error) {
	ev, err := d.open(it)
	switch {
	case errors.Is(err, wire.ErrVersion):
		return Stale, fmt.Errorf("submitting an item: %w", err)
	case err != nil:
		return Invalid, fmt.Errorf("submitting an item: %w", err)
	case ev == nil:
		return Stale, nil
	}
	r := request{event: ev, reply: make(chan reply, 1)}
	select {
	case d.requests <- r:
	case <-d.stopped:
		return Stale, fmt.Errorf("submitting an item: %w", ErrStopped)
	case <-ctx.Done():
		return Stale, fmt.Errorf("submitting an item: %w", ctx.Err())
	}
	select {
	case a := <-r.reply:
		if a.err != nil {
			return a.verdict, fmt.Errorf("submitting an item: %w", a.err)
		}
		return a.verdict, nil
	case <-ctx.Done():
		return Stale, fmt.Errorf("submitting an item: %w", ctx.Err())
	}
}

// open checks everything about an item that needs no owner. A nil event says that it is known.
func (d *Directory) open(it *wire.Item) (event, error) {
	if err := wire.CheckItem(it); err != nil {
		return nil, err
	}
	s := d.snapshot.Load()
	switch kind := it.GetItem().(type) {
	case *wire.Item_Record:
		r, err := d.opener(s).record(kind.Record)
		if err != nil {
			return nil, err
		}
		return r, nil
	case *wire.Item_RevocationList:
		if s.hasList(kind.RevocationList) && !d.unsaved.Load() {
			return nil, nil
		}
		return openList(d.cfg.Root, kind.RevocationList, s)
	case *wire.Item_Issuer:
		if _, known := s.issuer(sha256.Sum256(kind.Issuer)); known && !d.unsaved.Load() {
			return nil, nil
		}
		i, err := pki.ParseIssuer(kind.Issuer, d.cfg.Root)
		if err != nil {
			return nil, err
		}
		return newIssuer(i), nil
	case *wire.Item_Device:
		r, err := d.opener(s).device(kind.Device)
		if r == nil {
			return nil, err
		}
		return deviceItem{r}, nil
	}
	return nil, wire.ErrVersion // CheckItem says so before
}

func (d *Directory) opener(s *snapshot) *opener {
	return &opener{root: d.cfg.Root, find: s.issuer, seen: func(id mesh.NodeID) *record {
		if e, ok := s.entries.Get(id); ok {
			return e.record
		}
		return nil
	}, signers: func(key mesh.KeyID) []*issuer { return byKey(s.issuers, key) }}
}

// Digest says what this member holds, for anti-entropy. It costs O(n) and does not wait.
func (d *Directory) Digest(context.Context) (*wire.Digest, error) {
	return d.snapshot.Load().digest(), nil
}

// Diff compares another member's digest with what is held: send is what they lack (issuers first, then revocation lists, then records, then devices),
// want is what they have and we lack. It costs O(n) and does not wait.
func (d *Directory) Diff(_ context.Context, theirs *wire.Digest) (send []*wire.Item, want *wire.Digest, err error) {
	send, want = d.snapshot.Load().diff(theirs)
	if len(want.GetRevocationLists()) == 0 {
		d.settling.done()
	}
	return send, want, nil
}

// Items returns those items that want names and are held, in the order of Diff. It does not wait.
func (d *Directory) Items(_ context.Context, want *wire.Digest) ([]*wire.Item, error) {
	// Whoever asks has compared our digest with what it holds, and sent what we lack before it asked.
	d.settling.done()
	return d.snapshot.Load().items(want), nil
}

// RevocationLists returns the lists that count, DER.
func (d *Directory) RevocationLists() [][]byte {
	var out [][]byte
	for _, l := range d.snapshot.Load().lists {
		out = append(out, l.DER)
	}
	return out
}

// RevocationItems returns the lists that count and, before them, their signers' certificates, of dismissed issuers too: whoever gets them can
// check them at once.
func (d *Directory) RevocationItems() []*wire.Item { return d.snapshot.Load().signersAndLists() }

// Revocations returns the lists that count, decoded: an issuer continues the one with its own key as Signer, with a higher number. There
// is more than one by one signer only if its state went back; the next one then has to contain the entries of all of them.
func (d *Directory) Revocations() []*pki.RevocationList {
	var out []*pki.RevocationList
	for _, l := range d.snapshot.Load().lists {
		out = append(out, l.RevocationList)
	}
	return out
}

// Issuers returns the issuers whose certificates are valid now and not revoked, and who have not left, in a stable order.
func (d *Directory) Issuers() []*pki.Issuer {
	s, now := d.snapshot.Load(), d.Now()
	var out []*pki.Issuer
	for _, iss := range s.issuers {
		if _, revoked := s.revoked.issuer(iss.Issuer); !revoked && !now.After(iss.Cert.NotAfter) && !s.left(iss.NodeID) {
			out = append(out, iss.Issuer)
		}
	}
	return out
}

func (s *snapshot) left(id mesh.NodeID) bool {
	e, ok := s.entries.Get(id)
	return ok && e.tombstone
}

// Now returns the trusted time: what the system clock says, or later where it is known to be behind. It has no monotonic reading.
func (d *Directory) Now() time.Time { return d.snapshot.Load().clock.now(d.cfg.Now()) }

// NextSequence returns the sequence number for our next record: higher than every one returned before, than the stored one, than that
// of any copy that came back to us, and than the Unix time in milliseconds.
func (d *Directory) NextSequence() uint64 {
	ms := uint64(max(d.Now().UnixMilli(), 0))
	for {
		seen := d.sequence.Load()
		next := max(seen, ms)
		if next < math.MaxUint64 {
			next++
		}
		if d.sequence.CompareAndSwap(seen, next) {
			return next
		}
	}
}

// Record returns the newest record of a node, whether or not it is a member.
func (d *Directory) Record(id mesh.NodeID) (*wire.SignedRecord, bool) {
	e, ok := d.snapshot.Load().entries.Get(id)
	if !ok {
		return nil, false
	}
	return e.signed, true
}

// Conflicts returns which identities are used by two machines, noticed in this run.
func (d *Directory) Conflicts() []Conflict { return d.snapshot.Load().conflicts }

// Settled returns a channel that is closed when the revocations can be relied on. That is at once, unless Config.Rollback: then when
// a sync with another member has brought those that we lost, or after settleAfter with nobody to ask, because a mesh in which every
// member lost its power must come back too. Links should start after it.
func (d *Directory) Settled() <-chan struct{} { return d.settling.ch }
