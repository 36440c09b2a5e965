// Package gateway lets devices that cannot run an agent into the network: a telephone with the plain WireGuard app is one more WireGuard peer
// of this member's tunnel, with addresses of its own, and its packets are forwarded to and from every other member.
//
// Every member runs it, because every member has to know the way to the devices: the addresses that a device has at a gateway are sent to
// that gateway (Config.Route). Only where the gateway is on are devices peers, and packets forwarded.
//
// A device has other addresses at each of its gateways, which its certificate names (mesh.Profile). So there is never a question at which
// one it is: an address leads to one gateway, and works while the device is connected there.
//
// It owns which devices are in the tunnel. It never decides who is a device (mesh/directory does), and never touches a member's peer
// (agent/links does). One goroutine owns the state; core is what it knows.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/agent/tunnel"
	"github.com/gridwire/gridwire/mesh"
)

const (
	// retry is how long after a failure the tunnel is tried again; a revoked device must not stay in it.
	retry = time.Second
	// countEvery is how often devices are looked at, while there are any: often enough to tell who has gone.
	countEvery = 10 * time.Second
)

// Tunnel is what a gateway needs of agent/tunnel. No call blocks for longer than a system call.
type Tunnel interface {
	SetPeer(tunnel.PeerConfig) error
	RemovePeer(mesh.WGKey) error
	Handshake(mesh.WGKey) error
	Stats() (map[mesh.WGKey]tunnel.PeerStats, error)
}

// Config is what New needs. The functions are called by one goroutine at a time.
type Config struct {
	Self    mesh.NodeID
	Tunnel  Tunnel
	Watch   func() (<-chan *mesh.View, func())            // Views, the present one to begin with
	Route   func(prefixes map[mesh.NodeID][]netip.Prefix) // sends these to those members, in place of what it was told before
	Forward func(on bool) error                           // lets the system forward packets between devices and members
	Changed func()                                        // On may answer differently, or devices have come or gone; must not block
	Save    func([]byte) error                            // returns when the bytes are safe on disk
	Load    func() ([]byte, error)                        // fs.ErrNotExist: nothing was ever saved
	// Where the devices were when this node stopped. It cannot find them, but it can go on where it was: a device would notice only after
	// a quarter of a minute that its gateway has forgotten it.
	Seen     map[mesh.WGKey]netip.AddrPort
	Remember func(map[mesh.WGKey]netip.AddrPort) // for Seen; called rarely
	Log      *slog.Logger
}

// Gateway is this node's part in serving devices. Its methods may be called from any goroutine.
type Gateway struct {
	cfg     Config
	core    *core // Run's
	ask     chan question
	ended   chan struct{}
	on      atomic.Bool
	trouble atomic.Pointer[string] // why devices are not served although they should be
	served  atomic.Pointer[map[netip.Addr]bool]
	alive   atomic.Pointer[[]mesh.WGKey]
}

// Status is a device that this node serves.
type Status struct {
	Device        *mesh.Device
	Addrs         []netip.Addr // its own here
	Alive         bool
	Heard         time.Time // when a packet of it arrived last, to within 10 s; zero: not in this run
	Endpoint      netip.AddrPort
	LastHandshake time.Time // zero: none in this run
	RxBytes       uint64
	TxBytes       uint64
}

// question asks the owner.
type question struct {
	turn   *bool // nil: how the devices are
	answer chan answer
}

type answer struct {
	devices []Status
	err     error
}

// saved is the form in which the setting is on disk.
type saved struct {
	On bool `json:"on"`
}

// New reads whether this node is to be a gateway. It starts nothing.
func New(cfg Config) (*Gateway, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{cfg: cfg, ask: make(chan question), ended: make(chan struct{})}
	g.served.Store(&map[netip.Addr]bool{})
	g.alive.Store(&[]mesh.WGKey{})
	b, err := cfg.Load()
	if errors.Is(err, fs.ErrNotExist) {
		return g, nil
	}
	var s saved
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		// Links do not need this setting: say it, and go on as one that is off.
		text := fmt.Sprintf("whether this node is a gateway could not be read (%v): say `gridwire gateway on` or `off` again", err)
		g.trouble.Store(&text)
		cfg.Log.Warn(text)
		return g, nil
	}
	g.on.Store(s.On)
	return g, nil
}

// On reports whether this node serves devices.
func (g *Gateway) On() bool { return g.on.Load() }

// Trouble says why this node serves no devices although it was told to. Empty: it does, or was not told to.
func (g *Gateway) Trouble() string {
	if t := g.trouble.Load(); t != nil {
		return *t
	}
	return ""
}

// Connected returns the devices that this node has heard of just now, in order. It changes each countEvery at most, so that telephones that come
// and go do not fill the network with news.
func (g *Gateway) Connected() []mesh.WGKey { return *g.alive.Load() }

// Serves reports whether a is the address of a device that this node is the gateway of.
func (g *Gateway) Serves(a netip.Addr) bool { return (*g.served.Load())[a] }

// Turn makes this node a gateway, or ends that. After an error everything is as it was.
func (g *Gateway) Turn(ctx context.Context, on bool) error {
	a := g.question(ctx, question{turn: &on})
	return a.err
}

// Devices says how the devices are that this node serves; nothing if it is no gateway.
func (g *Gateway) Devices(ctx context.Context) []Status { return g.question(ctx, question{}).devices }

func (g *Gateway) question(ctx context.Context, q question) answer {
	q.answer = make(chan answer, 1)
	select {
	case g.ask <- q:
	case <-g.ended:
		return answer{err: errors.New("the gateway has stopped")}
	case <-ctx.Done():
		return answer{err: ctx.Err()}
	}
	select {
	case a := <-q.answer:
		return a
	case <-ctx.Done():
		return answer{err: ctx.Err()}
	}
}

// Run keeps the tunnel as the View demands, until ctx ends. The devices' peers go with the tunnel.
func (g *Gateway) Run(ctx context.Context) error {
	defer close(g.ended)
	views, stop := g.cfg.Watch()
	defer stop()
	g.core = newCore(g.cfg.Self, mesh.NewView(mesh.Network{}, g.cfg.Self), g.cfg.Seen)
	g.begin()
	count := time.NewTicker(countEvery)
	defer count.Stop()
	ticking := true
	again := time.NewTimer(retry)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			g.look(time.Now())
			if g.core.on {
				return g.cfg.Forward(false)
			}
			return nil
		case g.core.view = <-views:
			if r := routes(g.core.view); !sameRoutes(r, g.core.routes) {
				g.core.routes = r
				g.cfg.Route(r)
			}
		case q := <-g.ask:
			q.answer <- g.reply(q)
		case now := <-count.C:
			g.look(now)
			continue
		case <-again.C:
		}
		if !g.apply() {
			again.Reset(retry)
		}
		switch devices := len(g.core.peers) > 0; { // nobody is woken for nothing
		case devices && !ticking:
			count.Reset(countEvery)
			ticking = true
		case !devices && ticking:
			count.Stop()
			ticking = false
			g.look(time.Now())
		}
	}
}

// begin carries out what was on at the last run's end.
func (g *Gateway) begin() {
	if !g.on.Load() {
		return
	}
	if err := g.cfg.Forward(true); err != nil {
		text := fmt.Sprintf("this node is to be a gateway, and serves no device: %v", err)
		g.trouble.Store(&text)
		g.on.Store(false)
		g.cfg.Log.Warn(text)
		g.cfg.Changed()
		return
	}
	g.core.on = true
}

func (g *Gateway) reply(q question) answer {
	if q.turn == nil {
		return answer{devices: g.core.report(g.stats(), time.Now())}
	}
	return answer{err: g.turn(*q.turn)}
}

// turn changes the system first and the disk then: where either says no, nothing has changed.
func (g *Gateway) turn(on bool) error {
	if on != g.core.on {
		if err := g.cfg.Forward(on); err != nil {
			return fmt.Errorf("turning the gateway %s: %w", word(on), err)
		}
	}
	b, err := json.Marshal(saved{on})
	if err == nil {
		err = g.cfg.Save(b)
	}
	if err != nil {
		if on != g.core.on {
			err = errors.Join(err, g.cfg.Forward(g.core.on))
		}
		return fmt.Errorf("turning the gateway %s: %w", word(on), err)
	}
	if on != g.core.on {
		g.cfg.Log.Info("gateway", "state", word(on))
	}
	g.core.on = on
	g.on.Store(on)
	g.trouble.Store(nil)
	g.cfg.Changed()
	return nil
}

func word(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// apply brings the tunnel up to date. It returns false if something failed and must be tried again.
func (g *Gateway) apply() bool {
	set, remove := g.core.changes()
	var errs []error
	for _, key := range remove {
		err := g.cfg.Tunnel.RemovePeer(key)
		if err == nil {
			delete(g.core.peers, key)
		}
		errs = append(errs, err)
	}
	for _, p := range set {
		err := g.cfg.Tunnel.SetPeer(p)
		if err == nil {
			g.core.peers[p.Key] = p.AllowedIPs
			if p.Endpoint.IsValid() {
				_ = g.cfg.Tunnel.Handshake(p.Key) // if it does not answer, it will come by itself
			}
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if failed := err != nil; failed != g.core.failing {
		g.core.failing = failed
		if failed {
			g.cfg.Log.Warn("a device could not be put into the tunnel, or taken out of it; trying again", "err", err, "every", retry)
		}
	}
	if len(set)+len(remove) > 0 {
		served := map[netip.Addr]bool{}
		for _, prefixes := range g.core.peers {
			for _, p := range prefixes {
				served[p.Addr()] = true
			}
		}
		g.served.Store(&served)
		g.cfg.Log.Info("devices in the tunnel", "count", len(g.core.peers))
	}
	return err == nil
}

// look notes which devices are there, and where.
func (g *Gateway) look(now time.Time) {
	g.core.count(g.stats(), now)
	if g.core.moved {
		g.core.forget()
		g.core.moved = false
		g.cfg.Remember(maps.Clone(g.core.seen))
	}
	if now := g.core.alive(now); !slices.Equal(now, *g.alive.Load()) {
		g.alive.Store(&now)
		g.cfg.Changed()
	}
}

func (g *Gateway) stats() map[mesh.WGKey]tunnel.PeerStats {
	if len(g.core.peers) == 0 {
		return nil
	}
	stats, err := g.cfg.Tunnel.Stats()
	if err != nil {
		g.cfg.Log.Debug("the devices' counters could not be read", "err", err)
	}
	return stats
}
