package api

import (
	"context"
	"net/http"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// Devices are those that cannot run an agent: how they get into the network, and which members serve them.
type Devices struct {
	Export  func(context.Context, ExportRequest) (*ExportResponse, error)
	Gateway func(context.Context, GatewayRequest) (*GatewayResponse, error)
}

func (d Devices) routes(m *http.ServeMux) {
	m.HandleFunc("POST /v1/export", post(d.Export))
	m.HandleFunc("POST /v1/gateway", post(d.Gateway))
}

// ExportRequest is the body of POST /v1/export. The device's private key is made by whoever asks, and never sent.
type ExportRequest struct {
	Name      mesh.Name  `json:"name"`
	WireGuard mesh.WGKey `json:"wireguard_public_key"`
	Gateways  []string   `json:"gateways,omitempty"`  // members by name; none: all that serve devices
	Endpoints []string   `json:"endpoints,omitempty"` // HOST:PORT or GATEWAY=HOST:PORT, in place of the gateway's own
	Replace   bool       `json:"replace,omitempty"`   // revoke the device that has the name now
	Extend    bool       `json:"extend,omitempty"`    // only make the certificate of the device last longer; nothing but Name is read
}

// ExportResponse answers it.
type ExportResponse struct {
	Name     string    `json:"name"` // with the domain
	Network  string    `json:"network"`
	Domain   string    `json:"domain"`
	Expires  time.Time `json:"expires"`
	Profiles []Profile `json:"profiles"` // one for each gateway; none where a device was extended: nothing changes for it
	Warnings []string  `json:"warnings,omitempty"`
}

// Profile is all but the private key of a WireGuard configuration.
type Profile struct {
	Gateway    string   `json:"gateway"`
	PublicKey  string   `json:"gateway_public_key"`
	Endpoint   string   `json:"endpoint"`
	Addresses  []string `json:"addresses"`
	DNS        []string `json:"dns"`
	AllowedIPs []string `json:"allowed_ips"`
}

// GatewayRequest is the body of POST /v1/gateway.
type GatewayRequest struct {
	On bool `json:"on"`
}

// GatewayResponse answers it.
type GatewayResponse struct {
	Devices  []string `json:"devices"` // bound to this node
	Warnings []string `json:"warnings,omitempty"`
}

// Device is a device that this node serves, in status.
type Device struct {
	Name               string     `json:"name"`
	WireGuardPublicKey string     `json:"wireguard_public_key"`
	Addresses          []string   `json:"addresses"`
	State              string     `json:"state"` // connected, or offline
	LastHeard          *time.Time `json:"last_heard,omitempty"`
	LastHandshake      *time.Time `json:"last_handshake,omitempty"`
	Endpoint           string     `json:"endpoint,omitempty"`
	ReceiveBytes       uint64     `json:"receive_bytes"`
	TransmitBytes      uint64     `json:"transmit_bytes"`
	Expires            time.Time  `json:"certificate_expires"`
}
