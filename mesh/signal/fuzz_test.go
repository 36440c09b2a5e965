package signal

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

// tap is a Carrier that is connected to everybody and records what it is to send.
type tap struct {
	conns []Conn
	sent  map[mesh.NodeID]*wire.SignalFrame
}

func (c *tap) SendSignal(_ context.Context, to mesh.NodeID, f *wire.SignalFrame) (*wire.SignalAck, error) {
	c.sent[to] = proto.CloneOf(f)
	return &wire.SignalAck{Delivered: true}, nil
}
func (c *tap) Connections() []Conn                        { return c.conns }
func (c *tap) Connect(context.Context, mesh.NodeID) error { return errors.New("nobody there") }

// Whatever frame arrives: what is forwarded is the same envelope, to the receiver it names, one hop further; what is delivered was
// signed by a member for us; nothing else is acknowledged. In half of the tries the envelope is one that is right.
func FuzzHandle(f *testing.F) {
	w := newWorld(f, "alice", "bob", "self")
	alice, bob, self := w.nodes["alice"], w.nodes["bob"], w.nodes["self"]
	carrier := &tap{conns: []Conn{{ID: alice.id, RTT: time.Millisecond}, {ID: bob.id, RTT: time.Millisecond}}}
	delivered := 0
	now := day0
	s, err := New(Config{
		Self: self.key, Seal: self.seal, Carrier: carrier, View: func() *mesh.View { return w.view },
		Now: func() time.Time { now = now.Add(time.Minute); return now }, // no rate limit
		Deliver: func(from mesh.NodeID, _ *wire.Signal, _ time.Duration) {
			if from != alice.id {
				panic("delivered from somebody who did not sign")
			}
			delivered++
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	const asItIs, forSelf, forBob = 0, 1, 2
	handle := func(t testing.TB, b []byte, kind byte) (*wire.SignalAck, bool) {
		in := new(wire.SignalFrame)
		if proto.Unmarshal(b, in) != nil {
			return nil, false
		}
		switch kind % 3 {
		case forSelf:
			in.Envelope = w.envelope("alice", "self")
		case forBob:
			in.Envelope = w.envelope("alice", "bob")
		}
		carrier.sent = map[mesh.NodeID]*wire.SignalFrame{}
		before := delivered
		ack := s.Handle(context.Background(), alice.id, in)
		_, origin, to, perr := wire.ParseEnvelope(in.GetEnvelope())
		if ack.GetDelivered() && (perr != nil || origin != alice.id || in.GetHops() > maxHops) {
			t.Fatalf("acknowledged: %v", in)
		}
		if !ack.GetDelivered() && (ack.GetReason() == "" || len(ack.GetReason()) > 256) {
			t.Fatalf("refused with %q", ack.GetReason())
		}
		if delivered > before && to != self.id || delivered > before+1 {
			t.Fatal("delivered what was for another, or twice")
		}
		for id, out := range carrier.sent {
			if id != to || out.GetHops() != in.GetHops()+1 || out.GetHops() > maxHops || !bytes.Equal(out.GetEnvelope(), in.GetEnvelope()) {
				t.Fatalf("forwarded %v as %v to %v", in, out, id)
			}
			if out.GetDelay() > uint32(maxDelay.Microseconds()) {
				t.Fatalf("forwarded with a delay of %d us", out.GetDelay())
			}
		}
		return ack, true
	}
	seeds := []*wire.SignalFrame{{}, {Hops: 1, Delay: 1000}, {Hops: 2}, {Hops: 3}, {Delay: 1<<32 - 1}, {Envelope: w.envelope("bob", "self")}}
	for _, seed := range seeds {
		b, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		for kind := range byte(3) {
			f.Add(b, kind)
		}
	}
	for _, kind := range []byte{forSelf, forBob} {
		if ack, ok := handle(f, nil, kind); !ok || !ack.GetDelivered() {
			f.Fatalf("the good seed is refused: %v", ack)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, kind byte) { handle(t, b, kind) })
}
