package watch

import (
	"fmt"
	"math"
	"strings"

	"github.com/gridwire/gridwire/agent/api"
)

var bars = []rune("▁▂▃▄▅▆▇█")

// sparkline draws the newest samples, width of them, between nothing and their largest, or room times their smallest if that is more: a round
// trip that is always the same is then half as high, and a spike stands out. A missing sample is a gap.
func sparkline(values []float64, width int, room float64) string {
	if len(values) > width {
		values = values[len(values)-width:]
	}
	top, least := 0.0, math.Inf(1)
	for _, v := range values {
		top = max(top, v)
		if v >= 0 {
			least = min(least, v)
		}
	}
	if top > 0 && room > 1 {
		top = max(top, room*least)
	}
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", width-len(values)))
	for _, v := range values {
		switch {
		case v < 0:
			b.WriteByte(' ')
		case top == 0:
			b.WriteRune(bars[0])
		default:
			b.WriteRune(bars[min(int(v/top*float64(len(bars)-1)+0.5), len(bars)-1)])
		}
	}
	return b.String()
}

func pathText(p *api.Peer) string {
	if p.State != "connected" && p.State != "idle" || p.Path.Kind == "none" || p.Path.Kind == "" {
		return "-"
	}
	return p.Path.Kind
}

func rttText(p *api.Peer) string {
	if shownRTT(p) < 0 {
		return "-"
	}
	return short(p.RTT*1000) + " ms"
}

func lossText(p *api.Peer) string {
	if p.State != "connected" {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", p.Loss*100)
}

func rateText(v float64) string {
	if v < 0.5 {
		return "0 B/s"
	}
	unit := 0
	for ; v >= 1000 && unit < 4; unit++ {
		v /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%.0f B/s", v)
	}
	return fmt.Sprintf("%s %ciB/s", short(v), "KMGT"[unit-1])
}

// short writes three digits or more: what is behind the point of a large number is noise.
func short(v float64) string {
	if v < 99.95 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
