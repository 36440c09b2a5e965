// Package api is the agent's control interface: HTTP with JSON bodies on a unix socket, used by the command line.
//
// It owns the listener and the JSON shapes (those of `status --json` are a contract, DESIGN section 4) and never decides anything: each
// request is one call of a Handlers function. Who may connect is decided by the socket's file mode alone.
package api

import (
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// Status answers GET /v1/status and `gridwire status --json`.
type Status struct {
	Network *Network `json:"network"` // null: not a member yet
	Self    Self     `json:"self"`
	Peers   []Peer   `json:"peers"`
	Routes  []Route  `json:"routes"` // networks behind members
	// Warnings are sentences for the user: few issuers, IPv4 off, clock skew, two machines with one identity.
	Warnings []string `json:"warnings,omitempty"`
	Devices  []Device `json:"devices,omitempty"` // that this node serves
}

// Network is the network as every member sees it.
type Network struct {
	Name       string `json:"name"`
	ID         string `json:"id"`
	Domain     string `json:"domain"`
	IPv6Prefix string `json:"ipv6_prefix"`
	IPv4Prefix string `json:"ipv4_prefix"`
}

// Self is this node.
type Self struct {
	Name               string     `json:"name"`
	ID                 string     `json:"id"`
	WireGuardPublicKey string     `json:"wireguard_public_key"`
	Addresses          []string   `json:"addresses"`
	Interface          string     `json:"interface"`
	ListenPort         uint16     `json:"listen_port"`
	Backend            string     `json:"backend"`
	NAT                string     `json:"nat"`
	Issuer             bool       `json:"issuer"`
	Gateway            bool       `json:"gateway"` // serves devices that cannot run an agent
	CertificateExpires *time.Time `json:"certificate_expires,omitempty"`
	CertificateIssued  *time.Time `json:"certificate_issued,omitempty"` // when it was made or renewed last
	Version            string     `json:"version"`
	Workloads          []Offer    `json:"workloads,omitempty"`
}

// Peer is another member and the link to it.
type Peer struct {
	Name               string    `json:"name"`
	ID                 string    `json:"id"`
	WireGuardPublicKey string    `json:"wireguard_public_key"`
	Addresses          []string  `json:"addresses"`
	Tags               []string  `json:"tags"`
	State              string    `json:"state"`
	Reason             string    `json:"reason,omitempty"`
	Path               Path      `json:"path"`
	MTU                int       `json:"mtu,omitempty"` // largest packet inside the tunnel that the path carries, in bytes; 0: not known yet
	RTT                float64   `json:"rtt_seconds"`
	Loss               float64   `json:"loss_ratio"`
	LastHandshake      time.Time `json:"last_handshake"`
	ReceiveBytes       uint64    `json:"receive_bytes"`
	TransmitBytes      uint64    `json:"transmit_bytes"`
	TimeToConnect      float64   `json:"time_to_connect_seconds"`
	NAT                string    `json:"nat"`
	Issuer             bool      `json:"issuer"`
	Version            string    `json:"version,omitempty"`
	Workloads          []Offer   `json:"workloads,omitempty"`
	LastDay            *LinkDay  `json:"last_day,omitempty"` // absent: nothing is known yet
}

// Offer is a workload as its member tells the whole network of it.
type Offer struct {
	Name      string   `json:"name"`
	DNSName   string   `json:"dns_name"`
	Addresses []string `json:"addresses"`
	Ports     []string `json:"ports"` // [NAME=]NUMBER/PROTOCOL
}

// Path is how packets to a peer travel.
type Path struct {
	Kind       string `json:"kind"`
	Local      string `json:"local"`
	Remote     string `json:"remote"`
	Via        string `json:"via"`
	LocalType  string `json:"local_type,omitempty"`
	RemoteType string `json:"remote_type,omitempty"`
}

// InviteRequest is the body of POST /v1/invite.
type InviteRequest struct {
	Name    mesh.Name     `json:"name,omitempty"`
	Tags    []string      `json:"tags,omitempty"`
	Routes  []string      `json:"routes,omitempty"`
	Uses    int           `json:"uses,omitempty"`
	Expires time.Duration `json:"expires,omitempty"` // nanoseconds; 0: 24 h
	Offline bool          `json:"offline,omitempty"`
}

// InviteResponse answers it.
type InviteResponse struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// JoinRequest is the body of POST /v1/join.
type JoinRequest struct {
	Token string    `json:"token"`
	Name  mesh.Name `json:"name,omitempty"`
}

// JoinResponse answers it when this machine is a member.
type JoinResponse struct {
	Network string   `json:"network"`
	Name    string   `json:"name"`
	Addrs   []string `json:"addresses"`
}

// NameRequest names a member: POST /v1/revoke, /v1/issuers/add, /v1/issuers/remove, /v1/want.
type NameRequest struct {
	Name string `json:"name"`
}

// Member is one row of GET /v1/members: everybody the network knows of, online or not.
type Member struct {
	Name     string     `json:"name"`
	ID       string     `json:"id"`
	Address  []string   `json:"addresses"`
	Standing string     `json:"standing"` // member, device, revoked, left, expired
	State    string     `json:"state"`    // of the link, or "self"
	Issuer   bool       `json:"issuer"`
	Expires  *time.Time `json:"certificate_expires,omitempty"`
	Tags     []string   `json:"tags"`
	Routes   []string   `json:"routes,omitempty"` // networks behind it
	Software string     `json:"version,omitempty"`
	Updated  *time.Time `json:"updated,omitempty"`
}

// Issuer is one row of GET /v1/issuers.
type Issuer struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	KeyID   string    `json:"key_id"`
	IPv4    string    `json:"ipv4_prefix"`
	Expires time.Time `json:"expires"`
}

// Code classifies a failure, so that the command line can choose its exit status.
type Code string

// The codes, and the exit status they become.
const (
	CodeFailed  Code = "failed"    // 1
	CodeUsage   Code = "usage"     // 2
	CodeRefused Code = "refused"   // 4
	CodeTimeout Code = "timeout"   // 5
	CodeMissing Code = "not-found" // 1
)

// Error is the body of every answer that is not 2xx.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"error"`
}

func (e *Error) Error() string { return e.Message }
