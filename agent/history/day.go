package history

import (
	"time"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
)

// Day is a link's last 24 hours in a few numbers.
type Day struct {
	Known         int       // minutes of which something is known
	Down          int       // of these, at whose end the link was not up
	Interruptions int       // minutes in which it was lost
	LastDown      time.Time // the newest minute in which it was lost or down; zero: none
	Probes, Lost  int
}

// Day sums up what is known of a link.
func (h *History) Day(peer mesh.NodeID, now time.Time) (d Day) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := now.Unix() / 60
	begin := end - int64(Span/Step)
	last := int64(0)
	for hour := begin / perHour; hour <= end/perHour; hour++ {
		b := h.blocks[hour][peer]
		if b == nil {
			continue
		}
		for i, r := range b {
			minute := hour*perHour + int64(i)
			if r.flags&flagThere == 0 || minute < begin || minute > end {
				continue
			}
			d.Known++
			d.Probes += int(r.probes)
			d.Lost += int(r.lost)
			state := states[r.flags>>stateShift&twoBits]
			if state != links.Connected && state != links.Idle {
				d.Down++
				last = minute
			}
			if r.flags&flagInterrupted != 0 {
				d.Interruptions++
				last = minute
			}
		}
	}
	if last != 0 {
		d.LastDown = time.Unix(last*60, 0).UTC()
	}
	return d
}
