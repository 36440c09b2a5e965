// Package gossip spreads items by GossipSub among proven members.
//
// GossipSub runs on a wrapped host (gated), whose NewStream fails and whose inbound handler waits until the connection is proven. It
// learns of a peer by EvtPeerProtocolsUpdated, which Proven emits after the proof and never before: a stream that the other side
// resets would count as a failure, and after 4 of those GossipSub gives a peer up for 10 minutes (tried).
//
// An item authenticates itself, so messages carry no author and no signature, and a message's ID is its hash. What is worth passing
// on is decided by the validator that is handed in. When nothing happens, nothing is sent: GossipSub's heartbeat grafts peers and
// advertises recent messages, and once all peers are in the mesh there is nothing to advertise to anybody.
package gossip

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control/p2p"
	"github.com/gridwire/gridwire/mesh/wire"
)

// Verdict is what a validator says about a message.
type Verdict uint8

// The verdicts.
const (
	Forward Verdict = iota // new and right: pass it on
	Ignore                 // known, or older than what is known
	Reject                 // wrong
)

// Protocol is the only version of GossipSub that is spoken: 1.2, for IDONTWANT, which spares duplicates of large records.
const Protocol = pubsub.GossipSubID_v12

// queue is how many messages may wait for one peer; a heal brings many at once.
const queue = 256

// Config is what Start needs.
type Config struct {
	Host     *p2p.Host
	Network  mesh.NetworkID
	Conn     func(mesh.NodeID) *p2p.Conn                    // the proven connection to a member; nil if there is none
	Validate func(ctx context.Context, data []byte) Verdict // called for each message from others, from several goroutines
	Log      *slog.Logger
}

// Gossip is a running GossipSub.
type Gossip struct {
	cfg     Config
	topic   *pubsub.Topic
	emitter event.Emitter
}

// Start joins the network's topic. GossipSub's goroutines end with ctx.
func Start(ctx context.Context, cfg Config) (*Gossip, error) {
	g := &Gossip{cfg: cfg}
	ps, err := pubsub.NewGossipSub(ctx, &gated{host: cfg.Host, bus: cfg.Host.Bus(), conn: cfg.Conn},
		pubsub.WithGossipSubProtocols([]protocol.ID{Protocol}, pubsub.GossipSubDefaultFeatures),
		pubsub.WithGossipSubParams(params()),
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(messageID),
		pubsub.WithMaxMessageSize(wire.MaxFrame),
		pubsub.WithPeerOutboundQueueSize(queue),
		pubsub.WithLogger(slog.New(slog.DiscardHandler)),
		pubsub.WithRPCLogger(slog.New(slog.DiscardHandler)),
	)
	if err != nil {
		return nil, fmt.Errorf("starting GossipSub: %w", err)
	}
	name := fmt.Sprintf("gridwire/1/%x", cfg.Network[:8])
	if err := ps.RegisterTopicValidator(name, g.validate); err != nil {
		return nil, fmt.Errorf("starting GossipSub: %w", err)
	}
	if g.topic, err = ps.Join(name); err != nil {
		return nil, fmt.Errorf("joining topic %s: %w", name, err)
	}
	// The validator has seen every message; a subscription would only hold them once more.
	if _, err = g.topic.Relay(); err != nil {
		return nil, fmt.Errorf("relaying topic %s: %w", name, err)
	}
	if g.emitter, err = cfg.Host.Bus().Emitter(new(event.EvtPeerProtocolsUpdated)); err != nil {
		return nil, fmt.Errorf("announcing peers to GossipSub: %w", err)
	}
	return g, nil
}

// params makes the mesh as wide as there are connections. How many of those there are is limited by the connection policy, and a
// revocation must reach each of them at once: a reachable member may serve many that have no other way.
func params() pubsub.GossipSubParams {
	p := pubsub.DefaultGossipSubParams()
	p.D, p.Dlo, p.Dhi, p.Dout, p.Dscore = 64, 48, 1<<20, 2, 4
	p.SlowHeartbeatWarning = 0
	return p
}

func messageID(m *pb.Message) string {
	sum := sha256.Sum256(m.GetData())
	return string(sum[:16])
}

// Close ends what Start began, after its context has been cancelled.
func (g *Gossip) Close() error {
	g.cfg.Host.Unhandle(Protocol)
	return g.emitter.Close()
}

// Proven tells GossipSub of a peer. Telling it again of one that it has is nothing to it; of one that it has given up, a new start.
func (g *Gossip) Proven(id mesh.NodeID) {
	pid, err := p2p.PeerID(id)
	if err != nil {
		return // no host has such a key, so there can be no connection to it
	}
	_ = g.emitter.Emit(event.EvtPeerProtocolsUpdated{Peer: pid, Added: []protocol.ID{Protocol}}) // fails only when closed
}

// Publish sends a message to everybody. It has not passed the validator: the caller knows that it is right.
func (g *Gossip) Publish(ctx context.Context, data []byte) error {
	if err := g.topic.Publish(ctx, data); err != nil {
		return fmt.Errorf("publishing an item of %d bytes: %w", len(data), err)
	}
	return nil
}

func (g *Gossip) validate(ctx context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
	id, err := p2p.NodeID(from)
	if err != nil {
		return pubsub.ValidationReject
	}
	if id == g.cfg.Host.ID() {
		return pubsub.ValidationAccept
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	switch g.cfg.Validate(ctx, m.GetData()) {
	case Forward:
		return pubsub.ValidationAccept
	case Reject:
		return pubsub.ValidationReject
	default:
		return pubsub.ValidationIgnore
	}
}
