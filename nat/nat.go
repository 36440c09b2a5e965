// Package nat says what a candidate, a NAT type and a path are. It holds values only: no sockets, no state.
package nat

import (
	"fmt"
	"net/netip"
	"time"
)

// Type is how this machine's NAT maps and filters (RFC 4787), as far as other members can tell.
type Type string

// The words are those of status --json.
const (
	Open                Type = "open"                 // no NAT, and strangers' packets arrive
	EndpointIndependent Type = "endpoint-independent" // one mapping for all destinations (RFC 4787, 4.1), or a firewall that lets in answers alone
	EndpointDependent   Type = "endpoint-dependent"   // another mapping for each destination ("symmetric")
	Blocked             Type = "blocked"              // no UDP answer from anybody
	Unknown             Type = "unknown"              // not yet found out
)

// CandidateType is RFC 8445's.
type CandidateType string

// The candidate types that gridwire uses; relay is later work.
const (
	Host            CandidateType = "host"
	ServerReflexive CandidateType = "srflx"
	PeerReflexive   CandidateType = "prflx"
)

// Candidate is a transport address at which a peer may be reached (RFC 8445).
type Candidate struct {
	Type     CandidateType
	Addr     netip.AddrPort
	Priority uint32
}

// String returns "srflx 192.0.2.1:51820".
func (c Candidate) String() string { return fmt.Sprintf("%s %v", c.Type, c.Addr) }

// Description is one side's ICE parameters for one session.
type Description struct {
	Ufrag, Pwd string
	Candidates []Candidate
}

// PairState is a candidate pair's state (RFC 8445, 6.1.2.6).
type PairState string

// Pair is a candidate pair that a session tried, and how that went.
type Pair struct {
	Local, Remote Candidate
	State         PairState // "waiting", "in-progress", "failed", "succeeded"
	Nominated     bool
	RequestsSent  uint32
	ResponsesGot  uint32
}

// String returns "host A -> srflx B succeeded (3 sent, 1 answered)".
func (p Pair) String() string {
	return fmt.Sprintf("%v -> %v %s (%d sent, %d answered)", p.Local, p.Remote, p.State, p.RequestsSent, p.ResponsesGot)
}

// Mapping is what one STUN server saw.
type Mapping struct {
	Server netip.AddrPort
	Mapped netip.AddrPort
	RTT    time.Duration
}

// Report is what is known about this machine's place in the internet.
type Report struct {
	Type      Type
	Mapped    []netip.AddrPort // distinct mapped addresses, most agreed on first
	Reachable bool             // a stranger's packet arrived at Mapped[0] or at a local address
	Mappings  []Mapping        // one for each server that answered
	Silent    []netip.AddrPort // servers that did not
	At        time.Time
}
