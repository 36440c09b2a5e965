package control

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control/p2p"
	"github.com/gridwire/gridwire/mesh/control/pulse"
	"github.com/gridwire/gridwire/mesh/wire"
)

// How often a kept connection is asked for a sign of life.
const (
	fastBeat = 8 * time.Second  // one side is behind a NAT: others rely on this connection to find it
	slowBeat = 14 * time.Second // both sides can be dialled by anybody; QUIC sends a keepalive of its own after 15 s, and one of the two is enough

	beatWrite = time.Second // to hand a heartbeat to QUIC
	beatLimit = 64          // bytes
)

// link is a proven connection to a member.
type link struct {
	conn   *p2p.Conn
	id     mesh.NodeID
	proven time.Time
	boot   uint64        // of the member's agent, as its hello said
	skew   time.Duration // its clock minus ours, as its hello showed; half a round trip too small

	kept     atomic.Bool
	interval atomic.Int64 // of heartbeats, nanoseconds
	urgent   atomic.Bool
	rtt      atomic.Int64  // nanoseconds, as the last heartbeat measured it
	late     atomic.Bool   // a heartbeat has found no answer
	kick     chan struct{} // interval or urgent has changed
	asked    chan struct{} // the other side asked
	syncing  atomic.Bool
}

func newLink(conn *p2p.Conn) *link {
	return &link{conn: conn, id: conn.ID(), kick: make(chan struct{}, 1), asked: make(chan struct{}, 1)}
}

// poke tells a goroutine that there is something new to see; it never blocks.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (l *link) keep(interval time.Duration) {
	l.kept.Store(interval > 0)
	l.interval.Store(int64(interval))
	poke(l.kick)
}

func (l *link) check() {
	l.urgent.Store(true)
	poke(l.kick)
}

// errSilent is why a connection ends whose heartbeats are not answered.
var errSilent = errors.New("it does not answer heartbeats")

// proven marks a connection on which both sides have acknowledged each other, and tells the loop.
func (c *Control) proven(l *link) {
	l.proven = time.Now()
	l.conn.Prove()
	c.events.put(evProven{l})
}

// beat keeps the pulse of a proven link until the connection ends, which it does with ctx at the latest.
func (c *Control) beat(ctx context.Context, l *link) {
	stop := context.AfterFunc(ctx, func() { l.conn.Close(errStopped) })
	defer stop()
	defer func() { c.events.put(evEnded{l, context.Cause(l.conn.Context())}) }()
	b := &beater{link: l, answers: make(chan uint32, 4)}
	defer b.close()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if next := b.pulse.Next(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		var ev pulse.Event = pulse.Tick{}
		select {
		case <-l.conn.Context().Done():
			return
		case <-l.kick:
			b.step(pulse.Every{Interval: time.Duration(l.interval.Load())})
			if !l.urgent.Swap(false) {
				continue
			}
			ev = pulse.Urgent{}
		case <-l.asked:
			ev = pulse.Asked{}
		case seq := <-b.answers:
			ev = pulse.Answered{Seq: seq}
		case <-timer.C:
		}
		b.step(ev)
	}
}

// beater is the goroutine's state: the pulse, and the stream on which this side asks.
type beater struct {
	link    *link
	pulse   pulse.Pulse
	stream  network.Stream
	answers chan uint32
	readers sync.WaitGroup
}

func (b *beater) step(ev pulse.Event) {
	r := b.pulse.Step(ev, time.Now())
	b.link.late.Store(b.pulse.Waiting())
	if r.RTT > 0 {
		b.link.rtt.Store(int64(r.RTT))
	}
	if r.Dead {
		b.link.conn.Close(errSilent)
	}
	if r.Ask {
		b.ask(r.Seq)
	}
}

// ask sends a heartbeat. One that cannot be sent will not be answered, which is noticed.
func (b *beater) ask(seq uint32) {
	ctx, cancel := context.WithTimeout(b.link.conn.Context(), beatWrite)
	defer cancel()
	if b.stream == nil {
		s, err := b.link.conn.Open(ctx, beatProtocol)
		if err != nil {
			return
		}
		b.stream = s
		b.readers.Go(func() { b.read(s) }) // close waits for it
	}
	_ = b.stream.SetWriteDeadline(time.Now().Add(beatWrite))
	if err := wire.WriteFrame(b.stream, &wire.Heartbeat{Sequence: seq}); err != nil {
		b.close()
	}
}

func (b *beater) read(s network.Stream) {
	for {
		m := new(wire.Heartbeat)
		if err := wire.ReadFrame(s, m, beatLimit); err != nil {
			return
		}
		if !m.GetReply() {
			continue
		}
		select {
		case b.answers <- m.GetSequence():
		default: // more answers than questions
		}
	}
}

func (b *beater) close() {
	if b.stream != nil {
		_ = b.stream.Reset()
		b.stream = nil
	}
	b.readers.Wait()
}

// echo answers the other side's heartbeats on its stream.
func (c *Control) echo(conn *p2p.Conn, s network.Stream) {
	defer s.Close()
	for {
		m := new(wire.Heartbeat)
		if err := wire.ReadFrame(s, m, beatLimit); err != nil {
			_ = s.Reset()
			return
		}
		conn.Use() // the other side wants this connection
		_ = s.SetWriteDeadline(time.Now().Add(beatWrite))
		if err := wire.WriteFrame(s, &wire.Heartbeat{Sequence: m.GetSequence(), Reply: true}); err != nil {
			_ = s.Reset()
			return
		}
		if l := c.table.Load().byID[conn.ID()]; l != nil && l.conn == conn {
			poke(l.asked)
		}
	}
}

// Connection is a control connection at one moment.
type Connection struct {
	ID      mesh.NodeID
	Remote  netip.AddrPort
	RTT     time.Duration // of the last heartbeat, else as QUIC estimates it
	MinRTT  time.Duration // the least that QUIC has seen on this path: what the way takes, and no machine's being busy
	Proven  bool          // always: only proven connections are shown
	Inbound bool          // the member dialled
	Kept    bool          // this node keeps it alive with heartbeats
	Since   time.Time
	Boot    uint64 // the member's boot number, as its hello said
}

func (l *link) connection() Connection {
	rtt := time.Duration(l.rtt.Load())
	smoothed, least := l.conn.RTT()
	if rtt == 0 {
		rtt = smoothed
	}
	return Connection{
		ID: l.id, Remote: l.conn.Remote(), RTT: rtt, MinRTT: least, Proven: true, Inbound: l.conn.Inbound(),
		Kept: l.kept.Load(), Since: l.conn.Since(), Boot: l.boot,
	}
}
