package gossip

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control/p2p"
)

// errNotProven makes GossipSub drop a peer until Proven names it again.
var errNotProven = errors.New("no proven connection")

// gated is the host that GossipSub sees: it opens and serves streams on proven connections only, and never dials.
type gated struct {
	host *p2p.Host
	bus  event.Bus
	conn func(mesh.NodeID) *p2p.Conn
}

var _ host.Host = (*gated)(nil)

func (g *gated) ID() peer.ID                       { return g.host.Network().LocalPeer() }
func (g *gated) Peerstore() peerstore.Peerstore    { return g.host.Network().Peerstore() }
func (g *gated) Addrs() []ma.Multiaddr             { return nil }
func (g *gated) Network() network.Network          { return g.host.Network() }
func (g *gated) Mux() protocol.Switch              { return g.host.Mux() }
func (g *gated) ConnManager() connmgr.ConnManager  { return connmgr.NullConnMgr{} }
func (g *gated) EventBus() event.Bus               { return g.bus }
func (g *gated) Close() error                      { return nil }
func (g *gated) RemoveStreamHandler(p protocol.ID) { g.host.Unhandle(p) }

func (g *gated) Connect(context.Context, peer.AddrInfo) error {
	return errors.New("GossipSub does not dial")
}

func (g *gated) SetStreamHandler(p protocol.ID, h network.StreamHandler) {
	g.SetStreamHandlerMatch(p, nil, h)
}

func (g *gated) SetStreamHandlerMatch(p protocol.ID, m func(protocol.ID) bool, h network.StreamHandler) {
	g.host.HandleMatch(p, m, false, func(_ *p2p.Conn, s network.Stream) { h(s) })
}

func (g *gated) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	id, err := p2p.NodeID(p)
	if err != nil {
		return nil, err
	}
	c := g.conn(id)
	if c == nil || len(ids) == 0 {
		return nil, fmt.Errorf("opening a stream to %s: %w", id.Short(), errNotProven)
	}
	return c.Open(ctx, ids[0])
}
