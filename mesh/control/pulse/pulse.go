// Package pulse is the heartbeat of one control connection: when to ask, how long to wait for the answer, when to give up. It is a
// plain function of events and time (Step) and has no stream, clock or goroutine.
//
// Only the side that wants the connection asks, and only when it has not been asked lately: of two that both want it, one asks. An
// exchange costs the asking side two packets and the other side one, some 130 and 70 bytes of IP.
package pulse

import "time"

// The timing of the design.
const (
	Answer = 2 * time.Second        // to answer
	Quick  = 500 * time.Millisecond // for each further try
	Hurry  = 250 * time.Millisecond // instead of Quick after Urgent, if the connection's round trip allows
	Tries  = 3                      // one and two quick ones
)

// Event is something that happened.
type Event interface{ event() }

type (
	// Every sets how often to ask; 0: not at all. It asks at once when that begins or gets shorter.
	Every struct{ Interval time.Duration }
	// Urgent asks now, with a short patience: the network has changed.
	Urgent struct{}
	// Asked says that the other side asked.
	Asked struct{}
	// Answered says that the other side answered the question with this number.
	Answered struct{ Seq uint32 }
	// Tick says that Next has come.
	Tick struct{}
)

func (Every) event()    {}
func (Urgent) event()   {}
func (Asked) event()    {}
func (Answered) event() {}
func (Tick) event()     {}

// Result is what to do.
type Result struct {
	Ask  bool          // send a heartbeat with number Seq
	Seq  uint32        //
	RTT  time.Duration // measured; 0: nothing new
	Dead bool          // give the connection up
}

// Pulse is the state. The zero value asks nothing.
type Pulse struct {
	interval time.Duration
	seq      uint32
	sent     time.Time // when seq was sent
	tries    int       // questions without an answer
	patience time.Duration
	quick    time.Duration // of further tries; 0: Quick
	rtt      time.Duration // of the last answer
	due      time.Time     // of the next question, or of the end of patience
}

// Next returns when Step wants a Tick; zero: never by itself.
func (p *Pulse) Next() time.Time { return p.due }

// Waiting reports whether a question has found no answer in the time for it.
func (p *Pulse) Waiting() bool { return p.tries > 1 }

// Step takes an event and returns what to do.
func (p *Pulse) Step(ev Event, now time.Time) Result {
	switch e := ev.(type) {
	case Every:
		return p.every(e.Interval, now)
	case Urgent:
		p.quick = max(Hurry, p.rtt*3/2)
		p.patience = p.quick
		return p.ask(now)
	case Asked:
		// A packet of the other side has just arrived: there is no need to ask. A quarter more, so that the one who asks goes on asking.
		if p.tries == 0 && p.interval > 0 {
			p.due = now.Add(p.interval + p.interval/4)
		}
		return Result{}
	case Answered:
		return p.answered(e.Seq, now)
	default:
		return p.tick(now)
	}
}

func (p *Pulse) every(interval time.Duration, now time.Time) Result {
	begins := interval > 0 && (p.interval == 0 || interval < p.interval)
	p.interval = interval
	switch {
	case p.tries > 0: // a question is out; its answer sets the next one
		return Result{}
	case begins:
		p.patience = Answer
		return p.ask(now)
	case interval == 0:
		p.due = time.Time{}
	}
	return Result{}
}

// ask sends a question. An older one may still be answered.
func (p *Pulse) ask(now time.Time) Result {
	p.seq++
	p.sent = now
	p.tries++
	p.due = now.Add(p.patience)
	return Result{Ask: true, Seq: p.seq}
}

func (p *Pulse) answered(seq uint32, now time.Time) Result {
	if p.tries == 0 || p.seq-seq >= uint32(p.tries) { // not one of those that are out
		return Result{}
	}
	var r Result
	if seq == p.seq {
		r.RTT = now.Sub(p.sent)
		p.rtt = r.RTT
	}
	p.quick = 0
	p.tries = 0
	p.due = time.Time{}
	if p.interval > 0 {
		p.due = p.sent.Add(p.interval)
	}
	return r
}

func (p *Pulse) tick(now time.Time) Result {
	if p.due.IsZero() || now.Before(p.due) {
		return Result{}
	}
	if p.tries == 0 {
		p.patience = Answer
		return p.ask(now)
	}
	if p.tries >= Tries {
		p.due = time.Time{}
		return Result{Dead: true}
	}
	p.patience = Quick
	if p.quick > 0 {
		p.patience = p.quick
	}
	return p.ask(now)
}
