package metrics

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
)

// crowd is a mesh of many peers whose counters tests change.
type crowd struct {
	now   time.Time
	peers []Peer
}

func newCrowd(n int) *crowd {
	c := &crowd{now: noon}
	for i := range n {
		p := Peer{Name: fmt.Sprintf("peer-%04d", i), Status: links.Status{State: links.Connected}, LastSeen: noon}
		p.RTTCounts[3], p.RTTSum = 10, time.Second
		p.Losses[2] = links.Loss{Probes: 36, Lost: i % 2}
		p.Traffic = ledger.Counters{ReceiveBytes: 1000, TransmitBytes: 1000, ReceivePackets: 10, TransmitPackets: 10}
		c.peers = append(c.peers, p)
	}
	return c
}

func (c *crowd) source(context.Context) Snapshot {
	return Snapshot{Now: c.now, Started: noon, Members: len(c.peers) + 1, Peers: slices.Clone(c.peers)}
}

// pass lets time pass; those peers carry so many bytes a second.
func (c *crowd) pass(d time.Duration, bytes uint64, who ...int) {
	c.now = c.now.Add(d)
	for _, i := range who {
		c.peers[i].Traffic.ReceiveBytes += bytes * uint64(d/time.Second)
	}
}

var ownSeries = regexp.MustCompile(`gridwire_peer_up\{peer="([^"]*)"\} (\S+)`)

// own returns the peers that have series of their own.
func own(page string) map[string]bool {
	out := map[string]bool{}
	for _, m := range ownSeries.FindAllStringSubmatch(page, -1) {
		out[m[1]] = true
	}
	return out
}

func value(t *testing.T, page, series string) (v float64) {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+series+" ")
	if !ok {
		t.Fatalf("no %s", series)
	}
	if _, err := fmt.Sscan(rest, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestUpTo200PeersHaveSeriesOfTheirOwn(t *testing.T) {
	c := newCrowd(maxPeers)
	page := get(t, Handler(c.source), "")
	if got := own(page); len(got) != maxPeers || got[otherPeers] {
		t.Errorf("%d peers have series of their own", len(got))
	}
	if value(t, page, "gridwire_peers_aggregated") != 0 {
		t.Error("some are aggregated")
	}
}

func TestAbove200ThoseInUseKeepTheirs(t *testing.T) {
	c := newCrowd(300)
	h := Handler(c.source)
	used := []int{230, 280, 299}
	get(t, h, "")
	for range 3 {
		c.pass(15*time.Second, 5000, used...)
		c.pass(0, 0)
		page := get(t, h, "")
		got := own(page)
		if len(got) != maxPeers+1 || !got[otherPeers] {
			t.Fatalf("%d peers have series, want %d and %q", len(got), maxPeers, otherPeers)
		}
		for _, i := range used {
			if !got[c.peers[i].Name] {
				t.Errorf("%s is in use and has none", c.peers[i].Name)
			}
		}
		if value(t, page, "gridwire_peers_aggregated") != 100 || value(t, page, `gridwire_peer_up{peer="other"}`) != 100 {
			t.Error("100 links are counted together")
		}
		if got := value(t, page, `gridwire_peer_loss_ratio{peer="other",window="15m"}`); got < 0.013 || got > 0.015 {
			t.Errorf("loss of the others is %v, want 0.5 of 36", got)
		}
		if strings.Contains(page, `gridwire_peer_path_info{family="",kind="none",local_type="",peer="other"`) {
			t.Error("all others together have a path")
		}
		if problems, err := promlint.New(strings.NewReader(page)).Lint(); err != nil || len(problems) > 0 {
			t.Errorf("%v %v", problems, err)
		}
	}
	// They keep them at rest: nobody else needs the place.
	c.pass(24*time.Hour, 0)
	if got := own(get(t, h, "")); !got[c.peers[230].Name] {
		t.Error("a peer at rest lost its series to others at rest")
	}
}

// TestSeriesDoNotComeAndGo: with more peers in use than have room, the same ones stay.
func TestSeriesDoNotComeAndGo(t *testing.T) {
	c := newCrowd(260)
	h := Handler(c.source)
	var all []int
	for i := range c.peers {
		all = append(all, i)
	}
	get(t, h, "")
	c.pass(15*time.Second, 5000, all...)
	before := own(get(t, h, ""))
	for range 3 {
		c.pass(15*time.Second, 5000, all...)
		slices.Reverse(c.peers) // the source's order means nothing
		now := own(get(t, h, ""))
		for name := range before {
			if !now[name] {
				t.Fatalf("%s lost its series", name)
			}
		}
	}
}

// TestTheOthersSumOnlyGrows by what was carried, whoever goes in and out.
func TestTheOthersSumOnlyGrows(t *testing.T) {
	c := newCrowd(300)
	h := Handler(c.source)
	last := value(t, get(t, h, ""), `gridwire_peer_receive_bytes_total{peer="other"}`)
	if last != 0 {
		t.Errorf("the sum begins at %v, which Prometheus would take for traffic of now", last)
	}
	for i := range 12 {
		c.pass(15*time.Second, 1_000_000, (i*37)%300) // it is in the sum when it begins to be used, and out of it then
		c.pass(0, 0)
		got := value(t, get(t, h, ""), `gridwire_peer_receive_bytes_total{peer="other"}`)
		if got < last || got > last+15_000_000 {
			t.Fatalf("round %d: %v after %v", i, got, last)
		}
		last = got
	}
	c.peers[299].Traffic.ReceiveBytes = 5 // counted anew
	if got := value(t, get(t, h, ""), `gridwire_peer_receive_bytes_total{peer="other"}`); got < last {
		t.Errorf("%v after %v", got, last)
	}
}

func TestAMemberCalledOther(t *testing.T) {
	c := newCrowd(300)
	c.peers[0].Name = otherPeers
	h := Handler(c.source)
	get(t, h, "")
	c.pass(15*time.Second, 1_000_000, 0)
	if n := strings.Count(get(t, h, ""), "\ngridwire_peer_up{peer=\"other\"}"); n != 1 {
		t.Errorf("%d series of that name", n)
	}
	c.peers = c.peers[:10]
	if n := strings.Count(get(t, h, ""), "\ngridwire_peer_up{peer=\"other\"}"); n != 1 {
		t.Errorf("%d series of that name in a small mesh", n)
	}
}

func TestPeersThatAreGoneAreForgotten(t *testing.T) {
	c := newCrowd(300)
	k := newCollector(c.source)
	k.others.split(c.peers, c.now)
	k.others.split(c.peers[:250], c.now)
	if len(k.others.known) != 250 {
		t.Errorf("%d are remembered", len(k.others.known))
	}
	k.others.split(c.peers[:100], c.now)
	if len(k.others.known) != 0 {
		t.Errorf("%d are remembered in a small mesh", len(k.others.known))
	}
}

// BenchmarkScrape200 is what a scrape costs besides the Source, with every series there can be.
func BenchmarkScrape200(b *testing.B) {
	c := newCrowd(maxPeers)
	skew, yes := time.Second, true
	for i := range c.peers {
		p := &c.peers[i]
		p.Losses = [3]links.Loss{{Probes: 25, Lost: 1}, {Probes: 60, Lost: 3}, {Probes: 99, Lost: 4}}
		p.MTU, p.Skew, p.Disputed, p.Jitter = 1420, &skew, &yes, time.Millisecond
	}
	h := Handler(c.source)
	b.ReportAllocs()
	n := 0
	for range b.N {
		n = len(get(b, h, "application/openmetrics-text;version=1.0.0"))
	}
	b.ReportMetric(float64(n), "bytes")
}
