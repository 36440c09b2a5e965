package control

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/gridwire/gridwire/mesh/control/gossip"
	"github.com/gridwire/gridwire/mesh/control/p2p"
	"github.com/gridwire/gridwire/mesh/wire"
)

// stranger is a host without a control plane.
func (w *world) stranger(addr string) *Host {
	w.t.Helper()
	port := w.net.open(netip.MustParseAddrPort(addr), false)
	h, err := NewHost(HostConfig{Identity: newKey(w.t), Log: slog.New(slog.DiscardHandler), Sockets: func(family string) (net.PacketConn, error) {
		if family == "udp4" {
			return port, nil
		}
		return nil, errNoFamily
	}})
	check(w.t, err)
	w.hosts = append(w.hosts, h)
	return h
}

func TestStrangerIsStopped(t *testing.T) {
	inWorld(t, 10*time.Millisecond, func(t *testing.T, w *world) {
		a := w.add(false)
		a.start()
		h := w.stranger("45.0.99.1:1000")
		ctx := t.Context()
		conn, err := h.Dial(ctx, a.id, []netip.AddrPort{a.addr})
		check(t, err)
		for _, id := range []protocol.ID{gossip.Protocol, syncProtocol, signalProtocol, beatProtocol, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/nothing/1"} {
			begin := time.Now()
			s, err := conn.Open(ctx, id)
			check(t, err)
			if _, err := s.Write([]byte{1, 0}); err != nil {
				t.Errorf("%s: write: %v", id, err)
			}
			b := make([]byte, 1)
			if n, err := s.Read(b); err == nil {
				t.Errorf("%s answered a stranger with %d bytes", id, n)
			}
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("%s: reset after %v only", id, took)
			}
			_ = s.Reset()
		}
		if a.signals.Load() != 0 {
			t.Error("a stranger's signal got through")
		}
		// A proof that is none: refused, with a reason, and nothing of the member is shown.
		s, err := conn.Open(ctx, helloProtocol)
		check(t, err)
		check(t, wire.WriteFrame(s, &wire.Hello{Version: 1, Network: w.root.Network.ID[:], Chain: a.chain, Record: a.record.Load()}))
		ack := new(wire.HelloAck)
		check(t, wire.ReadFrame(s, ack, ackLimit))
		if ack.GetAccepted() || ack.GetReason() == "" {
			t.Errorf("a stranger with a member's certificate: %v", ack)
		}
		_ = s.Close()
		// Nobody keeps a stranger.
		until(t, 15*time.Second, "the connection is closed", func() bool { return conn.Context().Err() != nil })
		if cs := a.ctl.Connections(); len(cs) != 0 {
			t.Errorf("connections: %+v", cs)
		}
	})
}

// A joiner enrols as a stranger and stays on: the same connection is proven once it is a member, and GossipSub works on it.
func TestJoinerStaysOn(t *testing.T) {
	inWorld(t, 10*time.Millisecond, func(t *testing.T, w *world) {
		a, c := w.add(false), w.add(false)
		a.start()
		c.start(a)
		until(t, 5*time.Second, "connected", func() bool { return a.connected(c) })
		b := w.add(true)
		b.prepare()
		s, err := b.host.OpenEnrol(t.Context(), a.id, []netip.AddrPort{a.addr})
		check(t, err)
		check(t, wire.WriteFrame(s, &wire.EnrolFrame{SealedRequest: []byte("please")}))
		resp := new(wire.EnrolResponse)
		check(t, wire.ReadFrame(s, resp, replyLimit))
		check(t, s.Close())
		if string(resp.GetSealedResult()) != "please" || resp.GetError() != b.addr.String() {
			t.Errorf("enrolment: %v", resp)
		}
		// A stranger for long enough for GossipSub to have given it up, had it known of it.
		time.Sleep(5 * time.Second)
		b.run(a)
		took := until(t, time.Second, "the joiner is connected", func() bool { return b.connected(a) && a.connected(b) })
		if took > 50*time.Millisecond {
			t.Errorf("proven %v after it became a member; the connection was there", took)
		}
		until(t, 2*time.Second, "everybody knows the joiner", func() bool { return a.knows(b) && c.knows(b) && b.knows(a, c) })
		time.Sleep(3 * time.Second)
		check(t, b.ctl.Publish(t.Context(), recordItem(b.sign(9))))
		until(t, 100*time.Millisecond, "its new record is everywhere", func() bool {
			m, _ := c.dir.View().Member(b.id)
			return m.Seq == 9
		})
		check(t, c.ctl.Publish(t.Context(), recordItem(c.sign(5))))
		until(t, 100*time.Millisecond, "it hears others' records", func() bool {
			m, _ := b.dir.View().Member(c.id)
			return m.Seq == 5
		})
	})
}

// Strangers get 4 connections for an address, and members behind the same address are not shut out.
func TestStrangersPerAddress(t *testing.T) {
	inWorld(t, time.Millisecond, func(t *testing.T, w *world) {
		a, b := w.add(false), w.add(true)
		a.start(b) // knows where b is
		ok := 0
		for i := range 8 {
			h := w.stranger(netip.AddrPortFrom(netip.MustParseAddr("45.0.99.1"), uint16(1000+i)).String())
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			if _, err := h.Dial(ctx, a.id, []netip.AddrPort{a.addr}); err == nil {
				ok++
			}
			cancel()
		}
		if ok != 4 {
			t.Errorf("%d connections of strangers from one address, want 4", ok)
		}
		var fromMember []*p2p.Conn
		for i := range 8 {
			h := w.stranger(netip.AddrPortFrom(b.addr.Addr(), uint16(1000+i)).String())
			c, err := h.Dial(t.Context(), a.id, []netip.AddrPort{a.addr})
			if err != nil {
				t.Errorf("connection %d from a member's address: %v", i, err)
				continue
			}
			fromMember = append(fromMember, c)
		}
		b.start(a)
		until(t, time.Second, "the member is in", func() bool { return b.connected(a) })
		synctest.Wait()
		for _, c := range fromMember {
			c.Close(errIdle)
		}
	})
}

func TestEnrolIsRateLimited(t *testing.T) {
	inWorld(t, time.Millisecond, func(t *testing.T, w *world) {
		a := w.add(false)
		a.start()
		h := w.stranger("45.0.99.1:1000")
		limited := 0
		for range 30 {
			s, err := h.OpenEnrol(t.Context(), a.id, []netip.AddrPort{a.addr})
			check(t, err)
			check(t, wire.WriteFrame(s, &wire.EnrolFrame{}))
			resp := new(wire.EnrolResponse)
			check(t, wire.ReadFrame(s, resp, replyLimit))
			check(t, s.Close())
			if resp.GetCode() == wire.EnrolError_ENROL_RATE_LIMITED {
				limited++
			}
		}
		if got := a.enrols.Load(); got != enrolBurst || limited != 30-enrolBurst {
			t.Errorf("%d requests reached the issuer and %d were refused, want %d and %d", got, limited, enrolBurst, 30-enrolBurst)
		}
	})
}
