package history

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

const (
	// saveEvery is how much of it a crash may lose. Rarely, so that a memory card lasts: an hour of 300 peers is 260 kB.
	saveEvery = 5 * time.Minute
	// settle is how long after a minute's end it is asked for, so that probes that are on their way then are in it.
	settle = 3 * time.Second
)

// A file, numbers in big endian:
//
//	+----------+---------------+-------------------+
//	| "gwh" 1  | hour, int64   | count, uint32     |
//	+----------+---------------+-------------------+
//	| node ID, 32 bytes | 60 rows of 14 bytes      |  count times
//	+-------------------+--------------------------+
//
// A row is min, avg, max, rx, tx (uint16 each), probes, lost, flags and an empty byte.
const (
	magic    = "gwh\x01"
	headSize = len(magic) + 8 + 4
	linkSize = 32 + perHour*rowSize
)

func fileOf(hour int64) string { return fmt.Sprintf("history-%02d", ((hour%hours)+hours)%hours) }

func encode(hour int64, links map[mesh.NodeID]*block) []byte {
	b := make([]byte, 0, headSize+len(links)*linkSize)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint64(b, uint64(hour))
	b = binary.BigEndian.AppendUint32(b, uint32(len(links)))
	for id, rows := range links {
		b = append(b, id[:]...)
		for _, r := range rows {
			for _, v := range [...]uint16{r.min, r.avg, r.max, r.rx, r.tx} {
				b = binary.BigEndian.AppendUint16(b, v)
			}
			b = append(b, r.probes, r.lost, r.flags, 0)
		}
	}
	return b
}

func decode(b []byte) (hour int64, links map[mesh.NodeID]*block, err error) {
	if len(b) < headSize || string(b[:len(magic)]) != magic {
		return 0, nil, errors.New("it does not begin as a file of this version")
	}
	hour = int64(binary.BigEndian.Uint64(b[len(magic):]))
	count := binary.BigEndian.Uint32(b[len(magic)+8:])
	b = b[headSize:]
	if count > maxPeers || len(b) != int(count)*linkSize {
		return 0, nil, fmt.Errorf("%d bytes for %d links, want %d for each and at most %d links", len(b), count, linkSize, maxPeers)
	}
	links = make(map[mesh.NodeID]*block, count)
	for ; len(b) > 0; b = b[linkSize:] {
		rows := new(block)
		for i := range rows {
			at := b[32+i*rowSize:]
			u := func(k int) uint16 { return binary.BigEndian.Uint16(at[2*k:]) }
			rows[i] = row{min: u(0), avg: u(1), max: u(2), rx: u(3), tx: u(4), probes: at[10], lost: at[11], flags: at[12]}
		}
		links[mesh.NodeID(b[:32])] = rows
	}
	return hour, links, nil
}

// Open reads what is on disk of the last 24 hours.
func Open(st Store, now time.Time, log *slog.Logger) *History {
	h := &History{store: st, log: log, blocks: map[int64]map[mesh.NodeID]*block{}, bytes: map[mesh.NodeID][2]uint64{}}
	this := now.Unix() / 3600
	for hour := this - hours + 1; hour <= this; hour++ {
		b, err := st.ReadCache(fileOf(hour))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var of int64
		var links map[mesh.NodeID]*block
		if err == nil {
			of, links, err = decode(b)
		}
		switch {
		case err != nil:
			log.Warn("an hour of the links' history cannot be read and is given up", "file", fileOf(hour), "err", err)
		case of == hour: // else it is of another day
			h.blocks[hour] = links
		}
	}
	return h
}

// Run records each minute that is over and saves now and then until ctx ends, and a last time then.
func (h *History) Run(ctx context.Context, read func(ctx context.Context, minute int64) []Reading) error {
	minute, saved, dirty := time.Now().Unix()/60, time.Now(), map[int64]bool{}
	failed := false
	save := func(now time.Time) {
		err := h.save(dirty)
		if (err != nil) != failed {
			failed = err != nil
			if failed {
				h.log.Warn("cannot store the links' history; it is kept in memory and tried again", "err", err)
			}
		}
		saved = now
	}
	for {
		due := time.Unix((minute+1)*60, 0).Add(settle)
		select {
		case <-ctx.Done():
			// The minute that has begun is worth more than nothing.
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			h.record(minute, read(rctx, minute), dirty)
			cancel()
			save(time.Now())
			return nil
		case <-time.After(min(time.Until(due), Step)): // the clock may be set meanwhile
		}
		now := time.Now()
		if current := now.Unix() / 60; now.Before(due) && current >= minute {
			continue
		} else if current < minute { // set back
			minute = current
			continue
		}
		h.record(minute, read(ctx, minute), dirty)
		minute = now.Add(-settle).Unix() / 60
		if now.Sub(saved) >= saveEvery {
			save(now)
		}
	}
}

func (h *History) record(minute int64, readings []Reading, dirty map[int64]bool) {
	if len(readings) == 0 {
		return
	}
	h.Record(minute, readings)
	dirty[minute/perHour] = true
}

// save writes the hours that have changed.
func (h *History) save(dirty map[int64]bool) error {
	var errs []error
	for hour := range dirty {
		h.mu.Lock()
		links := h.blocks[hour]
		b := encode(hour, links)
		h.mu.Unlock()
		if links != nil {
			if err := h.store.WriteCache(fileOf(hour), b); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		delete(dirty, hour)
	}
	return errors.Join(slices.Clip(errs)...)
}
