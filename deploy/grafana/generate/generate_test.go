package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const shipped = "../dashboards"

// TestDashboardsAreUpToDate: what is shipped is what the definitions say, and nothing else is there.
func TestDashboardsAreUpToDate(t *testing.T) {
	files, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(shipped, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the definitions say: go generate ./deploy/... (%v)", name, err)
		}
	}
	there, err := os.ReadDir(shipped)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range there {
		if files[e.Name()] == nil {
			t.Errorf("%s/%s is made by nobody", shipped, e.Name())
		}
	}
}

func dashboards(t *testing.T) map[string]classic {
	t.Helper()
	files, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]classic{}
	for name, text := range files {
		var d classic
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[name] = d
	}
	return out
}

// TestPanelsSayWhatTheyShow: each has a title, a sentence of explanation, a unit, a word for no data, and a place of its own.
func TestPanelsSayWhatTheyShow(t *testing.T) {
	for name, d := range dashboards(t) {
		taken := map[[2]uint32]string{}
		ids := map[uint32]bool{}
		panels := 0
		for _, p := range d.Panels {
			if p.Panel == nil {
				continue
			}
			panels++
			p := p.Panel
			title := "(none)"
			if p.Title != nil {
				title = *p.Title
			}
			if p.Title == nil || p.Description == nil || !strings.HasSuffix(*p.Description, ".") {
				t.Errorf("%s: the panel %s lacks a title, or a sentence about what it shows", name, title)
			}
			if f := p.FieldConfig; f == nil || f.Defaults.NoValue == nil || f.Defaults.Unit == nil && p.Type != "table" {
				t.Errorf("%s: %s has no unit, or no word for no data", name, title)
			}
			if p.Id == nil || ids[*p.Id] {
				t.Errorf("%s: %s has no number of its own", name, title)
			} else {
				ids[*p.Id] = true
			}
			if p.GridPos.X+p.GridPos.W > 24 {
				t.Errorf("%s: %s stands out at the right", name, title)
			}
			for x := range p.GridPos.W {
				for y := range p.GridPos.H {
					at := [2]uint32{p.GridPos.X + x, p.GridPos.Y + y}
					if taken[at] != "" {
						t.Fatalf("%s: %s lies on %s", name, title, taken[at])
					}
					taken[at] = title
				}
			}
		}
		if panels < 10 {
			t.Errorf("%s has %d panels only: was it read at all?", name, panels)
		}
	}
}

// TestQueriesAreOfTheChosenNetwork: a query without the variable would mix members of the same name in two networks.
func TestQueriesAreOfTheChosenNetwork(t *testing.T) {
	for name, text := range must(generate())(t) {
		queries := expressions(t, text)
		if len(queries) < 10 {
			t.Errorf("%s has %d queries only: were they found?", name, len(queries))
		}
		for _, q := range queries {
			if !strings.Contains(q, `network=~"$network`) {
				t.Errorf("%s: this query is about all networks: %s", name, q)
			}
		}
	}
}

// expressions returns everything that is called expr, however deep.
func expressions(t *testing.T, text []byte) (out []string) {
	t.Helper()
	var all any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if q, is := v["expr"].(string); is {
				out = append(out, q)
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(all)
	return out
}

// TestAgentDoesNotLinkGrafana: the definitions are big, and for whoever changes a dashboard only.
func TestAgentDoesNotLinkGrafana(t *testing.T) {
	deps := string(must(exec.Command("go", "list", "-deps", "../../../cmd/gridwire").Output())(t))
	if !slices.Contains(strings.Fields(deps), "github.com/gridwire/gridwire/agent") {
		t.Fatalf("this is not the agent's list: %s", deps)
	}
	if strings.Contains(deps, "grafana") {
		t.Error("the agent links Grafana's definitions")
	}
}

func must[V any](v V, err error) func(*testing.T) V {
	return func(t *testing.T) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
