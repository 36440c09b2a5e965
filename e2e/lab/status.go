//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// Status is what `gridwire status --json` prints: the contract as an outsider reads it, on purpose not the agent's own type.
type Status struct {
	Network struct {
		Name       string `json:"name"`
		ID         string `json:"id"`
		Domain     string `json:"domain"`
		IPv6Prefix string `json:"ipv6_prefix"`
		IPv4Prefix string `json:"ipv4_prefix"`
	} `json:"network"`
	Self struct {
		Name               string         `json:"name"`
		ID                 string         `json:"id"`
		WireGuardPublicKey string         `json:"wireguard_public_key"`
		Addresses          []netip.Prefix `json:"addresses"`
		Interface          string         `json:"interface"`
		ListenPort         uint16         `json:"listen_port"`
		Backend            string         `json:"backend"`
		NAT                string         `json:"nat"`
		Issuer             bool           `json:"issuer"`
		CertificateExpires time.Time      `json:"certificate_expires"`
	} `json:"self"`
	Peers []PeerStatus `json:"peers"`
}

// PeerStatus is one peer in a Status.
type PeerStatus struct {
	Name               string         `json:"name"`
	ID                 string         `json:"id"`
	WireGuardPublicKey string         `json:"wireguard_public_key"`
	Addresses          []netip.Prefix `json:"addresses"`
	Tags               []string       `json:"tags"`
	State              string         `json:"state"` // connected, connecting, idle, unreachable
	Reason             string         `json:"reason"`
	Path               struct {
		Kind   string `json:"kind"` // direct, relay, none
		Local  string `json:"local"`
		Remote string `json:"remote"`
		Via    string `json:"via"`
	} `json:"path"`
	MTU           int     `json:"mtu"`
	RTTSeconds    float64 `json:"rtt_seconds"`
	LossRatio     float64 `json:"loss_ratio"`
	LastHandshake string  `json:"last_handshake"` // RFC 3339; empty: never
	ReceiveBytes  uint64  `json:"receive_bytes"`
	TransmitBytes uint64  `json:"transmit_bytes"`
}

// Peer returns the peer with this name.
func (s Status) Peer(name string) (PeerStatus, bool) {
	for _, p := range s.Peers {
		if p.Name == name {
			return p, true
		}
	}
	return PeerStatus{}, false
}

// Status asks the host's agent.
func (h *Host) Status(ctx context.Context) (Status, error) {
	var s Status
	out, err := h.Gridwire(ctx, "status", "--json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return s, fmt.Errorf("read the status of %s: %w in:\n%s", h.label, err, out)
	}
	return s, nil
}
