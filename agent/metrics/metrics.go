// Package metrics exports what the agent knows to Prometheus, and who is in the network to its service discovery.
//
// It owns a registry. Each scrape asks a Source once and turns its answer into constant metrics, so that nothing is counted twice. All that is
// kept between scrapes is what bounds their size: in a network of more than maxPeers, who has series of its own (others), and the sums of the rest.
package metrics

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
)

const (
	// scrapeLimit bounds how long a scrape may wait for the Source.
	scrapeLimit = 5 * time.Second
	// maxScrapes is how many may be in progress: each takes about a megabyte.
	maxScrapes = 4
)

// Snapshot is what one scrape shows.
type Snapshot struct {
	Now                time.Time
	Started            time.Time // of the agent
	Version            string
	NAT                string
	Members            int
	CertificateExpires time.Time
	ControlConnections int
	RelayedBytes       uint64
	ProbesSent         uint64
	ProbeBytes         uint64
	Interfaces         []Interface
	DNS                DNS
	Peers              []Peer
	Workloads          []Workload
}

// Interface is a network interface of the machine.
type Interface struct {
	Name  string
	Speed float64 // bytes per second
}

// DNS is what is known about names. Serving and Resolver are nil where that is not known.
type DNS struct {
	Queries  []Queries
	Serving  *bool // names are answered
	Resolver *bool // the system's resolver asks us
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
	Traffic  ledger.Counters // of all runs of the agent
	LastSeen time.Time       // zero: never
	MTU      int             // 0: not known
	Skew     *time.Duration  // how far its clock is ahead of ours; nil: not known
	Disputed *bool           // its word on our traffic is not ours; nil: it has not been asked
}

// Workload is something that has a name on this node.
type Workload struct {
	Name    string
	Up      bool
	Traffic ledger.Counters // of all runs of the agent
}

// Source returns the current Snapshot; it must return soon after ctx ends.
type Source func(ctx context.Context) Snapshot

type collector struct {
	source Source
	descs  [len(specs)]*prometheus.Desc
	bounds *[len(links.RTTBuckets)]float64

	mu     sync.Mutex // guards others: two scrapes may come at once
	others others
}

// Handler returns an HTTP handler for /metrics with a registry of its own. Besides the metrics in specs it shows what client_golang knows of
// the process (process_...: memory, processor time, open files).
func Handler(source Source) http.Handler {
	r := prometheus.NewRegistry()
	// Both panic only if a name is wrong, which a test would show.
	r.MustRegister(newCollector(source), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return compressed(promhttp.HandlerFor(r, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: maxScrapes, DisableCompression: true}))
}

func newCollector(source Source) *collector {
	return &collector{source: source, descs: newDescs(), bounds: rttBounds(), others: newOthers()}
}
