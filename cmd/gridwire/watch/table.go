package watch

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

// kept is how many samples of a peer are kept, one a second, before them one a minute: as many as the widest sparkline shows.
const kept = 60

// samples are one peer's newest, oldest first. A missing one (no RTT, the agent did not answer) is negative.
type samples struct {
	rtt, rate  []float64 // seconds; bytes a second, both directions
	down, up   float64   // bytes a second
	rx, tx     uint64
	at         time.Time
	generation int
}

// table is the peers: what is known of them, which are shown, and in which order.
type table struct {
	peers      []api.Peer
	known      map[string]*samples // by ID
	generation int

	shown   []int // indices into peers
	order   order
	reverse bool
	filter  string
	cursor  string // ID of the selected peer, so that it stays selected when rows move
	top     int    // first row on the screen
}

type order int

// The orders. What wants attention comes first.
const (
	byName order = iota
	byState
	byRTT
	byLoss
	byTraffic
)

var orderKeys = map[string]order{"n": byName, "s": byState, "r": byRTT, "l": byLoss, "t": byTraffic}

func newTable() table { return table{known: map[string]*samples{}} }

// take adds one second's numbers. Members that are gone are forgotten.
func (t *table) take(st *api.Status, at time.Time) {
	t.peers = st.Peers
	t.generation++
	for _, p := range st.Peers {
		s, ok := t.known[p.ID]
		if !ok {
			s = &samples{}
			t.known[p.ID] = s
		}
		if s.at.IsZero() {
			s.rx, s.tx, s.at = p.ReceiveBytes, p.TransmitBytes, at
		}
		s.generation = t.generation
		s.add(p, at)
	}
	for id, s := range t.known {
		if s.generation != t.generation {
			delete(t.known, id)
		}
	}
	t.arrange()
}

// remember puts the last minutes before the first second, one sample for each, so that a sparkline tells something at once. Minutes of which
// nothing is known are gaps; the one that is under way is left out.
func (t *table) remember(h *api.History, now time.Time) {
	if h == nil {
		return
	}
	for _, l := range h.Links {
		step := time.Duration(l.StepSeconds) * time.Second
		if t.known[l.ID] != nil || step <= 0 {
			continue
		}
		s := &samples{}
		var last time.Time
		for _, m := range l.Samples {
			age := now.Sub(m.Time)
			if age < step || age > kept*step {
				continue
			}
			for at := last.Add(step); !last.IsZero() && at.Before(m.Time); at = at.Add(step) {
				s.rtt, s.rate = push(s.rtt, -1), push(s.rate, -1)
			}
			rtt := -1.0
			if m.State == "connected" && m.RTTAvg > 0 {
				rtt = m.RTTAvg
			}
			s.rtt, s.rate = push(s.rtt, rtt), push(s.rate, float64(m.ReceiveBytes+m.TransmitBytes)/step.Seconds())
			last = m.Time
		}
		t.known[l.ID] = s
	}
}

func (s *samples) add(p api.Peer, at time.Time) {
	if d := at.Sub(s.at).Seconds(); d > 0 {
		s.down, s.up = rate(p.ReceiveBytes, s.rx, d), rate(p.TransmitBytes, s.tx, d)
	}
	s.rx, s.tx, s.at = p.ReceiveBytes, p.TransmitBytes, at
	rtt := -1.0
	if p.State == "connected" && p.RTT > 0 {
		rtt = p.RTT
	}
	s.rtt, s.rate = push(s.rtt, rtt), push(s.rate, s.down+s.up)
}

// rate is 0 where a counter began anew: the agent restarted.
func rate(now, before uint64, seconds float64) float64 {
	if now < before {
		return 0
	}
	return float64(now-before) / seconds
}

func push(s []float64, v float64) []float64 {
	if len(s) == kept {
		copy(s, s[1:])
		s[kept-1] = v
		return s
	}
	return append(s, v)
}

func (t *table) orderBy(o order) {
	t.reverse = t.order == o && !t.reverse
	t.order = o
	t.arrange()
}

func (t *table) filterBy(text string) {
	t.filter = text
	t.top = 0
	t.arrange()
}

// arrange decides which peers are shown, and in which order. Words of the filter match anywhere in name, state, path, address, tag or version.
func (t *table) arrange() {
	t.shown = t.shown[:0]
	words := strings.Fields(strings.ToLower(t.filter))
	for i := range t.peers {
		if matches(&t.peers[i], words) {
			t.shown = append(t.shown, i)
		}
	}
	slices.SortStableFunc(t.shown, func(a, b int) int {
		c := t.compare(&t.peers[a], &t.peers[b])
		if t.reverse {
			c = -c
		}
		return cmp.Or(c, strings.Compare(t.peers[a].Name, t.peers[b].Name))
	})
}

func matches(p *api.Peer, words []string) bool {
	if len(words) == 0 {
		return true
	}
	text := strings.ToLower(strings.Join(append([]string{p.Name, p.State, p.Path.Kind, p.Path.Remote, p.Version, p.NAT}, append(p.Addresses, p.Tags...)...), " "))
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

var urgency = map[string]int{"unreachable": 0, "connecting": 1, "connected": 2, "idle": 3}

func (t *table) compare(a, b *api.Peer) int {
	switch t.order {
	case byState:
		return cmp.Compare(urgency[a.State], urgency[b.State])
	case byRTT:
		return cmp.Compare(shownRTT(b), shownRTT(a))
	case byLoss:
		return cmp.Compare(b.Loss, a.Loss)
	case byTraffic:
		return cmp.Compare(t.traffic(b), t.traffic(a))
	}
	return strings.Compare(a.Name, b.Name)
}

// shownRTT is negative where none is shown, so that those come last.
func shownRTT(p *api.Peer) float64 {
	if p.State != "connected" || p.RTT == 0 {
		return -1
	}
	return p.RTT
}

func (t *table) traffic(p *api.Peer) float64 {
	if s := t.known[p.ID]; s != nil {
		return s.down + s.up
	}
	return 0
}

// position returns the row of the selected peer; the first where none is, or where the filter hides it.
func (t *table) position() int {
	return max(slices.IndexFunc(t.shown, func(i int) bool { return t.peers[i].ID == t.cursor }), 0)
}

func (t *table) selected() (api.Peer, bool) {
	if len(t.shown) == 0 {
		return api.Peer{}, false
	}
	return t.peers[t.shown[t.position()]], true
}

// move moves the selection; page is how many rows the screen has.
func (t *table) move(key string, page int) {
	if len(t.shown) == 0 {
		return
	}
	at := t.position()
	switch key {
	case "down", "j":
		at++
	case "up", "k":
		at--
	case "pgdown", "space":
		at += page
	case "pgup":
		at -= page
	case "home", "g":
		at = 0
	case "end", "G":
		at = len(t.shown) - 1
	default:
		return
	}
	at = max(min(at, len(t.shown)-1), 0)
	t.cursor = t.peers[t.shown[at]].ID
	t.top, _ = t.window(page)
}

// window returns the rows on a screen of n rows: those around the selected one.
func (t *table) window(n int) (from, to int) {
	at := t.position()
	top := min(t.top, max(len(t.shown)-n, 0))
	if at < top {
		top = at
	}
	if at >= top+n {
		top = at - n + 1
	}
	return top, min(top+n, len(t.shown))
}
