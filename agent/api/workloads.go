package api

import (
	"context"
	"net/http"
	"time"
)

// Workload is one row of GET /v1/workloads: something that has a name on this node.
type Workload struct {
	Name      string         `json:"name"`
	DNSName   string         `json:"dns_name"`
	Kind      string         `json:"kind"` // netns or address
	Addresses []string       `json:"addresses"`
	Ports     []string       `json:"ports"`
	Health    string         `json:"health"` // up, down, gone, refused
	Reason    string         `json:"reason,omitempty"`
	Since     time.Time      `json:"since"` // of the health
	Netns     string         `json:"netns,omitempty"`
	Interface string         `json:"interface,omitempty"`
	Owner     *WorkloadOwner `json:"owner,omitempty"`
	Note      string         `json:"note,omitempty"` // what its owner should know
	// What the workload received and sent; zero for an address, whose packets nobody counts.
	ReceiveBytes    uint64 `json:"receive_bytes"`
	TransmitBytes   uint64 `json:"transmit_bytes"`
	ReceivePackets  uint64 `json:"receive_packets"`
	TransmitPackets uint64 `json:"transmit_packets"`
}

// WorkloadOwner says which container a workload belongs to, in the words of CNI.
type WorkloadOwner struct {
	Network   string `json:"network"`
	Container string `json:"container"`
	Interface string `json:"interface"` // in the container
}

// WorkloadRequest is the body of POST /v1/workloads/plan, and with Address that of /v1/workloads/add.
type WorkloadRequest struct {
	Name    string         `json:"name"`
	Ports   []string       `json:"ports,omitempty"` // [NAME=]NUMBER[/PROTOCOL]
	Netns   string         `json:"netns,omitempty"`
	Address string         `json:"address,omitempty"`
	Owner   *WorkloadOwner `json:"owner,omitempty"`
	// Rename lets the agent add a few characters of the owner's ID to a name that is taken.
	Rename bool `json:"rename,omitempty"`
}

// WorkloadPlan is what whoever attaches a namespace has to set up: the agent may not enter it. It holds for WorkloadPlanLife.
type WorkloadPlan struct {
	Name      string   `json:"name"`
	DNSName   string   `json:"dns_name"`
	Interface string   `json:"interface"` // the veth's end on the host
	Addresses []string `json:"addresses"` // of the end in the namespace, as /128 and /32
	Gateway   string   `json:"gateway"`   // link-local, the end on the host; for IPv4 too (RFC 8950 next hops)
	Overlay   []string `json:"overlay"`   // routes by the gateway
	Routes    []string `json:"routes"`    // further ones, where they are in nobody's way
	MTU       int      `json:"mtu"`
	Namespace uint64   `json:"namespace"` // inode of the network namespace that the agent runs in
	DNS       []string `json:"dns"`       // name servers: this node's overlay addresses
	Domain    string   `json:"domain"`
}

// WorkloadPlanLife is how long a plan keeps its name and addresses.
const WorkloadPlanLife = 30 * time.Second

// WorkloadRef names a workload, by name or by owner: POST /v1/workloads/commit, /cancel, /remove.
type WorkloadRef struct {
	Name  string         `json:"name,omitempty"`
	Owner *WorkloadOwner `json:"owner,omitempty"`
}

// WorkloadKeep is the body of POST /v1/workloads/gc: of the owners of one network, only these still exist.
type WorkloadKeep struct {
	Network string          `json:"network"`
	Keep    []WorkloadOwner `json:"keep"`
}

// WorkloadHandlers are the agent's answers about workloads.
type WorkloadHandlers struct {
	List   func(context.Context) ([]Workload, error)
	Plan   func(context.Context, WorkloadRequest) (*WorkloadPlan, error)
	Commit func(context.Context, WorkloadRef) (*Workload, error)
	Cancel func(context.Context, WorkloadRef) error
	Add    func(context.Context, WorkloadRequest) (*Workload, error)
	Remove func(context.Context, WorkloadRef) error
	GC     func(context.Context, WorkloadKeep) error
}

func (h WorkloadHandlers) register(m *http.ServeMux) {
	m.HandleFunc("GET /v1/workloads", get(h.List))
	m.HandleFunc("POST /v1/workloads/plan", post(h.Plan))
	m.HandleFunc("POST /v1/workloads/commit", post(h.Commit))
	m.HandleFunc("POST /v1/workloads/cancel", post(nothing(h.Cancel)))
	m.HandleFunc("POST /v1/workloads/add", post(h.Add))
	m.HandleFunc("POST /v1/workloads/remove", post(nothing(h.Remove)))
	m.HandleFunc("POST /v1/workloads/gc", post(nothing(h.GC)))
}
