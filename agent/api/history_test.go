package api

import (
	"context"
	"errors"
	"testing"
)

func TestHistoryTakesAPeerAndMinutes(t *testing.T) {
	c := serve(t, Handlers{History: HistoryHandlers{Links: func(_ context.Context, r HistoryRequest) (*History, error) {
		return &History{StepSeconds: r.Minutes, Links: []LinkHistory{{Peer: r.Peer}}}, nil
	}}})
	for query, want := range map[string]HistoryRequest{
		"":                     {"", 1440},
		"?peer=bob":            {"bob", 1440},
		"?peer=bob&minutes=60": {"bob", 60},
		"?minutes=1440":        {"", 1440},
	} {
		h := &History{}
		if err := c.Get(t.Context(), "/v1/history"+query, h); err != nil || h.StepSeconds != want.Minutes || h.Links[0].Peer != want.Peer {
			t.Errorf("%q: %+v, %v", query, h, err)
		}
	}
	for _, bad := range []string{"0", "1441", "-1", "x", "1e3"} {
		var e *Error
		if err := c.Get(t.Context(), "/v1/history?minutes="+bad, nil); !errors.As(err, &e) || e.Code != CodeUsage {
			t.Errorf("minutes=%s: %v", bad, err)
		}
	}
}
