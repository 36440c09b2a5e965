//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/e2e/observe"
)

// shown is what of a dashboard's JSON asks Prometheus.
type shown struct {
	Panels []struct {
		Title   string
		Type    string
		Targets []struct {
			Expr, Format string
		}
	}
	Templating struct {
		List []struct {
			Name, Type string
			Query      any
		}
	}
	Annotations struct {
		List []struct {
			Name   string
			Target struct{ Expr string }
		}
	}
}

// dashboards runs every query of the dashboards that we ship, as Grafana would with bob and his link to alice chosen.
func (w *watched) dashboards() {
	w.Helper()
	files, err := filepath.Glob("../deploy/grafana/dashboards/*.json")
	if err != nil || len(files) < 4 {
		w.Fatalf("dashboards: %v, %v", files, err)
	}
	queries := map[string][]string{} // by expression: where
	table := map[string]bool{}
	for _, f := range files {
		var d shown
		if err := json.Unmarshal(must(os.ReadFile(f))(w), &d); err != nil {
			w.Fatalf("%s: %v", f, err)
		}
		name := filepath.Base(f)
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				queries[q.Expr] = append(queries[q.Expr], name+", "+p.Title)
				table[q.Expr] = table[q.Expr] || q.Format == "table"
			}
		}
		for _, v := range d.Templating.List {
			if m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(fmt.Sprint(v.Query)); m != nil {
				expr := "count by (" + m[2] + ") (" + m[1] + ")"
				queries[expr] = append(queries[expr], name+", variable "+v.Name)
			} else if v.Type == "query" {
				w.Errorf("%s: the variable %s asks %v, which this test does not understand", name, v.Name, v.Query)
			}
		}
		for _, a := range d.Annotations.List {
			queries[a.Target.Expr] = append(queries[a.Target.Expr], name+", annotation "+a.Name)
		}
	}
	if len(queries) < 60 {
		w.Errorf("%d queries only: were they read?", len(queries))
	}
	start := time.Now()
	for expr, where := range queries {
		w.answered(start.Add(15*time.Second), expr, where, table[expr])
	}
}

var chosen = strings.NewReplacer("$__rate_interval", "30s", "$__range", "1h", "$__interval", "15s", "$network", "farm", "$node", "bob", "$peer", "alice")

// answered checks that a query has a number by a deadline. In a table every label is a column, and rows of several queries become one where all
// their labels are the same: so there no answer may have the name of a metric.
func (w *watched) answered(deadline time.Time, expr string, where []string, table bool) {
	w.Helper()
	asked := chosen.Replace(expr)
	if strings.Contains(asked, "$") {
		w.Errorf("%v: a variable that this test does not know: %s", where, expr)
		return
	}
	for {
		// Over time, because a thing that has happened is not happening now.
		got, err := w.prometheus.QueryRange(w.ctx(10*time.Second), asked, time.Now().Add(-3*time.Minute), time.Second)
		if err != nil {
			w.Errorf("%v: %v", where, err)
			return
		}
		if table && slices.ContainsFunc(got, func(s observe.Sample) bool { return s.Labels["__name__"] != "" || s.Labels["instance"] != "" }) {
			w.Errorf("%v: a table would have columns that nobody wants: %s", where, asked)
			return
		}
		if slices.ContainsFunc(got, func(s observe.Sample) bool { return !math.IsNaN(s.Value) }) {
			return
		}
		if time.Now().After(deadline) {
			w.Errorf("%v: no data: %s (%v)", where, asked, got)
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}
