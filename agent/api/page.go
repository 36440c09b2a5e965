package api

import (
	"context"
	"net/http"
)

// PageHandlers answer what has to do with the health page. The page itself is served on the control socket too, for machines without a
// loopback port to spare: curl --unix-socket /run/gridwire/agent.sock http://localhost/
type PageHandlers struct {
	Open  func(context.Context) (*PageInfo, error)
	Files http.Handler
}

// PageInfo answers POST /v1/page: where the page is, and what gives a browser the right to change things.
type PageInfo struct {
	Address string `json:"address"` // http://ADDR:PORT/; empty: on the control socket only
	Token   string `json:"token"`
}

func (h PageHandlers) routes(m *http.ServeMux) {
	if h.Files == nil {
		return
	}
	m.HandleFunc("POST /v1/page", post(func(ctx context.Context, _ struct{}) (*PageInfo, error) { return h.Open(ctx) }))
	m.Handle("/", h.Files)
}
