package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control/p2p"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	helloVersion = 1
	helloTimeout = 5 * time.Second
	ackLimit     = 1 << 10

	// Bytes. What a dialler sends may be a stranger's, so it is kept small; what does not fit comes with the sync that follows.
	dialHelloLimit   = 96 << 10
	dialHelloLists   = 32 << 10
	listenHelloLimit = 256 << 10
	listenHelloLists = 192 << 10

	strangerTime = 10 * time.Second // an inbound connection that is not proven and on which nothing is going on is closed after this
)

// proof is how two hosts show each other that they are members, before anything else is said.
type proof struct{ *Control }

// meet takes a new connection through the proof and serves it until it ends.
func (c proof) meet(ctx context.Context, conn *p2p.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close(errStopped) })
	defer stop()
	if conn.Inbound() {
		c.await(conn)
		return
	}
	hctx, cancel := context.WithTimeout(conn.Context(), helloTimeout)
	defer cancel()
	l, err := c.propose(hctx, conn)
	if err != nil {
		c.events.put(evRefused{id: conn.ID(), err: err})
		c.spare(ctx, conn, fmt.Errorf("proving membership to %s at %v: %w", conn.ID().Short(), conn.Remote(), err))
		return
	}
	cancel()
	c.proven(l)
	c.work.run(func() { exchange(c).sync(l) })
	c.beat(ctx, l)
}

// errNotProven is why a stranger's connection ends.
var errNotProven = errors.New("it was not proven in time")

// spare closes a connection whose proof failed when what goes on on it besides has ended: a node whose certificate has run out renews it
// as a stranger, and libp2p has one connection for that and for the proof.
func (c proof) spare(ctx context.Context, conn *p2p.Conn, why error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for conn.Enrolling()+conn.Serving() > 0 {
		select {
		case <-look.C:
			continue
		case <-conn.Context().Done():
		case <-ctx.Done():
		}
		break
	}
	conn.Close(why)
}

// await gives the dialler time to prove itself; the stream handler does the rest (answer).
func (c proof) await(conn *p2p.Conn) {
	for {
		left := time.Until(conn.LastUse().Add(strangerTime))
		if left <= 0 && conn.Serving() == 0 {
			conn.Close(errNotProven)
			return
		}
		left = max(left, time.Second) // an enrolment may wait for the issuer
		wctx, cancel := context.WithTimeout(conn.Context(), left)
		err := conn.WaitProven(wctx)
		cancel()
		if err == nil || conn.Context().Err() != nil {
			return
		}
	}
}

// propose is the dialler's side of the proof.
func (c proof) propose(ctx context.Context, conn *p2p.Conn) (_ *link, err error) {
	s, err := conn.Open(ctx, helloProtocol)
	if err != nil {
		return nil, err
	}
	release := bound(ctx, s)
	defer func() { release(err) }()
	hello, err := c.hello(dialHelloLists)
	if err != nil {
		return nil, err
	}
	if err := wire.WriteFrame(s, hello); err != nil {
		return nil, err
	}
	ack, theirs := new(wire.HelloAck), new(wire.Hello)
	if err := wire.ReadFrame(s, ack, ackLimit); err != nil {
		return nil, fmt.Errorf("waiting for its answer: %w", err)
	}
	if !ack.GetAccepted() {
		return nil, &RefusedError{Reason: printable(ack.GetReason())}
	}
	if err := wire.ReadFrame(s, theirs, listenHelloLimit); err != nil {
		return nil, fmt.Errorf("waiting for its proof: %w", err)
	}
	l, err := c.judge(ctx, conn, theirs)
	if err != nil {
		_ = wire.WriteFrame(s, &wire.HelloAck{Reason: err.Error()}) // the connection ends in any case
		return nil, err
	}
	if err := wire.WriteFrame(s, &wire.HelloAck{Accepted: true}); err != nil {
		return nil, err
	}
	_ = s.Close() // the other side may have closed it first
	return l, nil
}

// answer is the listener's side of the proof. It shows its own only to whom it accepts.
func (c proof) answer(run context.Context, conn *p2p.Conn, s network.Stream) {
	ctx, cancel := context.WithTimeout(conn.Context(), helloTimeout)
	defer cancel()
	leave, ok := c.door.enterHello(ctx, conn, c.host.Welcomed(conn.Remote().Addr()))
	if !ok {
		_ = s.ResetWithError(network.StreamRateLimited)
		return
	}
	defer leave()
	release := bound(ctx, s)
	l, err := c.examine(ctx, conn, s)
	release(err)
	if err != nil {
		c.log.Debug("a host did not prove that it is a member", "node", conn.ID().Short(), "remote", conn.Remote(), "err", err)
		return
	}
	c.work.run(func() { c.beat(run, l) })
}

func (c proof) examine(ctx context.Context, conn *p2p.Conn, s network.Stream) (*link, error) {
	theirs := new(wire.Hello)
	if err := wire.ReadFrame(s, theirs, dialHelloLimit); err != nil {
		return nil, err
	}
	l, err := c.judge(ctx, conn, theirs)
	if err != nil {
		_ = wire.WriteFrame(s, &wire.HelloAck{Reason: err.Error()}) // it may be gone already
		_ = s.CloseWrite()
		_, _ = io.Copy(io.Discard, io.LimitReader(s, ackLimit)) // so that the reset does not overtake the reason
		return nil, err
	}
	return l, c.accept(s, l)
}

// accept sends this node's proof and waits for the dialler's verdict.
func (c proof) accept(s network.Stream, l *link) error {
	mine, err := c.hello(listenHelloLists)
	if err != nil {
		_ = wire.WriteFrame(s, &wire.HelloAck{Reason: "it is not yet ready"})
		_ = s.CloseWrite()
		return err
	}
	if err := wire.WriteFrame(s, &wire.HelloAck{Accepted: true}); err != nil {
		return err
	}
	if err := wire.WriteFrame(s, mine); err != nil {
		return err
	}
	ack := new(wire.HelloAck)
	if err := wire.ReadFrame(s, ack, ackLimit); err != nil {
		return fmt.Errorf("waiting for the dialler's verdict: %w", err)
	}
	if !ack.GetAccepted() {
		return &RefusedError{Reason: printable(ack.GetReason())}
	}
	c.proven(l)
	_ = s.Close() // the dialler may have closed it first
	return nil
}

// hello makes this node's proof, with as many bytes of revocation lists as there is room for.
func (c proof) hello(room int) (*wire.Hello, error) {
	signed := c.cfg.Self()
	rec := new(wire.Record)
	if signed == nil {
		return nil, errors.New("this node has no record of its own yet")
	}
	if err := proto.Unmarshal(signed.GetRecord(), rec); err != nil {
		return nil, fmt.Errorf("this node's own record: %w", err)
	}
	h := &wire.Hello{
		Version: helloVersion, Network: c.cfg.Network.ID[:], Chain: rec.GetChain(), Boot: c.cfg.Boot,
		Time: time.Now().UnixMilli(), Record: signed,
	}
	for _, list := range c.cfg.Directory.RevocationLists() {
		if room -= len(list); room < 0 {
			break
		}
		h.RevocationLists = append(h.RevocationLists, list)
	}
	return h, nil
}

// judge decides whether the host at the other end is a member: its revocations are taken in first, its certificate must be of the key
// that it has, and its record must make it a member that has not left.
func (c proof) judge(ctx context.Context, conn *p2p.Conn, h *wire.Hello) (*link, error) {
	d := c.cfg.Directory
	if err := wire.CheckHello(h); err != nil {
		return nil, err
	}
	if id, err := mesh.NetworkIDFromBytes(h.GetNetwork()); err != nil || id != c.cfg.Network.ID {
		return nil, errors.New("it is of another network")
	}
	now := d.Now()
	leaf, err := d.Judge(h.GetChain(), now)
	if err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	if leaf.ID != conn.ID() {
		return nil, errors.New("its certificate is not of the key that it has")
	}
	// Only now: a stranger must not make this node check lists. Its lists may well concern itself, so it is judged once more.
	for _, list := range h.GetRevocationLists() {
		if err := exchange(c).submitAndSpread(ctx, &wire.Item{Item: &wire.Item_RevocationList{RevocationList: list}}); err != nil {
			c.log.Debug("the directory refused a revocation list", "from", conn.ID().Short(), "err", err)
		}
	}
	if err := exchange(c).submitAndSpread(ctx, &wire.Item{Item: &wire.Item_Record{Record: h.GetRecord()}}); err != nil {
		return nil, fmt.Errorf("its record: %w", err)
	}
	if _, err := d.Judge(h.GetChain(), now); err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	if _, ok := d.View().Member(conn.ID()); !ok {
		return nil, errors.New("it has left the network, or its record is not that of a member")
	}
	l := newLink(conn)
	l.boot, l.skew = h.GetBoot(), time.Until(time.UnixMilli(h.GetTime())).Round(time.Millisecond)
	return l, nil
}

// RefusedError says why the other side did not accept this node's proof.
type RefusedError struct{ Reason string }

// Error implements error.
func (e *RefusedError) Error() string { return "it refused this node: " + e.Reason }

// printable makes somebody else's text fit for a log.
func printable(s string) string {
	const most = 400
	if len(s) > most {
		s = s[:most]
	}
	return fmt.Sprintf("%q", s)
}

// bound makes a stream end with ctx. The function that it returns ends that, and resets the stream unless all went well.
func bound(ctx context.Context, s network.Stream) (release func(error)) {
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	return func(err error) {
		stop()
		if err != nil {
			_ = s.Reset()
		}
	}
}
