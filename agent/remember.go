package agent

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/history"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
)

// remembering fills the links' history and answers from it.
type remembering struct{ *node }

// run keeps the history until ctx ends.
func (n remembering) run(ctx context.Context) error { return n.meters.history.Run(ctx, n.minute) }

// minute is what links were like in a minute that is over.
func (n remembering) minute(ctx context.Context, number int64) []history.Reading {
	table := n.links.Snapshot(ctx)
	out := make([]history.Reading, 0, len(table))
	for id, l := range table {
		r := history.Reading{Peer: id, State: l.State, Path: cmp.Or(l.Path.Kind, "none"), RxBytes: l.RxBytes, TxBytes: l.TxBytes}
		if l.State == links.Unreachable {
			r.Path = "none"
		}
		for _, m := range l.Minutes {
			if m.Number == number {
				r.Minute = m
			}
		}
		out = append(out, r)
	}
	return out
}

// history answers the command line and the page.
func (n remembering) history(_ context.Context, r api.HistoryRequest) (*api.History, error) {
	step := int(history.Step / time.Second)
	out := &api.History{StepSeconds: step, Links: []api.LinkHistory{}}
	if r.Peer != "" {
		m, err := admin(n).find(r.Peer)
		if err != nil {
			return nil, err
		}
		out.Links = append(out.Links, n.of(m, r.Minutes))
		return out, nil
	}
	for m := range n.dir.View().Peers() {
		out.Links = append(out.Links, n.of(m, r.Minutes))
	}
	slices.SortFunc(out.Links, func(a, b api.LinkHistory) int { return strings.Compare(a.Peer, b.Peer) })
	return out, nil
}

// day is a link's last 24 hours; nil while nothing is known.
func (n remembering) day(id mesh.NodeID) *api.LinkDay {
	d := n.meters.history.Day(id, time.Now())
	if d.Known == 0 {
		return nil
	}
	out := &api.LinkDay{Minutes: d.Known, Down: d.Down, Interruptions: d.Interruptions}
	if !d.LastDown.IsZero() {
		out.LastDown = &d.LastDown
	}
	if d.Probes > 0 {
		loss := float64(d.Lost) / float64(d.Probes)
		out.Loss = &loss
	}
	return out
}

func (n remembering) of(m *mesh.Member, minutes int) api.LinkHistory {
	out := api.LinkHistory{
		Peer: string(m.Name), ID: m.ID.String(), StepSeconds: int(history.Step / time.Second), Samples: []api.LinkSample{},
	}
	for _, s := range n.meters.history.Samples(m.ID, time.Duration(minutes)*time.Minute, time.Now()) {
		row := api.LinkSample{
			Time: s.Start, State: string(s.State), Path: s.Path, Interrupted: s.Interrupted, RTTMin: s.Min.Seconds(), RTTAvg: s.Avg.Seconds(),
			RTTMax: s.Max.Seconds(), Probes: s.Probes, Lost: s.Lost, ReceiveBytes: s.RxBytes, TransmitBytes: s.TxBytes,
		}
		if s.Probes > 0 {
			row.Loss = float64(s.Lost) / float64(s.Probes)
		}
		out.Samples = append(out.Samples, row)
	}
	return out
}
