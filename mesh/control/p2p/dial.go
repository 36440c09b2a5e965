package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/gridwire/gridwire/mesh"
)

// EnrolProtocol is the only one that a stranger may open, besides the proof of membership itself.
const EnrolProtocol protocol.ID = "/gridwire/enrol/1"

const (
	dialTimeout  = 5 * time.Second // QUIC has sent its first packet some five times by then
	maxDialAddrs = 8               // as many as libp2p dials at once for one peer
)

// ErrNoAddress says that no address of the node is known that may be dialled.
var ErrNoAddress = errors.New("no address of it is known that may be dialled")

// Dial returns a connection to id: the one there is, else the first that any of the addresses gives, all tried at once. The
// connection need not be proven.
func (h *Host) Dial(ctx context.Context, id mesh.NodeID, addrs []netip.AddrPort) (*Conn, error) {
	pid, err := PeerID(id)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", id.Short(), err)
	}
	if c := h.live(id); c != nil {
		return c, nil
	}
	targets := h.targets(addrs)
	if len(targets) == 0 {
		return nil, fmt.Errorf("dialling %s at %v: %w", id.Short(), addrs, ErrNoAddress)
	}
	// Only these: what an earlier dial left behind may be out of date.
	h.peers.ClearAddrs(pid)
	h.peers.AddAddrs(pid, targets, 2*dialTimeout)
	// Forcing a direct dial also skips libp2p's backoff of 5 s and more: the policy has one of its own.
	nc, err := h.swarm.DialPeer(network.WithDialPeerTimeout(network.WithForceDirectDial(ctx, "gridwire"), dialTimeout), pid)
	if err != nil {
		return nil, fmt.Errorf("dialling %s at %v: %w", id.Short(), addrs, dialReason(err))
	}
	c := h.connOf(nc)
	if c == nil {
		return nil, fmt.Errorf("dialling %s at %v: the connection ended at once", id.Short(), addrs)
	}
	return c, nil
}

// CloseUnproven closes the connections that are not proven, to those that match names. Dial would return them instead of dialling anew, and
// after a change of the network their proof may never arrive: it would be waited for.
func (h *Host) CloseUnproven(match func(mesh.NodeID) bool, reason error) {
	h.mu.Lock()
	var old []*Conn
	for _, c := range h.conns {
		if !c.IsProven() && c.ctx.Err() == nil && c.Enrolling() == 0 {
			old = append(old, c)
		}
	}
	h.mu.Unlock()
	for _, c := range old {
		if match(c.id) {
			c.Close(reason)
		}
	}
}

// live returns a connection to id, a proven one if there is any.
func (h *Host) live(id mesh.NodeID) *Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found *Conn
	for _, c := range h.conns {
		if c.id != id || c.ctx.Err() != nil {
			continue
		}
		if found == nil || c.IsProven() {
			found = c
		}
	}
	return found
}

// targets leaves out what must not or cannot be dialled.
func (h *Host) targets(addrs []netip.AddrPort) []ma.Multiaddr {
	v4, v6 := h.Families()
	var out []ma.Multiaddr
	for _, ap := range slices.Compact(slices.Clone(addrs)) {
		a := ap.Addr().Unmap()
		switch {
		case len(out) >= maxDialAddrs:
			return out
		case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" || ap.Port() == 0:
			continue
		case a.Is4() && !v4 || a.Is6() && !v6:
			continue
		case h.cfg.AddressOK != nil && !h.cfg.AddressOK(a):
			continue
		}
		if m, err := multiaddr(netip.AddrPortFrom(a, ap.Port())); err == nil {
			out = append(out, m)
		}
	}
	return out
}

// OpenEnrol dials a member by the addresses of an invitation and opens a stream of the enrolment protocol: what a joiner does, whose
// host proves nothing yet. The stream ends with ctx. Closing it leaves the connection, which is proven once the joiner is a member.
func (h *Host) OpenEnrol(ctx context.Context, id mesh.NodeID, addrs []netip.AddrPort) (io.ReadWriteCloser, error) {
	c, err := h.Dial(ctx, id, addrs)
	if err != nil {
		return nil, err
	}
	c.enrolling.Add(1)
	s, err := c.Open(ctx, EnrolProtocol)
	if err != nil {
		c.enrolling.Add(-1)
		return nil, err
	}
	c.Use()
	return &enrolStream{Stream: s, conn: c, stop: context.AfterFunc(ctx, func() { _ = s.Reset() })}, nil
}

// enrolStream ends with the context it was opened in.
type enrolStream struct {
	network.Stream
	conn *Conn
	stop func() bool
	once sync.Once
}

func (s *enrolStream) Close() error {
	s.stop()
	s.once.Do(func() { s.conn.enrolling.Add(-1) })
	return s.Stream.Close()
}
