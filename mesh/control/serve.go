package control

import (
	"context"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control/p2p"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	signalLimit = 6 << 10   // bytes: an envelope of at most 4 KiB and what is around it
	enrolLimit  = 32 << 10  // bytes of a request
	replyLimit  = 512 << 10 // bytes of its answer: certificates and a start of records

	signalTimeout = 10 * time.Second
	enrolTimeout  = 20 * time.Second // a forwarder may have to dial the issuer
)

// serve registers what other hosts may open.
func (c *Control) serve(ctx context.Context) {
	h := c.host
	h.Handle(helloProtocol, true, func(conn *p2p.Conn, s network.Stream) { proof{c}.answer(ctx, conn, s) })
	h.Handle(p2p.EnrolProtocol, true, func(conn *p2p.Conn, s network.Stream) { c.serveEnrol(ctx, conn, s) })
	h.Handle(beatProtocol, false, c.echo)
	h.Handle(syncProtocol, false, exchange{c}.serveSync)
	h.Handle(signalProtocol, false, c.serveSignal)
}

func (c *Control) unserve() {
	h := c.host
	h.Unhandle(helloProtocol)
	h.Unhandle(p2p.EnrolProtocol)
	h.Unhandle(beatProtocol)
	h.Unhandle(syncProtocol)
	h.Unhandle(signalProtocol)
}

// serveEnrol answers one request. A stranger's are limited by rate.
func (c *Control) serveEnrol(ctx context.Context, conn *p2p.Conn, s network.Stream) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	release := bound(ctx, s)
	member := conn.IsProven()
	conn.Use()
	frame := new(wire.EnrolFrame)
	err := wire.ReadFrame(s, frame, enrolLimit)
	if err == nil {
		resp := &wire.EnrolResponse{Code: wire.EnrolError_ENROL_RATE_LIMITED, Error: "too many requests at this moment; try again in some seconds"}
		if member || c.door.enterEnrol(conn.Remote().Addr()) {
			resp = c.cfg.Enrol(ctx, conn.Remote(), member, frame)
		}
		err = wire.WriteFrame(s, resp)
	}
	if err == nil {
		_ = s.Close() // whoever asked may have closed it first
	}
	release(err)
}

func (c *Control) serveSignal(conn *p2p.Conn, s network.Stream) {
	ctx, cancel := context.WithTimeout(conn.Context(), signalTimeout)
	defer cancel()
	release := bound(ctx, s)
	frame := new(wire.SignalFrame)
	err := wire.ReadFrame(s, frame, signalLimit)
	if err == nil {
		conn.Use()
		err = wire.WriteFrame(s, c.cfg.Signal(ctx, conn.ID(), frame))
	}
	if err == nil {
		_ = s.Close() // whoever asked may have closed it first
	}
	release(err)
}

// SendSignal sends a frame to a member on the direct connection that there is, and returns its answer. Without one: ErrNotConnected.
func (c *Control) SendSignal(ctx context.Context, to mesh.NodeID, f *wire.SignalFrame) (*wire.SignalAck, error) {
	conn := c.provenConn(to)
	if conn == nil {
		return nil, fmt.Errorf("signalling to %s: %w", to.Short(), ErrNotConnected)
	}
	ack := new(wire.SignalAck)
	if err := ask(ctx, conn, signalTimeout, f, ack); err != nil {
		return nil, fmt.Errorf("signalling to %s: %w", to.Short(), err)
	}
	return ack, nil
}

// SendEnrol sends a frame of the enrolment protocol to a member, which is dialled if need be, and returns its answer.
func (c *Control) SendEnrol(ctx context.Context, to mesh.NodeID, f *wire.EnrolFrame) (*wire.EnrolResponse, error) {
	if err := c.Connect(ctx, to); err != nil {
		return nil, fmt.Errorf("sending an enrolment request: %w", err)
	}
	conn := c.provenConn(to)
	if conn == nil {
		return nil, fmt.Errorf("sending an enrolment request to %s: %w", to.Short(), ErrNotConnected)
	}
	resp := new(wire.EnrolResponse)
	if err := ask(ctx, conn, enrolTimeout, f, resp); err != nil {
		return nil, fmt.Errorf("sending an enrolment request to %s: %w", to.Short(), err)
	}
	return resp, nil
}

// ask sends a message on a stream of its own and reads the answer: one round trip.
func ask(ctx context.Context, conn *p2p.Conn, timeout time.Duration, request, answer proto.Message) (err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	id, limit := signalProtocol, ackLimit
	if _, ok := answer.(*wire.EnrolResponse); ok {
		id, limit = p2p.EnrolProtocol, replyLimit
	}
	conn.Use()
	s, err := conn.Open(ctx, id)
	if err != nil {
		return err
	}
	release := bound(ctx, s)
	defer func() { release(err) }()
	if err := wire.WriteFrame(s, request); err != nil {
		return err
	}
	if err := wire.ReadFrame(s, answer, limit); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("no answer: %w", ctx.Err())
		}
		return err
	}
	_ = s.Close() // the answer is here
	return nil
}
