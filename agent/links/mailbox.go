package links

import "sync"

// mailboxLimit bounds what waits for the owner; beyond it the oldest goes. Events repeat (counters, probes, views), so a lost one delays.
const mailboxLimit = 8192

// mailbox never blocks the sender.
type mailbox struct {
	mu      sync.Mutex // guards the two below
	events  []Event
	dropped uint64
	ready   chan struct{}
}

func newMailbox() mailbox { return mailbox{ready: make(chan struct{}, 1)} }

func (m *mailbox) put(ev Event) {
	m.mu.Lock()
	if len(m.events) >= mailboxLimit {
		m.events = m.events[1:]
		m.dropped++
	}
	m.events = append(m.events, ev)
	m.mu.Unlock()
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() []Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	evs := m.events
	m.events = nil
	return evs
}
