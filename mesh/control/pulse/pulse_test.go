package pulse

import (
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const interval = 8 * time.Second

func TestAnswered(t *testing.T) {
	var p Pulse
	now := start
	r := p.Step(Every{interval}, now)
	if !r.Ask || r.Seq != 1 {
		t.Fatalf("%+v, want the first question at once", r)
	}
	r = p.Step(Answered{1}, now.Add(30*time.Millisecond))
	if r.RTT != 30*time.Millisecond || !p.Next().Equal(now.Add(interval)) {
		t.Errorf("%+v, next %v", r, p.Next().Sub(now))
	}
	if r := p.Step(Tick{}, now.Add(interval-1)); r.Ask {
		t.Error("asks too early")
	}
	if r := p.Step(Tick{}, now.Add(interval)); !r.Ask || r.Seq != 2 {
		t.Errorf("%+v, want the second question", r)
	}
}

func TestDead(t *testing.T) {
	var p Pulse
	p.Step(Every{interval}, start)
	asked := 1
	for {
		r := p.Step(Tick{}, p.Next())
		if r.Dead {
			break
		}
		if r.Ask {
			asked++
		}
	}
	if asked != Tries {
		t.Errorf("%d questions, want %d", asked, Tries)
	}
	if !p.Next().IsZero() {
		t.Error("a dead connection wants more")
	}
}

func TestUrgentIsQuick(t *testing.T) {
	var p Pulse
	p.Step(Every{interval}, start)
	p.Step(Answered{1}, start.Add(time.Millisecond))
	now := start.Add(time.Second)
	if r := p.Step(Urgent{}, now); !r.Ask {
		t.Fatal("does not ask")
	}
	var died time.Time
	for died.IsZero() {
		at := p.Next()
		if r := p.Step(Tick{}, at); r.Dead {
			died = at
		}
	}
	if took := died.Sub(now); took > 1600*time.Millisecond {
		t.Errorf("given up after %v", took)
	}
}

// A slow path: the answer to the first question comes after the second was asked.
func TestLateAnswerCounts(t *testing.T) {
	var p Pulse
	p.Step(Urgent{}, start)
	p.Step(Tick{}, p.Next())
	if !p.Waiting() {
		t.Error("an unanswered question is not told")
	}
	p.Step(Answered{1}, start.Add(700*time.Millisecond))
	if p.Waiting() || !p.Next().IsZero() {
		t.Error("an answer to an earlier question does not count")
	}
}

func TestForeignAnswers(t *testing.T) {
	var p Pulse
	p.Step(Every{interval}, start)
	for _, seq := range []uint32{0, 2, 1 << 31, ^uint32(0)} {
		if r := p.Step(Answered{seq}, start); r.RTT != 0 || p.tries == 0 {
			t.Errorf("an answer to question %d, which was not asked, counts", seq)
		}
	}
}

// Of two that both want the connection, only one goes on asking.
func TestOneOfTwoAsks(t *testing.T) {
	var a, b Pulse
	now := start
	count := map[*Pulse]int{}
	ask := func(from, to *Pulse, r Result) {
		if !r.Ask {
			return
		}
		count[from]++
		to.Step(Asked{}, now)
		from.Step(Answered{r.Seq}, now.Add(time.Millisecond))
	}
	ask(&a, &b, a.Step(Every{interval}, now))
	now = now.Add(time.Second)
	ask(&b, &a, b.Step(Every{interval}, now))
	for now.Before(start.Add(10 * time.Minute)) {
		now = now.Add(100 * time.Millisecond)
		ask(&a, &b, a.Step(Tick{}, now))
		ask(&b, &a, b.Step(Tick{}, now))
	}
	if total := count[&a] + count[&b]; total > 80 || min(count[&a], count[&b]) > 3 {
		t.Errorf("%d and %d questions in 10 minutes, want some 75 by one of them", count[&a], count[&b])
	}
}

// Whatever happens: a question that is out has an end, and a connection that answers is not given up.
func TestRandom(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		var p Pulse
		now := start
		var last uint32
		for range 200 {
			var ev Event
			switch r.IntN(5) {
			case 0:
				ev = Every{time.Duration(r.IntN(3)) * 4 * time.Second}
			case 1:
				ev = Urgent{}
			case 2:
				ev = Asked{}
			default:
				ev = Tick{}
				if next := p.Next(); !next.IsZero() && next.After(now) {
					now = next
				}
			}
			res := p.Step(ev, now)
			if res.Ask {
				if res.Seq != last+1 {
					t.Fatalf("seed %d: question %d follows %d", seed, res.Seq, last)
				}
				last = res.Seq
				p.Step(Answered{res.Seq}, now.Add(time.Millisecond))
			}
			if res.Dead {
				t.Fatalf("seed %d: given up although all was answered", seed)
			}
			if p.tries > 0 && p.Next().IsZero() {
				t.Fatalf("seed %d: waits for ever", seed)
			}
		}
	}
}
