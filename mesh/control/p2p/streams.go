package p2p

import (
	"context"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	negotiation     = 5 * time.Second // to name a protocol
	proofWait       = 2 * time.Second // for the proof: a member's first streams may arrive just before its acknowledgement does
	strangerStreams = 8               // at once, on one connection that is not proven
)

// Handle serves a protocol until Unhandle: serve is called for each stream that another host opens, in a goroutine of the stream's
// own, and must return. Unless strangers is set, a connection must be proven: a stream waits for that for at most 2 s, then it is reset.
func (h *Host) Handle(id protocol.ID, strangers bool, serve func(*Conn, network.Stream)) {
	h.HandleMatch(id, nil, strangers, serve)
}

// HandleMatch is Handle for all protocols that match likes; a nil match: the one called id.
func (h *Host) HandleMatch(id protocol.ID, match func(protocol.ID) bool, strangers bool, serve func(*Conn, network.Stream)) {
	handler := func(p protocol.ID, rw io.ReadWriteCloser) error {
		s := rw.(network.Stream) // what accept passes to the mux
		c := h.connOf(s.Conn())
		if c == nil || !strangers && !c.admitted() {
			return s.Reset()
		}
		if err := s.SetProtocol(p); err != nil {
			return s.Reset()
		}
		if err := s.SetDeadline(time.Time{}); err != nil {
			return s.Reset()
		}
		serve(c, s)
		return nil
	}
	if match == nil {
		h.mux.AddHandler(id, handler)
		return
	}
	h.mux.AddHandlerWithFunc(id, match, handler)
}

// Unhandle ends what Handle began. Streams being served go on.
func (h *Host) Unhandle(id protocol.ID) { h.mux.RemoveHandler(id) }

// admitted waits for the proof, but not long.
func (c *Conn) admitted() bool {
	if c.IsProven() {
		return true
	}
	ctx, cancel := context.WithTimeout(c.ctx, proofWait)
	defer cancel()
	return c.WaitProven(ctx) == nil
}

// accept negotiates the protocol of a stream that another host opened, and serves it. libp2p calls it in the stream's own goroutine.
func (h *Host) accept(s network.Stream) {
	h.mu.Lock()
	c := h.conns[s.Conn()]
	if h.closed || c == nil {
		h.mu.Unlock()
		_ = s.Reset()
		return
	}
	h.handlers.Add(1)
	h.mu.Unlock()
	defer h.handlers.Done()

	defer c.streams.Add(-1)
	if c.streams.Add(1) > strangerStreams && !c.IsProven() {
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	if err := s.SetDeadline(time.Now().Add(negotiation)); err != nil {
		_ = s.Reset()
		return
	}
	id, handler, err := h.mux.Negotiate(s)
	if err != nil {
		_ = s.ResetWithError(network.StreamProtocolNegotiationFailed)
		return
	}
	_ = handler(id, s) // it has reset the stream itself
}
