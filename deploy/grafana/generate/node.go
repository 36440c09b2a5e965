package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
)

const self = `network=~"$network", node="$node"`

// node shows one member: what it sees of the others, and how its agent does.
func node() (string, *builder) {
	d := board("node", "Node", "One member: its links, its traffic, its names, and its agent.").
		WithVariable(choice("node", "Member", `label_values(gridwire_members{network=~"$network"}, node)`)).
		Annotation(mark("Agent restarted", "blue", `resets(gridwire_uptime_seconds{`+self+`}[$__rate_interval]) > 0`, "{{node}}")).
		WithRow(dashboard.NewRowBuilder("$node, now"))
	for _, p := range nodeFigures() {
		d.WithPanel(p)
	}
	d.WithRow(dashboard.NewRowBuilder("Links")).
		WithPanel(peerTable()).
		WithPanel(lines("Round trip time by peer", "Means of five minutes; the 20 slowest.", unitSeconds, 12,
			ask(`topk(20, gridwire:peer_rtt_seconds:mean5m{`+self+`})`, "{{peer}}")).Min(0)).
		WithPanel(lines("Loss by peer", "Over the shortest window that has at least 20 samples; the 20 worst.", unitShare, 12,
			ask(`topk(20, gridwire:peer_loss_ratio:recent{`+self+`})`, "{{peer}}")).Min(0).AxisSoftMax(0.05)).
		WithRow(dashboard.NewRowBuilder("Traffic")).
		WithPanel(stacked(lines("Sent by peer", "With WireGuard's overhead; the 20 busiest.", unitRate, 12,
			ask(`topk(20, rate(gridwire_peer_transmit_bytes_total{`+self+`}[$__rate_interval]))`, "{{peer}}"))).Min(0)).
		WithPanel(stacked(lines("Received by peer", "With WireGuard's overhead; the 20 busiest.", unitRate, 12,
			ask(`topk(20, rate(gridwire_peer_receive_bytes_total{`+self+`}[$__rate_interval]))`, "{{peer}}"))).Min(0)).
		WithRow(dashboard.NewRowBuilder("Names, workloads, agent")).
		WithPanel(stacked(lines("DNS questions", "Answered questions by outcome. SERVFAIL: an upstream server did not answer. NXDOMAIN: there is no such name, which is an answer.", unitPerSecond, 8,
			ask(`sum by (rcode) (rate(gridwire_dns_queries_total{`+self+`}[$__rate_interval]))`, "{{rcode}}"))).
			Min(0).OverrideByName("SERVFAIL", colour(bad))).
		WithPanel(states("Workloads", "Whether each workload answered its health check.", 8,
			ask(`max by (workload) (gridwire_workload_up{`+self+`})`, "{{workload}}")).
			Height(8).NoValue("no workloads").Mappings(yesNo("up", "down", bad))).
		WithPanel(lines("Cost of probing", "What this node sends to know how its links are.", unitRate, 8,
			ask(`rate(gridwire_probe_bytes_total{`+self+`}[$__rate_interval])`, "probes")).Min(0)).
		WithPanel(lines("Clock differences", "Each peer's clock against this one's. If all of them are off, it is this one that is wrong.", unitSeconds, 12,
			ask(`gridwire_peer_clock_skew_seconds{`+self+`}`, "{{peer}}")).AxisSoftMin(-1).AxisSoftMax(1)).
		WithPanel(lines("Control connections", "Connections to proven members, over which news travels. A few are enough; none for long means being cut off.", unitCount, 12,
			ask(`gridwire_control_connections{`+self+`}`, "connections")).Min(0).Decimals(0))
	return "node", d
}

func nodeFigures() []*stat.PanelBuilder {
	return []*stat.PanelBuilder{
		figure("Running for", "Since the agent started.", unitAge, 3, now(`max(gridwire_uptime_seconds{`+self+`})`, "")),
		name("Version", "The agent's.", 3, now(`max by (version) (gridwire_build_info{`+self+`})`, "{{version}}")),
		name("NAT", "What this machine is behind (RFC 4787).", 3, now(`max by (type) (gridwire_nat_info{`+self+`})`, "{{type}}")),
		figure("Members known", "Online or not, this one included.", unitCount, 3, now(`max(gridwire_members{`+self+`})`, "")),
		figure("Links down", "Links of this node that carry nothing.", unitCount, 3, now(`sum(gridwire_peers{`+self+`, state!~"connected|idle"})`, "")).Thresholds(steps(good, 1.0, bad)),
		figure("Certificate ends in", "It is renewed ten days ahead, by any issuer that this node reaches.", unitAge, 3,
			now(`min(gridwire_certificate_expiry_timestamp_seconds{`+self+`}) - time()`, "")).Thresholds(steps(bad, 2*86400.0, doubt, 9*86400.0, good)),
		figure("Names", "Whether the agent answers DNS for the network's domain.", unitCount, 3, now(`max(gridwire_dns_serving{`+self+`})`, "")).
			Mappings(yesNo("answered", "off", doubt)),
		figure("Resolver", "Whether the system's resolver asks the agent for the network's domain.", unitCount, 3, now(`max(gridwire_dns_resolver_configured{`+self+`})`, "")).
			Mappings(yesNo("points here", "does not", doubt)),
	}
}

func peerTable() *table.PanelBuilder {
	return grid("Peers", "Every link of this node.", 24,
		rows(`max by (peer) (gridwire_peer_up{`+self+`})`),
		rows(`max by (peer, kind) (gridwire_peer_path_info{`+self+`})`),
		rows(`max by (peer) (gridwire:peer_rtt_seconds:mean5m{`+self+`})`),
		rows(`max by (peer) (gridwire:peer_loss_ratio:recent{`+self+`})`),
		rows(`sum by (peer) (rate(gridwire_peer_receive_bytes_total{`+self+`}[5m]))`),
		rows(`sum by (peer) (rate(gridwire_peer_transmit_bytes_total{`+self+`}[5m]))`),
		rows(`time() - max by (peer) (gridwire_peer_last_seen_timestamp_seconds{`+self+`} > 0)`),
		rows(`max by (peer) (gridwire_peer_mtu_bytes{`+self+`})`),
	).
		WithTransformation(merged()).
		WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
			"excludeByName": map[string]any{"Time": true, "Value #B": true},
			"indexByName": map[string]any{"peer": 0, "Value #A": 1, "kind": 2, "Value #C": 3, "Value #D": 4, "Value #E": 5, "Value #F": 6,
				"Value #G": 7,
				"Value #H": 8},
			"renameByName": map[string]any{"peer": "Peer", "Value #A": "Link", "kind": "Path", "Value #C": "Round trip", "Value #D": "Loss",
				"Value #E": "Receives", "Value #F": "Sends", "Value #G": "Heard from", "Value #H": "Largest packet"},
		}}).
		OverrideByName("Link", column(unitCount, with("mappings", yesNo("up", "down", bad)), with("custom.cellOptions", map[string]any{"type": "color-text"}))).
		OverrideByName("Round trip", append(column(unitSeconds), limits(good, rttLimits...)...)).
		OverrideByName("Loss", append(column(unitShare), limits(good, 0.03, doubt, 0.1, bad)...)).
		OverrideByName("Receives", column(unitRate)).
		OverrideByName("Sends", column(unitRate)).
		OverrideByName("Heard from", column(unitAge)).
		OverrideByName("Largest packet", column("suffix: B")).
		DataLinks([]cog.Builder[dashboard.DashboardLink]{toLink("${node}", "${__data.fields.Peer}")})
}
