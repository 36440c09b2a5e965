package pmtu

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/agent/tunnel"
	"github.com/gridwire/gridwire/mesh"
)

// How often the links are looked at: while many packets pass, and otherwise; how many in readIdle are worth a look; and how many begin a time of
// restFor with frequent looks. The links' own probes are fewer than the first, and an idle agent that woke up five times a second whenever a few
// of them came together spent a third of its processor time on that.
const (
	readBusy = 200 * time.Millisecond
	readIdle = tunnel.RestInterval
	restFor  = 10 * time.Second
	some     = 8
	many     = 50
)

// Config is what a Runner is made of.
type Config struct {
	Interface string     // the overlay's
	Addr      netip.Addr // this node's overlay IPv6 address
	MTU       int        // the interface's
	Links     func(ctx context.Context) []Link
	Passed    func() uint64               // changes when the tunnel carries anything, cheap
	Apply     func(map[mesh.NodeID]Path)  // puts what was found into force; called again every now and then, must not block for long
	Name      func(mesh.NodeID) mesh.Name // for the log
	Log       *slog.Logger
}

// Runner is the goroutine that owns a Core.
type Runner struct {
	cfg  Config
	core *Core
	conn *net.UDPConn
	log  *slog.Logger

	kick    chan struct{}
	answers chan Answered

	mu    sync.Mutex // guards what follows
	up    map[mesh.NodeID]bool
	paths map[mesh.NodeID]Path
}

// New starts nothing.
func New(cfg Config) *Runner {
	return &Runner{
		cfg: cfg, core: NewCore(cfg.MTU, rand.Uint32()), log: cfg.Log,
		kick: make(chan struct{}, 1), answers: make(chan Answered, 64), up: map[mesh.NodeID]bool{},
	}
}

// CameUp says that a link works again. It never blocks.
func (r *Runner) CameUp(peer mesh.NodeID) {
	r.mu.Lock()
	r.up[peer] = true
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Paths returns what is known now. The map is not to be changed.
func (r *Runner) Paths() map[mesh.NodeID]Path {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.paths
}

// Run returns when ctx has ended and everything it started has, too.
func (r *Runner) Run(ctx context.Context) error {
	var err error
	if r.conn, err = listen(ctx, r.cfg.Interface, r.cfg.Addr); err != nil {
		return err
	}
	var reader sync.WaitGroup
	reader.Go(r.read) // ends when the socket is closed below
	r.loop(ctx)
	_ = r.conn.Close()
	reader.Wait()
	return nil
}

func (r *Runner) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	look := time.NewTimer(readIdle)
	defer look.Stop()
	var passed uint64
	var busy time.Time // when packets last passed
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.kick:
			r.readLinks(ctx)
		case <-look.C:
			p, now := r.cfg.Passed(), time.Now()
			n := p - passed
			passed = p
			rested := now.Sub(busy) > restFor
			if n >= many || !rested && n >= some {
				busy, rested = now, false
			}
			look.Reset(readBusy)
			if rested {
				look.Reset(tunnel.NextRest(now).Sub(now))
			}
			if n >= some || n > 0 && !rested {
				r.readLinks(ctx)
			}
		case a := <-r.answers:
			r.step(a, time.Now())
		case <-timer.C:
			r.step(Tick{}, time.Now())
		}
		if next := r.core.Next(); !next.IsZero() {
			timer.Reset(max(time.Until(next), time.Millisecond))
		}
	}
}

// readLinks looks at the links; those that came up are taken for new paths.
func (r *Runner) readLinks(ctx context.Context) {
	r.mu.Lock()
	up := r.up
	r.up = map[mesh.NodeID]bool{}
	r.mu.Unlock()
	all := r.cfg.Links(ctx)
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	r.step(Links{all}, now)
	for id := range up {
		r.step(CameUp{id}, now)
	}
}

func (r *Runner) step(ev Event, now time.Time) {
	for _, a := range r.core.Step(ev, now) {
		switch a := a.(type) {
		case Probe:
			r.log.Debug("path MTU probe", "to", a.To, "bytes", a.Size)
			b := links.EchoRequest(a.Seq, a.Size-probeOverhead)
			// An error (no route yet, buffer full) is a lost probe, and judged as one.
			_, _ = r.conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(a.To, links.ProbePort))
		case Changed:
			r.report(a)
		}
	}
	if _, ok := ev.(Answered); ok && !r.moved() {
		return
	}
	r.publish()
}

// moved reports whether the core knows other than what was published.
func (r *Runner) moved() bool { return !maps.Equal(r.core.Paths(), r.Paths()) }

func (r *Runner) publish() {
	paths := r.core.Paths()
	r.mu.Lock()
	r.paths = paths
	r.mu.Unlock()
	r.cfg.Apply(paths)
}

func (r *Runner) report(a Changed) {
	level := slog.LevelInfo
	if a.Was == 0 && a.MTU == r.cfg.MTU {
		level = slog.LevelDebug // as everybody expects
	}
	r.log.Log(context.Background(), level, "path MTU found", "peer", r.cfg.Name(a.Peer), "bytes", a.MTU, "was", a.Was)
}

// read hands answers on until the socket is closed.
func (r *Runner) read() {
	buf := make([]byte, 64)
	for {
		n, from, err := r.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if isClosed(err) {
				return
			}
			continue // an ICMP error of an earlier send
		}
		if seq, ok := links.EchoReply(buf[:n]); ok && from.Port() == links.ProbePort {
			select {
			case r.answers <- Answered{From: from.Addr().Unmap(), Seq: seq}:
			default: // as if lost
			}
		}
	}
}
