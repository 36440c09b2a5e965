// Package links owns the state of every link: which peers the tunnel should have, at which endpoint, whether WireGuard carries packets both
// ways, and what to do when it does not.
//
//	View, signals, ICE news, tunnel counters, probe answers, network changes  ->  Core.Step  ->  actions
//
// Core is a plain state machine: no socket, clock, goroutine or log. Runner is the one goroutine that feeds it and carries out what it
// says. A link is judged by probes inside the tunnel alone, because "ICE is fine" and "WireGuard works" are different statements; ICE
// only proposes endpoints. WireGuard data never passes through here.
package links

import (
	"net/netip"
	"time"

	"github.com/gridwire/gridwire/agent/tunnel"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
	"github.com/gridwire/gridwire/nat"
)

// Timings of the state machine. Where a number is not measured it is from DESIGN ("Links").
const (
	silence        = 600 * time.Millisecond // sent, and heard nothing for so long: probe; what counters do not tell makes it up to 1 s
	countBusy      = 200 * time.Millisecond // between readings of the tunnel's counters while there is traffic or doubt
	countIdle      = tunnel.RestInterval    // otherwise, when no packet passes
	probeInterval  = 250 * time.Millisecond // while in doubt
	probeMisses    = 3                      // then the path is dead
	staleAfter     = 180 * time.Second      // WireGuard's Reject-After-Time: without traffic the session is gone, the link is idle
	answerTimeout  = 2 * time.Second        // offer to answer, by way of forwarders
	natGrace       = 400 * time.Millisecond // for a first answer to STUN: a round trip to a member far away
	linger         = 3 * time.Second        // a session stays after selection so that the other side can finish
	handshakeRetry = 400 * time.Millisecond // a lost initiation; WireGuard itself would wait 5 s
	handshakeTries = 6
	signalBackoff  = 250 * time.Millisecond // nobody could carry our offer
	signalMax      = 30 * time.Second
	failBackoff    = 2 * time.Second // ICE found no working pair
	failMax        = 5 * time.Minute
	locateEvery    = time.Second // links fail together
	locateAfter    = 500 * time.Millisecond
	failLinger     = 35 * time.Second // longer than the 30 s for which a router's conntrack holds a tuple that an early check took
)

// State is a link's state as status --json shows it.
type State string

// The states of a link.
const (
	Connected   State = "connected"   // WireGuard carries packets both ways
	Connecting  State = "connecting"  // being made, or in doubt
	Idle        State = "idle"        // was connected; nothing was sent for so long that the session has ended
	Unreachable State = "unreachable" // attempts failed; Reason says why; further ones follow at a growing interval
)

// Event is something that happened; see the types below.
type Event interface{ event() }

// ViewChanged brings a new set of members.
type ViewChanged struct{ View *mesh.View }

// SignalArrived brings a peer's message. Delay is the one-way delay of signalling as forwarders estimate it.
type SignalArrived struct {
	From   mesh.NodeID
	Signal *wire.Signal
	Delay  time.Duration
}

// SignalSent says that the peer has acknowledged what Send carried.
type SignalSent struct {
	To      mesh.NodeID
	Session uint64
}

// SignalFailed says that Send could not be delivered.
type SignalFailed struct {
	To      mesh.NodeID
	Session uint64
	Reason  string
}

// ICEStarted answers StartICE.
type ICEStarted struct {
	Peer    mesh.NodeID
	Session uint64
	Local   nat.Description
	Err     error
}

// ICESelected says that ICE agreed on a pair.
type ICESelected struct {
	Peer    mesh.NodeID
	Session uint64
	Pair    nat.Pair
	Pairs   []nat.Pair
}

// ICEFailed says that no pair works.
type ICEFailed struct {
	Peer    mesh.NodeID
	Session uint64
	Reason  string
	Pairs   []nat.Pair
}

// Counters are the tunnel's, by peer.
type Counters struct{ Peers map[mesh.WGKey]PeerCounters }

// PeerCounters is one peer's row.
type PeerCounters struct {
	Endpoint      netip.AddrPort
	LastHandshake time.Time
	Volume
}

// Volume is what has passed: bytes of WireGuard messages, and packets inside them.
type Volume struct{ RxBytes, TxBytes, RxPackets, TxPackets uint64 }

// fell reports whether counting has begun anew since before.
func (v Volume) fell(before Volume) bool {
	return v.RxBytes < before.RxBytes || v.TxBytes < before.TxBytes || v.RxPackets < before.RxPackets || v.TxPackets < before.TxPackets
}

func (v Volume) plus(w Volume) Volume {
	return Volume{v.RxBytes + w.RxBytes, v.TxBytes + w.TxBytes, v.RxPackets + w.RxPackets, v.TxPackets + w.TxPackets}
}

// ProbeAnswered brings the answer to Probe.
type ProbeAnswered struct {
	Peer mesh.NodeID
	Seq  uint32
	At   time.Time // when it arrived; zero: now
}

// ProbeHeard says that the peer probed us: packets arrive from it.
type ProbeHeard struct {
	Peer  mesh.NodeID
	Tells bool // Told is set; earlier versions tell nothing
	Told  Told
}

// NetworkChanged says that this machine's addresses, routes or links changed.
type NetworkChanged struct{}

// NATChanged brings a new report about this machine's NAT.
type NATChanged struct{ Report nat.Report }

// SignalPathChanged says that control connections came up: what could not be delivered may be now.
type SignalPathChanged struct{}

// Wanted says that somebody asks for this link now (wait, ping): do not wait for a retry timer, verify it.
type Wanted struct{ Peer mesh.NodeID }

// Tick says that time has passed.
type Tick struct{}

func (ViewChanged) event()       {}
func (SignalArrived) event()     {}
func (SignalSent) event()        {}
func (SignalFailed) event()      {}
func (ICEStarted) event()        {}
func (ICESelected) event()       {}
func (ICEFailed) event()         {}
func (Counters) event()          {}
func (ProbeAnswered) event()     {}
func (ProbeHeard) event()        {}
func (NetworkChanged) event()    {}
func (NATChanged) event()        {}
func (SignalPathChanged) event() {}
func (Wanted) event()            {}
func (Tick) event()              {}

// Action is something to do; see the types below.
type Action interface{ action() }

// SetAllowedIPs changes the addresses of a peer that is in the tunnel. Its sessions and its endpoint stay.
type SetAllowedIPs struct {
	Key        mesh.WGKey
	AllowedIPs []netip.Prefix
}

// SetPeer adds or replaces a peer in the tunnel; an invalid endpoint means none yet.
type SetPeer struct {
	Key        mesh.WGKey
	Endpoint   netip.AddrPort
	AllowedIPs []netip.Prefix
}

// RemovePeer takes a peer and its sessions out of the tunnel.
type RemovePeer struct{ Key mesh.WGKey }

// SetEndpoint moves a peer.
type SetEndpoint struct {
	Key      mesh.WGKey
	Endpoint netip.AddrPort
}

// Handshake sends a WireGuard initiation now.
type Handshake struct{ Key mesh.WGKey }

// StartICE makes a session and answers with ICEStarted.
type StartICE struct {
	Peer        mesh.NodeID
	Session     uint64
	Controlling bool
}

// ConnectICE starts the session's checks after Delay.
type ConnectICE struct {
	Peer    mesh.NodeID
	Session uint64
	Remote  nat.Description
	Delay   time.Duration
}

// CloseICE ends a session.
type CloseICE struct {
	Peer    mesh.NodeID
	Session uint64
}

// Send passes a message to signalling.
type Send struct {
	To     mesh.NodeID
	Signal *wire.Signal
}

// Probe sends an echo request through the tunnel.
type Probe struct {
	Peer mesh.NodeID
	Addr netip.Addr
	Seq  uint32
	Told Told
}

// Locate asks other members how they see this node now; the answer is NATChanged, if it is news.
type Locate struct{}

// Count reads the tunnel's counters now; the answer is Counters.
type Count struct{}

// Remember stores a peer's last good endpoint.
type Remember struct {
	Peer     mesh.NodeID
	Endpoint netip.AddrPort
}

// Report is a change of state worth one log line.
type Report struct {
	Peer   mesh.NodeID
	Name   mesh.Name
	State  State
	Path   Path
	Reason string
	Took   time.Duration // since the link was wanted or lost, when it came up
}

// Gone says that a link is forgotten, and what it has carried until the counters were read last.
type Gone struct {
	Peer mesh.NodeID
	Volume
}

func (Gone) action()          {}
func (SetPeer) action()       {}
func (SetAllowedIPs) action() {}
func (RemovePeer) action()    {}
func (SetEndpoint) action()   {}
func (Handshake) action()     {}
func (StartICE) action()      {}
func (ConnectICE) action()    {}
func (CloseICE) action()      {}
func (Send) action()          {}
func (Probe) action()         {}
func (Locate) action()        {}
func (Count) action()         {}
func (Remember) action()      {}
func (Report) action()        {}

// Path is how packets to a peer travel.
type Path struct {
	Kind       string // "direct" or "none"
	Local      netip.AddrPort
	Remote     netip.AddrPort
	LocalType  nat.CandidateType
	RemoteType nat.CandidateType
}

// Status is one link as others see it.
type Status struct {
	Peer          mesh.NodeID
	State         State
	Path          Path
	Reason        string // why it is not connected, or why it is as it is
	RTT           time.Duration
	LastHandshake time.Time
	TimeToConnect time.Duration
	Pairs         []nat.Pair // of the newest ICE session
	PeerNAT       nat.Type
	Volume        // in this run of the agent
	Figures
}

// Figures are what was measured of a link, by its own probes and by the peer's.
type Figures struct {
	Loss        float64                     // 0 to 1, over the shortest of LossWindows with enough probes, else over all there are
	Losses      [len(LossWindows)]Loss      // in LossWindows
	Jitter      time.Duration               // mean difference of the RTT from one probe to the next
	RTTCounts   [len(RTTBuckets) + 1]uint64 // samples up to each bound of RTTBuckets; the last: above all
	RTTSum      time.Duration
	Minutes     [2]Minute // this minute and the one before, in any order
	LastHeard   time.Time // when the newest packet from the peer was noticed; zero: none in this run
	PathChanges uint64    // how often the link came to work by another address of the peer
}

// RTTBuckets are the upper bounds of the RTT histogram: a LAN to a satellite.
var RTTBuckets = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second,
}
