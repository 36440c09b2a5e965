package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/gridwire/gridwire/agent/links"
)

// sample is a metric with one value. Prometheus' own constant metrics copy and sort their labels each, nine allocations for one value; with 200
// peers and 30 series of each, that was half of what a scrape cost. Here a peer's labels are made once for all its series, and all samples of a
// scrape lie in a few pieces of memory.
type sample struct {
	desc    *prometheus.Desc
	labels  []*dto.LabelPair // sorted by name
	value   float64
	gauge   dto.Gauge
	counter dto.Counter
	count   bool
}

// Desc implements prometheus.Metric.
func (s *sample) Desc() *prometheus.Desc { return s.desc }

// Write implements prometheus.Metric.
func (s *sample) Write(out *dto.Metric) error {
	out.Label = s.labels
	if s.count {
		s.counter.Value = &s.value
		out.Counter = &s.counter
		return nil
	}
	s.gauge.Value = &s.value
	out.Gauge = &s.gauge
	return nil
}

// rttHistogram is a histogram of round trip times.
type rttHistogram struct {
	desc    *prometheus.Desc
	labels  []*dto.LabelPair
	count   uint64
	sum     float64
	bounds  *[len(links.RTTBuckets)]float64 // the same for all
	counts  [len(links.RTTBuckets)]uint64   // cumulated
	buckets [len(links.RTTBuckets)]dto.Bucket
	list    [len(links.RTTBuckets)]*dto.Bucket
	out     dto.Histogram
}

// Desc implements prometheus.Metric.
func (h *rttHistogram) Desc() *prometheus.Desc { return h.desc }

// Write implements prometheus.Metric.
func (h *rttHistogram) Write(out *dto.Metric) error {
	for i := range h.buckets {
		h.buckets[i].UpperBound, h.buckets[i].CumulativeCount = &h.bounds[i], &h.counts[i]
		h.list[i] = &h.buckets[i]
	}
	h.out.SampleCount, h.out.SampleSum, h.out.Bucket = &h.count, &h.sum, h.list[:]
	out.Label, out.Histogram = h.labels, &h.out
	return nil
}

func rttBounds() *[len(links.RTTBuckets)]float64 {
	var out [len(links.RTTBuckets)]float64
	for i, b := range links.RTTBuckets {
		out[i] = b.Seconds()
	}
	return &out
}

func (h *rttHistogram) set(counts rttCounts, sum time.Duration) {
	for i := range h.counts {
		h.count += counts[i]
		h.counts[i] = h.count
	}
	h.count += counts[len(links.RTTBuckets)]
	h.sum = sum.Seconds()
}

// slab is where the samples of a scrape lie.
const slab = 512

// scrape is one answer being written.
type scrape struct {
	*collector
	ch      chan<- prometheus.Metric
	samples []sample // room for the next
	who     string   // whose labels of one pair were made last
	pairs   map[string][]*dto.LabelPair
}

func (s *scrape) add(i id, v float64, values ...string) {
	if len(s.samples) == 0 {
		s.samples = make([]sample, slab)
	}
	m := &s.samples[0]
	s.samples = s.samples[1:]
	m.desc, m.value, m.count, m.labels = s.descs[i], v, specs[i].kind == counter, s.label(i, values)
	s.ch <- m
}

// label returns the metric's labels. Those that have a peer only are made once for it.
func (s *scrape) label(i id, values []string) []*dto.LabelPair {
	names := specs[i].labels
	if len(names) != len(values) {
		panic("metric " + specs[i].name + ": as many values as labels are needed") // a mistake in this package, which its test shows
	}
	switch len(names) {
	case 0:
		return nil
	case 1:
		if s.who != values[0] {
			s.who = values[0]
			clear(s.pairs)
		}
		if s.pairs[names[0]] == nil {
			s.pairs[names[0]] = []*dto.LabelPair{{Name: &names[0], Value: &values[0]}}
		}
		return s.pairs[names[0]]
	}
	pairs := make([]dto.LabelPair, len(names))
	out := make([]*dto.LabelPair, len(names))
	for k := range names {
		pairs[k].Name, pairs[k].Value = &names[k], &values[k]
		at := k
		for ; at > 0 && *out[at-1].Name > names[k]; at-- {
			out[at] = out[at-1]
		}
		out[at] = &pairs[k]
	}
	return out
}

func (s *scrape) histogram(counts rttCounts, sum time.Duration, who string) {
	h := &rttHistogram{desc: s.descs[peerRTT], labels: s.label(peerRTT, []string{who}), bounds: s.bounds}
	h.set(counts, sum)
	s.ch <- h
}
