// Package p2p is gridwire's libp2p host: QUIC only, on sockets that are handed in, with every stranger stopped at the door.
//
// It is put together from libp2p's parts (swarm, QUIC transport, resource manager, event bus), not by libp2p.New. So whatever must be
// off is simply not there: relay, hole punching, AutoNAT, NAT mapping, mDNS, ping, metrics, and the five other transports that
// libp2p.New links into the binary. Identify is not there either: members know each other's addresses from signed records, the
// proof of membership tells who is there, and so neither addresses nor protocols are shown to strangers.
//
// It owns the connections and says of each whether it is proven, which it is told (Conn.Prove). It never judges a certificate and
// never decides whom to dial.
package p2p

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
	"github.com/quic-go/quic-go"

	"github.com/gridwire/gridwire/mesh"
)

// Config is what a Host needs.
type Config struct {
	Identity ed25519.PrivateKey
	// Sockets returns the packet socket for "udp4" and for "udp6"; it is called at most once for each. An error means that this
	// machine has no such family. LocalAddr must be a *net.UDPAddr with the unspecified address of the family, SetReadDeadline
	// must work, and WriteTo must not fail for what the network does: quic-go gives up a connection whose packet could not be sent.
	// Close closes it.
	Sockets func(network string) (net.PacketConn, error)
	// Port is the UDP port of the sockets; 0: as their LocalAddr says.
	Port uint16
	// AddressOK says whether an underlay address may be dialled; nil: any may. It keeps the overlay and routed prefixes out.
	AddressOK func(netip.Addr) bool
	Log       *slog.Logger
}

// Host holds this node's control connections. Its methods may be called from any goroutine.
type Host struct {
	cfg    Config
	id     mesh.NodeID
	self   peer.ID
	swarm  *swarm.Swarm
	quic   *quicreuse.ConnManager
	bus    event.Bus
	peers  peerstore.Peerstore
	limits *limits
	mux    *multistream.MultistreamMuxer[protocol.ID]

	handlers sync.WaitGroup // one for each stream being served

	mu      sync.Mutex // guards what follows
	conns   map[network.Conn]*Conn
	observe func(*Conn)
	closed  bool
}

// New makes a host and starts listening.
func New(cfg Config) (*Host, error) {
	key, err := crypto.UnmarshalEd25519PrivateKey(cfg.Identity)
	if err != nil {
		return nil, fmt.Errorf("making the control host: the identity key: %w", err)
	}
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making the control host: the identity key: %w", err)
	}
	h := &Host{
		cfg:   cfg,
		id:    mesh.NodeIDOf(cfg.Identity.Public().(ed25519.PublicKey)),
		self:  self,
		bus:   eventbus.NewBus(),
		mux:   multistream.NewMultistreamMuxer[protocol.ID](),
		conns: make(map[network.Conn]*Conn),
	}
	if err := h.start(key); err != nil {
		return nil, errors.Join(fmt.Errorf("making the control host: %w", err), h.Close())
	}
	return h, nil
}

func (h *Host) start(key crypto.PrivKey) error {
	var err error
	if h.limits, err = newLimits(); err != nil {
		return err
	}
	if h.peers, err = pstoremem.NewPeerstore(); err != nil {
		return err
	}
	if err := errors.Join(h.peers.AddPrivKey(h.self, key), h.peers.AddPubKey(h.self, key.GetPublic())); err != nil {
		return err
	}
	if h.quic, err = h.newQUIC(); err != nil {
		return err
	}
	h.swarm, err = swarm.NewSwarm(h.self, h.peers, h.bus,
		swarm.WithResourceManager(h.limits),
		// After some 100 failed dials the counters would refuse nearly all further ones at once.
		swarm.WithUDPBlackHoleSuccessCounter(nil),
		swarm.WithIPv6BlackHoleSuccessCounter(nil),
		// Addresses of a member are few, and the first packet to a dead one is cheap: try them all at once.
		swarm.WithDialRanker(swarm.NoDelayDialRanker),
		swarm.WithDialTimeout(dialTimeout),
		swarm.WithDialTimeoutLocal(dialTimeout),
	)
	if err != nil {
		return err
	}
	h.swarm.Notify(&network.NotifyBundle{ConnectedF: h.connected, DisconnectedF: h.disconnected})
	h.swarm.SetStreamHandler(h.accept)
	tr, err := libp2pquic.NewTransport(key, h.quic, nil, nil, h.limits)
	if err != nil {
		return err
	}
	if err := makeTimeless(tr, key); err != nil {
		return err
	}
	if err := h.swarm.AddTransport(tr); err != nil {
		return err
	}
	return h.listen()
}

// newQUIC makes the connection manager. A custom one gets neither the resource manager's admission before the handshake nor the
// source address check by itself: both are passed.
func (h *Host) newQUIC() (*quicreuse.ConnManager, error) {
	var reset quic.StatelessResetKey
	var token quic.TokenGeneratorKey
	// Both survive a restart: peers of the process before are told at once that their connections are of no use any more.
	if err := errors.Join(h.derive(reset[:], "stateless reset"), h.derive(token[:], "token generator")); err != nil {
		return nil, err
	}
	m, err := quicreuse.NewConnManager(reset, token,
		quicreuse.OverrideListenUDP(h.socket()),
		quicreuse.VerifySourceAddress(h.limits.VerifySourceAddress),
		quicreuse.ConnContext(func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
			addr, err := quicreuse.ToQuicMultiaddr(info.RemoteAddr, quic.Version1)
			if err != nil {
				return ctx, err
			}
			scope, err := h.limits.OpenConnection(network.DirInbound, false, addr)
			if err != nil {
				return ctx, err
			}
			context.AfterFunc(ctx, scope.Done)
			return network.WithConnManagementScope(ctx, scope), nil
		}),
	)
	if err != nil {
		return nil, err
	}
	return m, limitPackets(m)
}

// derive fills key with what follows from the identity key for this purpose.
func (h *Host) derive(key []byte, purpose string) error {
	b, err := hkdf.Key(sha256.New, h.cfg.Identity.Seed(), nil, "gridwire quic "+purpose+" key", len(key))
	copy(key, b)
	return err
}

// socket returns a function that hands out each family's socket once: a second QUIC transport on it would steal packets.
func (h *Host) socket() func(string, *net.UDPAddr) (net.PacketConn, error) {
	var mu sync.Mutex
	used := make(map[string]bool)
	return func(family string, _ *net.UDPAddr) (net.PacketConn, error) {
		mu.Lock()
		defer mu.Unlock()
		if used[family] {
			return nil, fmt.Errorf("the %s socket is in use already", family)
		}
		c, err := h.cfg.Sockets(family)
		if err == nil {
			used[family] = true
		}
		return c, err
	}
}

// listen listens on both families; one is enough.
func (h *Host) listen() error {
	var errs error
	for family, format := range map[string]string{"udp4": "/ip4/0.0.0.0/udp/%d/quic-v1", "udp6": "/ip6/::/udp/%d/quic-v1"} {
		addr, err := ma.NewMultiaddr(fmt.Sprintf(format, h.cfg.Port))
		if err == nil {
			err = h.swarm.AddListenAddr(addr)
		}
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("listening on %s: %w", family, err))
		}
	}
	if len(h.swarm.ListenAddresses()) == 0 {
		return errs
	}
	return nil
}

// Close closes every connection and the sockets, and waits for the streams being served. The host is of no use afterwards.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	var errs []error
	if h.swarm != nil {
		errs = append(errs, h.swarm.Close())
	}
	h.handlers.Wait()
	if h.quic != nil {
		errs = append(errs, h.quic.Close())
	}
	if h.peers != nil {
		errs = append(errs, h.peers.Close())
	}
	if h.limits != nil {
		errs = append(errs, h.limits.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing the control host: %w", err)
	}
	return nil
}

// ID returns this node's ID.
func (h *Host) ID() mesh.NodeID { return h.id }

// Families reports whether the host has an IPv4 and an IPv6 socket.
func (h *Host) Families() (v4, v6 bool) {
	for _, a := range h.swarm.ListenAddresses() {
		_, err := a.ValueForProtocol(ma.P_IP4)
		v4 = v4 || err == nil
		v6 = v6 || err != nil
	}
	return v4, v6
}

// Welcome says which addresses members have: these are exempt from what holds back strangers. It replaces what was said before.
func (h *Host) Welcome(addrs map[netip.Addr]bool) { h.limits.welcome(addrs) }

// Welcomed reports whether Welcome named the address.
func (h *Host) Welcomed(a netip.Addr) bool { return h.limits.isMember(a) }

// Port returns the UDP port.
func (h *Host) Port() uint16 {
	for _, m := range h.swarm.ListenAddresses() {
		if ap, err := addrPort(m); err == nil {
			return ap.Port()
		}
	}
	return h.cfg.Port
}

// Attach calls observe for every connection there is and for each new one, before any stream on it is served, until the function that
// it returns is called. observe must not block. There is one observer at a time.
func (h *Host) Attach(observe func(*Conn)) (detach func()) {
	h.mu.Lock()
	h.observe = observe
	old := make([]*Conn, 0, len(h.conns))
	for _, c := range h.conns {
		old = append(old, c)
	}
	h.mu.Unlock()
	for _, c := range old {
		observe(c)
	}
	return func() {
		h.mu.Lock()
		h.observe = nil
		h.mu.Unlock()
	}
}

func (h *Host) connected(_ network.Network, nc network.Conn) {
	c, err := newConn(nc, h.limits)
	if err != nil {
		h.cfg.Log.Debug("refused a connection", "remote", nc.RemoteMultiaddr().String(), "err", err)
		go func() { _ = nc.CloseWithError(network.ConnProtocolViolation) }() // ends by itself; not from within a notification
		return
	}
	h.mu.Lock()
	h.conns[nc] = c
	observe := h.observe
	h.mu.Unlock()
	if observe != nil {
		observe(c)
	}
}

func (h *Host) disconnected(_ network.Network, nc network.Conn) {
	h.mu.Lock()
	c := h.conns[nc]
	delete(h.conns, nc)
	h.mu.Unlock()
	// Every stranger with a new key would leave something behind.
	if h.swarm.Connectedness(nc.RemotePeer()) != network.Connected {
		h.peers.RemovePeer(nc.RemotePeer())
	}
	if c != nil {
		c.ended()
	}
}

func (h *Host) connOf(nc network.Conn) *Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns[nc]
}

// Network returns libp2p's view of the connections, for GossipSub. Nobody else has a use for it: it does not know who is proven.
func (h *Host) Network() network.Network { return h.swarm }

// Mux returns the switch between protocols, for GossipSub. Handle and Unhandle are for everybody else.
func (h *Host) Mux() protocol.Switch { return h.mux }

// Bus returns the host's event bus.
func (h *Host) Bus() event.Bus { return h.bus }
