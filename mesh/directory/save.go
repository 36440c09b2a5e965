package directory

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

// The files. Each is a wire.SyncFrame of items, encoded.
const (
	KindRecords     = "records"     // a cache
	KindRevocations = "revocations" // durable
	KindIssuers     = "issuers"     // durable
	KindDevices     = "devices"     // durable: nobody makes a device's certificate again, as every member makes its record
)

const (
	retrySave = 5 * time.Second // of durable files
	// Records are saved this long after the first change, so that a burst is one write; longer in larger networks, where there is
	// always some change and the file is large (12 MB at 5,000 members: once a minute).
	recordsDelay     = 2 * time.Second
	recordsDelayEach = 12 * time.Millisecond
)

// saver writes the files. It belongs to the owner goroutine, but for unsaved.
type saver struct {
	persist Persister
	log     *slog.Logger
	unsaved *atomic.Bool // the snapshot has lists, issuers or devices that are not on disk

	dirty   kinds
	failing bool        // the last write of a durable file failed, and that was logged
	retry   *time.Timer // of durable files
	records *time.Timer
	waiting bool       // records is set
	writing bool       // a goroutine writes records
	saved   chan error // its result
	lost    bool       // the last write of records failed, and that was logged
}

// begin makes the timers. What loading found out, an issuer that only a record's chain knew, is saved when the first one fires.
func (s *saver) begin(members int) {
	s.saved = make(chan error, 1)
	s.retry, s.records = time.NewTimer(0), time.NewTimer(time.Hour)
	s.records.Stop()
	s.plan(members)
}

func (s *saver) stop() {
	s.retry.Stop()
	s.records.Stop()
}

// mark notes what changed. It must come before the change is in a snapshot, so that nobody takes it for saved.
func (s *saver) mark(k kinds) {
	s.dirty = s.dirty.or(k)
	if k.durable() {
		s.unsaved.Store(true)
	}
}

// durable writes lists, issuers and devices if they changed. It returns an error that wraps ErrNotSaved, after logging it.
func (s *saver) durable(snap *snapshot, held [][]byte) error {
	if !s.dirty.durable() {
		return nil
	}
	err := s.writeDurable(snap, held)
	if err == nil {
		s.unsaved.Store(false)
		if s.failing {
			s.failing = false
			s.log.Info("revocations, issuers and devices are on disk again")
		}
		return nil
	}
	s.retry.Reset(retrySave)
	if !s.failing {
		s.failing = true
		s.log.Error("revocations, issuers or devices could not be saved; trying again", "error", err, "every", retrySave)
	}
	return fmt.Errorf("%w: %w", ErrNotSaved, err)
}

func (s *saver) writeDurable(snap *snapshot, held [][]byte) error {
	if s.dirty.issuers {
		var items []*wire.Item
		for _, iss := range snap.issuers {
			items = append(items, iss.item())
		}
		if err := s.write(KindIssuers, items); err != nil {
			return err
		}
		s.dirty.issuers = false
	}
	if s.dirty.revocations {
		items := snap.signersAndLists()
		for _, der := range held {
			items = append(items, &wire.Item{Item: &wire.Item_RevocationList{RevocationList: der}})
		}
		if err := s.write(KindRevocations, items); err != nil {
			return err
		}
		s.dirty.revocations = false
	}
	if s.dirty.devices {
		if err := s.write(KindDevices, snap.deviceItems()); err != nil {
			return err
		}
		s.dirty.devices = false
	}
	return nil
}

func (s *saver) write(kind string, items []*wire.Item) error {
	b, err := proto.Marshal(&wire.SyncFrame{Items: items})
	if err != nil {
		return fmt.Errorf("encoding %s: %w", kind, err)
	}
	if err := s.persist.SaveItems(kind, b); err != nil {
		return fmt.Errorf("saving %s: %w", kind, err)
	}
	return nil
}

// plan sets the timer for writing records, if they changed.
func (s *saver) plan(members int) {
	if s.dirty.records && !s.waiting && !s.writing {
		s.waiting = true
		s.records.Reset(recordsDelay + time.Duration(members)*recordsDelayEach)
	}
}

// start writes the cache on a goroutine of its own, because it is large and nobody waits for it. Run waits for the goroutine, by way of
// saved. Its calls of the Persister may meet those for durable files.
func (s *saver) start(snap *snapshot) {
	s.waiting, s.writing, s.dirty.records = false, true, false
	go func() { s.saved <- s.write(KindRecords, snap.records()) }()
}

// done takes note of what came out of start.
func (s *saver) done(err error, members int) {
	s.writing = false
	if err != nil {
		s.dirty.records = true
	}
	if lost := err != nil; lost != s.lost {
		s.lost = lost
		if lost {
			s.log.Warn("the cache of records could not be saved; trying again", "error", err)
		} else {
			s.log.Info("the cache of records is on disk again")
		}
	}
	s.plan(members)
}

// finish writes what is left.
func (s *saver) finish(snap *snapshot, held [][]byte) error {
	if s.writing {
		if err := <-s.saved; err != nil {
			s.dirty.records = true
		}
		s.writing = false
	}
	err := s.writeDurable(snap, held)
	if s.dirty.records {
		err = errors.Join(err, s.write(KindRecords, snap.records()))
	}
	if err != nil {
		return fmt.Errorf("saving who is a member at the end: %w", err)
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

func (s *snapshot) records() []*wire.Item {
	out := make([]*wire.Item, 0, s.entries.Len())
	for it := s.entries.Iterator(); !it.Done(); {
		_, e, _ := it.Next()
		out = append(out, e.item())
	}
	return out
}
