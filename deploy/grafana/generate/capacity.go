package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
)

const all = `network=~"$network"`

// capacity is for whoever pays for, or is paid for, what the network carries: the month to date, unless another time is chosen.
func capacity() (string, *builder) {
	d := board("capacity", "Capacity", "What members and workloads have carried: the month to date, unless you choose another time. Counters go on over restarts of an agent. "+
		"`gridwire usage` has the same numbers, signed by both ends of a link.").
		Time("now/M", "now").Refresh("5m").
		WithRow(dashboard.NewRowBuilder("In the time chosen"))
	for _, p := range capacityFigures() {
		d.WithPanel(p)
	}
	d.WithRow(dashboard.NewRowBuilder("Workloads")).
		WithPanel(volumes("Bytes by workload", "Traffic of each workload, in both directions.", "gridwire_workload", "workload", "Workload")).
		WithPanel(stacked(lines("Traffic of workloads", "Both directions together; the 20 busiest.", unitRate, 12,
			ask(`topk(20, sum by (network, node, workload) (rate(gridwire_workload_receive_bytes_total{`+all+`}[$__rate_interval]) + rate(gridwire_workload_transmit_bytes_total{`+all+`}[$__rate_interval])))`,
				"{{workload}} on {{node}}"))).Min(0).Height(10)).
		WithRow(dashboard.NewRowBuilder("Members")).
		WithPanel(volumes("Bytes by pair", "What each member counted of its traffic with each peer, with WireGuard's overhead.", "gridwire_peer", "peer", "Peer")).
		WithPanel(stacked(lines("Traffic of members", "What each member sends to all others; the 20 busiest.", unitRate, 12,
			ask(`topk(20, sum by (network, node) (rate(gridwire_peer_transmit_bytes_total{`+all+`}[$__rate_interval])))`, "{{node}}"))).Min(0).Height(10)).
		WithPanel(bars("Availability", "Share of the time in which Prometheus got an answer from the member.", unitShare, 8,
			now(`sort(avg by (network, node) (avg_over_time(up{job="gridwire", `+all+`}[$__range])))`, "{{node}}")).
			Max(1).Thresholds(steps(bad, 0.95, doubt, 0.99, good))).
		WithPanel(bars("Use of the line", "What a member sends now, as a share of its interface's speed. An interface that does not know its speed is not here.", unitShare, 8,
			now(`sort_desc(sum by (network, node) (rate(gridwire_peer_transmit_bytes_total{`+all+`}[5m])) / max by (network, node) (gridwire_interface_speed_bytes_per_second{`+all+`} > 0))`, "{{node}}")).
			Max(1).Thresholds(steps(good, 0.7, doubt, 0.9, bad))).
		WithPanel(bars("Carried for others", "Bytes that a member has relayed between others.", unitBytes, 8,
			now(`sort_desc(sum by (network, node) (increase(gridwire_relayed_bytes_total{`+all+`}[$__range])))`, "{{node}}")))
	return "capacity", d
}

func capacityFigures() []*stat.PanelBuilder {
	sum := func(metric string) string { return `sum(increase(` + metric + `{` + all + `}[$__range]))` }
	return []*stat.PanelBuilder{
		figure("Sent by workloads", "By all workloads of all members.", unitBytes, 4, now(sum("gridwire_workload_transmit_bytes_total"), "")),
		figure("Received by workloads", "By all workloads of all members.", unitBytes, 4, now(sum("gridwire_workload_receive_bytes_total"), "")),
		figure("Sent between members", "As the senders count it, with WireGuard's overhead.", unitBytes, 4, now(sum("gridwire_peer_transmit_bytes_total"), "")),
		figure("Received between members", "As the receivers count it. What is missing against the left was lost, or its end is not scraped.", unitBytes, 4,
			now(sum("gridwire_peer_receive_bytes_total"), "")),
		figure("Members", "All members, online or not.", unitCount, 4, now(`sum(max by (network) (gridwire_members{`+all+`}))`, "")),
		figure("Disputed", "Links whose ends do not agree on what they carried.", unitCount, 4, now(`sum(gridwire_usage_disputed{`+all+`}) or vector(0)`, "")).
			Thresholds(steps(good, 1.0, doubt)),
	}
}

// volumes is a table of bytes received and sent in the time chosen, by node and one more label.
func volumes(title, description, metric, label, heading string) *table.PanelBuilder {
	bytesOf := func(direction string) string {
		return `sum by (network, node, ` + label + `) (increase(` + metric + `_` + direction + `_bytes_total{` + all + `}[$__range]))`
	}
	return grid(title, description, 12, rows(bytesOf("receive")), rows(bytesOf("transmit"))).
		Unit(unitBytes).
		WithTransformation(merged()).
		WithTransformation(arranged([2]string{"node", "Member"}, [2]string{label, heading}, [2]string{"network", "Network"}, [2]string{"Value #A", "Received"}, [2]string{"Value #B", "Sent"})).
		SortBy([]cog.Builder[common.TableSortByFieldState]{common.NewTableSortByFieldStateBuilder().DisplayName("Sent").Desc(true)})
}
