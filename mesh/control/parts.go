package control

import (
	"sync"

	"github.com/gridwire/gridwire/mesh"
)

// table is the proven connections at one moment, one for each member. It is immutable.
type table struct {
	byID map[mesh.NodeID]*link
	list []*link
}

func newTable(byID map[mesh.NodeID]*link) *table {
	t := &table{byID: make(map[mesh.NodeID]*link, len(byID)), list: make([]*link, 0, len(byID))}
	for id, l := range byID {
		t.byID[id] = l
		t.list = append(t.list, l)
	}
	return t
}

// mailbox holds events for the loop. It does not drop any, since each tells of a change that is not told again; what can be in it is
// bounded by the connections and dials there are, and repeated news is merged.
type mailbox struct {
	ready chan struct{}

	mu     sync.Mutex // guards what follows
	events []any
}

func newMailbox() *mailbox { return &mailbox{ready: make(chan struct{}, 1)} }

// put never blocks.
func (m *mailbox) put(ev any) {
	m.mu.Lock()
	if _, ok := ev.(evNews); !ok || len(m.events) == 0 || m.events[len(m.events)-1] != ev {
		m.events = append(m.events, ev)
	}
	m.mu.Unlock()
	poke(m.ready)
}

func (m *mailbox) take() []any {
	m.mu.Lock()
	defer m.mu.Unlock()
	evs := m.events
	m.events = nil
	return evs
}

// tracker waits for goroutines that are begun at any time, also while it waits: none is begun after the last one has ended.
type tracker struct {
	mu     sync.Mutex // guards what follows
	n      int
	closed bool
	idle   chan struct{}
}

func newTracker() *tracker { return &tracker{idle: make(chan struct{})} }

// run begins a goroutine, unless wait is over.
func (t *tracker) run(f func()) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	t.n++
	t.mu.Unlock()
	go func() { // wait waits for it
		defer t.done()
		f()
	}()
}

func (t *tracker) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n--; t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = make(chan struct{})
	}
}

func (t *tracker) wait() {
	for {
		t.mu.Lock()
		if t.n == 0 {
			t.closed = true
			t.mu.Unlock()
			return
		}
		idle := t.idle
		t.mu.Unlock()
		<-idle
	}
}

// watchers tells who listens about the newest connections.
type watchers struct {
	mu   sync.Mutex // guards what follows
	all  map[int]chan []Connection
	last int
}

func (w *watchers) add() (<-chan []Connection, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = make(map[int]chan []Connection)
	}
	w.last++
	id, ch := w.last, make(chan []Connection, 1)
	w.all[id] = ch
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, id)
	}
}

// tell replaces what a listener has not yet taken. Only the loop calls it.
func (w *watchers) tell(cs []Connection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.all {
		select {
		case <-ch:
		default:
		}
		ch <- cs // has room: nobody else sends
	}
}

// perMember remembers something about members: how far their clocks are from ours, why they refused this node.
type perMember[V any] struct {
	mu sync.Mutex // guards what follows
	m  map[mesh.NodeID]V
}

// set returns what was remembered before.
func (s *perMember[V]) set(id mesh.NodeID, v V) (old V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = make(map[mesh.NodeID]V)
	}
	old, s.m[id] = s.m[id], v
	return old
}

func (s *perMember[V]) forget(id mesh.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, id)
}

// prune forgets those that are no longer members, and returns a copy of the rest.
func (s *perMember[V]) prune(v *mesh.View) map[mesh.NodeID]V {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[mesh.NodeID]V, len(s.m))
	for id, d := range s.m {
		if _, ok := v.Member(id); !ok {
			delete(s.m, id)
			continue
		}
		out[id] = d
	}
	return out
}
