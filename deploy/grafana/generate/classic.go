package main

//lint:file-ignore SA1019 Grafana's second schema for dashboards is understood by its newest versions only, the first by all that are in use.

import "github.com/grafana/grafana-foundation-sdk/go/dashboard"

type (
	classic = dashboard.Dashboard
	builder = dashboard.DashboardBuilder
)

func newBuilder(title string) *builder { return dashboard.NewDashboardBuilder(title) }
