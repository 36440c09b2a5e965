package links

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/gridwire/gridwire/agent/tunnel"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
	"github.com/gridwire/gridwire/nat/ice"
)

// Tunnel is what links need of agent/tunnel. No call blocks for longer than a system call.
type Tunnel interface {
	SetPeer(tunnel.PeerConfig) error
	SetEndpoint(mesh.WGKey, netip.AddrPort) error
	RemovePeer(mesh.WGKey) error
	Handshake(mesh.WGKey) error
	Stats() (map[mesh.WGKey]tunnel.PeerStats, error)
}

// Config is what a Runner is made of.
type Config struct {
	Core      *Core
	Tunnel    Tunnel
	ICE       *ice.Factory
	Send      func(ctx context.Context, to mesh.NodeID, s *wire.Signal) error // may block; called in a goroutine of its own
	Interface string                                                          // the overlay's
	Addr      netip.Addr                                                      // this node's overlay IPv6 address
	View      *mesh.View
	Passed    func() uint64                        // changes when the tunnel carries anything, cheap; nil: not known
	Next      func() <-chan struct{}               // gets something when the next packet passes; nil: not known
	Save      func(map[mesh.NodeID]netip.AddrPort) // stores last good endpoints; called rarely
	OnReport  func(Report)                         // must not block
	OnGone    func(Gone)                           // must not block
	Locate    func()                               // asks members how they see this node; must not block
	Observe   func(Event, []Action, time.Time)     // sees each event and what it led to, for telling later; must not block; may be nil
	Log       *slog.Logger
}

// Runner is the goroutine that owns a Core.
type Runner struct {
	cfg      Config
	mail     mailbox
	sessions map[mesh.NodeID]session
	byAddr   map[netip.Addr]mesh.NodeID
	unsaved  bool
	prober   *prober
	cost     cost
	reading  reading
	wg       sync.WaitGroup
	ended    chan struct{} // closed when Run has ended
}

type session struct {
	number uint64
	s      *ice.Session
}

// New starts nothing.
func New(cfg Config) *Runner {
	return &Runner{cfg: cfg, mail: newMailbox(), sessions: map[mesh.NodeID]session{}, byAddr: map[netip.Addr]mesh.NodeID{}, ended: make(chan struct{})}
}

// Post hands an event to the owner. It never blocks.
func (r *Runner) Post(ev Event) { r.mail.put(ev) }

// query asks the owner to call f between two steps.
type query struct {
	f     func(*Core, time.Time)
	fresh bool // after the tunnel's counters have been read
}

func (query) event() {}

// Snapshot returns every link's state. It returns nil once Run has ended or when ctx ends.
func (r *Runner) Snapshot(ctx context.Context) map[mesh.NodeID]Status { return r.snapshot(ctx, false) }

// Measure is Snapshot with the tunnel's counters as they are now, and not of the last reading.
func (r *Runner) Measure(ctx context.Context) map[mesh.NodeID]Status { return r.snapshot(ctx, true) }

func (r *Runner) snapshot(ctx context.Context, fresh bool) map[mesh.NodeID]Status {
	answer := make(chan map[mesh.NodeID]Status, 1)
	r.Post(query{func(c *Core, now time.Time) { answer <- c.Snapshot(now) }, fresh})
	select {
	case s := <-answer:
		return s
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return nil
	}
}

// Run returns when ctx has ended and everything it started has, too.
func (r *Runner) Run(ctx context.Context) error {
	defer close(r.ended)
	p, err := listenProbe(ctx, r.cfg.Interface, r.cfg.Addr, &r.cost, r.cfg.Log)
	if err != nil {
		return err
	}
	r.prober = p
	r.wg.Go(func() { p.run(r.heard) }) // ends when the socket is closed below
	r.step(ctx, ViewChanged{r.cfg.View})
	r.loop(ctx)
	p.close()
	for id := range r.sessions {
		r.closeSession(id)
	}
	r.wg.Wait()
	r.save()
	return nil
}

func (r *Runner) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	nextCount, nextSave := time.Now(), time.Time{}
	var packet <-chan struct{} // the first one after a rest
	for {
		select {
		case <-ctx.Done():
			return
		case <-packet: // later, so that the answer is counted with it: what is sent and not answered is a reason for doubt
			nextCount, packet = time.Now().Add(countBusy), nil
		case <-r.mail.ready:
			for _, ev := range r.mail.take() {
				if q, ok := ev.(query); ok {
					if q.fresh {
						r.count(ctx)
					}
					q.f(r.cfg.Core, time.Now())
					continue
				}
				r.step(ctx, ev)
			}
		case <-timer.C:
		}
		now := time.Now()
		if !now.Before(nextCount) {
			r.count(ctx)
			nextCount, packet = r.nextCount(now)
		}
		r.step(ctx, Tick{})
		if soon := now.Add(countBusy); soon.Before(nextCount) && r.restless(now) { // since the last reading
			nextCount, packet = soon, nil
		}
		if r.unsaved && nextSave.IsZero() {
			nextSave = now.Add(time.Second)
		}
		if due(nextSave, now) {
			r.save()
			nextSave = time.Time{}
		}
		next := r.cfg.Core.Next(now)
		for _, t := range []time.Time{nextCount, nextSave} {
			if !t.IsZero() && t.Before(next) {
				next = t
			}
		}
		timer.Reset(max(time.Until(next), time.Millisecond))
	}
}

// restless reports whether the counters can change with no packet that would tell.
func (r *Runner) restless(now time.Time) bool {
	return r.reading.left > 0 || r.cfg.Core.Busy(now) && r.cfg.Core.waiting()
}

// nextCount says when the counters are to be read again: then, or, where packet is not nil, when it gets something.
func (r *Runner) nextCount(now time.Time) (at time.Time, packet <-chan struct{}) {
	if r.restless(now) || r.cfg.Next == nil {
		return now.Add(countBusy), nil
	}
	packet = r.cfg.Next()
	if r.cfg.Passed() != r.reading.passed { // before it was asked for
		return now.Add(countBusy), nil
	}
	return tunnel.NextRest(now), packet
}

// count tells the core the tunnel's counters: those of before if nothing has passed since. Reading them was a third of what an idle agent
// cost.
func (r *Runner) count(ctx context.Context) {
	if !r.reading.due(r.cfg.Passed, time.Now()) {
		r.step(ctx, r.reading.last)
		return
	}
	stats, err := r.cfg.Tunnel.Stats()
	if err != nil {
		r.cfg.Log.Warn("read the tunnel's counters", "err", err)
		return
	}
	ev := Counters{Peers: make(map[mesh.WGKey]PeerCounters, len(stats))}
	for key, s := range stats {
		ev.Peers[key] = PeerCounters{Endpoint: s.Endpoint, LastHandshake: s.LastHandshake, Volume: Volume{s.RxBytes, s.TxBytes, s.RxPackets, s.TxPackets}}
	}
	r.reading.last = ev
	r.step(ctx, ev)
}

// heard runs in the prober's goroutine.
func (r *Runner) heard(from netip.Addr, e echo, at time.Time) {
	r.Post(heardFrom{from, e, at})
}

type heardFrom struct {
	from netip.Addr
	echo echo
	at   time.Time
}

// Cost returns how many probes this node has sent, and how many bytes of WireGuard messages they and its answers to others took.
func (r *Runner) Cost() (probes, bytes uint64) {
	probes = r.cost.requests.Load()
	return probes, (probes + r.cost.replies.Load()) * probeWire
}

func (heardFrom) event() {}

func (r *Runner) step(ctx context.Context, ev Event) {
	now := time.Now()
	switch e := ev.(type) {
	case heardFrom:
		id, ok := r.byAddr[e.from]
		if !ok {
			return
		}
		if e.echo.reply {
			ev = ProbeAnswered{Peer: id, Seq: e.echo.seq, At: e.at}
		} else {
			ev = ProbeHeard{Peer: id, Tells: e.echo.tells, Told: e.echo.told}
		}
	case ViewChanged:
		clear(r.byAddr)
		for m := range e.View.Peers() {
			for _, a := range m.Addrs {
				r.byAddr[a] = m.ID
			}
		}
	}
	actions := r.cfg.Core.Step(ev, now)
	if r.cfg.Observe != nil {
		r.cfg.Observe(ev, actions, now)
	}
	for _, a := range actions {
		r.act(ctx, a)
	}
}

func (r *Runner) act(ctx context.Context, a Action) {
	var err error
	switch a := a.(type) {
	case SetAllowedIPs:
		err = r.cfg.Tunnel.SetPeer(tunnel.PeerConfig{Key: a.Key, AllowedIPs: a.AllowedIPs})
	case SetPeer:
		r.reading.doubt()
		err = r.cfg.Tunnel.SetPeer(tunnel.PeerConfig{Key: a.Key, Endpoint: a.Endpoint, AllowedIPs: a.AllowedIPs})
	case RemovePeer:
		r.reading.doubt()
		err = r.cfg.Tunnel.RemovePeer(a.Key)
	case SetEndpoint:
		r.reading.doubt()
		err = r.cfg.Tunnel.SetEndpoint(a.Key, a.Endpoint)
	case Handshake:
		err = r.cfg.Tunnel.Handshake(a.Key)
	case StartICE:
		r.startICE(a)
	case ConnectICE:
		if s, ok := r.sessions[a.Peer]; ok && s.number == a.Session {
			r.cfg.Log.Debug("ICE checks begin", "peer", a.Peer.Short(), "candidates", a.Remote.Candidates, "delay", a.Delay)
			err = s.s.Connect(a.Remote, a.Delay)
		}
	case CloseICE:
		if s, ok := r.sessions[a.Peer]; ok && s.number == a.Session {
			r.closeSession(a.Peer)
		}
	case Send:
		r.send(ctx, a)
	case Probe:
		r.prober.send(a.Addr, a.Seq, a.Told)
	case Locate:
		r.cfg.Locate()
	case Count:
		r.count(ctx)
	case Remember:
		r.unsaved = true
	case Report:
		r.report(a)
	case Gone:
		if r.cfg.OnGone != nil {
			r.cfg.OnGone(a)
		}
	}
	if err != nil {
		level := slog.LevelWarn
		if _, ok := a.(Handshake); ok {
			level = slog.LevelDebug // no route, as on a switch with no internet; it is tried again, and the link's state is logged
		}
		r.cfg.Log.Log(ctx, level, "link action failed", "what", fmt.Sprintf("%T", a), "action", a, "err", err)
	}
}

func (r *Runner) startICE(a StartICE) {
	peer, number := a.Peer, a.Session
	s, err := r.cfg.ICE.Start(ice.SessionConfig{
		Controlling: a.Controlling,
		OnEvent: func(e ice.Event) {
			switch e.Kind {
			case ice.Selected:
				r.cfg.Log.Debug("ICE selected a pair", "peer", peer.Short(), "local", e.Pair.Local.Addr, "remote", e.Pair.Remote.Addr)
				r.Post(ICESelected{Peer: peer, Session: number, Pair: e.Pair, Pairs: e.Pairs})
			case ice.Failed:
				r.Post(ICEFailed{Peer: peer, Session: number, Reason: e.Reason, Pairs: e.Pairs})
			}
		},
		Extra: r.cfg.Core.reflexive(),
	})
	if err != nil {
		r.Post(ICEStarted{Peer: peer, Session: number, Err: err})
		return
	}
	r.closeSession(peer)
	r.sessions[peer] = session{number, s}
	r.Post(ICEStarted{Peer: peer, Session: number, Local: s.Local()})
}

// closeSession closes in the background: pion's Close waits for its goroutines.
func (r *Runner) closeSession(id mesh.NodeID) {
	s, ok := r.sessions[id]
	if !ok {
		return
	}
	delete(r.sessions, id)
	r.wg.Go(func() { _ = s.s.Close() }) // Run waits
}

func (r *Runner) send(ctx context.Context, a Send) {
	r.wg.Go(func() { // Run waits; ctx bounds it
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		switch err := r.cfg.Send(ctx, a.To, a.Signal); {
		case err == nil:
			r.Post(SignalSent{To: a.To, Session: a.Signal.Session})
		case !errors.Is(err, context.Canceled):
			r.Post(SignalFailed{To: a.To, Session: a.Signal.Session, Reason: err.Error()})
		}
	})
}

func (r *Runner) report(a Report) {
	switch a.State {
	case Connected:
		r.cfg.Log.Info("link up", "peer", a.Name, "path", a.Path.Kind, "remote", a.Path.Remote,
			"local_type", a.Path.LocalType, "remote_type", a.Path.RemoteType, "took", a.Took.Round(time.Millisecond))
	default:
		r.cfg.Log.Info("link "+string(a.State), "peer", a.Name, "reason", a.Reason)
	}
	if r.cfg.OnReport != nil {
		r.cfg.OnReport(a)
	}
}

func (r *Runner) save() {
	if !r.unsaved || r.cfg.Save == nil {
		return
	}
	r.unsaved = false
	r.cfg.Save(r.cfg.Core.LastGood())
}

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
