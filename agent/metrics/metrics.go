// Package metrics exports what the agent knows to Prometheus. It owns a registry and nothing else: each scrape asks a Source once and
// turns its answer into constant metrics, so that nothing is counted twice and no state is kept between scrapes.
package metrics

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
)

// scrapeLimit bounds how long a scrape may wait for the Source.
const scrapeLimit = 5 * time.Second

// Snapshot is what one scrape shows.
type Snapshot struct {
	Version            string
	NAT                string
	Members            int
	CertificateExpires time.Time
	ControlConnections int
	Peers              []Peer
	Queries            []Queries
	Workloads          []Workload
}

// Queries counts answered DNS questions of one kind.
type Queries struct {
	Type, RCode string
	Count       uint64
}

// Peer is one link.
type Peer struct {
	Name string
	links.Status
	Traffic ledger.Counters // of all runs of the agent
}

// Source returns the current Snapshot; it must return soon after ctx ends.
type Source func(ctx context.Context) Snapshot

type collector struct {
	source Source

	up, path, loss, rx, tx, handshake, connect, rtt *prometheus.Desc
	nat, members, expiry, control, build, queries   *prometheus.Desc
	workloads                                       workloadDescs
}

// Handler returns an HTTP handler for /metrics with a registry of its own.
func Handler(source Source) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(source)) // panics only if a name is wrong, which a test would show
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

func newCollector(source Source) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("gridwire_"+name, help, labels, nil)
	}
	return &collector{
		source:    source,
		up:        d("peer_up", "1 if WireGuard carries packets to the peer both ways (or did when the link was last used), else 0.", "peer"),
		path:      d("peer_path_info", "How packets to the peer travel; always 1.", "peer", "kind", "family", "local_type", "remote_type"),
		rtt:       d("peer_rtt_seconds", "Round trip times of probes inside the tunnel.", "peer"),
		loss:      d("peer_loss_ratio", "Share of the last 64 probes to the peer that were not answered.", "peer"),
		rx:        d("peer_receive_bytes_total", "Bytes received from the peer, WireGuard's overhead included.", "peer"),
		tx:        d("peer_transmit_bytes_total", "Bytes sent to the peer, WireGuard's overhead included.", "peer"),
		handshake: d("peer_last_handshake_timestamp_seconds", "Unix time of the last WireGuard handshake with the peer; 0 if there was none.", "peer"),
		connect:   d("peer_time_to_connect_seconds", "How long the link to the peer took to come up the last time.", "peer"),
		nat:       d("nat_info", "This machine's NAT type; always 1.", "type"),
		members:   d("members", "Members of the network, this node included, online or not."),
		expiry:    d("certificate_expiry_timestamp_seconds", "Unix time at which this node's certificate expires."),
		control:   d("control_connections", "Control connections to proven members."),
		queries:   d("dns_queries_total", "DNS questions answered, by type and response code.", "type", "rcode"),
		build:     d("build_info", "The program's version; always 1.", "version"),
		workloads: newWorkloadDescs(),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.path, c.rtt, c.loss, c.rx, c.tx, c.handshake, c.connect, c.nat, c.members, c.expiry, c.control, c.build, c.queries} {
		ch <- d
	}
	c.workloads.describe(ch)
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeLimit)
	defer cancel()
	s := c.source(ctx)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(c.build, 1, s.Version)
	gauge(c.nat, 1, s.NAT)
	gauge(c.members, float64(s.Members))
	gauge(c.control, float64(s.ControlConnections))
	gauge(c.expiry, float64(s.CertificateExpires.Unix()))
	for _, q := range s.Queries {
		ch <- prometheus.MustNewConstMetric(c.queries, prometheus.CounterValue, float64(q.Count), q.Type, q.RCode)
	}
	c.workloads.collect(ch, s.Workloads)
	for _, p := range s.Peers {
		c.peer(ch, gauge, p)
	}
}

func (c *collector) peer(ch chan<- prometheus.Metric, gauge func(*prometheus.Desc, float64, ...string), p Peer) {
	up := 0.0
	if p.State == links.Connected || p.State == links.Idle {
		up = 1
	}
	gauge(c.up, up, p.Name)
	kind, family := "none", ""
	if p.Path.Kind == "direct" {
		kind, family = "direct", "ipv6"
		if p.Path.Remote.Addr().Is4() {
			family = "ipv4"
		}
	}
	gauge(c.path, 1, p.Name, kind, family, string(p.Path.LocalType), string(p.Path.RemoteType))
	gauge(c.loss, p.Loss, p.Name)
	gauge(c.connect, p.TimeToConnect.Seconds(), p.Name)
	handshake := 0.0
	if !p.LastHandshake.IsZero() {
		handshake = float64(p.LastHandshake.UnixMilli()) / 1000
	}
	gauge(c.handshake, handshake, p.Name)
	ch <- prometheus.MustNewConstMetric(c.rx, prometheus.CounterValue, float64(p.Traffic.ReceiveBytes), p.Name)
	ch <- prometheus.MustNewConstMetric(c.tx, prometheus.CounterValue, float64(p.Traffic.TransmitBytes), p.Name)
	buckets := make(map[float64]uint64, len(links.RTTBuckets))
	sum := uint64(0)
	for i, bound := range links.RTTBuckets {
		sum += p.RTTCounts[i]
		buckets[bound.Seconds()] = sum
	}
	ch <- prometheus.MustNewConstHistogram(c.rtt, sum+p.RTTCounts[len(links.RTTBuckets)], p.RTTSum.Seconds(), buckets, p.Name)
}
