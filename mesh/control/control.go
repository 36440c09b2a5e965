// Package control is the control plane: which members this node is connected to, and what flows between them besides data.
//
// It puts together a libp2p host (p2p), the proof of membership that a connection begins with (hello.go), GossipSub among proven
// members (gossip), anti-entropy (sync.go), the policy of which connections to keep (policy), their heartbeats (pulse), and discovery
// on the local network (lan). It carries envelopes of mesh/signal and frames of mesh/enrol without looking into them.
//
// One goroutine (loop.go) owns the table of proven connections and the policy; everybody else sends it events and reads snapshots.
//
// It never decides who is a member: the directory does. It never relays data, and a stranger can open one protocol only, enrolment,
// besides the proof itself.
//
//	dialler                                   listener
//	  | -- QUIC handshake (TLS 1.3, host keys) -> |
//	  | -- Hello (chain, lists, record) --------> | judges; a stranger is refused and shown nothing
//	  | <- HelloAck, Hello ---------------------- |
//	  | judges -- HelloAck ---------------------> | from here on proven on both sides
//	  | -- digest (sync) ------------------------> |
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control/gossip"
	"github.com/gridwire/gridwire/mesh/control/lan"
	"github.com/gridwire/gridwire/mesh/control/p2p"
	"github.com/gridwire/gridwire/mesh/directory"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// The protocols, besides p2p.EnrolProtocol and GossipSub's.
const (
	helloProtocol  protocol.ID = "/gridwire/hello/1"
	beatProtocol   protocol.ID = "/gridwire/heartbeat/1"
	syncProtocol   protocol.ID = "/gridwire/sync/1"
	signalProtocol protocol.ID = "/gridwire/signal/1"
)

// ErrNotConnected says that there is no proven connection to the member.
var ErrNotConnected = errors.New("no control connection")

// Host is the libp2p host; a joiner uses it before it is a member.
type Host = p2p.Host

// HostConfig is what NewHost needs.
type HostConfig = p2p.Config

// NewHost makes a host and starts listening.
func NewHost(cfg HostConfig) (*Host, error) { return p2p.New(cfg) }

// Link is an interface of this machine, as nat/netmon sees it. Prefixes hold this machine's own addresses with their prefix lengths.
type Link = lan.Link

// Directory says who is a member and takes in news; it is satisfied by *directory.Directory. Submit returns when View shows the item's
// effect. Watch's channel holds the newest View.
type Directory interface {
	View() *mesh.View
	Watch() (<-chan *mesh.View, func())
	Now() time.Time
	Judge(chain [][]byte, now time.Time) (*pki.Leaf, error)
	RevocationLists() [][]byte
	Submit(ctx context.Context, item *wire.Item) (directory.Verdict, error)
	Digest(ctx context.Context) (*wire.Digest, error)
	Diff(ctx context.Context, theirs *wire.Digest) (send []*wire.Item, want *wire.Digest, err error)
	Items(ctx context.Context, want *wire.Digest) ([]*wire.Item, error)
}

// Config is what a Control needs.
type Config struct {
	Host      *Host
	Network   mesh.Network
	Directory Directory
	// Self returns this node's current record; its chain is the proof of membership. nil: none yet, and every proof fails.
	Self func() *wire.SignedRecord
	// Boot is this node's boot number, for the hello.
	Boot uint64
	// NetworkSecret hides the network's name and members on the LAN. Empty: no discovery there.
	NetworkSecret []byte
	// Enrol answers a frame of the enrolment protocol from a stranger or a member. It may take its time.
	Enrol func(ctx context.Context, from netip.AddrPort, member bool, frame *wire.EnrolFrame) *wire.EnrolResponse
	// Signal answers an envelope from a member. It may take its time, until ctx ends: then nobody waits for the answer any more.
	Signal func(ctx context.Context, from mesh.NodeID, f *wire.SignalFrame) *wire.SignalAck
	// Links returns the links there are when Run starts; NetworkChanged tells later ones. nil: none yet.
	Links func() []Link
	Log   *slog.Logger
}

// Control is the control plane of one node.
type Control struct {
	cfg     Config
	host    *Host
	log     *slog.Logger
	events  *mailbox // to the loop
	book    *book
	table   atomic.Pointer[table]
	skews   perMember[time.Duration]
	refused perMember[string] // why members did not accept this node's proof
	watch   watchers
	gossip  atomic.Pointer[gossip.Gossip]
	lan     *lan.LAN // nil: no network secret
	door    *door
	work    *tracker
	running atomic.Bool
}

// New returns a Control. It starts nothing.
func New(cfg Config) (*Control, error) {
	switch {
	case cfg.Host == nil || cfg.Directory == nil || cfg.Self == nil || cfg.Log == nil:
		return nil, errors.New("making the control plane: host, directory, own record and log are needed")
	case cfg.Enrol == nil || cfg.Signal == nil:
		return nil, errors.New("making the control plane: what answers enrolment and signalling is needed")
	}
	c := &Control{
		cfg: cfg, host: cfg.Host, log: cfg.Log,
		events: newMailbox(), book: newBook(), door: newDoor(), work: newTracker(),
	}
	c.table.Store(&table{})
	if len(cfg.NetworkSecret) > 0 {
		c.lan = lan.New(lan.Config{
			Self: cfg.Host.ID(), Secret: cfg.NetworkSecret, Port: cfg.Host.Port(),
			Known: c.known, Found: c.foundOnLAN, Now: cfg.Directory.Now, Log: cfg.Log,
		})
	}
	return c, nil
}

// Run serves until ctx ends, then closes every connection; it returns when all that it started has ended. The host stays: close it
// afterwards. Run works once.
func (c *Control) Run(ctx context.Context) error {
	if c.running.Swap(true) {
		return errors.New("running the control plane: it ran already")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer c.work.wait() // for everything begun with work.run
	defer cancel()
	g, err := gossip.Start(ctx, gossip.Config{
		Host: c.host, Network: c.cfg.Network.ID, Conn: c.provenConn, Validate: exchange{c}.validate, Log: c.log,
	})
	if err != nil {
		return fmt.Errorf("running the control plane: %w", err)
	}
	c.gossip.Store(g)
	c.serve(ctx)
	defer c.unserve()
	if c.lan != nil {
		c.work.run(func() { c.lan.Run(ctx) })
	}
	detach := c.host.Attach(func(conn *p2p.Conn) { c.work.run(func() { proof{c}.meet(ctx, conn) }) })
	c.loop(ctx)
	detach()
	cancel()
	for _, l := range c.table.Load().list {
		l.conn.Close(errStopped)
	}
	if err := g.Close(); err != nil {
		return fmt.Errorf("stopping GossipSub: %w", err)
	}
	return nil
}

// errStopped is why connections end when the agent stops.
var errStopped = errors.New("the control plane stops")

// errMoved is why a connection was closed whose proof was under way when the network changed.
var errMoved = errors.New("the network changed before it was proven")

func (c *Control) known(id mesh.NodeID) bool {
	_, ok := c.cfg.Directory.View().Member(id)
	return ok && id != c.host.ID()
}

func (c *Control) provenConn(id mesh.NodeID) *p2p.Conn {
	if l := c.table.Load().byID[id]; l != nil {
		return l.conn
	}
	return nil
}
