package directory

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
)

const (
	// batchSize is how many submissions share one snapshot and one write to disk.
	batchSize = 64
	// lookAgain bounds how late a jump of the system clock is noticed: timers follow the monotonic clock.
	lookAgain = time.Minute
	// settleAfter is how long a directory whose state went back waits for somebody to ask.
	settleAfter = 10 * time.Second
)

// request is an event on its way to the owner.
type request struct {
	event event
	reply chan reply // has room for one
}

type reply struct {
	verdict Verdict
	err     error
}

// owned is what only the owner goroutine touches.
type owned struct {
	core  *core
	saver saver
}

// save puts what must be durable on disk.
func (o *owned) save(s *snapshot) error { return o.saver.durable(s, o.core.waiting.stored()) }

// Run applies submissions, lets certificates expire and saves, until ctx is done; then it saves what is left, and returns nil, or what
// kept it from saving. It can be run once.
func (d *Directory) Run(ctx context.Context) error {
	if !d.started.CompareAndSwap(false, true) {
		return errors.New("running the directory: it has been run already")
	}
	defer close(d.stopped)
	o := &d.owned
	o.saver.begin(o.core.entries.Len())
	defer o.saver.stop()
	expiry := time.NewTimer(0)
	defer expiry.Stop()
	settle := time.NewTimer(settleAfter)
	defer settle.Stop()
	for {
		select {
		case r := <-d.requests:
			d.apply(d.batch(r))
		case <-expiry.C:
			d.apply([]request{{event: tick{}}})
		case <-o.saver.retry.C:
			_ = o.save(d.snapshot.Load()) // logs, and sets the timer again
		case <-o.saver.records.C:
			o.saver.start(d.snapshot.Load())
		case err := <-o.saver.saved:
			o.saver.done(err, o.core.entries.Len())
		case <-settle.C:
			d.settling.done()
		case <-ctx.Done():
			return o.saver.finish(d.snapshot.Load(), o.core.waiting.stored())
		}
		expiry.Reset(d.untilExpiry())
	}
}

// batch adds to first what else is waiting.
func (d *Directory) batch(first request) []request {
	rs := []request{first}
	for len(rs) < batchSize {
		select {
		case r := <-d.requests:
			rs = append(rs, r)
		default:
			return rs
		}
	}
	return rs
}

// apply puts events into force, then on disk, then answers.
func (d *Directory) apply(rs []request) {
	now := d.cfg.Now()
	var dirty kinds
	var changed, durable bool
	replies := make([]reply, len(rs))
	for i, r := range rs {
		a := d.owned.core.step(r.event, now)
		replies[i] = reply{a.verdict, a.err}
		dirty, changed = dirty.or(a.dirty), changed || a.changed
		logNotes(d.cfg.Log, a.notes)
		switch r.event.(type) {
		case *list, *issuer, heldList, deviceItem:
			durable = true // whoever submits one that is known already may hear so only when it is on disk
		}
	}
	d.owned.saver.mark(dirty)
	d.publish(dirty, changed)
	var err error
	if durable || dirty.durable() {
		err = d.owned.save(d.snapshot.Load())
	}
	d.owned.saver.plan(d.owned.core.entries.Len())
	for i, r := range rs {
		if r.reply == nil {
			continue
		}
		if _, isRecord := r.event.(*record); err != nil && replies[i].err == nil && !isRecord {
			replies[i].err = err // a record brings its issuer's certificate along again
		}
		r.reply <- replies[i]
	}
}

func logNotes(log *slog.Logger, notes []note) {
	for _, n := range notes {
		level := slog.LevelInfo
		if n.warn {
			level = slog.LevelWarn
		}
		log.Log(context.Background(), level, n.text, n.args...)
	}
}

// publish makes the core's state visible.
func (d *Directory) publish(dirty kinds, changed bool) {
	c, old := d.owned.core, d.snapshot.Load()
	s := &snapshot{view: c.view, entries: c.entries, revoked: c.revoked, clock: clockOf(c.trust), devices: c.devices.entries}
	if old == nil {
		old, dirty, changed = new(snapshot), allKinds(), true
	}
	s.issuers, s.lists, s.conflicts = old.issuers, old.lists, old.conflicts
	if dirty.issuers {
		s.issuers = c.sortedIssuers()
	}
	if dirty.revocations {
		s.lists = c.lists.sorted()
	}
	if changed || len(c.conflicts) != len(old.conflicts) {
		s.conflicts = c.sortedConflicts()
	}
	if e, ok := c.entries.Get(c.self); ok {
		d.seen(e.sequence)
	}
	d.snapshot.Store(s)
	if old.view != s.view {
		d.watchers.publish(s.view)
	}
}

// seen makes NextSequence go beyond n.
func (d *Directory) seen(n uint64) {
	for {
		held := d.sequence.Load()
		if held >= n || d.sequence.CompareAndSwap(held, n) {
			return
		}
	}
}

// untilExpiry returns how long the owner may sleep.
func (d *Directory) untilExpiry() time.Duration {
	next := d.owned.core.next()
	if next.IsZero() {
		return lookAgain
	}
	return min(max(next.Sub(d.Now()), 0), lookAgain)
}

// openList checks a revocation list as far as the signers known now allow.
func openList(root *pki.Root, der []byte, s *snapshot) (event, error) {
	parsed, err := pki.ParseRevocationList(der, root, func(key mesh.KeyID) *pki.Issuer {
		for _, iss := range s.issuers {
			if iss.KeyID == key {
				return iss.Issuer
			}
		}
		return nil
	})
	if errors.Is(err, pki.ErrUnknownSigner) {
		return heldOf(der)
	}
	if err != nil {
		return nil, err
	}
	return newList(parsed), nil
}

// heldOf makes the event of a list whose signer is not known.
func heldOf(der []byte) (event, error) {
	rl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("revocation list is damaged: %w", err)
	}
	h := heldList{der: slices.Clone(der)}
	if copy(h.signer[:], rl.AuthorityKeyId) != len(h.signer) || len(rl.AuthorityKeyId) != len(h.signer) {
		return nil, fmt.Errorf("revocation list names its signer by %d bytes, want %d", len(rl.AuthorityKeyId), len(h.signer))
	}
	return h, nil
}

func (c *core) sortedIssuers() []*issuer {
	out := make([]*issuer, 0, len(c.issuers))
	for _, iss := range c.issuers {
		out = append(out, iss)
	}
	slices.SortFunc(out, func(a, b *issuer) int { return slices.Compare(a.sum[:], b.sum[:]) })
	return out
}

func (c *core) sortedConflicts() []Conflict {
	out := make([]Conflict, 0, len(c.conflicts))
	for _, x := range c.conflicts {
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Conflict) int { return cmp.Or(cmp.Compare(a.Name, b.Name), a.ID.Compare(b.ID)) })
	return out
}

// hasList reports whether this very list counts.
func (s *snapshot) hasList(der []byte) bool {
	hash := sha256.Sum256(der)
	return slices.ContainsFunc(s.lists, func(l *list) bool { return l.hash == hash })
}

// issuer finds an issuer's certificate.
func (s *snapshot) issuer(sum [sha256.Size]byte) (*issuer, bool) {
	i, found := slices.BinarySearchFunc(s.issuers, sum, func(iss *issuer, sum [sha256.Size]byte) int {
		return slices.Compare(iss.sum[:], sum[:])
	})
	if !found {
		return nil, false
	}
	return s.issuers[i], true
}

// watchers are mailboxes for Views.
type watchers struct {
	mu    sync.Mutex // guards boxes, and that the newest View is put in last
	boxes map[chan *mesh.View]struct{}
}

func (w *watchers) init() { w.boxes = make(map[chan *mesh.View]struct{}) }

// add takes the View under the lock, so that it cannot overwrite a newer one.
func (w *watchers) add(view func() *mesh.View) (<-chan *mesh.View, func()) {
	box := make(chan *mesh.View, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	box <- view()
	w.boxes[box] = struct{}{}
	return box, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.boxes, box)
	}
}

// publish never waits: a mailbox has room for one, and only publish and add, which exclude each other, put something in.
func (w *watchers) publish(v *mesh.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for box := range w.boxes {
		select {
		case <-box:
		default:
		}
		box <- v
	}
}

// settling is a door that opens once.
type settling struct {
	ch   chan struct{}
	once *sync.Once
}

func newSettling(wait bool) settling {
	s := settling{ch: make(chan struct{}), once: new(sync.Once)}
	if !wait {
		s.done()
	}
	return s
}

func (s settling) done() { s.once.Do(func() { close(s.ch) }) }

// idHasher is FNV-1a: IDs are random, but their owners choose them.
type idHasher struct{}

func (idHasher) Hash(id mesh.NodeID) uint32 {
	h := uint32(2166136261)
	for _, c := range id {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}

func (idHasher) Equal(a, b mesh.NodeID) bool { return a == b }
