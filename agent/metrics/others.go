package metrics

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
)

const (
	// maxPeers have series of their own: some 33 each, so 7,000 of the tens of thousands that Prometheus takes from one target with ease.
	maxPeers = 200
	// otherPeers is the peer under which the rest is summed.
	otherPeers = "other"
	// inUse is from how many bytes a second, both ways together, a link counts as used: an idle one's probes take up to 400.
	inUse = 500
	// judgeEvery is for how long traffic is averaged at least; several Prometheis may scrape in turns.
	judgeEvery = 10 * time.Second
)

type rttCounts = [len(links.RTTBuckets) + 1]uint64

// sums are what only grows. The peers that go into them change, so they are made of what each has grown while it had no series of its own: a
// plain sum would fall when a peer gets some, and Prometheus would take the next value for traffic of that moment.
type sums struct {
	traffic ledger.Counters
	changes uint64
	counts  rttCounts
	rtt     time.Duration
}

func sumsOf(p Peer) sums { return sums{p.Traffic, p.PathChanges, p.RTTCounts, p.RTTSum} }

// grow adds what has come since before; nothing where counting began anew.
func (s *sums) grow(now, before sums) {
	s.traffic.ReceiveBytes += since(now.traffic.ReceiveBytes, before.traffic.ReceiveBytes)
	s.traffic.TransmitBytes += since(now.traffic.TransmitBytes, before.traffic.TransmitBytes)
	s.traffic.ReceivePackets += since(now.traffic.ReceivePackets, before.traffic.ReceivePackets)
	s.traffic.TransmitPackets += since(now.traffic.TransmitPackets, before.traffic.TransmitPackets)
	s.changes += since(now.changes, before.changes)
	for i := range s.counts {
		s.counts[i] += since(now.counts[i], before.counts[i])
	}
	s.rtt += max(0, now.rtt-before.rtt)
}

func since(now, before uint64) uint64 {
	if now < before {
		return 0
	}
	return now - before
}

// rest is what is shown of the peers without series of their own.
type rest struct {
	peers, up int
	losses    [len(links.LossWindows)]links.Loss
	sums      sums
}

// others decides who has series of its own in a large network, and keeps the sums of the rest.
type others struct {
	known map[string]*known
	sums  sums
}

// known is what is remembered of a peer between scrapes.
type known struct {
	last   sums
	judged time.Time // when its traffic was looked at
	bytes  uint64    // that it had then
	used   time.Time // when it was last in use
	own    bool      // it has series of its own
}

func newOthers() others { return others{known: map[string]*known{}} }

// split returns the peers that have series of their own, and the rest. Those that were in use last have them; a peer that has keeps them as
// long as nobody else needs the place, so series do not come and go. A peer that is called "other" must be content with being one of them.
func (o *others) split(peers []Peer, now time.Time) (own []Peer, r rest) {
	if len(peers) <= maxPeers {
		clear(o.known)
		return peers, rest{}
	}
	o.look(peers, now)
	own = slices.Clone(peers)
	slices.SortFunc(own, func(a, b Peer) int {
		x, y := o.known[a.Name], o.known[b.Name]
		return cmp.Or(
			cmp.Compare(number(a.Name == otherPeers), number(b.Name == otherPeers)), y.used.Compare(x.used),
			cmp.Compare(number(y.own), number(x.own)), strings.Compare(a.Name, b.Name))
	})
	own, others := own[:maxPeers], own[maxPeers:]
	for _, p := range own {
		o.known[p.Name].own = true
	}
	for _, p := range others {
		o.known[p.Name].own = false
		r.peers++
		r.up += int(number(up(p)))
		for i, l := range p.Losses {
			r.losses[i].Probes += l.Probes
			r.losses[i].Lost += l.Lost
		}
	}
	r.sums = o.sums
	return own, r
}

// look brings what is known up to date.
func (o *others) look(peers []Peer, now time.Time) {
	present := make(map[string]bool, len(peers))
	for _, p := range peers {
		present[p.Name] = true
		bytes := p.Traffic.ReceiveBytes + p.Traffic.TransmitBytes
		k := o.known[p.Name]
		if k == nil {
			k = &known{last: sumsOf(p), judged: now, bytes: bytes}
			o.known[p.Name] = k
			continue
		}
		if !k.own {
			o.sums.grow(sumsOf(p), k.last)
		}
		k.last = sumsOf(p)
		if span := now.Sub(k.judged); span >= judgeEvery || span < 0 {
			if float64(since(bytes, k.bytes)) >= inUse*span.Seconds() {
				k.used = now
			}
			k.judged, k.bytes = now, bytes
		}
	}
	for name := range o.known {
		if !present[name] {
			delete(o.known, name)
		}
	}
}
