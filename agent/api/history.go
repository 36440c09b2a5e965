package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// maxMinutes is how long links are remembered.
const maxMinutes = 24 * 60

// HistoryHandlers answer what links were like.
type HistoryHandlers struct {
	Links func(context.Context, HistoryRequest) (*History, error)
}

func (h HistoryHandlers) routes(m *http.ServeMux) {
	m.HandleFunc("GET /v1/history", func(w http.ResponseWriter, r *http.Request) {
		req := HistoryRequest{Peer: r.URL.Query().Get("peer"), Minutes: maxMinutes}
		if text := r.URL.Query().Get("minutes"); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > maxMinutes {
				answer(w, nil, &Error{Code: CodeUsage, Message: fmt.Sprintf("minutes=%q: want a number from 1 to %d", text, maxMinutes)})
				return
			}
			req.Minutes = n
		}
		resp, err := h.Links(r.Context(), req)
		answer(w, resp, err)
	})
}

// HistoryRequest is the query of GET /v1/history?peer=NAME&minutes=N.
type HistoryRequest struct {
	Peer    string // empty: all
	Minutes int    // that ended last; 1 to 1440
}

// History answers it.
type History struct {
	StepSeconds int           `json:"step_seconds"`
	Links       []LinkHistory `json:"links"` // sorted by name
}

// LinkHistory is one link, minute by minute, oldest first. Minutes of which nothing is known (no agent ran) are not there.
type LinkHistory struct {
	Peer        string       `json:"peer"`
	ID          string       `json:"id"`
	StepSeconds int          `json:"step_seconds"`
	Samples     []LinkSample `json:"samples"`
}

// LinkDay is a link's last 24 hours in a few numbers.
type LinkDay struct {
	Minutes       int        `json:"minutes"`              // of which something is known
	Down          int        `json:"down_minutes"`         // of these, at whose end the link was not up
	Interruptions int        `json:"interrupted_minutes"`  // of these, in which it was lost
	LastDown      *time.Time `json:"last_down,omitempty"`  // the newest minute in which it was lost or down
	Loss          *float64   `json:"loss_ratio,omitempty"` // of all probes
}

// LinkSample is one minute. The last one may have begun only.
type LinkSample struct {
	Time          time.Time `json:"time"`                  // its beginning
	State         string    `json:"state"`                 // at its end
	Path          string    `json:"path"`                  // direct, relay or none
	Interrupted   bool      `json:"interrupted,omitempty"` // the link was lost in it, perhaps for a moment
	RTTMin        float64   `json:"rtt_min_seconds,omitempty"`
	RTTAvg        float64   `json:"rtt_avg_seconds,omitempty"`
	RTTMax        float64   `json:"rtt_max_seconds,omitempty"`
	Probes        int       `json:"probes"`
	Lost          int       `json:"lost"`
	Loss          float64   `json:"loss_ratio"` // of these few probes
	ReceiveBytes  uint64    `json:"receive_bytes"`
	TransmitBytes uint64    `json:"transmit_bytes"`
}
