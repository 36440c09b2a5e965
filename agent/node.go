package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/agent/config"
	"github.com/gridwire/gridwire/agent/gateway"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/agent/pmtu"
	"github.com/gridwire/gridwire/agent/route"
	"github.com/gridwire/gridwire/agent/story"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control"
	"github.com/gridwire/gridwire/mesh/directory"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/signal"
	"github.com/gridwire/gridwire/mesh/store"
	"github.com/gridwire/gridwire/nat/ice"
	"github.com/gridwire/gridwire/nat/netmon"
	"github.com/gridwire/gridwire/nat/stun"
)

// node is this machine as a member: every part, built and connected. run runs them.
type node struct {
	cfg   *config.Config
	log   *slog.Logger
	store *store.Store
	base  *base

	meshParts
	natParts

	router *route.Router
	links  *links.Runner
	extra  *extras // what is routed to peers beyond their own addresses
	pmtu   *pmtu.Runner
	names  *names
	self   *self
	issuer *issuing
	meters *meters

	workloads *workloads
	gateway   *gateway.Gateway
	routing   *routing
	usage     *accounting

	left *farewell
}

// meshParts are who this node is, and what joins it to the other members.
type meshParts struct {
	root       *pki.Root
	boot       uint64
	membership atomic.Pointer[enrol.Membership] // replaced by renewal

	dir     *directory.Directory
	control *control.Control
	signal  *signal.Signal
	enrol   *enrol.Handler
}

// natParts find ways through the internet.
type natParts struct {
	ice    *ice.Factory
	netmon *netmon.Monitor
	reach  *reach
	story  *story.Book // what happened to each link, for explain
}

// farewell is said once, when this node leaves its network.
type farewell struct {
	once sync.Once
	ch   chan struct{}
}

func (f *farewell) say() { f.once.Do(func() { close(f.ch) }) }

// newNode builds everything and starts nothing but the interface's addresses. On an error the caller closes b.
func newNode(cfg *config.Config, st *store.Store, b *base, m *enrol.Membership, log *slog.Logger) (*node, error) {
	root, leaf, _, err := m.Leaf()
	if err != nil {
		return nil, fmt.Errorf("this machine's membership: %w", err)
	}
	n := &node{cfg: cfg, log: log, store: st, base: b, left: &farewell{ch: make(chan struct{})}}
	n.root, n.story = root, story.New()
	n.membership.Store(m)
	b.overlay.network.Store(&root.Network)
	if n.boot, err = nextBoot(st, time.Now()); err != nil {
		return nil, err
	}
	if err := n.buildMesh(m); err != nil {
		return nil, err
	}
	if err := n.buildNAT(m); err != nil {
		return nil, err
	}
	n.router, err = route.Up(route.Config{
		Interface: cfg.Interface, Addrs: leaf.Addrs, Prefixes: overlayPrefixes(root.Network, leaf.Addrs), Mark: socketMark, Notes: st,
		Log: log.With("part", "route"),
	})
	if err != nil {
		return nil, err
	}
	if off := n.router.IPv4Off(); off != "" {
		log.Warn("IPv4 is off on this machine; IPv6 works", "reason", off)
	}
	n.workloads = newWorkloads(n)
	n.buildLinks(leaf)
	return n, nil
}

func (n *node) buildMesh(m *enrol.Membership) (err error) {
	n.dir, err = directory.New(directory.Config{
		Root: n.root, Self: m.ID(), Persist: persister{n.store}, Now: time.Now, Log: n.log.With("part", "directory"), Rollback: rolledBack(n.store),
	})
	if err != nil {
		return err
	}
	n.netmon, err = netmon.New(netmon.Config{Ignore: n.ignoredInterface, Log: n.log.With("part", "netmon")})
	if err != nil {
		return err
	}
	if err := n.buildGateway(m); err != nil {
		return err
	}
	n.self = newSelf(n)
	if err := n.self.first(); err != nil {
		return err
	}
	n.issuer = &issuing{n: n}
	n.names = newNames(n)
	n.control, err = control.New(control.Config{
		Host: n.base.host, Network: n.root.Network, Directory: n.dir, Self: n.self.record, Boot: n.boot, NetworkSecret: m.Secret,
		Enrol: n.handleEnrol, Signal: n.handleSignal, Links: n.controlLinks, Log: n.log.With("part", "control"),
	})
	if err != nil {
		return err
	}
	n.enrol, err = enrol.NewHandler(enrol.HandlerConfig{
		Network: n.root.Network, Self: m.ID(), Issuer: n.issuer.current, View: n.dir.View, Send: n.control.SendEnrol,
		Now: n.dir.Now, Log: n.log.With("part", "enrol"),
	})
	if err != nil {
		return err
	}
	n.signal, err = signal.New(signal.Config{
		Self: m.Identity, Seal: m.Seal, View: n.dir.View, Carrier: carrier{n.control}, Deliver: n.deliver, Carried: n.story.Carried, Now: n.dir.Now, Log: n.log.With("part", "signal"),
	})
	return err
}

func (n *node) buildNAT(m *enrol.Membership) (err error) {
	n.reach = &reach{n: n, probes: newProbeBudget(), offers: newPortOffers()}
	n.reach.stun, err = stun.New(stun.Config{
		Conn: n.base.sock.STUN(), Tag: n.base.tag, MemberKey: stunKey(m.Secret), Now: time.Now, Log: n.log.With("part", "stun"),
	})
	if err != nil {
		return err
	}
	n.reach.prober, err = stun.NewProber(stun.ProberConfig{
		Bind: n.reach.stun.Bind, Servers: n.reach.servers, Local: n.localAddrs, Port: n.base.tun.Port, Reach: n.reach.test, Second: n.reach.secondPort, Now: time.Now, Log: n.log.With("part", "stun"),
	})
	if err != nil {
		return err
	}
	n.ice, err = ice.NewFactory(ice.Config{Conn: n.base.sock.ICE(), Local: n.localAddrPorts, Accept: n.base.overlay.ok, Log: n.log.With("part", "ice")})
	return err
}

func (n *node) buildLinks(leaf *pki.Leaf) {
	id := n.membership.Load().ID()
	n.links = links.New(links.Config{
		Core:   links.NewCore(id, n.boot, loadEndpoints(n.store), uint64(time.Now().UnixNano())),
		Tunnel: n.base.tun, ICE: n.ice, Send: n.signal.Send, Interface: n.cfg.Interface, Addr: leaf.Addrs[0], View: n.dir.View(),
		Passed: n.passed, Next: n.base.tun.NextPacket,
		Save: n.saveEndpoints, OnReport: n.linkReported, OnGone: counting{n}.gone, Observe: n.story.Observe, Locate: n.reach.prober.Doubt, Log: n.log.With("part", "links"),
	})
	n.extra = newExtras(n.links.Post)
	n.pmtu = n.newPMTU(leaf.Addrs[0])
	n.meters = newMeters(n)
	n.routing = newRouting(n)
	n.usage = newAccounting(n)
}

// overlayPrefixes are the network's /48 and, if this node has an IPv4 address, the pool.
func overlayPrefixes(net mesh.Network, addrs []netip.Addr) []netip.Prefix {
	out := []netip.Prefix{net.IPv6}
	for _, a := range addrs {
		if a.Is4() && net.IPv4.IsValid() {
			return append(out, net.IPv4)
		}
	}
	return out
}

// run runs all parts until ctx ends, or until this node leaves (errStop).
func (n *node) run(ctx context.Context) error {
	err := runParts(ctx, n.log, []part{
		{"purpose", n.purpose},
		{"tunnel", n.base.tun.Run},
		{"stun", n.reach.stun.Run},
		{"directory", n.dir.Run},
		{"netmon", n.netmon.Run},
		{"control", n.control.Run},
		{"nat prober", n.reach.prober.Run},
		{"own record", n.self.run},
		{"links", n.runLinks},
		{"path MTU", n.pmtu.Run},
		{"counters", counting{n}.run},
		{"history", remembering{n}.run},
		{"gateway", n.gateway.Run},
		{"wiring", n.wire},
		{"issuer", n.issuer.run},
		{"renewal", renewer{n}.renewal},
		{"names", n.names.run},
		{"resolver", n.names.resolver.run},
		{"workloads", n.workloads.run},
		{"networks", n.routing.run},
		{"routing", n.router.Keep},
		{"usage", n.usage.run},
		{"metrics", report{n}.metrics},
	})
	return err
}

// purpose ends the node when it leaves.
func (n *node) purpose(ctx context.Context) error {
	select {
	case <-n.left.ch:
		return errStop
	case <-ctx.Done():
		return nil
	}
}

// runLinks waits for the revocations to be trustworthy where the state went back a generation.
func (n *node) runLinks(ctx context.Context) error {
	select {
	case <-n.dir.Settled():
	case <-ctx.Done():
		return nil
	}
	return n.links.Run(ctx)
}

// close undoes what newNode did, and closes the base.
func (n *node) close() error {
	n.ice.Close()
	err := errors.Join(n.router.Close(), n.base.Close())
	select {
	case <-n.left.ch: // what parts have written as they stopped was this network's, too
		err = errors.Join(err, n.store.WipeExcept(enrol.FileRootKey))
	default:
	}
	return err
}

const (
	bootFile   = "boot"
	bootRandom = 20 // low bits of a boot number
)

// nextBoot numbers the agent's starts: a count, and random low bits. A peer forgets a node's old handshake timestamps when the number
// rises, so it must not go back, also after a damaged file and whatever the clock says. The random bits are for two machines that use
// one identity (a copied state, an offline bundle used twice): later statements of an earlier start give them away.
func nextBoot(st *store.Store, now time.Time) (uint64, error) {
	var count uint64
	b, err := st.Read(bootFile)
	if err == nil {
		count, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		count >>= bootRandom
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		count = uint64(max(now.Unix(), 0)) // more starts than there can have been
	}
	for _, name := range st.RolledBack() {
		if name == bootFile {
			count++ // the lost generation may have been used
		}
	}
	next := (count+1)<<bootRandom | rand.Uint64N(1<<bootRandom)
	return next, st.Write(bootFile, []byte(strconv.FormatUint(next, 10)+"\n"))
}

func rolledBack(st *store.Store) bool {
	for _, name := range st.RolledBack() {
		if name == "revocations" || name == "issuers" {
			return true
		}
	}
	return false
}

// persister puts the directory's items into the state folder: revocations and issuers durably, records as a cache.
type persister struct{ st *store.Store }

func (p persister) SaveItems(kind string, data []byte) error {
	if kind == "records" {
		return p.st.WriteCache(kind, data)
	}
	return p.st.Write(kind, data)
}

func (p persister) LoadItems(kind string) ([]byte, error) {
	if kind == "records" {
		return p.st.ReadCache(kind)
	}
	return p.st.Read(kind)
}

const endpointsFile = "endpoints"

func loadEndpoints(st *store.Store) map[mesh.NodeID]netip.AddrPort {
	b, err := st.ReadCache(endpointsFile)
	if err != nil {
		return nil
	}
	out := map[mesh.NodeID]netip.AddrPort{}
	if json.Unmarshal(b, &out) != nil {
		return nil // of another version; it will be written anew
	}
	return out
}

func (n *node) saveEndpoints(m map[mesh.NodeID]netip.AddrPort) {
	b, err := json.Marshal(m)
	if err == nil {
		err = n.store.WriteCache(endpointsFile, b)
	}
	if err != nil {
		n.log.Warn("could not store the peers' last good endpoints", "err", err)
	}
}
