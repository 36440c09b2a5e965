package usage

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	spread     = Period / 4  // over which a node sends its statements: a full hour is no burst
	headStart  = Period / 12 // of the end with the smaller node ID, so that not both begin
	retry      = Period / 12 // at first; then twice as long each time, at most a period
	giveUp     = 24          // periods after which nobody is asked any more
	keepSmall  = 3           // periods whose small rows are remembered, to answer with
	refusals   = 3           // deliveries without an answer that make a refusal
	maxPerHour = 256         // links in one period that get statements, the busiest ones
	maxChains  = 4           // of one member on one day
	maxAsked   = 2048        // rows in one period, with those that others asked for
)

// Config is what a Book is made of.
type Config struct {
	Network mesh.NetworkID
	Key     ed25519.PrivateKey // the identity key
	Chain   func(mesh.NodeID) [][]byte
	Store   Store
	Log     *slog.Logger
}

// Book knows what this node and its peers say about each period. Its methods may be called from any goroutine; only Save touches the disk
// for writing.
type Book struct {
	cfg  Config
	self mesh.NodeID

	mu    sync.Mutex // guards everything below; never held while the disk is used
	began int64      // the first period that this node knows about
	open  int64      // the period in progress
	gap   bool       // its counters do not cover all of it
	base  map[mesh.NodeID]ledger.Counters
	loss  map[mesh.NodeID]*probes
	rows  map[int64]map[mesh.NodeID]*row
	chain map[int64]certificates // of those who signed, by day
	dirty map[int64]bool         // days that are not on disk as they are here
	state bool                   // the same for what precedes rows
}

type probes struct{ sent, lost int }

// certificates are the chains (leaf, issuer) that members had on one day.
type certificates map[mesh.NodeID][][][]byte

// row is one link in one period.
type row struct {
	small        ledger.Counters // what was counted, where nothing is signed
	gap          bool
	ours, theirs *signed
	changed      bool // the other end has said two different things
	owed         bool // the other end asked before the period was over here
	delivered    int
	tries        int
	next         time.Time // when ours is sent again; zero: not at all
}

// signed is a statement and what it says.
type signed struct {
	raw *wire.SignedUsage
	*wire.UsageStatement
}

func indexOf(t time.Time) int64 { return t.UnixMilli() / Period.Milliseconds() }
func startOf(i int64) time.Time { return time.UnixMilli(i * Period.Milliseconds()).UTC() }
func dayOf(i int64) int64       { return startOf(i).Unix() / 86400 }

// NextPeriod returns when the period in progress ends.
func NextPeriod(now time.Time) time.Time { return startOf(indexOf(now) + 1) }

// Probed notes what the probes of a link have found in the last moments.
func (b *Book) Probed(peer mesh.NodeID, sent, lost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.loss[peer]
	if p == nil {
		p = &probes{}
		b.loss[peer] = p
	}
	p.sent, p.lost = p.sent+sent, p.lost+lost
}

// Gap says that the period in progress is not fully counted: counters were lost, or the clock was set.
func (b *Book) Gap() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gap, b.state = true, true
}

// Close ends the periods that are over. totals are the ledger's, of this moment; skew says how far each peer's clock is ahead.
func (b *Book) Close(now time.Time, totals map[mesh.NodeID]ledger.Counters, skew map[mesh.NodeID]time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := indexOf(now)
	if p == b.open {
		return nil
	}
	over, back := b.open, p < b.open
	rows := map[mesh.NodeID]ledger.Counters{}
	for id, t := range totals {
		if d := minus(t, b.base[id]); d.ReceiveBytes+d.TransmitBytes > 0 {
			rows[id] = d
		}
	}
	ids := slices.SortedFunc(maps.Keys(rows), func(x, y mesh.NodeID) int {
		return cmp.Or(cmp.Compare(volume(rows[y]), volume(rows[x])), x.Compare(y))
	})
	var errs []error
	for i, id := range ids {
		r := b.row(over, id)
		if r.ours != nil {
			continue // the clock was set back, and this was said already
		}
		r.small, r.gap = rows[id], b.gap || back
		if i < maxPerHour && volume(rows[id]) >= MinBytes {
			errs = append(errs, b.sign(r, over, id, skew[id]))
		}
	}
	for id, r := range b.rows[over] { // they have asked already
		if r.theirs != nil && r.ours == nil {
			errs = append(errs, b.sign(r, over, id, skew[id]))
		}
	}
	for id, r := range b.rows[over] {
		switch {
		case r.ours == nil || !r.next.IsZero():
		case r.theirs != nil:
			r.owed, r.next = true, now
		default:
			r.next = b.first(id, startOf(over+1))
		}
	}
	b.base, b.loss, b.open, b.gap, b.state = maps.Clone(totals), map[mesh.NodeID]*probes{}, p, back, true
	b.forget(p)
	return errors.Join(errs...)
}

func volume(c ledger.Counters) uint64 { return c.ReceiveBytes + c.TransmitBytes }

// minus is what was added; where a counter has fallen, all of it.
func minus(a, b ledger.Counters) ledger.Counters {
	sub := func(x, y uint64) uint64 {
		if x < y {
			return x
		}
		return x - y
	}
	return ledger.Counters{
		ReceiveBytes: sub(a.ReceiveBytes, b.ReceiveBytes), TransmitBytes: sub(a.TransmitBytes, b.TransmitBytes),
		ReceivePackets: sub(a.ReceivePackets, b.ReceivePackets), TransmitPackets: sub(a.TransmitPackets, b.TransmitPackets),
	}
}

func (b *Book) row(i int64, id mesh.NodeID) *row {
	if b.rows[i] == nil {
		b.rows[i] = map[mesh.NodeID]*row{}
	}
	r := b.rows[i][id]
	if r == nil {
		r = &row{}
		b.rows[i][id] = r
	}
	return r
}

// sign makes this node's statement of a row. It is made once: a second one that differs would be a lie.
func (b *Book) sign(r *row, i int64, id mesh.NodeID, skew time.Duration) error {
	s := &wire.UsageStatement{
		Version: wire.Version, Network: b.cfg.Network[:], By: b.self[:], About: id[:], From: startOf(i).UnixMilli(), To: startOf(i + 1).UnixMilli(),
		SentBytes: r.small.TransmitBytes, ReceivedBytes: r.small.ReceiveBytes, SentPackets: r.small.TransmitPackets, ReceivedPackets: r.small.ReceivePackets,
		Gap: r.gap, Skew: skew.Milliseconds(),
	}
	if p := b.loss[id]; p != nil && p.sent > 0 && i == b.open {
		s.LossPpm = uint32(uint64(p.lost) * 1_000_000 / uint64(p.sent))
	}
	raw, err := wire.SignUsage(s, b.cfg.Key)
	if err != nil {
		return err
	}
	r.ours = &signed{raw, s}
	b.dirty[dayOf(i)] = true
	b.keepChain(i, b.self)
	b.keepChain(i, id)
	return nil
}

// keepChain keeps the certificates that are valid now beside what is signed now.
func (b *Book) keepChain(i int64, id mesh.NodeID) {
	day := dayOf(i)
	if b.chain[day] == nil {
		b.chain[day] = certificates{}
	}
	have := b.chain[day][id]
	c := b.cfg.Chain(id)
	same := func(h [][]byte) bool { return slices.EqualFunc(h, c, bytes.Equal) }
	if len(c) > 0 && len(have) < maxChains && !slices.ContainsFunc(have, same) { // renewed, perhaps
		b.chain[day][id] = append(have, c)
	}
}

// first is when a statement is sent for the first time.
func (b *Book) first(id mesh.NodeID, end time.Time) time.Time {
	at := end.Add(spread * time.Duration(id[0]^b.self[0]) / 256)
	if b.self.Compare(id) > 0 {
		at = at.Add(headStart)
	}
	return at
}

// forget drops what nobody asks for any more. Days are kept as a whole: their files are.
func (b *Book) forget(p int64) {
	for i, rows := range b.rows {
		if i < p-keepSmall {
			maps.DeleteFunc(rows, func(_ mesh.NodeID, r *row) bool { return r.ours == nil && r.theirs == nil })
		}
		if len(rows) == 0 || dayOf(i) < dayOf(p-giveUp) && !b.dirty[dayOf(i)] {
			delete(b.rows, i)
		}
	}
	for day := range b.chain {
		if day < dayOf(p-giveUp) && !b.dirty[day] {
			delete(b.chain, day)
		}
	}
}

// Send is a statement that is due.
type Send struct {
	To     mesh.NodeID
	Usage  *wire.SignedUsage
	Period int64
}

// Due returns what is to be sent now, and when to ask again at the latest.
func (b *Book) Due(now time.Time) (sends []Send, next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next = now.Add(Period)
	for i, rows := range b.rows {
		for id, r := range rows {
			switch {
			case r.ours == nil || r.next.IsZero() || r.theirs != nil && !r.owed:
			case i < indexOf(now)-giveUp:
				r.next = time.Time{}
			case !now.Before(r.next):
				u := proto.CloneOf(r.ours.raw)
				u.Answer = r.owed
				sends = append(sends, Send{id, u, i})
				r.next = now.Add(min(retry<<min(r.tries, 8), Period))
				r.tries++
				fallthrough
			default:
				if r.next.Before(next) {
					next = r.next
				}
			}
		}
	}
	return sends, next
}

// Sent notes that the other end has acknowledged a statement.
func (b *Book) Sent(s Send) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.rows[s.Period][s.To]
	if r == nil {
		return
	}
	r.delivered++
	if s.Usage.Answer {
		r.owed = false
	}
	b.dirty[dayOf(s.Period)] = true
}

// Received takes a peer's statement and returns this node's answer, if there is one to give now. An error says what is wrong with it.
func (b *Book) Received(from mesh.NodeID, u *wire.SignedUsage, now time.Time) (answer *wire.SignedUsage, err error) {
	s, err := wire.VerifyUsage(u)
	if err != nil {
		return nil, err
	}
	i, current := indexOf(time.UnixMilli(s.From)), indexOf(now)
	switch {
	case mesh.NodeID(s.By) != from || mesh.NodeID(s.About) != b.self:
		return nil, errors.New("usage: it is not its sender's statement about this node")
	case mesh.NetworkID(s.Network) != b.cfg.Network:
		return nil, errors.New("usage: it is about another network")
	case s.From != startOf(i).UnixMilli() || s.To != startOf(i+1).UnixMilli():
		return nil, fmt.Errorf("usage: from %v to %v is no full period of %v", time.UnixMilli(s.From).UTC(), time.UnixMilli(s.To).UTC(), Period)
	case i > current+1 || i < current-giveUp:
		return nil, fmt.Errorf("usage: the period from %v is too far from now", startOf(i))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rows[i][from] == nil && len(b.rows[i]) >= maxAsked {
		return nil, errors.New("usage: too many links for one period")
	}
	known := b.rows[i][from] != nil
	r := b.row(i, from)
	switch {
	case r.theirs == nil:
		r.theirs = &signed{&wire.SignedUsage{Statement: u.Statement, Signature: u.Signature}, s}
		b.dirty[dayOf(i)] = true
		b.keepChain(i, from)
	case !proto.Equal(r.theirs.UsageStatement, s) && !r.changed:
		r.changed = true
		return nil, fmt.Errorf("usage: it is another statement about the period from %v than it gave before", startOf(i))
	}
	if i >= b.open {
		return nil, nil // ours follows when the period is over here
	}
	if r.ours == nil {
		// A small row that is no longer known, or none at all.
		r.gap = r.gap || !known && (i < b.open-keepSmall || i <= b.began)
		if err := b.sign(r, i, from, 0); err != nil {
			return nil, err
		}
	}
	if u.Answer {
		return nil, nil
	}
	out := proto.CloneOf(r.ours.raw)
	out.Answer = true
	return out, nil
}
