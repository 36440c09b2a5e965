package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/health"
)

// State is what the page shows of the moment.
type State struct {
	*api.Status
	Health []health.Finding `json:"health"`
}

// Update is what has changed since the last one: peers that are new or other than before, and the IDs of those that have gone. Of
// the rest all is sent: it is small.
type Update struct {
	Network *api.Network     `json:"network"`
	Self    api.Self         `json:"self"`
	Peers   []api.Peer       `json:"peers"`
	Gone    []string         `json:"gone"`
	Routes  []api.Route      `json:"routes"`
	Devices []api.Device     `json:"devices"`
	Health  []health.Finding `json:"health"`
}

func (p *Page) look(ctx context.Context) (*State, error) {
	st, err := p.h.Status(ctx)
	if err != nil {
		return nil, err
	}
	return &State{Status: st, Health: health.Findings(st, time.Now())}, nil
}

// events streams the state as server-sent events (the HTML standard, 9.2): "state" once, then "update" for each change.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	select {
	case p.streams <- struct{}{}:
		defer func() { <-p.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		fail(w, http.StatusServiceUnavailable, fmt.Sprintf("%d browsers are watching already: close one", maxStreams))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	s := stream{w: w, out: http.NewResponseController(w), sent: map[string]string{}}
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		if err := p.show(r.Context(), &s); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// show sends what the browser has not seen yet.
func (p *Page) show(ctx context.Context, s *stream) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	st, err := p.look(ctx)
	if err != nil {
		return s.send("trouble", map[string]string{"error": err.Error()})
	}
	return s.update(st)
}

// stream is one browser's connection.
type stream struct {
	w     http.ResponseWriter
	out   *http.ResponseController
	sent  map[string]string // by peer ID: what the browser has, as JSON
	last  string            // the rest of it
	quiet int               // looks since something was sent
}

// beat is after how many looks without news a comment is sent, so that a browser that has gone is noticed.
const beat = 8

func (s *stream) update(st *State) error {
	u := Update{Network: st.Network, Self: st.Self, Peers: []api.Peer{}, Gone: []string{}, Routes: st.Routes, Devices: st.Devices, Health: st.Health}
	rest, err := json.Marshal(u)
	if err != nil {
		return err
	}
	now := make(map[string]string, len(st.Peers))
	for _, peer := range st.Peers {
		b, err := json.Marshal(peer)
		if err != nil {
			return err
		}
		now[peer.ID] = string(b)
		if s.sent[peer.ID] != string(b) {
			u.Peers = append(u.Peers, peer)
		}
	}
	for id := range s.sent {
		if _, ok := now[id]; !ok {
			u.Gone = append(u.Gone, id)
		}
	}
	first := s.last == ""
	if !first && s.last == string(rest) && len(u.Peers) == 0 && len(u.Gone) == 0 {
		s.quiet++
		if s.quiet%beat == 0 {
			return s.write(": still here\n\n")
		}
		return nil
	}
	s.sent, s.last, s.quiet = now, string(rest), 0
	if first {
		return s.send("state", u)
	}
	return s.send("update", u)
}

func (s *stream) send(event string, v any) error {
	b, err := json.Marshal(v) // one line: JSON escapes line breaks
	if err != nil {
		return err
	}
	return s.write("event: " + event + "\ndata: " + string(b) + "\n\n")
}

func (s *stream) write(text string) error {
	if err := s.out.SetWriteDeadline(time.Now().Add(askLimit)); err != nil {
		return err
	}
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.out.Flush()
}

// Link is all about one peer: why the link is as it is, and its last day.
type Link struct {
	Explain *api.Explain     `json:"explain"`
	History *api.LinkHistory `json:"history,omitempty"` // absent: nothing is known of before
}

func (p *Page) link(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("peer")
	ctx, cancel := context.WithTimeout(r.Context(), askLimit)
	defer cancel()
	e, err := p.h.Diagnosis.Explain(ctx, api.NameRequest{Name: name})
	if err != nil {
		answer(w, nil, err)
		return
	}
	link := Link{Explain: e}
	if h, err := p.h.History.Links(ctx, api.HistoryRequest{Peer: name, Minutes: 24 * 60}); err == nil && len(h.Links) == 1 {
		link.History = &h.Links[0]
	}
	answer(w, link, nil)
}
