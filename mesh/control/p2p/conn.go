package p2p

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
	"github.com/quic-go/quic-go"

	"github.com/gridwire/gridwire/mesh"
)

// Conn is one connection to another host, proven to be a member or not yet.
type Conn struct {
	conn    network.Conn
	id      mesh.NodeID
	remote  netip.AddrPort // at the start; see Remote
	inbound bool
	since   time.Time
	leave   func() // gives back a stranger's place

	proven    chan struct{}
	proveOnce sync.Once
	ctx       context.Context // ends with the connection
	cancel    context.CancelCauseFunc
	streams   atomic.Int32 // being served
	enrolling atomic.Int32 // streams of the enrolment protocol that this side has open
	attempts  atomic.Int32
	used      atomic.Int64 // Unix nanoseconds
}

func newConn(nc network.Conn, l *limits) (*Conn, error) {
	id, err := nodeID(nc.RemotePublicKey())
	if err != nil {
		return nil, err
	}
	remote, err := addrPort(nc.RemoteMultiaddr())
	if err != nil {
		return nil, err
	}
	c := &Conn{
		conn: nc, id: id, remote: remote, since: time.Now(), leave: func() {},
		inbound: nc.Stat().Direction == network.DirInbound,
		proven:  make(chan struct{}),
	}
	if s, ok := nc.Scope().(*scope); ok {
		c.leave = s.leave
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.Use()
	return c, nil
}

// ID returns the other host's ID, which it has proven to own by the TLS handshake.
func (c *Conn) ID() mesh.NodeID { return c.id }

// Inbound reports whether the other host dialled.
func (c *Conn) Inbound() bool { return c.inbound }

// Since returns when the connection was made.
func (c *Conn) Since() time.Time { return c.since }

// Remote returns where the other host's packets come from now; QUIC follows it when that changes.
func (c *Conn) Remote() netip.AddrPort {
	var q *quic.Conn
	if c.conn.As(&q) {
		if u, ok := q.RemoteAddr().(*net.UDPAddr); ok {
			ap := u.AddrPort()
			return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		}
	}
	return c.remote
}

// RTT returns QUIC's smoothed round trip time, and the least one on this path; 0 if it has none.
func (c *Conn) RTT() (smoothed, least time.Duration) {
	var q *quic.Conn
	if c.conn.As(&q) {
		s := q.ConnectionStats()
		return s.SmoothedRTT, s.MinRTT
	}
	return 0, 0
}

// Prove says that both sides have acknowledged each other's proof of membership.
func (c *Conn) Prove() {
	c.proveOnce.Do(func() {
		c.leave()
		close(c.proven)
	})
}

// Proven is closed when the connection is proven.
func (c *Conn) Proven() <-chan struct{} { return c.proven }

// IsProven reports whether the connection is proven.
func (c *Conn) IsProven() bool {
	select {
	case <-c.proven:
		return true
	default:
		return false
	}
}

// Context ends with the connection; its cause says why.
func (c *Conn) Context() context.Context { return c.ctx }

// Use notes that somebody wanted something of this connection; LastUse returns when that was.
func (c *Conn) Use() { c.used.Store(time.Now().UnixNano()) }

// LastUse returns when Use was called last.
func (c *Conn) LastUse() time.Time { return time.Unix(0, c.used.Load()) }

// Attempt counts how often the other side tried to prove itself on this connection, this time included.
func (c *Conn) Attempt() int { return int(c.attempts.Add(1)) }

// Serving returns how many streams that the other side opened are being served.
func (c *Conn) Serving() int { return int(c.streams.Load()) }

// Enrolling returns how many streams of the enrolment protocol this side has open.
func (c *Conn) Enrolling() int { return int(c.enrolling.Load()) }

// Close ends the connection. The reason is for this side only.
func (c *Conn) Close(reason error) {
	c.cancel(reason)
	_ = c.conn.Close() // it is of no interest how an unwanted connection ends
}

// errEnded is why a connection ended that nobody here closed.
var errEnded = errors.New("the connection ended")

func (c *Conn) ended() { c.cancel(errEnded) }

// WaitProven returns when the connection is proven, or why it is not.
func (c *Conn) WaitProven(ctx context.Context) error {
	select {
	case <-c.proven:
		return nil
	default:
	}
	select {
	case <-c.proven:
		return nil
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Open opens a stream. The protocol's name goes out with the first write, so that asking costs one round trip, not two: every
// host of ours knows every protocol of its version, and one that does not answers with an error at the first read.
func (c *Conn) Open(ctx context.Context, id protocol.ID) (network.Stream, error) {
	s, err := c.conn.NewStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening a stream of %s to %s: %w", id, c.id.Short(), err)
	}
	if err := s.SetProtocol(id); err != nil {
		_ = s.Reset()
		return nil, fmt.Errorf("opening a stream of %s to %s: %w", id, c.id.Short(), err)
	}
	return &stream{Stream: s, lazy: multistream.NewMSSelect(s, id)}, nil
}

// stream negotiates its protocol with what it carries.
type stream struct {
	network.Stream
	lazy multistream.LazyConn
}

func (s *stream) Read(b []byte) (int, error)  { return s.lazy.Read(b) }
func (s *stream) Write(b []byte) (int, error) { return s.lazy.Write(b) }

// Close implements network.Stream. The negotiation's answer is not waited for: whoever cares reads. That the other side has closed
// the stream first is no error.
func (s *stream) Close() error {
	_ = s.CloseWrite()
	_ = s.CloseRead()
	return nil
}

func (s *stream) CloseWrite() error {
	if err := s.lazy.Flush(); err != nil {
		return err
	}
	return s.Stream.CloseWrite()
}

func nodeID(k crypto.PubKey) (mesh.NodeID, error) {
	if k == nil || k.Type() != crypto.Ed25519 {
		return mesh.NodeID{}, errors.New("the other host's key is not an Ed25519 key")
	}
	raw, err := k.Raw()
	if err != nil {
		return mesh.NodeID{}, err
	}
	return mesh.NodeIDFromBytes(raw)
}

// PeerID returns libp2p's name for a node.
func PeerID(id mesh.NodeID) (peer.ID, error) {
	k, err := crypto.UnmarshalEd25519PublicKey(ed25519.PublicKey(id[:]))
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(k)
}

// NodeID returns the node that libp2p calls p.
func NodeID(p peer.ID) (mesh.NodeID, error) {
	k, err := p.ExtractPublicKey()
	if err != nil {
		return mesh.NodeID{}, err
	}
	return nodeID(k)
}

func addrPort(m ma.Multiaddr) (netip.AddrPort, error) {
	u, _, err := quicreuse.FromQuicMultiaddr(m)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

func multiaddr(ap netip.AddrPort) (ma.Multiaddr, error) {
	family := "ip6"
	if ap.Addr().Is4() {
		family = "ip4"
	}
	return ma.NewMultiaddr(fmt.Sprintf("/%s/%s/udp/%d/quic-v1", family, ap.Addr(), ap.Port()))
}
