package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gridwire/gridwire/agent/workload"
)

// Workload is something that has a name on this node.
type Workload struct {
	Name    string
	Up      bool
	Counted bool // it has an interface of its own, so its packets are counted
	workload.Counters
}

// workloadDescs describe the workloads' metrics.
type workloadDescs struct{ up, rxBytes, txBytes, rxPackets, txPackets *prometheus.Desc }

func newWorkloadDescs() workloadDescs {
	d := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("gridwire_workload_"+name, help, []string{"workload"}, nil)
	}
	return workloadDescs{
		up:        d("up", "1 if the workload is there, and so has its name, else 0."),
		rxBytes:   d("receive_bytes_total", "Bytes that the workload received since it was attached."),
		txBytes:   d("transmit_bytes_total", "Bytes that the workload sent since it was attached."),
		rxPackets: d("receive_packets_total", "Packets that the workload received since it was attached."),
		txPackets: d("transmit_packets_total", "Packets that the workload sent since it was attached."),
	}
}

func (d workloadDescs) describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{d.up, d.rxBytes, d.txBytes, d.rxPackets, d.txPackets} {
		ch <- desc
	}
}

func (d workloadDescs) collect(ch chan<- prometheus.Metric, ws []Workload) {
	for _, w := range ws {
		up := 0.0
		if w.Up {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(d.up, prometheus.GaugeValue, up, w.Name)
		if !w.Counted {
			continue
		}
		for desc, v := range map[*prometheus.Desc]uint64{d.rxBytes: w.RxBytes, d.txBytes: w.TxBytes, d.rxPackets: w.RxPackets, d.txPackets: w.TxPackets} {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), w.Name)
		}
	}
}
