package usage

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/mesh"
)

// Refused is a row whose other end has been given our statement several times and gives none.
const Refused State = "refused"

// ReportVersion is that of a report's form.
const ReportVersion = 1

// Report is what `gridwire usage --json` prints and `gridwire usage verify` checks.
type Report struct {
	Version   int           `json:"version"`
	Network   ReportNetwork `json:"network"`
	Node      ReportNode    `json:"node"`
	From      time.Time     `json:"from"`
	To        time.Time     `json:"to"`
	Peers     []ReportRow   `json:"peers"`
	Workloads []ReportRow   `json:"workloads"`
	Gaps      []ledger.Gap  `json:"gaps"` // times in which nothing was counted
	Hours     []ReportHour  `json:"hours"`
	Chains    []ReportChain `json:"chains"`
}

// ReportNetwork names the network. Root is its root certificate, DER.
type ReportNetwork struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	Root []byte `json:"root"`
}

// ReportNode is whose report it is.
type ReportNode struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

// ReportRow is what was counted with one peer, or of one workload. Only Hours are signed: this is the node's own word.
type ReportRow struct {
	Name            string `json:"name"`
	ID              string `json:"id,omitempty"`
	ReceiveBytes    uint64 `json:"receive_bytes"`
	TransmitBytes   uint64 `json:"transmit_bytes"`
	ReceivePackets  uint64 `json:"receive_packets"`
	TransmitPackets uint64 `json:"transmit_packets"`
	// How many hours with this peer are in which state.
	Agreed      int `json:"agreed_hours"`
	Diverging   int `json:"diverging_hours"`
	Refused     int `json:"refused_hours"`
	Unconfirmed int `json:"unconfirmed_hours"`
}

// ReportHour is what both ends of a link say about one hour.
type ReportHour struct {
	Peer   mesh.NodeID `json:"peer"`
	From   time.Time   `json:"from"`
	State  State       `json:"state"` // as this node sees it; Verify judges anew
	Why    string      `json:"why,omitempty"`
	Ours   *Signed     `json:"ours"`
	Theirs *Signed     `json:"theirs,omitempty"`
}

// ReportChain is a member's certificates as they were on a day on which it signed.
type ReportChain struct {
	ID    mesh.NodeID `json:"id"`
	Day   string      `json:"day"`
	Chain [][]byte    `json:"chain"` // leaf, issuer
}

func (s *signed) side() Side {
	return Side{
		Sent: s.SentBytes, Received: s.ReceivedBytes, Loss: float64(s.LossPpm) / 1e6, Gap: s.Gap, Skew: time.Duration(s.Skew) * time.Millisecond,
	}
}

// history is rows of any age, and the certificates kept with them.
type history struct {
	rows   map[int64]map[mesh.NodeID]*row
	chains map[int64]certificates
}

// recent returns what is in memory.
func (b *Book) recent() history {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := history{rows: map[int64]map[mesh.NodeID]*row{}, chains: map[int64]certificates{}}
	for i, rows := range b.rows {
		h.rows[i] = map[mesh.NodeID]*row{}
		for id, r := range rows {
			c := *r
			h.rows[i][id] = &c
		}
	}
	for day, c := range b.chain {
		h.chains[day] = maps.Clone(c)
	}
	return h
}

// since returns all rows from the period of from on. It reads the disk; on an error what could be read is returned as well.
func (b *Book) since(from, now time.Time) (history, error) {
	h := b.recent()
	first := indexOf(from)
	var errs []error
	for day := max(dayOf(first), dayOf(indexOf(now))-keepDays); day < dayOf(indexOf(now)-giveUp); day++ {
		d, err := b.readDay(day)
		errs = append(errs, err)
		for _, f := range d.Rows {
			r, err := f.row()
			errs = append(errs, err)
			if h.rows[f.Period] == nil {
				h.rows[f.Period] = map[mesh.NodeID]*row{}
			}
			if err == nil {
				h.rows[f.Period][f.Peer] = r
			}
		}
		if len(d.Chains) > 0 {
			h.chains[day] = d.Chains
		}
	}
	maps.DeleteFunc(h.rows, func(i int64, _ map[mesh.NodeID]*row) bool { return i < first })
	return h, errors.Join(errs...)
}

// hours judges every link.
func (h history) hours() []ReportHour {
	links := h.links()
	var out []ReportHour
	for _, id := range slices.SortedFunc(maps.Keys(links), mesh.NodeID.Compare) {
		verdicts := h.judge(id, links[id])
		for n, i := range links[id] {
			r, v := h.rows[i][id], verdicts[n]
			out = append(out, ReportHour{Peer: id, From: startOf(i), State: v.State, Why: v.Why, Ours: pack(r.ours), Theirs: pack(r.theirs)})
		}
	}
	return out
}

// links returns the periods, in order, in which each link has a statement of ours.
func (h history) links() map[mesh.NodeID][]int64 {
	out := map[mesh.NodeID][]int64{}
	for _, i := range slices.Sorted(maps.Keys(h.rows)) {
		for id, r := range h.rows[i] {
			if r.ours != nil {
				out[id] = append(out[id], i)
			}
		}
	}
	return out
}

// judge judges one link's periods: by the numbers, and by how the other end behaved.
func (h history) judge(id mesh.NodeID, periods []int64) []Verdict {
	pairs := make([]Pair, 0, len(periods))
	for _, i := range periods {
		pairs = append(pairs, h.rows[i][id].pair(i))
	}
	out := Judge(pairs)
	for n, i := range periods {
		switch r := h.rows[i][id]; {
		case r.changed:
			out[n] = Verdict{Diverging, "the other end has given two different statements"}
		case r.theirs == nil && r.delivered >= refusals:
			out[n] = Verdict{Refused, "the other end has been given our statement and does not give its own"}
		}
	}
	return out
}

func (r *row) pair(i int64) Pair {
	p := Pair{From: startOf(i), Ours: r.ours.side()}
	if r.theirs != nil {
		theirs := r.theirs.side()
		p.Theirs = &theirs
	}
	return p
}

// Disputed returns the peers with which there are statements of the last day, and whether one of them refused its own, or differs from ours.
func (b *Book) Disputed() map[mesh.NodeID]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[mesh.NodeID]bool{}
	links := history{rows: b.rows}.links()
	for id := range links {
		out[id] = history{rows: b.rows}.disputed(id, links[id])
	}
	return out
}

// Disputes is Disputed for one peer.
func (b *Book) Disputes(id mesh.NodeID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	var periods []int64
	for i, rows := range b.rows {
		if r := rows[id]; r != nil && r.ours != nil {
			periods = append(periods, i)
		}
	}
	slices.Sort(periods)
	return history{rows: b.rows}.disputed(id, periods)
}

func (h history) disputed(id mesh.NodeID, periods []int64) bool {
	return slices.ContainsFunc(h.judge(id, periods), func(v Verdict) bool { return v.State == Diverging || v.State == Refused })
}

// Report collects what is signed from a time on, into a report whose other parts the caller has filled.
func (b *Book) Report(r *Report, now time.Time) error {
	h, err := b.since(r.From, now)
	r.Version, r.Hours, r.Chains = ReportVersion, h.hours(), []ReportChain{}
	if r.Hours == nil {
		r.Hours = []ReportHour{}
	}
	index := map[string]int{}
	for i, p := range r.Peers {
		index[p.ID] = i
	}
	for _, hour := range r.Hours {
		i, ok := index[hour.Peer.String()]
		if !ok {
			continue
		}
		switch row := &r.Peers[i]; hour.State {
		case Agreed:
			row.Agreed++
		case Diverging:
			row.Diverging++
		case Refused:
			row.Refused++
		default:
			row.Unconfirmed++
		}
	}
	for _, day := range slices.Sorted(maps.Keys(h.chains)) {
		if day < dayOf(indexOf(r.From)) {
			continue
		}
		for _, id := range slices.SortedFunc(maps.Keys(h.chains[day]), mesh.NodeID.Compare) {
			for _, c := range h.chains[day][id] {
				r.Chains = append(r.Chains, ReportChain{id, time.Unix(day*86400, 0).UTC().Format(time.DateOnly), c})
			}
		}
	}
	return err
}
