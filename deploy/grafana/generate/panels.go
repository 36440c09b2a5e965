package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// The colours of states, the same everywhere: what works, what needs a look, what is broken, what says nothing.
const (
	good  = "green"
	doubt = "orange"
	bad   = "red"
	plain = "text"
)

// Units by Grafana's names.
const (
	unitCount     = "short"
	unitSeconds   = "s"
	unitAge       = "dtdurations"
	unitShare     = "percentunit"
	unitBytes     = "bytes"  // IEC, as in `gridwire status`
	unitRate      = "binBps" // bytes a second, IEC
	unitPackets   = "pps"
	unitPerSecond = "ops"
)

var source = common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}

// board begins a dashboard: what all of them have. Their variables follow in the order in which they are added.
func board(uid, title, description string) *builder {
	return newBuilder(title).
		Uid("gridwire-"+uid).Description(description).Tags([]string{"gridwire"}).
		Timezone("browser").Time("now-6h", "now").Refresh("30s").Readonly().
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Link(dashboard.NewDashboardLinkBuilder("gridwire").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{"gridwire"}).
			IncludeVars(true).KeepTime(true)).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus")).
		WithVariable(choice("network", "Network", "label_values(gridwire_members, network)").
			IncludeAll(true).AllValue(".*").
			Current(dashboard.VariableOption{Text: text("All"), Value: text("$__all")}))
}

func text(s string) dashboard.StringOrArrayOfString {
	return dashboard.StringOrArrayOfString{String: &s}
}

// choice is a variable whose values Prometheus knows.
func choice(name, label, query string) *dashboard.QueryVariableBuilder {
	return dashboard.NewQueryVariableBuilder(name).Label(label).Datasource(source).
		Query(dashboard.StringOrMap{String: &query}).Definition(query).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortNaturalAsc)
}

// ask is a query over the dashboard's time range, and what its lines are called.
func ask(expr, legend string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source).Expr(expr).LegendFormat(legend).Range()
}

// now is a query for the newest value alone.
func now(expr, legend string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source).Expr(expr).LegendFormat(legend).Instant()
}

// rows is now, as rows of a table.
func rows(expr string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source).Expr(expr).Format(prometheus.PromQueryFormatTable).Instant()
}

func targets(queries []*prometheus.DataqueryBuilder) []cog.Builder[variants.Dataquery] {
	out := make([]cog.Builder[variants.Dataquery], 0, len(queries))
	for i, q := range queries {
		out = append(out, q.RefId(string(rune('A'+i))))
	}
	return out
}

// steps are thresholds: the first colour, and each next one from a value on.
func steps(first string, then ...any) cog.Builder[dashboard.ThresholdsConfig] {
	list := []dashboard.Threshold{{Color: first}}
	for i := 0; i < len(then); i += 2 {
		list = append(list, dashboard.Threshold{Value: cog.ToPtr(then[i].(float64)), Color: then[i+1].(string)})
	}
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(list)
}

func thresholdColours() cog.Builder[dashboard.FieldColor] {
	return dashboard.NewFieldColorBuilder().Mode(dashboard.FieldColorModeIdThresholds)
}

// words shows texts for numbers, with a colour each.
func words(of map[string][2]string) []dashboard.ValueMapping {
	m := dashboard.NewValueMap()
	for value, w := range of {
		m.Options[value] = dashboard.ValueMappingResult{Text: &w[0], Color: &w[1]}
	}
	return []dashboard.ValueMapping{{ValueMap: m}}
}

// yesNo is words for a gauge that is 1 or 0.
func yesNo(yes, no, colour string) []dashboard.ValueMapping {
	return words(map[string][2]string{"1": {yes, good}, "0": {no, colour}})
}

// figure is one number, the newest.
func figure(title, description, unit string, width uint32, q *prometheus.DataqueryBuilder) *stat.PanelBuilder {
	return stat.NewPanelBuilder().Title(title).Description(description).Datasource(source).Unit(unit).Height(4).Span(width).
		Targets(targets([]*prometheus.DataqueryBuilder{q})).NoValue("no data").
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		Orientation(common.VizOrientationAuto).GraphMode(common.BigValueGraphModeNone).ColorMode(common.BigValueColorModeValue).
		Thresholds(steps(plain)).ColorScheme(thresholdColours())
}

// name is a label's value as a figure: its query's legend.
func name(title, description string, width uint32, q *prometheus.DataqueryBuilder) *stat.PanelBuilder {
	return figure(title, description, unitCount, width, q).TextMode(common.BigValueTextModeName)
}

// lines are curves over time.
func lines(title, description, unit string, width uint32, queries ...*prometheus.DataqueryBuilder) *timeseries.PanelBuilder {
	return timeseries.NewPanelBuilder().Title(title).Description(description).Datasource(source).Unit(unit).Height(8).Span(width).
		Targets(targets(queries)).NoValue("no data").
		LineWidth(1).FillOpacity(8).ShowPoints(common.VisibilityModeAuto).
		SpanNulls(common.BoolOrFloat64{Bool: cog.ToPtr(false)}). // a gap is news
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(true).DisplayMode(common.LegendDisplayModeTable).
			Placement(common.LegendPlacementBottom).Calcs([]string{"lastNotNull", "max"})).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
}

func stacked(p *timeseries.PanelBuilder) *timeseries.PanelBuilder {
	return p.FillOpacity(30).Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal))
}

// bars compare the newest values of several series, the longest first.
func bars(title, description, unit string, width uint32, q *prometheus.DataqueryBuilder) *bargauge.PanelBuilder {
	return bargauge.NewPanelBuilder().Title(title).Description(description).Datasource(source).Unit(unit).Min(0).Height(8).Span(width).
		Targets(targets([]*prometheus.DataqueryBuilder{q})).NoValue("none").
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		Orientation(common.VizOrientationHorizontal).DisplayMode(common.BarGaugeDisplayModeGradient).ShowUnfilled(false).
		Thresholds(steps(good)).ColorScheme(thresholdColours())
}

// grid is a table; merged and arranged say what becomes of its columns.
func grid(title, description string, width uint32, queries ...*prometheus.DataqueryBuilder) *table.PanelBuilder {
	return table.NewPanelBuilder().Title(title).Description(description).Datasource(source).Height(10).Span(width).
		Targets(targets(queries)).NoValue("none").ShowHeader(true).Thresholds(steps(plain)).ColorScheme(thresholdColours())
}

// merged makes one row of what several queries say about the same thing.
func merged() dashboard.DataTransformerConfig {
	return dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}}
}

// arranged puts columns in order under names of their own. Each is a pair: the field, and its heading. Time is left out: all rows are of now.
func arranged(columns ...[2]string) dashboard.DataTransformerConfig {
	order, names := map[string]any{}, map[string]any{}
	for i, c := range columns {
		order[c[0]], names[c[0]] = i, c[1]
	}
	return dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
		"excludeByName": map[string]any{"Time": true}, "indexByName": order, "renameByName": names,
	}}
}

// column says how a column of a table looks.
func column(unit string, more ...dashboard.DynamicConfigValue) []dashboard.DynamicConfigValue {
	return append([]dashboard.DynamicConfigValue{{Id: "unit", Value: unit}}, more...)
}

func with(id string, value any) dashboard.DynamicConfigValue {
	return dashboard.DynamicConfigValue{Id: id, Value: value}
}

// limits colours a column's cells by thresholds.
func limits(first string, then ...any) []dashboard.DynamicConfigValue {
	t, _ := steps(first, then...).Build() // has no way to fail
	return []dashboard.DynamicConfigValue{
		with("thresholds", t), with("color", map[string]any{"mode": "thresholds"}),
		with("custom.cellOptions", map[string]any{"type": "color-background", "mode": "basic"}),
	}
}

// states shows which of several values held when.
func states(title, description string, width uint32, queries ...*prometheus.DataqueryBuilder) *statetimeline.PanelBuilder {
	return statetimeline.NewPanelBuilder().Title(title).Description(description).Datasource(source).Unit(unitCount).Height(5).Span(width).
		Targets(targets(queries)).NoValue("no data").
		ShowValue(common.VisibilityModeNever).MergeValues(true).RowHeight(0.8).
		Thresholds(steps(plain)).ColorScheme(thresholdColours()).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(true).DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom))
}

// mark draws a line into all curves of a dashboard where the query has a value. Grafana asks what is in the target; old versions asked what is
// beside it, and all take the texts from there.
func mark(title, colour, expr, text string) *dashboard.AnnotationQueryBuilder {
	const step = "60s"
	return dashboard.NewAnnotationQueryBuilder().Name(title).Datasource(source).Enable(true).IconColor(colour).
		Target(ask(expr, "").RefId("Anno").Interval(step)).
		Expr(expr).Step(step).TitleFormat(title).TextFormat(text)
}

// toLink leads from a row or a bar with a node and a peer to their page.
func toLink(node, peer string) cog.Builder[dashboard.DashboardLink] {
	return dashboard.NewDashboardLinkBuilder("This link").Type(dashboard.DashboardLinkTypeLink).
		Url("/d/gridwire-link?${datasource:queryparam}&${network:queryparam}&${__url_time_range}&var-node=" + node + "&var-peer=" + peer)
}
