package directory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh/wire"
)

// load brings back what was saved: issuers, lists, devices, records, in this order.
func load(d *Directory) error {
	take := func(ev event) actions { return d.owned.core.step(ev, d.cfg.Now()) }
	if err := loadDurable(d, KindIssuers, take); err != nil {
		return err
	}
	onDisk := len(d.owned.core.issuers)
	if err := loadDurable(d, KindRevocations, take); err != nil {
		return err
	}
	if err := loadDevices(d, take); err != nil {
		d.cfg.Log.Warn("the devices' certificates could not be read: other members send them again", "error", err)
	}
	if err := loadRecords(d, take); err != nil {
		d.cfg.Log.Warn("the cache of records could not be read: starting without it", "error", err)
	}
	if len(d.owned.core.issuers) > onDisk { // another file knew more
		d.owned.saver.mark(kinds{issuers: true})
	}
	d.publish(allKinds(), true)
	return nil
}

// loadDevices leaves out what is not valid any more. Their signers are known by now.
func loadDevices(d *Directory, take func(event) actions) error {
	items, err := readItems(d.cfg.Persist, KindDevices)
	if err != nil {
		return err
	}
	o := d.opener(d.snapshot.Load())
	for _, it := range items {
		r, err := o.device(it.GetDevice())
		if err == nil && r != nil {
			err = take(deviceItem{r}).err
		}
		if err != nil {
			d.cfg.Log.Warn("a stored certificate of a device is not valid and was dropped", "error", err)
		}
	}
	return nil
}

// read returns the items of a file, nil if there is none.
func readItems(p Persister, kind string) ([]*wire.Item, error) {
	b, err := p.LoadItems(kind)
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
func loadDurable(d *Directory, kind string, take func(event) actions) error {
	items, err := readItems(d.cfg.Persist, kind)
	if err != nil {
		return err
	}
	for n, it := range items {
		ev, err := openStored(d, it)
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

func openStored(d *Directory, it *wire.Item) (event, error) {
	if it.GetRecord() != nil || it.GetDevice() != nil {
		return nil, errors.New("a record or a device has no place in this file")
	}
	ev, err := d.open(it)
	if h, waits := ev.(heldList); waits {
		h.stored = true
		return h, err
	}
	return ev, err
}

// loadRecords checks signatures on all processors: this is the time that a restart in a large network takes.
func loadRecords(d *Directory, take func(event) actions) error {
	items, err := readItems(d.cfg.Persist, KindRecords)
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
