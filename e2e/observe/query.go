//go:build linux

package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"
)

// Sample is one series of an answer, with its newest value.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// answer is what the HTTP API wraps everything in (https://prometheus.io/docs/prometheus/latest/querying/api/).
type answer struct {
	Status string          `json:"status"`
	Error  string          `json:"error"`
	Data   json.RawMessage `json:"data"`
}

// get asks the API and returns the answer's data.
func (p *Prometheus) get(ctx context.Context, path string, q url.Values) (json.RawMessage, error) {
	body, err := p.fetch(ctx, path+"?"+q.Encode())
	var a answer
	if json.Unmarshal(body, &a) == nil && a.Status == "error" {
		return nil, fmt.Errorf("Prometheus says: %s", a.Error) // better than its status alone
	}
	return a.Data, err
}

type series struct {
	Metric map[string]string    `json:"metric"`
	Value  [2]json.RawMessage   `json:"value"`
	Values [][2]json.RawMessage `json:"values"`
}

func (p *Prometheus) query(ctx context.Context, path string, q url.Values) ([]Sample, error) {
	data, err := p.get(ctx, path, q)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", q.Get("query"), err)
	}
	var d struct {
		Result []series `json:"result"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("ask %s: read the answer: %w", q.Get("query"), err)
	}
	var out []Sample
	for _, s := range d.Result {
		newest := s.Value[1]
		if n := len(s.Values); n > 0 {
			newest = s.Values[n-1][1]
		}
		var text string
		if err := json.Unmarshal(newest, &text); err != nil {
			return nil, fmt.Errorf("ask %s: read a value: %w", q.Get("query"), err)
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("ask %s: read a value: %w", q.Get("query"), err)
		}
		out = append(out, Sample{Labels: s.Metric, Value: v})
	}
	return out, nil
}

// Query asks for the value of a PromQL expression now. It must be a vector.
func (p *Prometheus) Query(ctx context.Context, expr string) ([]Sample, error) {
	return p.query(ctx, "/api/v1/query", url.Values{"query": {expr}})
}

// QueryRange asks for the values of an expression from a time until now, and returns each series with its newest.
func (p *Prometheus) QueryRange(ctx context.Context, expr string, from time.Time, step time.Duration) ([]Sample, error) {
	unix := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	return p.query(ctx, "/api/v1/query_range", url.Values{
		"query": {expr}, "start": {unix(from)}, "end": {unix(time.Now())}, "step": {unix(time.UnixMilli(step.Milliseconds()))},
	})
}

// Rule is a rule as Prometheus runs it.
type Rule struct {
	Name      string `json:"name"`
	Type      string `json:"type"`
	Health    string `json:"health"` // "ok", "err", "unknown": not evaluated yet
	LastError string `json:"lastError"`
	State     string `json:"state"` // of an alert: "inactive", "pending", "firing"
}

// Rules returns all rules.
func (p *Prometheus) Rules(ctx context.Context) ([]Rule, error) {
	data, err := p.get(ctx, "/api/v1/rules", nil)
	if err != nil {
		return nil, fmt.Errorf("ask for the rules: %w", err)
	}
	var d struct {
		Groups []struct {
			Rules []Rule `json:"rules"`
		} `json:"groups"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("ask for the rules: read the answer: %w", err)
	}
	var out []Rule
	for _, g := range d.Groups {
		out = append(out, g.Rules...)
	}
	return out, nil
}
