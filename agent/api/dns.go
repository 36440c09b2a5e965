package api

import (
	"context"
	"net/http"
)

// NamesHandlers answer what there is to know of names.
type NamesHandlers struct {
	Names func(context.Context) (*Names, error)
}

func (h NamesHandlers) routes(m *http.ServeMux) { m.HandleFunc("GET /v1/names", get(h.Names)) }

// Names answers GET /v1/names: the name server of this node, and this machine's resolver.
type Names struct {
	Domain     string   `json:"domain"`
	Serve      bool     `json:"serve"`      // names are to be answered
	Serving    []string `json:"serving"`    // addresses that are answered on, port 53
	Forwarding []string `json:"forwarding"` // servers that other names are asked of
	LeftOut    []string `json:"left_out"`   // names that cannot be in the DNS, and why

	Configure  bool   `json:"configure"`        // this machine's resolver is to ask this node
	Resolver   string `json:"resolver"`         // what is in charge of names on this machine; empty: not known yet
	Configured bool   `json:"configured"`       // it asks this node for the network's names
	Reason     string `json:"reason,omitempty"` // why not
	Helper     bool   `json:"helper,omitempty"` // the root helper has done it

	Settled bool `json:"settled"` // what is known of members is answered, and the resolver asks this node or has a reason not to
}
