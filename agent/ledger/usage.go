package ledger

import (
	"errors"
	"maps"
	"slices"
	"time"
)

// Hour is what was counted in one hour. Rows that were zero are not there.
type Hour struct {
	Start time.Time // UTC
	Rows  map[Key]Counters
}

// Usage is what was counted in a span of time.
type Usage struct {
	From, To time.Time // From is the beginning of an hour, and not before counting began
	Rows     []Total   // sorted by key; Since is when the row was first counted at all, zero where nobody knows any more
	Gaps     []Gap
}

// Hours calls f for each hour from the one of from on, oldest first, this one included, until f returns false. It reads the disk. An error
// names the days that cannot be read; the others are there.
func (l *Ledger) Hours(from time.Time, f func(Hour) bool) error {
	_, err := l.each(from, f)
	return err
}

// each returns the names of the keys, too.
func (l *Ledger) each(from time.Time, f func(Hour) bool) (names map[Key]string, err error) {
	first := hourOf(from)
	l.mu.Lock()
	names = make(map[Key]string, len(l.entries))
	recent := map[int64]map[Key]Counters{l.hour: {}}
	for k, e := range l.entries {
		names[k] = e.name
		if e.hour != (Counters{}) {
			recent[l.hour][k] = e.hour
		}
	}
	for hour, rows := range l.closed {
		recent[hour] = maps.Clone(rows)
	}
	days := slices.Sorted(maps.Keys(l.days))
	l.mu.Unlock()

	var errs []error
	for _, day := range days {
		if day < dayOf(first) {
			continue
		}
		d, err := l.day(day)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, k := range d.Keys {
			if key := (Key{k.Kind, k.ID}); names[key] == "" {
				names[key] = k.Name
			}
		}
		for _, hour := range slices.Sorted(maps.Keys(d.Hours)) {
			rows := d.rows(hour)
			if more, ok := recent[hour]; ok { // being written, or grown after the clock was set back
				for k, c := range rows {
					more[k] = more[k].larger(c)
				}
				continue
			}
			if hour >= first && !f(Hour{time.Unix(hour*3600, 0).UTC(), rows}) {
				return names, errors.Join(errs...)
			}
		}
	}
	for _, hour := range slices.Sorted(maps.Keys(recent)) {
		if hour >= first && !f(Hour{time.Unix(hour*3600, 0).UTC(), recent[hour]}) {
			break
		}
	}
	return names, errors.Join(errs...)
}

// Usage sums the hours from that of from on. It reads the disk; on an error, what could be read is returned as well.
func (l *Ledger) Usage(from, now time.Time) (Usage, error) {
	sums := map[Key]Counters{}
	names, err := l.each(from, func(h Hour) bool {
		for k, c := range h.Rows {
			sums[k] = sums[k].plus(c)
		}
		return true
	})
	began, _ := l.Since()
	u := Usage{From: time.Unix(hourOf(from)*3600, 0).UTC(), To: now.UTC(), Gaps: l.Gaps(from)}
	if u.From.Before(began) {
		u.From = began
	}
	for _, k := range slices.SortedFunc(maps.Keys(sums), compare) {
		u.Rows = append(u.Rows, Total{Key: k, Name: names[k], Since: l.Total(k).Since, Counters: sums[k]})
	}
	return u, err
}
