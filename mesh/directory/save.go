package directory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

// The files. Each is a wire.SyncFrame of items, encoded.
const (
	KindRecords     = "records"     // a cache
	KindRevocations = "revocations" // durable
	KindIssuers     = "issuers"     // durable
)

const (
	retrySave = 5 * time.Second // revocations and issuers
	// Records are saved this long after the first change, so that a burst is one write; longer in larger networks, where there is
	// always some change and the file is large (12 MB at 5,000 members: once a minute).
	recordsDelay     = 2 * time.Second
	recordsDelayEach = 12 * time.Millisecond
)

// saver is the owner's memory of what has to be written.
type saver struct {
	dirty   kinds
	failing bool        // the last write of a durable file failed, and that was logged
	retry   *time.Timer // of durable files
	records *time.Timer
	waiting bool       // records is set
	writing bool       // a goroutine writes records
	saved   chan error // its result
	lost    bool       // the last write of records failed, and that was logged
}

func (s *saver) begin(d *Directory) {
	s.saved = make(chan error, 1)
	s.retry, s.records = stoppedTimer(), stoppedTimer()
	_ = d.saveDurable() // logs; what loading found out: an issuer that only a record's chain knew
	d.planRecords()
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (s *saver) stopTimers() {
	s.retry.Stop()
	s.records.Stop()
}

func (s *saver) mark(k kinds) { s.dirty = s.dirty.or(k) }

// saveDurable writes lists and issuers if they changed. It returns an error that wraps ErrNotSaved.
func (d *Directory) saveDurable() error {
	o := &d.owned
	if !o.saver.dirty.revocations && !o.saver.dirty.issuers {
		return nil
	}
	err := d.writeDurable()
	if err == nil {
		d.unsaved.Store(false)
		if o.saver.failing {
			o.saver.failing = false
			d.cfg.Log.Info("revocations and issuers are on disk again")
		}
		return nil
	}
	o.saver.retry.Reset(retrySave)
	if !o.saver.failing {
		o.saver.failing = true
		d.cfg.Log.Error("revocations or issuers could not be saved; trying again", "error", err, "every", retrySave)
	}
	return fmt.Errorf("%w: %w", ErrNotSaved, err)
}

func (d *Directory) writeDurable() error {
	o, s := &d.owned, d.snapshot.Load()
	if o.saver.dirty.issuers { // first: without it a list cannot be checked when it is loaded
		var items []*wire.Item
		for _, iss := range s.issuers {
			items = append(items, iss.item())
		}
		if err := d.write(KindIssuers, items); err != nil {
			return err
		}
		o.saver.dirty.issuers = false
	}
	if o.saver.dirty.revocations {
		items := s.signersAndLists()
		for _, h := range o.core.waiting.lists {
			if h.stored {
				items = append(items, &wire.Item{Item: &wire.Item_RevocationList{RevocationList: h.der}})
			}
		}
		if err := d.write(KindRevocations, items); err != nil {
			return err
		}
		o.saver.dirty.revocations = false
	}
	return nil
}

// signersAndLists returns the lists, each signer's certificate before them: the file can be checked without any other.
func (s *snapshot) signersAndLists() []*wire.Item {
	signers := make(map[mesh.KeyID]bool)
	for _, l := range s.lists {
		signers[l.Signer] = true
	}
	var items []*wire.Item
	for _, iss := range s.issuers {
		if signers[iss.KeyID] {
			items = append(items, iss.item())
			delete(signers, iss.KeyID) // one by each key will do
		}
	}
	for _, l := range s.lists {
		items = append(items, l.item())
	}
	return items
}

func (d *Directory) write(kind string, items []*wire.Item) error {
	b, err := proto.Marshal(&wire.SyncFrame{Items: items})
	if err != nil {
		return fmt.Errorf("encoding %s: %w", kind, err)
	}
	if err := d.cfg.Persist.SaveItems(kind, b); err != nil {
		return fmt.Errorf("saving %s: %w", kind, err)
	}
	return nil
}

// planRecords sets the timer for writing records.
func (d *Directory) planRecords() {
	s := &d.owned.saver
	if s.dirty.records && !s.waiting && !s.writing {
		s.waiting = true
		s.records.Reset(recordsDelay + time.Duration(d.owned.core.entries.Len())*recordsDelayEach)
	}
}

// saveRecords writes the cache on a goroutine of its own, because it is large and nobody waits for it. Run waits for the goroutine, by
// way of saved.
func (d *Directory) saveRecords() {
	s := &d.owned.saver
	s.waiting, s.writing, s.dirty.records = false, true, false
	snap := d.snapshot.Load()
	go func() { s.saved <- d.write(KindRecords, snap.records()) }()
}

func (s *snapshot) records() []*wire.Item {
	out := make([]*wire.Item, 0, s.entries.Len())
	for it := s.entries.Iterator(); !it.Done(); {
		_, e, _ := it.Next()
		out = append(out, e.item())
	}
	return out
}

func (d *Directory) recordsSaved(err error) {
	s := &d.owned.saver
	s.writing = false
	if err != nil {
		s.dirty.records = true
	}
	if lost := err != nil; lost != s.lost {
		s.lost = lost
		if lost {
			d.cfg.Log.Warn("the cache of records could not be saved; trying again", "error", err)
		} else {
			d.cfg.Log.Info("the cache of records is on disk again")
		}
	}
	d.planRecords()
}

// finish writes what is left.
func (d *Directory) finish() error {
	s := &d.owned.saver
	if s.writing {
		if err := <-s.saved; err != nil {
			s.dirty.records = true
		}
		s.writing = false
	}
	var err error
	if s.dirty.revocations || s.dirty.issuers {
		err = d.writeDurable()
	}
	if s.dirty.records {
		err = errors.Join(err, d.write(KindRecords, d.snapshot.Load().records()))
	}
	if err != nil {
		return fmt.Errorf("saving who is a member at the end: %w", err)
	}
	return nil
}

// load brings back what was saved: issuers, lists, records, in this order, although any other would give the same.
func (d *Directory) load() error {
	take := func(ev event) actions { return d.owned.core.step(ev, d.cfg.Now()) }
	if err := d.loadDurable(KindIssuers, take); err != nil {
		return err
	}
	onDisk := len(d.owned.core.issuers)
	if err := d.loadDurable(KindRevocations, take); err != nil {
		return err
	}
	if err := d.loadRecords(take); err != nil {
		d.cfg.Log.Warn("the cache of records could not be read: starting without it", "error", err)
	}
	if len(d.owned.core.issuers) > onDisk { // another file knew more
		d.owned.saver.dirty.issuers = true
		d.unsaved.Store(true)
	}
	d.publish(kinds{true, true, true}, true)
	return nil
}

// read returns the items of a file, nil if there is none.
func (d *Directory) read(kind string) ([]*wire.Item, error) {
	b, err := d.cfg.Persist.LoadItems(kind)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", kind, err)
	}
	f := new(wire.SyncFrame)
	if err := proto.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("%s of %d bytes: %w", kind, len(b), err)
	}
	return f.GetItems(), nil
}

// loadDurable reads issuers and revocation lists. It fails on one that is not valid: to go on without a list could let a revoked
// member back in.
func (d *Directory) loadDurable(kind string, take func(event) actions) error {
	items, err := d.read(kind)
	if err != nil {
		return err
	}
	for n, it := range items {
		ev, err := d.openStored(it)
		if err == nil && ev != nil {
			err = take(ev).err
		}
		if err != nil {
			return fmt.Errorf("%s: item %d: %w; restore the file from a copy", kind, n+1, err)
		}
		d.publish(kinds{issuers: true, revocations: true}, false) // the next may be signed by this one
	}
	return nil
}

func (d *Directory) openStored(it *wire.Item) (event, error) {
	if it.GetRecord() != nil {
		return nil, errors.New("a record has no place in this file")
	}
	ev, err := d.open(it)
	if h, waits := ev.(heldList); waits {
		h.stored = true
		return h, err
	}
	return ev, err
}

// loadRecords checks signatures on all processors: this is the time that a restart in a large network takes.
func (d *Directory) loadRecords(take func(event) actions) error {
	items, err := d.read(KindRecords)
	if err != nil {
		return err
	}
	records := make([]*record, len(items))
	o := d.opener(d.snapshot.Load())
	g, _ := errgroup.WithContext(context.Background())
	g.SetLimit(runtime.GOMAXPROCS(0))
	const chunk = 64
	for from := 0; from < len(items); from += chunk {
		g.Go(func() error { // load waits for it
			for i := from; i < min(from+chunk, len(items)); i++ {
				if r, err := o.record(items[i].GetRecord()); err == nil {
					records[i] = r
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, r := range records {
		if r != nil { // a record that is not valid any more: it is only a cache
			take(r)
		}
	}
	return nil
}
