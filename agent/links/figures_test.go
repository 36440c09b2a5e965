package links

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var noon = time.Unix(1_800_000_000, 0)

// TestLossWindows compares the steps with a plain list of probes, over hours, with rests and a clock that jumps.
func TestLossWindows(t *testing.T) {
	type probe struct {
		at   time.Time
		lost bool
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	var f figures
	var all []probe
	now := noon
	for i := range 20_000 {
		switch {
		case i%1000 == 999:
			now = now.Add(time.Duration(rnd.IntN(40)) * time.Minute)
		case i == 7777: // set back: what was measured is of another time
			now, all = now.Add(-time.Hour), nil
		default:
			now = now.Add(time.Duration(rnd.IntN(4000)) * time.Millisecond)
		}
		p := probe{now, rnd.IntN(10) == 0}
		all = append(all, p)
		if p.lost {
			f.lost(now)
		} else {
			f.answered(time.Millisecond, now)
		}
		if i%37 != 0 {
			continue
		}
		got := f.losses(now)
		for k, w := range LossWindows {
			begin := now.Add(-w).Truncate(lossStep)
			var want Loss
			for _, p := range all {
				if !p.at.Before(begin) {
					want.Probes++
					if p.lost {
						want.Lost++
					}
				}
			}
			if got[k] != want {
				t.Fatalf("probe %d, %v: %+v, want %+v", i, w, got[k], want)
			}
		}
	}
}

func TestLossNeeds20Probes(t *testing.T) {
	for n, want := range map[int]bool{0: false, 1: false, 19: false, 20: true} {
		if _, ok := (Loss{Probes: n}).Ratio(); ok != want {
			t.Errorf("%d probes: %v", n, ok)
		}
	}
	var f figures
	for range 19 {
		f.answered(time.Millisecond, noon)
	}
	f.lost(noon)
	if got := bestLoss(f.losses(noon)); got != 0.05 {
		t.Errorf("loss %v, want 0.05", got)
	}
}

// TestJitter: RFC 3550, 6.4.1, on a plain series.
func TestJitter(t *testing.T) {
	var f figures
	want := 0.0
	before := -1.0
	for i := range 200 {
		rtt := 20 + float64(i*7919%13)
		if before >= 0 {
			want += (math.Abs(rtt-before) - want) / 16
		}
		before = rtt
		f.answered(time.Duration(rtt*float64(time.Millisecond)), noon)
	}
	if got := f.jitter.Seconds() * 1000; math.Abs(got-want) > 0.001 {
		t.Errorf("jitter %v ms, want %v", got, want)
	}
	for range 300 {
		f.answered(30*time.Millisecond, noon)
	}
	if f.jitter > time.Microsecond {
		t.Errorf("jitter %v on a steady link", f.jitter)
	}
}

func TestMinutes(t *testing.T) {
	var f figures
	f.answered(30*time.Millisecond, noon)
	f.answered(10*time.Millisecond, noon)
	f.lost(noon.Add(59 * time.Second))
	f.answered(time.Second, noon.Add(60*time.Second))
	f.down(noon.Add(61 * time.Second))
	n := noon.Unix() / 60
	first, second := f.minutes[n&1], f.minutes[(n+1)&1]
	if first != (Minute{Number: n, Min: 10 * time.Millisecond, Max: 30 * time.Millisecond, Sum: 40 * time.Millisecond, Answered: 2, Lost: 1}) {
		t.Errorf("%+v", first)
	}
	if second.Number != n+1 || second.Answered != 1 || !second.Down {
		t.Errorf("%+v", second)
	}
}

// TestTold: both sides count the same probes, whichever sends them, and no peer can tell more than there is.
func TestTold(t *testing.T) {
	var from, to tally
	var f figures
	tell := func() { to.hear(from.take(), &f, noon) }
	from.own.Probed = 65530 // wraps around soon; what was before is not known to be of this link
	tell()
	for i := range 100 {
		from.own.Probed++
		if i%10 == 9 {
			from.own.Lost++
		} else {
			from.own.RTT = 5 * time.Millisecond
		}
		tell()
	}
	if got := f.losses(noon)[0]; got != (Loss{100, 10}) || f.rtt != 5*time.Millisecond || f.counts[3] != 90 {
		t.Errorf("heard of %+v, RTT %v, %v", got, f.rtt, f.counts)
	}
	for _, bad := range []Told{{Probed: from.own.Probed + 1000}, {Probed: 10, Lost: 30}, {Probed: 9, Lost: 8, RTT: time.Hour}} {
		before := f
		to.hear(bad, &f, noon)
		if f != before {
			t.Errorf("%+v is believed", bad)
		}
	}
	tell() // after nonsense the difference begins anew
	from.own.Probed++
	tell()
	if got := f.losses(noon)[0]; got != (Loss{101, 10}) {
		t.Errorf("after nonsense: %+v", got)
	}
}

func FuzzDecodeProbe(f *testing.F) {
	request := encodeRequest(7, Told{RTT: time.Millisecond, Probed: 3, Lost: 1})
	reply := encodeReply(7)
	f.Add(request[:])
	f.Add(reply[:])
	f.Add(request[:12])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, ok := decodeProbe(b)
		switch {
		case !ok:
			return
		case e.reply:
			if got := encodeReply(e.seq); string(got[:]) != string(b[:replyLen]) {
				t.Errorf("%x reads as %+v", b, e)
			}
		case e.tells:
			if got := encodeRequest(e.seq, e.told); string(got[:]) != string(b[:requestLen]) {
				t.Errorf("%x reads as %+v", b, e)
			}
		}
	})
}
