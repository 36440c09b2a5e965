package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
)

// one selects the series of the link as `node` sees it; back as `peer` does.
const (
	one  = `network=~"$network", node="$node", peer="$peer"`
	back = `network=~"$network", node="$peer", peer="$node"`
)

// link shows one pair, from both of its ends.
func link() (string, *builder) {
	d := board("link", "Link", "One link, as its two ends see it. Vertical lines mark when its path changed and when an agent began anew.").
		WithVariable(choice("node", "From", `label_values(gridwire_peer_up{network=~"$network"}, node)`)).
		WithVariable(choice("peer", "To", `label_values(gridwire_peer_up{network=~"$network", node="$node"}, peer)`)).
		Annotation(mark("Path changed", doubt, `increase(gridwire_peer_path_changes_total{`+one+`}[$__rate_interval]) > 0 or `+
			`increase(gridwire_peer_path_changes_total{`+back+`}[$__rate_interval]) > 0`, "{{node}} to {{peer}}")).
		Annotation(mark("Agent restarted", "blue", `resets(gridwire_uptime_seconds{network=~"$network", node=~"$node|$peer"}[$__rate_interval]) > 0`, "{{node}}")).
		WithRow(dashboard.NewRowBuilder("$node to $peer, now"))
	for _, p := range linkFigures() {
		d.WithPanel(p)
	}
	d.WithRow(dashboard.NewRowBuilder("Quality")).
		WithPanel(lines("Round trip time", "From probes inside the tunnel: half of them were faster than the median. Usual and limit are learned from the day before.", unitSeconds, 12,
			quantile("0.5", one, "median, $node measures"),
			quantile("0.95", one, "95 %, $node measures"),
			quantile("0.5", back, "median, $peer measures"),
			ask(`gridwire:peer_rtt_seconds:baseline1d{`+one+`}`, "usual"),
			ask(`gridwire:peer_rtt_seconds:limit{`+one+`}`, "limit")).
			Min(0).OverrideByName("usual", dashed("text")).OverrideByName("limit", dashed(bad))).
		WithPanel(lines("Loss", "Share of probes and counted packets that did not arrive. A window with fewer than 20 samples has no line.", unitShare, 12,
			ask(`max by (window) (gridwire_peer_loss_ratio{`+one+`})`, "$node, {{window}}"),
			ask(`max by (window) (gridwire_peer_loss_ratio{`+back+`})`, "$peer, {{window}}"),
			ask(`gridwire:peer_loss_ratio:limit{`+one+`}`, "limit")).
			Min(0).AxisSoftMax(0.05).OverrideByName("limit", dashed(bad))).
		WithPanel(lines("Jitter", "How much the round trip time varies from one probe to the next.", unitSeconds, 12,
			ask(`gridwire_peer_jitter_seconds{`+one+`}`, "$node measures"), ask(`gridwire_peer_jitter_seconds{`+back+`}`, "$peer measures")).Min(0)).
		WithPanel(states("Path", "How packets travel. A row for each way that was taken: coloured while it is in use.", 12,
			ask(`sum by (kind, family, local_type, remote_type) (gridwire_peer_path_info{`+one+`})`, "{{kind}} {{family}} {{local_type}} {{remote_type}}")).
			Height(8).Mappings(words(map[string][2]string{"1": {"in use", good}}))).
		WithRow(dashboard.NewRowBuilder("Traffic")).
		WithPanel(lines("Throughput", "As $node counts it, with WireGuard's overhead. What it sends is above the axis, what it receives below.", unitRate, 12,
			ask(`rate(gridwire_peer_transmit_bytes_total{`+one+`}[$__rate_interval])`, "to $peer"),
			ask(`-rate(gridwire_peer_receive_bytes_total{`+one+`}[$__rate_interval])`, "from $peer"))).
		WithPanel(lines("Packets", "As $node counts them. What it sends is above the axis, what it receives below.", unitPackets, 12,
			ask(`rate(gridwire_peer_transmit_packets_total{`+one+`}[$__rate_interval])`, "to $peer"),
			ask(`-rate(gridwire_peer_receive_packets_total{`+one+`}[$__rate_interval])`, "from $peer")))
	return "link", d
}

// quantile asks for the round trip time that a share of probes stayed below.
func quantile(of, series, legend string) *prometheus.DataqueryBuilder {
	return ask(`histogram_quantile(`+of+`, sum by (le) (rate(gridwire_peer_rtt_seconds_bucket{`+series+`}[$__rate_interval])))`, legend)
}

func dashed(c string) []dashboard.DynamicConfigValue {
	return append(colour(c), with("custom.lineStyle", map[string]any{"fill": "dash", "dash": []int{6, 6}}), with("custom.fillOpacity", 0))
}

func linkFigures() []*stat.PanelBuilder {
	return []*stat.PanelBuilder{
		figure("Link", "Up: WireGuard carries packets both ways, or did when the link was last used.", unitCount, 3,
			now(`max(gridwire_peer_up{`+one+`})`, "")).Mappings(yesNo("up", "down", bad)),
		name("Path", "Straight to the peer, through a relaying member, or none.", 3, now(`max by (kind) (gridwire_peer_path_info{`+one+`})`, "{{kind}}")),
		figure("Round trip", "Mean of five minutes.", unitSeconds, 3, now(`max(gridwire:peer_rtt_seconds:mean5m{`+one+`})`, "")).Thresholds(steps(good, rttLimits...)),
		figure("Loss", "Over the shortest window that has at least 20 samples.", unitShare, 3, now(`max(gridwire:peer_loss_ratio:recent{`+one+`})`, "")).
			Thresholds(steps(good, 0.03, doubt, 0.1, bad)).Decimals(1),
		figure("Last handshake", "A link in use has a new one every two minutes; an idle one may be old.", unitAge, 3,
			now(`time() - max(gridwire_peer_last_handshake_timestamp_seconds{`+one+`} > 0)`, "")),
		figure("Time to connect", "How long the link took to come up the last time.", unitSeconds, 3, now(`max(gridwire_peer_time_to_connect_seconds{`+one+`})`, "")),
		figure("Clock difference", "The peer's clock against this one's.", unitSeconds, 3, now(`max(gridwire_peer_clock_skew_seconds{`+one+`})`, "")).
			Thresholds(steps(bad, -60.0, good, 60.0, bad)),
		figure("Path changes", "In the time that the page shows, as the end that saw more of them counts. The moments are marked below.", unitCount, 3,
			now(`max(increase(gridwire_peer_path_changes_total{`+one+`}[$__range]) or increase(gridwire_peer_path_changes_total{`+back+`}[$__range]))`, "")).
			Decimals(0).GraphMode(common.BigValueGraphModeNone),
	}
}
