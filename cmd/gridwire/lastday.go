package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

const (
	// notableLoss is from where a day's loss is worth a line; a single lost probe of a day at rest is 0.03 %.
	notableLoss = 0.01
	// dayLines is how many peers are told of.
	dayLines = 10
)

// printDay tells which links had trouble in the last 24 hours, worst first, whatever they are now: what happened before anybody looked. A peer
// that was never there is none of it.
func printDay(w io.Writer, peers []api.Peer, now time.Time) {
	notable := slices.DeleteFunc(slices.Clone(peers), func(p api.Peer) bool {
		d := p.LastDay
		return d == nil || d.Down == d.Minutes || d.Down == 0 && d.Interruptions == 0 && (d.Loss == nil || *d.Loss < notableLoss)
	})
	if len(notable) == 0 {
		return
	}
	slices.SortStableFunc(notable, func(a, b api.Peer) int {
		return b.LastDay.Down + b.LastDay.Interruptions - a.LastDay.Down - a.LastDay.Interruptions
	})
	fmt.Fprint(w, "\nIn the last 24 hours:\n")
	for _, p := range notable[:min(len(notable), dayLines)] {
		printHanging(w, "  ", p.Name+": "+dayText(*p.LastDay, now))
	}
	if more := len(notable) - dayLines; more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
}

func dayText(d api.LinkDay, now time.Time) string {
	var parts []string
	if d.Down > 0 {
		parts = append(parts, "down for "+strings.TrimSuffix((time.Duration(d.Down)*time.Minute).String(), "0s"))
	}
	switch {
	case d.Interruptions == 1:
		parts = append(parts, "lost once")
	case d.Interruptions > 1:
		parts = append(parts, fmt.Sprintf("lost in %d different minutes", d.Interruptions))
	}
	if d.LastDown != nil {
		layout := "15:04"
		if now.Sub(*d.LastDown) > 12*time.Hour {
			layout = "2 Jan 15:04"
		}
		parts = append(parts, "last at "+d.LastDown.In(now.Location()).Format(layout))
	}
	if d.Loss != nil && *d.Loss >= notableLoss {
		parts = append(parts, fmt.Sprintf("%.0f %% of probes lost", *d.Loss*100))
	}
	return strings.Join(parts, ", ")
}
