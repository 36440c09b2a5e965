package pmtu

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// path is a link as the core meets it: what it carries, how long that takes, what it loses.
type path struct {
	t      *testing.T
	core   *Core
	now    time.Time
	link   Link
	limit  int
	rtt    time.Duration
	loss   float64
	random *rand.Rand

	reading time.Time
	coming  []arrival
	probes  int
	bytes   int
	told    []Changed
}

type arrival struct {
	at  time.Time
	seq uint32
}

func newPath(t *testing.T, limit int) *path {
	p := &path{
		t: t, core: NewCore(1420, 0), now: time.Unix(1700000000, 0), limit: limit, rtt: 20 * time.Millisecond, random: rand.New(rand.NewPCG(1, 2)),
		link: Link{Peer: mesh.NodeID{1}, Addr: netip.MustParseAddr("fd00::1"), Up: true, Remote: netip.MustParseAddrPort("192.0.2.1:51820")},
	}
	return p
}

func (p *path) step(ev Event) {
	for _, a := range p.core.Step(ev, p.now) {
		switch a := a.(type) {
		case Probe:
			p.probes++
			p.bytes += a.Size
			if a.To != p.link.Addr {
				p.t.Fatalf("a probe to %v", a.To)
			}
			if a.Size <= p.limit && p.random.Float64() >= p.loss {
				p.coming = append(p.coming, arrival{p.now.Add(p.rtt), a.Seq})
			}
		case Changed:
			p.told = append(p.told, a)
		}
	}
}

// run lets time pass, a link reading each fifth of a second as the runner does it; traffic is what is sent and heard between two readings.
func (p *path) run(d time.Duration, sent, heard uint64) {
	end := p.now.Add(d)
	for p.now.Before(end) {
		p.now = p.now.Add(10 * time.Millisecond)
		rest := p.coming[:0:0]
		for _, a := range p.coming {
			if p.now.Before(a.at) {
				rest = append(rest, a)
				continue
			}
			p.step(Answered{From: p.link.Addr, Seq: a.seq})
		}
		p.coming = append(rest, p.coming[len(p.coming):]...)
		if next := p.core.Next(); !next.IsZero() && !p.now.Before(next) {
			p.step(Tick{})
		}
		if p.now.Sub(p.reading) >= 200*time.Millisecond {
			p.reading = p.now
			p.link.Sent += sent
			p.link.Heard += heard
			p.step(Links{[]Link{p.link}})
		}
	}
}

func (p *path) mtu() int { return p.core.Paths()[p.link.Peer].MTU }

func (p *path) settled() bool { return p.core.Paths()[p.link.Peer].Settled }

func TestSearchFindsWhatPasses(t *testing.T) {
	for limit := minimum; limit <= 1430; limit++ {
		p := newPath(t, limit)
		p.step(Links{[]Link{p.link}})
		p.run(3*time.Second, 0, 0)
		want := 0
		for _, size := range sizesUpTo(1420) {
			if size <= limit {
				want = size
			}
		}
		if p.mtu() != want || !p.settled() {
			t.Fatalf("a path of %d: found %d (settled %v), want %d", limit, p.mtu(), p.settled(), want)
		}
		most := 40_000
		if limit >= 1420 {
			most = 1420 // the usual case costs one packet
		}
		if p.bytes > most {
			t.Errorf("a path of %d: %d probes, %d bytes", limit, p.probes, p.bytes)
		}
		if last := p.told[len(p.told)-1]; last.MTU != want {
			t.Errorf("told %+v", p.told)
		}
	}
}

func TestSearchBearsLoss(t *testing.T) {
	wrong := 0
	for seed := range uint64(200) {
		p := newPath(t, 1300)
		p.loss, p.random = 0.1, rand.New(rand.NewPCG(seed, 1))
		p.step(Links{[]Link{p.link}})
		p.run(5*time.Second, 0, 0)
		if !p.settled() || p.mtu() > 1296 || p.mtu() < 1200 {
			t.Errorf("seed %d: %d, settled %v", seed, p.mtu(), p.settled())
		}
		if p.mtu() < 1296 {
			wrong++
		}
	}
	if wrong > 4 { // one time in a thousand a size is given up by chance, and a few count
		t.Errorf("%d of 200 searches ended too low", wrong)
	}
}

func TestIdleLinkIsQuiet(t *testing.T) {
	p := newPath(t, 1420)
	p.step(Links{[]Link{p.link}})
	p.run(time.Second, 0, 0)
	p.step(CameUp{p.link.Peer})
	before := p.probes
	p.run(time.Second, 0, 0)
	p.run(30*time.Minute, 90, 90) // a keepalive in each reading is much more than there is
	if p.probes != before {
		t.Errorf("%d probes on an idle link", p.probes-before)
	}
	if !p.core.Next().IsZero() {
		t.Error("an idle link keeps a timer running")
	}
	for range 10 { // looked at because another link carries something
		p.now = p.now.Add(10 * time.Minute)
		p.link.Sent += 7000 // 12 B/s
		p.step(Links{[]Link{p.link}})
	}
	if p.probes != before {
		t.Errorf("%d probes after long rests", p.probes-before)
	}
}

func TestBlackHole(t *testing.T) {
	p := newPath(t, 1420)
	p.step(Links{[]Link{p.link}})
	p.run(5*time.Second, 1<<20, 1<<15)
	p.run(time.Second, 1<<20, 1<<20) // in the other direction too
	p.limit, p.told = 1220, nil
	p.run(500*time.Millisecond, 20_000, 0)
	start := p.now
	for p.mtu() > 1220 && p.now.Sub(start) < 5*time.Second {
		p.run(100*time.Millisecond, 1500, 200) // what is stuck is sent again; only small packets come back
	}
	if took := p.now.Sub(start); took > 1200*time.Millisecond {
		t.Errorf("%v to find that large packets no longer pass: %+v", took, p.told)
	}
	p.run(3*time.Second, 1<<20, 1<<15)
	if p.mtu() != 1216 || !p.settled() {
		t.Errorf("found %d", p.mtu())
	}
}

// TestBlackHoleOneWay: what the peer sends arrives all the time, and would hide that nothing large reaches it.
func TestBlackHoleOneWay(t *testing.T) {
	for _, heard := range []uint64{1 << 20, 5000} {
		p := newPath(t, 1420)
		p.step(Links{[]Link{p.link}})
		p.run(5*time.Second, 3000, heard)
		p.limit = 1300
		limit := 1200 * time.Millisecond
		if heard < bulkBytes {
			limit = confirmMax + time.Second
		}
		p.run(limit, 3000, heard)
		if p.mtu() > 1296 {
			t.Errorf("hearing %d bytes in each reading: still %d after %v", heard, p.mtu(), limit)
		}
	}
}

// TestPathGrows: on the same path a larger size is tried after ten minutes of which the last moment had traffic; on a new one at once.
func TestPathGrows(t *testing.T) {
	p := newPath(t, 1300)
	p.step(Links{[]Link{p.link}})
	p.run(3*time.Second, 0, 0)
	p.limit = 1420
	p.run(raiseEvery-10*time.Second, 100_000, 10_000)
	if p.mtu() != 1296 {
		t.Errorf("raised to %d before its time", p.mtu())
	}
	p.run(20*time.Second, 100_000, 10_000)
	if p.mtu() != 1420 {
		t.Errorf("after ten minutes: %d", p.mtu())
	}
	p = newPath(t, 1300)
	p.step(Links{[]Link{p.link}})
	p.run(3*time.Second, 0, 0)
	p.limit = 1420
	p.link.Remote = netip.MustParseAddrPort("192.0.2.7:51820")
	p.step(Links{[]Link{p.link}})
	p.run(100*time.Millisecond, 0, 0)
	if p.mtu() != 1420 || !p.settled() {
		t.Errorf("on a new path: %d", p.mtu())
	}
}

// TestLossOfEverything: a dead link says nothing about sizes; whether it is dead is for agent/links to find.
func TestLossOfEverything(t *testing.T) {
	p := newPath(t, 1420)
	p.step(Links{[]Link{p.link}})
	p.run(5*time.Second, 1<<20, 1<<15)
	p.told = nil
	p.limit = 0
	p.run(20*time.Second, 10_000, 0)
	if p.mtu() != 1420 || len(p.told) != 0 {
		t.Errorf("a dead link changed the path MTU: %+v", p.told)
	}
	p.link.Up = false
	p.step(Links{[]Link{p.link}})
	if n := p.probes; true {
		p.run(time.Minute, 10_000, 0)
		if p.probes != n {
			t.Error("probes on a link that is down")
		}
	}
	p.limit, p.link.Up = 1300, true
	p.step(Links{[]Link{p.link}})
	p.step(CameUp{p.link.Peer})
	p.run(3*time.Second, 0, 0)
	if p.mtu() != 1296 {
		t.Errorf("after it came up: %d", p.mtu())
	}
	p.step(Links{})
	if len(p.core.Paths()) != 0 {
		t.Error("a member that is gone is remembered")
	}
}

// TestOneWayTrickle: a sensor that sends and is never answered must not pay for it in probes.
func TestOneWayTrickle(t *testing.T) {
	p := newPath(t, 1420)
	p.step(Links{[]Link{p.link}})
	p.run(5*time.Minute, 1100, 0)
	before := p.probes
	p.run(5*time.Minute, 1100, 0)
	if n := p.probes - before; n > 32 || n < 25 {
		t.Errorf("%d probes in five minutes, want one in 10 s", n)
	}
}

func TestStrangersAreNotBelieved(t *testing.T) {
	p := newPath(t, 0)
	p.step(Links{[]Link{p.link}})
	for seq := range uint32(100) {
		p.step(Answered{From: netip.MustParseAddr("fd00::bad"), Seq: seq})
	}
	p.step(Answered{From: p.link.Addr, Seq: 77}) // never asked
	if p.mtu() != 0 {
		t.Errorf("believed %d", p.mtu())
	}
}

func TestSizes(t *testing.T) {
	for _, top := range []int{1280, 1420, 8920, 65535} {
		sizes := sizesUpTo(top)
		for i, s := range sizes {
			if i > 0 && s <= sizes[i-1] || s%padding != 0 && s != top {
				t.Errorf("up to %d: %v", top, sizes)
				break
			}
		}
		if sizes[len(sizes)-1] != top {
			t.Errorf("up to %d: ends with %d", top, sizes[len(sizes)-1])
		}
	}
}
