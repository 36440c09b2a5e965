package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

func TestStatusTellsWhatHappenedBeforeAnybodyLooked(t *testing.T) {
	now := time.Date(2026, 11, 20, 18, 0, 0, 0, time.UTC)
	at := func(ago time.Duration) *time.Time { t := now.Add(-ago); return &t }
	loss := func(v float64) *float64 { return &v }
	peers := []api.Peer{
		{Name: "quiet", LastDay: &api.LinkDay{Minutes: 1440, Loss: loss(0.0003)}},
		{Name: "off", LastDay: &api.LinkDay{Minutes: 1440, Down: 1440, LastDown: at(0)}},
		{Name: "new"},
		{Name: "lossy", LastDay: &api.LinkDay{Minutes: 60, Loss: loss(0.04)}},
		{Name: "blip", LastDay: &api.LinkDay{Minutes: 1440, Interruptions: 1, LastDown: at(time.Hour)}},
		{Name: "bad", LastDay: &api.LinkDay{Minutes: 1440, Down: 63, Interruptions: 3, LastDown: at(13 * time.Hour), Loss: loss(0.02)}},
	}
	var b bytes.Buffer
	printDay(&b, peers, now)
	want := `
In the last 24 hours:
  bad: down for 1h3m, lost in 3 different minutes, last at 20 Nov 05:00, 2 % of probes lost
  blip: lost once, last at 17:00
  lossy: 4 % of probes lost
`
	if b.String() != want {
		t.Errorf("got:%s\nwant:%s", b.String(), want)
	}
	b.Reset()
	if printDay(&b, peers[:3], now); b.Len() > 0 {
		t.Errorf("nothing happened, and it says %q", b.String())
	}
	var many []api.Peer
	for i := range 25 {
		many = append(many, api.Peer{Name: fmt.Sprint("n", i), LastDay: &api.LinkDay{Minutes: 9, Down: 1}})
	}
	b.Reset()
	if printDay(&b, many, now); !strings.HasSuffix(b.String(), "  and 15 more\n") || strings.Count(b.String(), "\n") != 13 {
		t.Errorf("of 25 peers:%s", b.String())
	}
}
