package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// The state is written as a cache every flushEvery: a card in a small machine must last, and waiting for the disk each time wears it
// and makes everybody else wait. A power cut may tear such a file, so once an hour, and at the end, it is also written durably.
const (
	stateFile = "ledger"
	hourFile  = "ledger.hour"
	version   = 1
)

func dayFile(day int64) string { return "ledger-" + time.Unix(day*86400, 0).UTC().Format("20060102") }

type fileCounters [4]uint64

func pack(c Counters) fileCounters {
	return fileCounters{c.ReceiveBytes, c.TransmitBytes, c.ReceivePackets, c.TransmitPackets}
}

func (f fileCounters) unpack() Counters { return Counters{f[0], f[1], f[2], f[3]} }

type fileState struct {
	Version int         `json:"version"`
	Since   time.Time   `json:"since"`
	Flushed time.Time   `json:"flushed"`
	Orderly bool        `json:"orderly"` // nothing was counted after it
	Hour    int64       `json:"hour"`
	Days    []int64     `json:"days"`
	Gaps    []Gap       `json:"gaps"`
	Entries []fileEntry `json:"entries"`
}

type fileEntry struct {
	Kind  Kind         `json:"kind"`
	ID    string       `json:"id"`
	Name  string       `json:"name"`
	Since time.Time    `json:"since"`
	Seen  time.Time    `json:"seen"`
	Epoch uint64       `json:"epoch"`
	Last  fileCounters `json:"last"`
	Total fileCounters `json:"total"`
	Hour  fileCounters `json:"hour"`
}

// Open reads what earlier runs have counted. A damaged file is given up, and said: traffic matters more than its history.
func Open(st Store, now time.Time, log *slog.Logger) *Ledger {
	l := &Ledger{
		store: st, log: log, since: now.UTC(), hour: hourOf(now), entries: map[Key]*entry{}, closed: map[int64]map[Key]Counters{}, days: map[int64]bool{},
	}
	s := l.newest()
	if s == nil {
		for day := dayOf(l.hour); day > dayOf(l.hour)-2*keepDays; day-- {
			if _, err := st.Read(dayFile(day)); err == nil {
				l.days[day] = true
			}
		}
		return l
	}
	l.since, l.flushed, l.hour, l.gaps = s.Since, s.Flushed, s.Hour, s.Gaps
	for _, d := range s.Days {
		l.days[d] = true
	}
	for _, e := range s.Entries {
		l.entries[Key{e.Kind, e.ID}] = &entry{
			name: e.Name, since: e.Since, seen: e.Seen, epoch: e.Epoch, last: e.Last.unpack(), total: e.Total.unpack(), hour: e.Hour.unpack(),
		}
	}
	if now.After(s.Flushed) {
		l.gaps = append(l.gaps, Gap{From: s.Flushed, To: now.UTC(), Orderly: s.Orderly})
	}
	if hourOf(now) != l.hour {
		l.turn(hourOf(now))
		l.recovered = true
	}
	return l
}

// newest returns the newer of the two states on disk, or nil.
func (l *Ledger) newest() *fileState {
	var best *fileState
	for _, name := range []string{stateFile, hourFile} {
		read := l.store.ReadCache
		if name == hourFile {
			read = l.store.Read
		}
		b, err := read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		s := new(fileState)
		if err == nil {
			err = json.Unmarshal(b, s)
		}
		if err == nil && s.Version != version {
			err = fmt.Errorf("its version is %d, want %d", s.Version, version)
		}
		if err != nil {
			l.log.Warn("the traffic counters of before cannot be read and are given up", "file", name, "err", err)
			continue
		}
		if best == nil || s.Flushed.After(best.Flushed) {
			best = s
		}
	}
	return best
}

// Run reads the counters and flushes them every flushEvery until ctx ends, and a last time then.
func (l *Ledger) Run(ctx context.Context, read func(context.Context) []Reading) error {
	l.flush(time.Now(), false) // so that the next start knows that this one was
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	failed := false
	for {
		stopping := false
		select {
		case <-ctx.Done():
			stopping = true
		case <-tick.C:
		}
		// The links still run when this part is stopped, but must not hold the stop up.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		l.Record(time.Now(), read(rctx))
		cancel()
		err := l.flush(time.Now(), stopping)
		if (err != nil) != failed {
			failed = err != nil
			if failed {
				l.log.Warn("cannot store the traffic counters; they are kept in memory and tried again", "err", err)
			} else {
				l.log.Info("the traffic counters are stored again")
			}
		}
		if stopping {
			return nil
		}
	}
}

// flush writes what has changed: hours that are over first, so that no state forgets an hour that no day's file has.
func (l *Ledger) flush(now time.Time, orderly bool) error {
	l.mu.Lock()
	rest := !l.changed && !orderly && len(l.closed) == 0 && now.Sub(l.flushed).Abs() < restEvery
	l.mu.Unlock()
	if rest {
		return nil
	}
	durable := orderly
	var b []byte
	for b == nil { // again only if an hour ends between the two
		wrote, err := l.writeClosed()
		if err != nil {
			return err
		}
		durable = durable || wrote
		if b, err = l.encode(now, orderly); err != nil {
			return err
		}
	}
	l.prune(now)
	if durable {
		if err := l.store.Write(hourFile, b); err != nil {
			return err
		}
	}
	if err := l.store.WriteCache(stateFile, b); err != nil {
		return err
	}
	l.mu.Lock()
	l.flushed = now.UTC()
	l.mu.Unlock()
	return nil
}

// writeClosed puts the hours that are over into their days' files.
//
// Those that were found in the state at the start may be there already: a crash came between the two files. They are the same hour, so
// the larger count is right. Later ones are new, and where an hour is there already, the clock was set back and it has grown.
func (l *Ledger) writeClosed() (wrote bool, err error) {
	l.mu.Lock()
	closed, recovered := l.closed, l.recovered
	l.closed, l.recovered = map[int64]map[Key]Counters{}, false
	l.mu.Unlock()
	merge := Counters.plus
	if recovered {
		merge = Counters.larger
	}
	var errs []error
	for hour, rows := range closed {
		if err := l.writeHour(hour, rows, merge); err != nil {
			errs = append(errs, err)
			l.mu.Lock()
			l.add(hour, rows)
			l.recovered = l.recovered || recovered
			l.mu.Unlock()
		}
	}
	return len(closed) > 0, errors.Join(errs...)
}

// encode returns the state, or nothing if an hour has ended meanwhile.
func (l *Ledger) encode(now time.Time, orderly bool) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.closed) > 0 {
		return nil, nil
	}
	s := fileState{Version: version, Since: l.since, Flushed: now.UTC(), Orderly: orderly, Hour: l.hour, Gaps: l.gaps}
	for k, e := range l.entries {
		s.Entries = append(s.Entries, fileEntry{k.Kind, k.ID, e.name, e.since, e.seen, e.epoch, pack(e.last), pack(e.total), pack(e.hour)})
	}
	s.Days = slices.Sorted(maps.Keys(l.days))
	l.changed = false
	return json.Marshal(s)
}

// fileDay is a day's hours. Keys stand once, rows name them by their index.
type fileDay struct {
	Version int                   `json:"version"`
	Keys    []fileKey             `json:"keys"`
	Hours   map[int64][][5]uint64 `json:"hours"` // index of the key, counters
}

type fileKey struct {
	Kind Kind   `json:"kind"`
	ID   string `json:"id"`
	Name string `json:"name"`
}

// day reads a day's file; one that is not there, or not whole, is empty.
func (l *Ledger) day(day int64) (*fileDay, error) {
	d := &fileDay{Version: version, Hours: map[int64][][5]uint64{}}
	b, err := l.store.Read(dayFile(day))
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(b, d); err != nil {
		return d, fmt.Errorf("state file %s: %w", dayFile(day), err)
	}
	if d.Version != version || d.Hours == nil {
		return d, fmt.Errorf("state file %s has version %d, want %d", dayFile(day), d.Version, version)
	}
	for _, rows := range d.Hours {
		for _, r := range rows {
			if r[0] >= uint64(len(d.Keys)) {
				return d, fmt.Errorf("state file %s: a row names key %d of %d", dayFile(day), r[0], len(d.Keys))
			}
		}
	}
	return d, nil
}

func (d *fileDay) rows(hour int64) map[Key]Counters {
	out := make(map[Key]Counters, len(d.Hours[hour]))
	for _, r := range d.Hours[hour] {
		k := d.Keys[r[0]]
		out[Key{k.Kind, k.ID}] = Counters{r[1], r[2], r[3], r[4]}
	}
	return out
}

// writeHour puts an hour into its day's file, merged with what that has of it.
func (l *Ledger) writeHour(hour int64, rows map[Key]Counters, merge func(Counters, Counters) Counters) error {
	day := dayOf(hour)
	d, err := l.day(day)
	if err != nil {
		l.log.Warn("the hours of a day cannot be read and are given up", "err", err)
		d = &fileDay{Version: version, Hours: map[int64][][5]uint64{}}
	}
	rows = maps.Clone(rows)
	for k, c := range d.rows(hour) {
		rows[k] = merge(rows[k], c)
	}
	index := map[Key]int{}
	for i, k := range d.Keys {
		index[Key{k.Kind, k.ID}] = i
	}
	var packed [][5]uint64
	for _, k := range slices.SortedFunc(maps.Keys(rows), compare) {
		i, ok := index[k]
		if !ok {
			i = len(d.Keys)
			d.Keys = append(d.Keys, fileKey{Kind: k.Kind, ID: k.ID})
		}
		d.Keys[i].Name = l.nameOf(k, d.Keys[i].Name)
		c := rows[k]
		packed = append(packed, [5]uint64{uint64(i), c.ReceiveBytes, c.TransmitBytes, c.ReceivePackets, c.TransmitPackets})
	}
	d.Hours[hour] = packed
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err := l.store.Write(dayFile(day), b); err != nil {
		return err
	}
	l.mu.Lock()
	l.days[day] = true
	l.mu.Unlock()
	return nil
}

func (l *Ledger) nameOf(k Key, otherwise string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.entries[k]; ok && e.name != "" {
		return e.name
	}
	return otherwise
}

func compare(a, b Key) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.ID, b.ID))
}

// prune forgets days, and rows that nobody has counted for as long.
func (l *Ledger) prune(now time.Time) {
	end := now.Add(-keepDays * 24 * time.Hour)
	l.mu.Lock()
	var old []int64
	for d := range l.days {
		if d < dayOf(hourOf(end)) {
			old = append(old, d)
			delete(l.days, d)
		}
	}
	for k, e := range l.entries {
		if e.seen.Before(end) {
			delete(l.entries, k)
		}
	}
	if over := len(l.entries) - maxEntries; over > 0 {
		keys := slices.SortedFunc(maps.Keys(l.entries), func(a, b Key) int { return l.entries[a].seen.Compare(l.entries[b].seen) })
		for _, k := range keys[:over] {
			delete(l.entries, k)
		}
	}
	l.gaps = slices.DeleteFunc(l.gaps, func(g Gap) bool { return g.To.Before(end) })
	l.gaps = l.gaps[max(0, len(l.gaps)-maxGaps):]
	l.mu.Unlock()
	for _, d := range old {
		if err := l.store.Remove(dayFile(d)); err != nil {
			l.log.Warn("could not remove the counters of an old day", "err", err)
		}
	}
}
