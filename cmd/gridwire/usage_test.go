package main

import (
	"testing"
	"time"
)

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 5, 17, 13, 30, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"": "2026-05-01T00:00:00Z", "2026-04-03": "2026-04-03T00:00:00Z", "2026-04-03T05:00:00+02:00": "2026-04-03T03:00:00Z",
		"36h": "2026-05-16T01:30:00Z", "7d": "2026-05-10T13:30:00Z", "0s": "2026-05-17T13:30:00Z",
	} {
		got, err := parseSince(in, now)
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"yesterday", "-3h", "d", "-1d", "2026-13-01", "99999999d"} {
		if got, err := parseSince(in, now); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}
