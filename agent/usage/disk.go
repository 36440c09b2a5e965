package usage

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

// Store is the state folder (mesh/store).
type Store interface {
	Read(name string) ([]byte, error)
	Write(name string, data []byte) error // durable
	Remove(name string) error
}

const (
	stateFile   = "usage"
	fileVersion = 1
	// keepDays is for how long statements are kept: as long as the ledger keeps its hours.
	keepDays = 45
)

func dayFile(day int64) string { return "usage-" + time.Unix(day*86400, 0).UTC().Format("20060102") }

type fileState struct {
	Version int                       `json:"version"`
	Began   int64                     `json:"began"` // periods since 1970
	Open    int64                     `json:"open"`
	Gap     bool                      `json:"gap"`
	Base    map[mesh.NodeID][4]uint64 `json:"base"`
	Period  time.Duration             `json:"period"`
	Network string                    `json:"network"`
}

type fileDay struct {
	Version int          `json:"version"`
	Network string       `json:"network"`
	Node    mesh.NodeID  `json:"node"`
	Rows    []fileRow    `json:"rows"`
	Chains  certificates `json:"chains"`
}

type fileRow struct {
	Period    int64       `json:"period"`
	Peer      mesh.NodeID `json:"peer"`
	Ours      *Signed     `json:"ours,omitempty"`
	Theirs    *Signed     `json:"theirs,omitempty"`
	Changed   bool        `json:"changed,omitempty"`
	Delivered int         `json:"delivered,omitempty"`
}

// Signed is a statement as it was signed.
type Signed struct {
	Statement []byte `json:"statement"`
	Signature []byte `json:"signature"`
}

func pack(s *signed) *Signed {
	if s == nil {
		return nil
	}
	return &Signed{s.raw.Statement, s.raw.Signature}
}

func (s *Signed) parse() (*signed, error) {
	if s == nil {
		return nil, nil
	}
	raw := &wire.SignedUsage{Statement: s.Statement, Signature: s.Signature}
	u, err := wire.ParseUsage(raw)
	if err != nil {
		return nil, err
	}
	return &signed{raw, u}, nil
}

// Open reads what earlier runs have left. totals are the ledger's at this start, and gaps the times it did not count. What cannot be read is
// given up, and said; the period in progress then has a gap.
func Open(cfg Config, now time.Time, totals map[mesh.NodeID]ledger.Counters, gaps []ledger.Gap) *Book {
	b := &Book{
		cfg: cfg, began: indexOf(now), open: indexOf(now), base: maps.Clone(totals), loss: map[mesh.NodeID]*probes{}, rows: map[int64]map[mesh.NodeID]*row{},
		chain: map[int64]certificates{}, dirty: map[int64]bool{}, state: true,
	}
	b.self = mesh.NodeIDOf(cfg.Key.Public().(ed25519.PublicKey))
	for day := dayOf(b.open - giveUp); day <= dayOf(b.open); day++ {
		if err := b.load(day, now); err != nil {
			cfg.Log.Warn("the statements of a day cannot be read and are given up", "err", err)
		}
	}
	data, err := cfg.Store.Read(stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		b.gap = len(totals) > 0 // counted before this was written down
		return b
	}
	var s fileState
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err == nil && (s.Version != fileVersion || s.Period != Period || s.Network != cfg.Network.String()) {
		err = fmt.Errorf("it is of another version or network")
	}
	if err != nil {
		cfg.Log.Warn("what was counted in this hour before the start is not known", "err", err)
		b.gap = true
		return b
	}
	b.began, b.open, b.gap, b.base = s.Began, s.Open, s.Gap, map[mesh.NodeID]ledger.Counters{}
	for id, c := range s.Base {
		// The ledger may have lost what it counted just before a crash, and now has less than when this was written.
		t := totals[id]
		b.base[id] = ledger.Counters{
			ReceiveBytes: min(c[0], t.ReceiveBytes), TransmitBytes: min(c[1], t.TransmitBytes),
			ReceivePackets: min(c[2], t.ReceivePackets), TransmitPackets: min(c[3], t.TransmitPackets),
		}
	}
	for _, g := range gaps {
		b.gap = b.gap || !g.Orderly && indexOf(g.From) <= b.open && indexOf(g.To) >= b.open
	}
	return b
}

func (b *Book) readDay(day int64) (*fileDay, error) {
	d := &fileDay{}
	data, err := b.cfg.Store.Read(dayFile(day))
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(data, d)
	}
	if err == nil && d.Version != fileVersion {
		err = fmt.Errorf("version %d, want %d", d.Version, fileVersion)
	}
	if err == nil && (d.Network != b.cfg.Network.String() || d.Node != b.self) {
		return &fileDay{}, nil // of before this machine left another network
	}
	if err != nil {
		return &fileDay{}, fmt.Errorf("state file %s: %w", dayFile(day), err)
	}
	return d, nil
}

func (b *Book) load(day int64, now time.Time) error {
	d, err := b.readDay(day)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range d.Rows {
		r, err := f.row()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if b.rows[f.Period] == nil {
			b.rows[f.Period] = map[mesh.NodeID]*row{}
		}
		if r.ours != nil && r.theirs == nil {
			r.next = now.Add(spread)
		}
		b.rows[f.Period][f.Peer] = r
	}
	if len(d.Chains) > 0 {
		b.chain[day] = d.Chains
	}
	return errors.Join(errs...)
}

func (f fileRow) row() (*row, error) {
	ours, err := f.Ours.parse()
	if err != nil {
		return nil, err
	}
	theirs, err := f.Theirs.parse()
	return &row{ours: ours, theirs: theirs, changed: f.Changed, delivered: f.Delivered}, err
}

// Save writes what has changed.
func (b *Book) Save(now time.Time) error {
	b.mu.Lock()
	files := map[string]any{}
	for day := range b.dirty {
		files[dayFile(day)] = b.day(day)
	}
	if b.state {
		s := fileState{Version: fileVersion, Began: b.began, Open: b.open, Gap: b.gap, Base: map[mesh.NodeID][4]uint64{}, Period: Period, Network: b.cfg.Network.String()}
		for id, c := range b.base {
			s.Base[id] = [4]uint64{c.ReceiveBytes, c.TransmitBytes, c.ReceivePackets, c.TransmitPackets}
		}
		files[stateFile] = s
	}
	days, state := b.dirty, b.state
	b.dirty, b.state = map[int64]bool{}, false
	b.mu.Unlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data, err := json.Marshal(files[name])
		if err == nil {
			err = b.cfg.Store.Write(name, data)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		b.mu.Lock()
		maps.Copy(b.dirty, days)
		b.state = b.state || state
		b.mu.Unlock()
		return err
	}
	if len(days) > 0 {
		return b.prune(now)
	}
	return nil
}

func (b *Book) prune(now time.Time) error {
	last := dayOf(indexOf(now)) - keepDays
	var errs []error
	for day := last; day > last-7; day-- {
		errs = append(errs, b.cfg.Store.Remove(dayFile(day)))
	}
	return errors.Join(errs...)
}

// day returns what is in memory of a day.
func (b *Book) day(day int64) *fileDay {
	d := &fileDay{Version: fileVersion, Network: b.cfg.Network.String(), Node: b.self, Chains: maps.Clone(b.chain[day])}
	for _, i := range slices.Sorted(maps.Keys(b.rows)) {
		if dayOf(i) != day {
			continue
		}
		for _, id := range slices.SortedFunc(maps.Keys(b.rows[i]), mesh.NodeID.Compare) {
			r := b.rows[i][id]
			if r.ours != nil || r.theirs != nil {
				d.Rows = append(d.Rows, fileRow{Period: i, Peer: id, Ours: pack(r.ours), Theirs: pack(r.theirs), Changed: r.changed, Delivered: r.delivered})
			}
		}
	}
	return d
}
