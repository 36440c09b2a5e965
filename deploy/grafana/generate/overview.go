package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
)

// rttLimits are for round trips of any link, near or far, in seconds: a look, and a worry.
var rttLimits = []any{0.1, doubt, 0.3, bad}

// overview is for one look: is the mesh well, and where is it not?
func overview() (string, *builder) {
	d := board("overview", "Mesh overview", "Is the network well, and where is it not? A link is counted at both of its ends.").
		WithRow(dashboard.NewRowBuilder("Now"))
	for _, p := range overviewFigures() {
		d.WithPanel(p)
	}
	d.WithRow(dashboard.NewRowBuilder("Links")).
		WithPanel(stacked(lines("Links by path", "Where packets go: straight to the peer, through a relaying member, or nowhere. Each link counts at both ends.", unitCount, 12,
			ask(`sum by (kind) (gridwire_peer_path_info{network=~"$network"})`, "{{kind}}"))).
			OverrideByName("direct", colour(good)).OverrideByName("relay", colour(doubt)).OverrideByName("none", colour(bad)).Min(0).Decimals(0)).
		WithPanel(distribution()).
		WithPanel(everyPair()).
		WithPanel(worst("Slowest links", "Mean round trip of the last five minutes, and above which value the alert takes it for too slow for this link.",
			"gridwire:peer_rtt_seconds:mean5m", "gridwire:peer_rtt_seconds:limit", "Round trip", unitSeconds, rttLimits)).
		WithPanel(worst("Links that lose most", "Loss over the shortest window that has at least 20 samples, and above which value the alert takes it for too much.",
			"gridwire:peer_loss_ratio:recent", "gridwire:peer_loss_ratio:limit", "Loss", unitShare, []any{0.03, doubt, 0.1, bad})).
		WithPanel(grid("Links that are down", "No packet crosses. Where a member is off, all links to it are here.", 8,
			rows(`max by (network, node, peer) (gridwire_peer_up{network=~"$network", peer!="other"}) == 0`)).
			WithTransformation(arranged([2]string{"node", "From"}, [2]string{"peer", "To"}, [2]string{"network", "Network"}, [2]string{"Value", "State"})).
			OverrideByName("State", column(unitCount, with("mappings", words(map[string][2]string{"0": {"down", bad}})), with("custom.width", 80))).
			DataLinks([]cog.Builder[dashboard.DashboardLink]{toLink("${__data.fields.From}", "${__data.fields.To}")})).
		WithRow(dashboard.NewRowBuilder("Members")).
		WithPanel(stacked(lines("Traffic of the whole mesh", "What all members send to each other, with WireGuard's overhead.", unitRate, 12,
			ask(`sum by (network) (rate(gridwire_peer_transmit_bytes_total{network=~"$network"}[$__rate_interval]))`, "{{network}}"))).Min(0)).
		WithPanel(bars("Who sends most", "Averages of the last five minutes.", unitRate, 6,
			now(`topk(10, sum by (network, node) (rate(gridwire_peer_transmit_bytes_total{network=~"$network"}[5m])))`, "{{node}}"))).
		WithPanel(bars("NAT types", "What members are behind. Two that are both endpoint-dependent (symmetric) cannot link directly.", unitCount, 6,
			now(`sort_desc(count by (type) (gridwire_nat_info{network=~"$network"}))`, "{{type}}")).Decimals(0)).
		WithPanel(memberTable())
	return "overview", d
}

func colour(c string) []dashboard.DynamicConfigValue {
	return []dashboard.DynamicConfigValue{with("color", map[string]any{"mode": "fixed", "fixedColor": c})}
}

func overviewFigures() []*stat.PanelBuilder {
	return []*stat.PanelBuilder{
		figure("Members", "All members, online or not, as the best informed of them counts.", unitCount, 4,
			now(`sum(max by (network) (gridwire_members{network=~"$network"}))`, "")),
		figure("Heard from", "Members from which another member, or Prometheus, has heard in the last five minutes.", unitCount, 4,
			now(`count((gridwire:member_silence_seconds:min{network=~"$network"} < 300) or on (network, node) (up{job="gridwire", network=~"$network"} == 1)) or vector(0)`, "")),
		figure("Scraped", "Members whose metrics Prometheus gets. The rest is off, or does not serve them on the overlay.", unitCount, 4,
			now(`count(up{job="gridwire", network=~"$network"} == 1) or vector(0)`, "")),
		figure("Link ends down", "Each link has two ends; a member that is off takes one end of each of its links.", unitCount, 4,
			now(`sum(gridwire_peers{network=~"$network", state!~"connected|idle"}) or vector(0)`, "")).
			Thresholds(steps(good, 1.0, bad)),
		figure("Direct", "Share of the links that are up whose packets go straight to the peer.", unitShare, 4,
			now(`sum(gridwire_peer_path_info{network=~"$network", kind="direct"}) / sum(gridwire_peer_path_info{network=~"$network", kind!="none"})`, "")).
			Thresholds(steps(bad, 0.8, doubt, 0.95, good)).Decimals(0),
		figure("Alerts", "Alerts that fire now.", unitCount, 4,
			now(`count(ALERTS{alertname=~"Gridwire.+", alertstate="firing", network=~"$network|"}) or vector(0)`, "")).
			Thresholds(steps(good, 1.0, bad)),
	}
}

// distribution shows whether most links are fast, and whether that changes.
func distribution() *heatmap.PanelBuilder {
	return heatmap.NewPanelBuilder().Title("Round trip times of all links").
		Description("Each column is a moment, each row a range of round trip times; the brighter, the more probes took that long.").
		Datasource(source).Unit(unitSeconds).Height(8).Span(12).NoValue("no data").
		Targets(targets([]*prometheus.DataqueryBuilder{
			ask(`sum by (le) (rate(gridwire_peer_rtt_seconds_bucket{network=~"$network"}[$__rate_interval]))`, "{{le}}").Format(prometheus.PromQueryFormatHeatmap),
		})).
		Calculate(false).CellGap(1).ShowLegend().
		YAxis(heatmap.NewYAxisConfigBuilder().Unit(unitSeconds).AxisPlacement(common.AxisPlacementLeft)).
		CellValues(heatmap.NewCellValuesBuilder().Unit(unitPerSecond)).
		Color(heatmap.NewHeatmapColorOptionsBuilder().Mode(heatmap.HeatmapColorModeScheme).Scheme("Turbo").Steps(64).Exponent(0.5).Fill("dark-orange")).
		FilterValues(heatmap.NewFilterValueRangeBuilder().Le(1e-9)).
		Tooltip(heatmap.NewHeatmapTooltipBuilder().Mode(common.TooltipDisplayModeSingle))
}

// everyPair is the heat map of the mesh: who measures in rows, to whom in columns.
func everyPair() *table.PanelBuilder {
	return grid("Round trip time of every pair", "Who measured is the row, to whom is the column: the mean of five minutes. An empty cell had no probe, or no link.", 24,
		rows(`sum by (node, peer) (gridwire:peer_rtt_seconds:mean5m{network=~"$network"})`)).
		Unit(unitSeconds).
		WithTransformation(sortedBy("peer")). // the order of columns
		WithTransformation(dashboard.DataTransformerConfig{Id: "groupingToMatrix", Options: map[string]any{
			"rowField": "node", "columnField": "peer", "valueField": "Value", "emptyValue": "null",
		}}).
		WithTransformation(sortedBy(`node\peer`)). // the name that the matrix gives its first column
		OverrideByFieldType("number", limits(good, rttLimits...)).
		OverrideByRegexp(`^node\\peer$`, []dashboard.DynamicConfigValue{with("displayName", "from \\ to")})
}

func sortedBy(field string) dashboard.DataTransformerConfig {
	return dashboard.DataTransformerConfig{Id: "sortBy", Options: map[string]any{"fields": map[string]any{}, "sort": []any{map[string]any{"field": field}}}}
}

// worst is a table of the links with the highest values, each with its own limit.
func worst(title, description, value, limit, heading, unit string, thresholds []any) *table.PanelBuilder {
	// By labels, so that no row has the metric's name, by which those of two queries would not be the same.
	of := func(metric string) string {
		return `max by (network, node, peer) (` + metric + `{network=~"$network"})`
	}
	top := `topk(10, ` + of(value) + `)`
	return grid(title, description, 8, rows(top), rows(of(limit)+` and `+top)).
		WithTransformation(merged()).
		WithTransformation(arranged([2]string{"node", "From"}, [2]string{"peer", "To"}, [2]string{"network", "Network"}, [2]string{"Value #A", heading}, [2]string{"Value #B", "Limit"})).
		OverrideByName(heading, append(column(unit), limits(good, thresholds...)...)).
		OverrideByName("Limit", column(unit)).
		SortBy([]cog.Builder[common.TableSortByFieldState]{common.NewTableSortByFieldStateBuilder().DisplayName(heading).Desc(true)}).
		DataLinks([]cog.Builder[dashboard.DashboardLink]{toLink("${__data.fields.From}", "${__data.fields.To}")})
}

func memberTable() *table.PanelBuilder {
	return grid("Members", "Those whose metrics Prometheus gets.", 24,
		rows(`max by (network, node, version) (gridwire_build_info{network=~"$network"})`),
		rows(`max by (network, node) (gridwire_uptime_seconds{network=~"$network"})`),
		rows(`sum by (network, node) (gridwire_peers{network=~"$network", state=~"connected|idle"})`),
		rows(`max by (network, node) (gridwire_certificate_expiry_timestamp_seconds{network=~"$network"}) - time()`),
		rows(`sum by (network, node) (rate(gridwire_peer_receive_bytes_total{network=~"$network"}[5m]))`),
		rows(`sum by (network, node) (rate(gridwire_peer_transmit_bytes_total{network=~"$network"}[5m]))`),
	).
		WithTransformation(merged()).
		WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
			"excludeByName": map[string]any{"Time": true, "Value #A": true},
			"indexByName":   map[string]any{"node": 0, "network": 1, "version": 2, "Value #B": 3, "Value #C": 4, "Value #D": 5, "Value #E": 6, "Value #F": 7},
			"renameByName": map[string]any{"node": "Member", "network": "Network", "version": "Version", "Value #B": "Running for", "Value #C": "Links up",
				"Value #D": "Certificate ends in", "Value #E": "Receives", "Value #F": "Sends"},
		}}).
		OverrideByName("Running for", column(unitAge)).
		OverrideByName("Links up", column(unitCount)).
		OverrideByName("Certificate ends in", append(column(unitAge), limits(bad, 2*86400.0, doubt, 9*86400.0, good)...)).
		OverrideByName("Receives", column(unitRate)).
		OverrideByName("Sends", column(unitRate)).
		DataLinks([]cog.Builder[dashboard.DashboardLink]{
			dashboard.NewDashboardLinkBuilder("This member").Type(dashboard.DashboardLinkTypeLink).
				Url("/d/gridwire-node?${datasource:queryparam}&${network:queryparam}&${__url_time_range}&var-node=${__data.fields.Member}"),
		})
}
