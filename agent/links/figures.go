package links

import "time"

// What is measured of a link, and how. docs/how-it-works.md says the same to users.
const (
	// lossAfter is when a probe counts as lost. Later answers still show that the link lives.
	lossAfter = 2 * time.Second
	lossStep  = 10 * time.Second // what loss is counted by
	lossSteps = 15*6 + 1         // the last quarter of an hour, and the step that is filling up
	// MinSamples is how many probes a loss needs: with fewer, one lost probe would be more than 5 %.
	MinSamples = 20
)

// LossWindows are the spans of time over which loss is told.
var LossWindows = [...]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}

// Loss is how many probes were judged in a window, and how many of them were lost.
type Loss struct{ Probes, Lost int }

// Ratio returns the share that was lost, and whether there were enough probes to say so.
func (l Loss) Ratio() (float64, bool) {
	if l.Probes == 0 {
		return 0, false
	}
	return float64(l.Lost) / float64(l.Probes), l.Probes >= MinSamples
}

// Minute is what was measured of a link in one minute of the clock.
type Minute struct {
	Number         int64 // since 1970
	Min, Max, Sum  time.Duration
	Answered, Lost int
	Down           bool // the link was lost in it
}

// figures are the statistics of one link: of its own probes and of those that the peer tells of. Pure: time is passed in.
type figures struct {
	rtt    time.Duration // smoothed as TCP does (RFC 6298, alpha 1/8)
	newest time.Duration
	// jitter is RFC 3550's interarrival jitter (6.4.1, gain 1/16), of round trip times instead of transit times: the mean difference of one
	// probe's time to the next one's.
	jitter time.Duration
	counts [len(RTTBuckets) + 1]uint64
	sum    time.Duration

	steps   [lossSteps]struct{ probes, lost uint8 }
	step    int64 // the newest, since 1970
	minutes [2]Minute
}

// answered takes a probe's round trip time.
func (f *figures) answered(rtt time.Duration, now time.Time) {
	if f.rtt == 0 {
		f.rtt = rtt
	} else {
		f.jitter += ((rtt - f.newest).Abs() - f.jitter) / 16
		f.rtt += (rtt - f.rtt) / 8
	}
	f.newest = rtt
	bucket := 0
	for bucket < len(RTTBuckets) && rtt > RTTBuckets[bucket] {
		bucket++
	}
	f.counts[bucket]++
	f.sum += rtt
	m := f.minute(now)
	if m.Answered == 0 || rtt < m.Min {
		m.Min = rtt
	}
	m.Max, m.Sum, m.Answered = max(m.Max, rtt), m.Sum+rtt, m.Answered+1
	f.judged(false, now)
}

// lost takes a probe that nobody answered.
func (f *figures) lost(now time.Time) {
	f.minute(now).Lost++
	f.judged(true, now)
}

// down notes that the link was lost.
func (f *figures) down(now time.Time) { f.minute(now).Down = true }

func (f *figures) minute(now time.Time) *Minute {
	n := now.Unix() / 60
	m := &f.minutes[n&1]
	if m.Number != n {
		*m = Minute{Number: n}
	}
	return m
}

func (f *figures) judged(lost bool, now time.Time) {
	f.turn(now)
	s := &f.steps[f.step%lossSteps]
	if s.probes == 255 { // a peer that tells more than there can be
		return
	}
	s.probes++
	if lost {
		s.lost++
	}
}

// turn empties the steps that have begun since the last call.
func (f *figures) turn(now time.Time) {
	step := now.Unix() / int64(lossStep/time.Second)
	if step-f.step > lossSteps || f.step-step > 1 { // at rest for long, or the clock was set back
		f.steps = [lossSteps]struct{ probes, lost uint8 }{}
		f.step = step
		return
	}
	for f.step < step {
		f.step++
		f.steps[f.step%lossSteps] = struct{ probes, lost uint8 }{}
	}
}

// losses returns the loss in each of LossWindows. A window begins with the step in which it would begin, so it is up to lossStep longer.
func (f *figures) losses(now time.Time) (out [len(LossWindows)]Loss) {
	f.turn(now)
	for i, w := range LossWindows {
		for k := range int64(w/lossStep) + 1 {
			if f.step < k {
				break
			}
			s := f.steps[(f.step-k)%lossSteps]
			out[i].Probes += int(s.probes)
			out[i].Lost += int(s.lost)
		}
	}
	return out
}

// bestLoss returns the loss over the shortest window that can tell; while none can, over all there is.
func bestLoss(windows [len(LossWindows)]Loss) float64 {
	for _, w := range windows {
		if ratio, ok := w.Ratio(); ok {
			return ratio
		}
	}
	ratio, _ := windows[len(windows)-1].Ratio()
	return ratio
}

// Told is what one side of a link tells the other with each probe: how its probes before went. So one side's probes measure the link
// for both. The tallies wrap around; the receiver takes differences.
type Told struct {
	RTT          time.Duration // of the newest answered probe that was not told yet; 0: none
	Probed, Lost uint16        // judged probes, and the lost ones of them
}

// tally is what a link's own probes have shown and the peer is told, and what the peer has told.
type tally struct {
	own   Told
	heard Told
	known bool // heard is set
}

// take returns what to tell now.
func (t *tally) take() Told {
	told := t.own
	t.own.RTT = 0
	return told
}

// maxTold bounds what one probe can tell: a peer that started anew counts from elsewhere.
const maxTold = 64

// hear puts what the peer tells into the figures.
func (t *tally) hear(told Told, f *figures, now time.Time) {
	probed, lost := told.Probed-t.heard.Probed, told.Lost-t.heard.Lost
	known := t.known
	t.heard, t.known = told, true
	if !known || probed > maxTold || lost > probed {
		return
	}
	for range lost {
		f.lost(now)
	}
	for i := range probed - lost {
		if i == 0 && told.RTT > 0 && told.RTT <= lossAfter {
			f.answered(told.RTT, now)
			continue
		}
		f.judged(false, now)
	}
}
