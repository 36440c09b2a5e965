// Package workload keeps what has a name on this node beside the node itself: network namespaces that are attached to the mesh, and
// addresses that are reachable already.
//
// It owns the list (a durable file of the state folder), the addresses given out of the node's own block, and whether each workload is
// there. It never enters a namespace, which would take CAP_SYS_ADMIN: whoever attaches one (package attach: the command line, the CNI
// plugin) asks for a plan, carries it out as root and commits it. The other half, on the host's side, is package host. What is announced in
// this node's record is exactly what is up.
package workload

import (
	"errors"
	"net/netip"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// Kinds of refusal.
var (
	ErrInvalid = errors.New("invalid")
	ErrRefused = errors.New("refused")
	ErrUnknown = errors.New("unknown")
)

// fault is a sentence for the user, of one of the kinds above.
type fault struct {
	kind error
	text string
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.kind }

// Owner is the container that a workload belongs to, in the words of CNI.
type Owner struct {
	Network   string `json:"network"`
	Container string `json:"container"`
	Interface string `json:"interface"`
}

// Item is one workload as it is stored.
type Item struct {
	Name      mesh.Name    `json:"name"`
	Addrs     []netip.Addr `json:"addresses"`
	Ports     []mesh.Port  `json:"ports,omitempty"`
	Netns     string       `json:"netns,omitempty"`     // as it was given; only to be shown
	Interface string       `json:"interface,omitempty"` // the veth's end on the host; empty: an address that needs no interface
	Owner     *Owner       `json:"owner,omitempty"`
}

func (i *Item) workload() mesh.Workload {
	return mesh.Workload{Name: i.Name, Addrs: i.Addrs, Ports: i.Ports}
}

// Health is whether a workload is there.
type Health string

// The kinds of health. Only what is up is announced.
const (
	Up      Health = "up"
	Down    Health = "down"    // its interface is down, or no route leads to its address
	Gone    Health = "gone"    // its namespace, and with it its interface, vanished
	Refused Health = "refused" // the node's certificate does not authorise its address any more
)

// Status is a workload as `list` shows it.
type Status struct {
	Item
	Health Health
	Reason string // why it is not up
	Since  time.Time
	Counters
}

// Counters are what a workload received and sent since its interface was made.
type Counters struct{ RxBytes, TxBytes, RxPackets, TxPackets uint64 }

// Request asks for a workload.
type Request struct {
	Name    mesh.Name
	Ports   []mesh.Port
	Netns   string
	Address netip.Addr // set: a workload that needs no interface
	Owner   *Owner
	Rename  bool // where the name is taken, a few characters of the owner are added
}

// Node is what this node may give to workloads.
type Node struct {
	Block  netip.Prefix
	Routes []netip.Prefix // that its certificate authorises
	IPv4   []netip.Prefix // those of Routes out of which workloads may have addresses: no network of this machine's uses them
}
