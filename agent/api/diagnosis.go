package api

import (
	"context"
	"net/http"
	"time"
)

// Diagnosis answers what is asked when something does not work.
type Diagnosis struct {
	Netcheck func(context.Context) (*Netcheck, error)
	Explain  func(context.Context, NameRequest) (*Explain, error)
	Logs     func(context.Context) (*Logs, error)
	Metrics  func(context.Context) (*Text, error) // as Prometheus gets them, whatever they are served on
	Config   func(context.Context) (*Text, error) // what the agent runs with, without the token
}

func (d Diagnosis) routes(m *http.ServeMux) {
	m.HandleFunc("GET /v1/netcheck", get(d.Netcheck))
	m.HandleFunc("POST /v1/explain", post(d.Explain))
	m.HandleFunc("GET /v1/logs", get(d.Logs))
	m.HandleFunc("GET /v1/metrics", get(d.Metrics))
	m.HandleFunc("GET /v1/config", get(d.Config))
}

// Netcheck answers GET /v1/netcheck: this machine's place in the internet, as other members have just seen it.
type Netcheck struct {
	NAT        string            `json:"nat"`
	Mapping    string            `json:"mapping"`   // RFC 4787, 4.1; "none" without a NAT
	Filtering  string            `json:"filtering"` // RFC 4787, 5
	Port       uint16            `json:"listen_port"`
	Local      []string          `json:"local_addresses"`
	Mapped     []string          `json:"mapped_addresses"`
	Advertised []string          `json:"advertised_addresses"`
	Reachable  bool              `json:"reachable"`
	IPv6       bool              `json:"ipv6"` // an address that means something elsewhere
	IPv6Works  bool              `json:"ipv6_works"`
	UDPBlocked bool              `json:"udp_blocked"`
	Asked      *time.Time        `json:"asked,omitempty"` // when the members were asked; absent: never
	Servers    []NetcheckServer  `json:"servers"`
	Members    []NetcheckLatency `json:"members"`
	Control    []ControlConn     `json:"control_connections"`
	Meaning    string            `json:"meaning"`
	Advice     []string          `json:"advice"`
}

// NetcheckServer is what one member answered to a STUN Binding request.
type NetcheckServer struct {
	Name    string  `json:"name,omitempty"`
	Address string  `json:"address"`
	Mapped  string  `json:"mapped,omitempty"`
	RTT     float64 `json:"rtt_seconds,omitempty"`
	Silent  bool    `json:"silent,omitempty"`
}

// NetcheckLatency is how far a member is through the tunnel.
type NetcheckLatency struct {
	Name  string  `json:"name"`
	State string  `json:"state"`
	RTT   float64 `json:"rtt_seconds"`
}

// ControlConn is one control connection.
type ControlConn struct {
	Name   string  `json:"name"`
	Remote string  `json:"remote"`
	RTT    float64 `json:"rtt_seconds"`
}

// Explain answers POST /v1/explain: why the link to a member is as it is.
type Explain struct {
	Peer     Peer       `json:"peer"`
	Standing string     `json:"standing"` // member, expired, revoked, left
	SelfNAT  string     `json:"self_nat"`
	PeerNAT  string     `json:"peer_nat"`
	Since    *time.Time `json:"since,omitempty"`     // of the state and the path
	LastSeen *time.Time `json:"last_seen,omitempty"` // the newest sign of life, by whatever way
	Exchange *Exchange  `json:"exchange,omitempty"`  // the one that made the path, else the newest
	Pairs    []Pair     `json:"pairs"`               // of the newest ICE session
	Changes  []Change   `json:"changes"`             // of state and path, oldest first
	Meaning  string     `json:"meaning"`
	Advice   []string   `json:"advice"`
}

// Exchange is how two members agreed on a path, or did not.
type Exchange struct {
	Began   time.Time   `json:"began"`
	Offered string      `json:"offered_by"`        // self or peer
	SentBy  string      `json:"sent_by,omitempty"` // the member that carried our message; "directly"
	HeardBy string      `json:"heard_by,omitempty"`
	Local   []Candidate `json:"local_candidates"`
	Remote  []Candidate `json:"remote_candidates"`
	Steps   []Step      `json:"steps"`
	Outcome string      `json:"outcome"` // "agreed", why not, or nothing yet
}

// Candidate is a transport address at which one side may be reached (RFC 8445).
type Candidate struct {
	Type    string `json:"type"` // host, srflx, prflx
	Address string `json:"address"`
}

// Step is one moment of an exchange.
type Step struct {
	After float64 `json:"after_seconds"`
	What  string  `json:"what"`
}

// Change is one change of a link's state or path.
type Change struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"` // a state, "path", or of this machine: "network", "mapping"
	Path   string    `json:"path,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// Pair is a candidate pair that was tried.
type Pair struct {
	Local      string `json:"local"`
	LocalType  string `json:"local_type"`
	Remote     string `json:"remote"`
	RemoteType string `json:"remote_type"`
	State      string `json:"state"`
	Nominated  bool   `json:"nominated"`
	Sent       uint32 `json:"requests_sent"`
	Answered   uint32 `json:"responses_received"`
}

// Logs answers GET /v1/logs: the agent's newest lines, oldest first.
type Logs struct {
	Lines   []string `json:"lines"`
	Dropped uint64   `json:"dropped"` // older ones
}

// Text is an answer for people.
type Text struct {
	Text string `json:"text"`
}
