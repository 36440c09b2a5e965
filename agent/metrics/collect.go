package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

func (s *scrape) flag(i id, v *bool, values ...string) {
	if v != nil {
		s.add(i, number(*v), values...)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeLimit)
	defer cancel()
	snap := c.source(ctx)
	s := &scrape{collector: c, ch: ch, pairs: map[string][]*dto.LabelPair{}}
	s.node(snap)
	s.workloads(snap.Workloads)
	c.mu.Lock()
	own, rest := c.others.split(snap.Peers, snap.Now)
	c.mu.Unlock()
	for _, p := range own {
		s.peer(p)
	}
	s.add(peersAggregated, float64(rest.peers))
	if rest.peers > 0 {
		s.rest(rest)
	}
}

func (s *scrape) node(n Snapshot) {
	s.add(buildInfo, 1, n.Version)
	s.add(uptime, n.Now.Sub(n.Started).Seconds())
	s.add(natInfo, 1, n.NAT)
	s.add(members, float64(n.Members))
	s.add(controlConnections, float64(n.ControlConnections))
	s.add(certificateExpiry, float64(n.CertificateExpires.Unix()))
	s.add(relayedBytes, float64(n.RelayedBytes))
	s.add(probesSent, float64(n.ProbesSent))
	s.add(probeBytes, float64(n.ProbeBytes))
	for _, i := range n.Interfaces {
		s.add(interfaceSpeed, i.Speed, i.Name)
	}
	for _, q := range n.DNS.Queries {
		s.add(dnsQueries, float64(q.Count), q.Type, q.RCode)
	}
	s.flag(dnsServing, n.DNS.Serving)
	s.flag(dnsResolver, n.DNS.Resolver)
	states := map[links.State]int{links.Connected: 0, links.Connecting: 0, links.Idle: 0, links.Unreachable: 0}
	for _, p := range n.Peers {
		if p.State == "" { // it has just become a member
			p.State = links.Connecting
		}
		states[p.State]++
	}
	for state, n := range states {
		s.add(peersByState, float64(n), string(state))
	}
}

func (s *scrape) workloads(ws []Workload) {
	for _, w := range ws {
		s.add(workloadUp, number(w.Up), w.Name)
		s.traffic(workloadReceiveBytes, w.Traffic, w.Name)
	}
}

// traffic adds four counters, whose ids follow each other in this order.
func (s *scrape) traffic(first id, c ledger.Counters, who string) {
	for i, v := range [...]uint64{c.ReceiveBytes, c.TransmitBytes, c.ReceivePackets, c.TransmitPackets} {
		s.add(first+id(i), float64(v), who)
	}
}

func (s *scrape) peer(p Peer) {
	s.add(peerUp, number(up(p)), p.Name)
	kind, family := "none", ""
	if p.Path.Kind == "direct" {
		kind, family = "direct", "ipv6"
		if p.Path.Remote.Addr().Is4() {
			family = "ipv4"
		}
	}
	s.add(peerPath, 1, p.Name, kind, family, string(p.Path.LocalType), string(p.Path.RemoteType))
	s.histogram(p.RTTCounts, p.RTTSum, p.Name)
	if p.RTTSum > 0 {
		s.add(peerJitter, p.Jitter.Seconds(), p.Name)
	}
	s.loss(p.Losses, p.Name)
	s.traffic(peerReceiveBytes, p.Traffic, p.Name)
	s.add(peerHandshake, unix(p.LastHandshake), p.Name)
	s.add(peerLastSeen, unix(p.LastSeen), p.Name)
	s.add(peerConnect, p.TimeToConnect.Seconds(), p.Name)
	s.add(peerPathChanges, float64(p.PathChanges), p.Name)
	if p.MTU > 0 {
		s.add(peerMTU, float64(p.MTU), p.Name)
	}
	if p.Skew != nil {
		s.add(peerSkew, p.Skew.Seconds(), p.Name)
	}
	s.flag(usageDisputed, p.Disputed, p.Name)
}

func up(p Peer) bool { return p.State == links.Connected || p.State == links.Idle }

var windowNames = [len(links.LossWindows)]string{"1m", "5m", "15m"}

func (s *scrape) loss(losses [len(links.LossWindows)]links.Loss, who string) {
	for i, l := range losses {
		if ratio, enough := l.Ratio(); enough {
			s.add(peerLoss, ratio, who, windowNames[i])
		}
	}
}

// rest adds the series of all peers that have none of their own. What is no sum has none: a path, a time, a clock.
func (s *scrape) rest(r rest) {
	s.add(peerUp, float64(r.up), otherPeers)
	s.histogram(r.sums.counts, r.sums.rtt, otherPeers)
	s.loss(r.losses, otherPeers)
	s.traffic(peerReceiveBytes, r.sums.traffic, otherPeers)
	s.add(peerPathChanges, float64(r.sums.changes), otherPeers)
}
