// Package pmtu finds out how large a packet each link carries, and finds it again when the path has changed, without help from ICMP
// (packetization layer path MTU discovery for datagrams, RFC 8899).
//
//	links' states, answers to probes, time  ->  Core.Step  ->  probes, path MTUs
//
// Probes are the echo requests of agent/links, padded to the size in question; answers are small, so each side measures its own direction.
// Sizes are those of packets inside the tunnel. They go through the tunnel's interface like anybody's, past every per-peer limit
// (IPV6_PMTUDISC_PROBE); outside the shared socket never fragments them (nat/sock).
//
// Idle links stay quiet: a link is probed when it has come up or its path has changed, and then only while it carries traffic: then the
// size in use is confirmed now and then, because a path can become smaller without anybody saying so (a black hole), and after ten minutes
// a larger one is tried.
//
// The package decides how large packets to a peer may be. It sets no route (agent/route does) and switches no socket option but its own.
package pmtu

import (
	"net/netip"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// Timings. RFC 8899 leaves most to the implementation; its own names are given where it has one.
const (
	maxProbes     = 3                      // MAX_PROBES: so many unanswered ones say that a size does not pass
	minWait       = 200 * time.Millisecond // for an answer; more on slow links. A busy machine answers late
	maxWait       = 2 * time.Second        // a satellite, and a queue before it
	confirmEvery  = 500 * time.Millisecond // of a link in bulk use: TCP that is stuck is free again before its third retransmission, after 1.4 s
	confirmMax    = 10 * time.Second       // of one that carries little
	raiseEvery    = 10 * time.Minute       // PMTU_RAISE_TIMER
	retryEvery    = 10 * time.Second       // nothing was answered, not even the smallest size
	bulkBytes     = 16 << 10               // between two readings of the counters, a fifth of a second: bulk use
	usedBytes     = 1000                   // sent between two readings: about one large packet, or nothing that could be lost for its size
	trickleRate   = 20                     // bytes a second of an idle link, with a margin
	fan           = 3                      // sizes tried at once between the largest that passed and the smallest that did not
	probeOverhead = 48                     // IPv6 and UDP headers of a probe
)

// Link is one link as agent/links has it.
type Link struct {
	Peer   mesh.NodeID
	Addr   netip.Addr // the peer's overlay IPv6 address
	Up     bool       // WireGuard carries packets
	Local  netip.AddrPort
	Remote netip.AddrPort
	RTT    time.Duration
	Sent   uint64 // bytes
	Heard  uint64
}

// Event is something that happened.
type Event interface{ event() }

// Links brings the state of all links; one that is missing is no longer there.
type Links struct{ All []Link }

// CameUp says that a link works (again), maybe by another path: what was known does not count.
type CameUp struct{ Peer mesh.NodeID }

// Answered brings the answer to Probe.
type Answered struct {
	From netip.Addr
	Seq  uint32
}

// Tick says that time has passed.
type Tick struct{}

func (Links) event()    {}
func (CameUp) event()   {}
func (Answered) event() {}
func (Tick) event()     {}

// Action is something to do.
type Action interface{ action() }

// Probe sends an echo request that makes an IPv6 packet of Size bytes.
type Probe struct {
	To   netip.Addr
	Seq  uint32
	Size int
}

// Changed says that packets to a peer may now be so large. Was is 0 if nothing was known before.
type Changed struct {
	Peer     mesh.NodeID
	MTU, Was int
}

func (Probe) action()   {}
func (Changed) action() {}

// Path is what is known of a link's path.
type Path struct {
	MTU     int            // of packets inside the tunnel; the largest that passes
	Remote  netip.AddrPort // the peer's endpoint
	Settled bool           // false: being looked for, and MTU is what is known so far
}
