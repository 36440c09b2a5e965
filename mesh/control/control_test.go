package control

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh/wire"
)

func TestTwoMembersConnect(t *testing.T) {
	inWorld(t, 10*time.Millisecond, func(t *testing.T, w *world) {
		a, b := w.add(false), w.add(true)
		a.start()
		b.start(a)
		took := until(t, time.Second, "b connects to a", func() bool { return b.connected(a) && a.connected(b) })
		if took > 60*time.Millisecond {
			t.Errorf("proven on both sides after %v, want 5 one-way trips of 10 ms", took)
		}
		until(t, time.Second, "a knows b", func() bool { return a.knows(b) })
		until(t, time.Second, "b has a forwarder", func() bool { return len(b.ctl.Via()) == 1 })
		until(t, time.Second, "a round trip is measured", func() bool {
			rtt := b.ctl.Connections()[0].RTT
			return rtt >= 20*time.Millisecond && rtt < 22*time.Millisecond
		})
		ack, err := b.ctl.SendSignal(t.Context(), a.id, &wire.SignalFrame{Envelope: []byte("x")})
		if err != nil || !ack.GetDelivered() || ack.GetReason() != b.id.Short() {
			t.Errorf("signal: %v, %v", ack, err)
		}
		if _, err := b.ctl.SendSignal(t.Context(), w.add(true).id, new(wire.SignalFrame)); !errors.Is(err, ErrNotConnected) {
			t.Errorf("signal to somebody not connected: %v", err)
		}
	})
}

// Records that no one else has must reach everybody by GossipSub, also through members that only forward, and a joiner that stays on.
func TestGossipReachesAll(t *testing.T) {
	inWorld(t, 5*time.Millisecond, func(t *testing.T, w *world) {
		hub1, hub2 := w.add(false), w.add(false)
		hub1.start()
		hub2.start(hub1)
		leaves := []*node{w.add(true), w.add(true), w.add(true), w.add(true), w.add(true), w.add(true)}
		for _, n := range leaves {
			n.start(hub1) // hub2 is learned from it
		}
		all := append([]*node{hub1, hub2}, leaves...)
		until(t, 10*time.Second, "all know all", func() bool {
			for _, n := range all {
				if !n.knows(all...) {
					return false
				}
			}
			return true
		})
		until(t, 10*time.Second, "each has two forwarders", func() bool {
			for _, n := range leaves {
				if len(n.ctl.Via()) != 2 {
					return false
				}
			}
			return true
		})
		time.Sleep(5 * time.Second)
		check(t, leaves[0].ctl.Publish(t.Context(), recordItem(leaves[0].sign(7))))
		until(t, 100*time.Millisecond, "a new record is everywhere", func() bool {
			for _, n := range all {
				if m, _ := n.dir.View().Member(leaves[0].id); m.Seq != 7 {
					return false
				}
			}
			return true
		})
	})
}

// A member that is revoked loses every connection, at every member and at once, also with members that it does not know.
func TestRevocation(t *testing.T) {
	inWorld(t, 20*time.Millisecond, func(t *testing.T, w *world) {
		hub1, hub2, bad, good := w.add(false), w.add(false), w.add(true), w.add(true)
		hub1.start()
		hub2.start(hub1)
		bad.start(hub1, hub2)
		good.start(hub1, hub2)
		until(t, 5*time.Second, "connected", func() bool {
			return bad.connected(hub1, hub2) && good.connected(hub1, hub2) && hub1.connected(hub2)
		})
		time.Sleep(3 * time.Second)
		check(t, good.ctl.Publish(t.Context(), w.revoke(1, bad)))
		took := until(t, 2*time.Second, "nobody is connected to the revoked member", func() bool {
			return !hub1.connected(bad) && !hub2.connected(bad) && !hub1.knows(bad) && !hub2.knows(bad)
		})
		t.Logf("dropped after %v", took)
		// It comes back with its old state, which does not know.
		bad.stop()
		bad.start(hub1, hub2, good)
		time.Sleep(20 * time.Second)
		if hub1.connected(bad) || hub2.connected(bad) || bad.connected(hub1) {
			t.Error("a revoked member is connected again")
		}
	})
}

// A revocation reaches a member that has connected just now, before GossipSub has grafted it.
func TestRevocationReachesAYoungConnection(t *testing.T) {
	for wait := time.Duration(0); wait < 4*time.Second; wait += 90 * time.Millisecond {
		inWorld(t, 20*time.Millisecond, func(t *testing.T, w *world) {
			a, b, bad := w.add(false), w.add(false), w.add(true)
			a.start(bad)
			b.start(a, bad)
			until(t, 2*time.Second, "connected", func() bool { return a.connected(b) && b.connected(a) })
			time.Sleep(wait)
			check(t, a.ctl.Publish(t.Context(), w.revoke(1, bad)))
			until(t, time.Second, "the other side knows", func() bool { return !b.knows(bad) })
		})
	}
}

// A peer that dies is noticed within a heartbeat and its patience, and replaced; it is found again when it is back.
func TestForwarderDies(t *testing.T) {
	inWorld(t, 20*time.Millisecond, func(t *testing.T, w *world) {
		hubs := []*node{w.add(false), w.add(false), w.add(false)}
		hubs[0].start()
		hubs[1].start(hubs[0])
		hubs[2].start(hubs[0], hubs[1])
		b := w.add(true)
		b.start(hubs...)
		until(t, 5*time.Second, "two forwarders", func() bool { return len(b.ctl.Via()) == 2 })
		time.Sleep(time.Minute + 5*time.Second)
		if got := len(b.ctl.Connections()); got != 2 {
			t.Errorf("%d connections when idle, want 2", got)
		}
		var dead *node
		for _, h := range hubs {
			if h.id == b.ctl.Via()[0] {
				dead = h
			}
		}
		dead.port.cut.Store(true)
		took := until(t, 12*time.Second, "the dead forwarder is dropped", func() bool { return !b.connected(dead) })
		t.Logf("dropped after %v", took)
		until(t, time.Second, "there are two again", func() bool { return len(b.ctl.Via()) == 2 })
		dead.port.cut.Store(false)
		until(t, 11*time.Minute, "it is found again", func() bool { return b.connected(dead) })
	})
}

// After a move the connection is checked at once; where it does not survive, a new one is made.
func TestNetworkChanged(t *testing.T) {
	inWorld(t, 20*time.Millisecond, func(t *testing.T, w *world) {
		a, b := w.add(false), w.add(true)
		a.start()
		b.start(a)
		until(t, 5*time.Second, "connected", func() bool { return b.connected(a) && a.connected(b) })
		time.Sleep(3 * time.Second)
		b.port.move(netip.MustParseAddrPort("198.51.100.7:4242"))
		b.ctl.NetworkChanged(nil)
		until(t, 2*time.Second, "the other side follows", func() bool {
			cs := a.ctl.Connections()
			return len(cs) == 1 && cs[0].Remote == b.port.addr
		})
		// a restarts: its old connection is of no use any more.
		a.stop()
		a.start(b)
		took := until(t, 5*time.Second, "connected again", func() bool { return b.connected(a) && a.connected(b) })
		t.Logf("connected again %v after a restart", took)
	})
}

// Both dial at the same moment: one connection remains, the same on both sides.
func TestSimultaneousDial(t *testing.T) {
	inWorld(t, 30*time.Millisecond, func(t *testing.T, w *world) {
		a, b := w.add(false), w.add(false)
		a.start(b)
		b.start(a)
		until(t, 5*time.Second, "connected", func() bool { return a.connected(b) && b.connected(a) })
		time.Sleep(5 * time.Second)
		if na, nb := len(a.host.Network().Conns()), len(b.host.Network().Conns()); na != 1 || nb != 1 {
			t.Errorf("%d and %d connections, want 1 and 1", na, nb)
		}
		ca, cb := a.ctl.Connections(), b.ctl.Connections()
		if len(ca) != 1 || len(cb) != 1 || ca[0].Inbound == cb[0].Inbound {
			t.Errorf("they do not agree: %+v, %+v", ca, cb)
		}
	})
}

// Without any reachable member, paths that ICE has opened hold the control plane together.
func TestPathsReplaceReachable(t *testing.T) {
	inWorld(t, 10*time.Millisecond, func(t *testing.T, w *world) {
		hub, b, c := w.add(false), w.add(true), w.add(true)
		hub.start()
		b.start(hub)
		c.start(hub, b)
		until(t, 5*time.Second, "connected", func() bool { return b.connected(hub) && c.connected(hub) && b.knows(c) })
		if _, err := b.port.WriteTo([]byte{0}, c.port.udp()); err != nil { // what ICE does: open the NATs
			t.Fatal(err)
		}
		if _, err := c.port.WriteTo([]byte{0}, b.port.udp()); err != nil {
			t.Fatal(err)
		}
		b.ctl.Path(c.id, c.addr)
		until(t, 2*time.Second, "b and c are connected", func() bool { return b.connected(c) && c.connected(b) })
		hub.stop()
		until(t, 15*time.Second, "the hub is gone", func() bool { return !b.connected(hub) && !c.connected(hub) })
		ack, err := c.ctl.SendSignal(t.Context(), b.id, &wire.SignalFrame{Envelope: []byte("x")})
		if err != nil || !ack.GetDelivered() {
			t.Errorf("signal after the hub died: %v, %v", ack, err)
		}
	})
}

// What an idle member costs. Bytes are of IP.
func TestIdleCost(t *testing.T) {
	inWorld(t, 20*time.Millisecond, func(t *testing.T, w *world) {
		hubs := []*node{w.add(false), w.add(false), w.add(false), w.add(false)}
		for i, h := range hubs {
			h.start(hubs[:i]...)
		}
		var leaves []*node
		for range 7 {
			n := w.add(true)
			n.start(hubs...)
			leaves = append(leaves, n)
		}
		time.Sleep(3 * time.Minute)
		all := append(hubs, leaves...)
		before := make([]int64, len(all))
		packets := make([]int64, len(all))
		for i, n := range all {
			before[i], packets[i] = n.port.sent.Load(), n.port.packets.Load()
		}
		const period = 30 * time.Minute
		time.Sleep(period)
		for i, n := range all {
			rate := float64(n.port.sent.Load()-before[i]) / period.Seconds()
			conns := len(n.ctl.Connections())
			t.Logf("%s (NAT %v): %d connections, %.1f B/s, %.2f packets/s", n.name, n.nat, conns, rate,
				float64(n.port.packets.Load()-packets[i])/period.Seconds())
			if conns <= 4 && rate > 60 {
				t.Errorf("%s sends %.1f B/s over %d connections, at most 60", n.name, rate, conns)
			}
			if n.nat && conns > 4 {
				t.Errorf("%s has %d connections", n.name, conns)
			}
		}
	})
}

func TestEnrolForward(t *testing.T) {
	inWorld(t, 10*time.Millisecond, func(t *testing.T, w *world) {
		a, b := w.add(false), w.add(false)
		a.start()
		b.start(a)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		resp, err := b.ctl.SendEnrol(ctx, a.id, &wire.EnrolFrame{SealedRequest: []byte("sealed")})
		if err != nil || string(resp.GetSealedResult()) != "sealed" || !strings.HasPrefix(resp.GetError(), "45.0.77.2:") {
			t.Errorf("%v, %v", resp, err)
		}
	})
}

// A member that was off learns of a revocation from the first one it meets, and passes it on to whoever it is connected to.
func TestRevocationWhileOff(t *testing.T) {
	inWorld(t, 20*time.Millisecond, func(t *testing.T, w *world) {
		hub, bad, b := w.add(false), w.add(true), w.add(true)
		hub.start(bad)
		check(t, hub.ctl.Publish(t.Context(), w.revoke(1, bad)))
		b.start(hub, bad)
		if !b.knows(bad) {
			t.Fatal("it should not know yet")
		}
		took := until(t, time.Second, "the revocation has arrived", func() bool { return b.connected(hub) && !b.knows(bad) })
		if took > 150*time.Millisecond {
			t.Errorf("only after %v", took)
		}
	})
}

// Two halves that were apart for a while: each has members and a revocation that the other has not heard of.
func TestHeal(t *testing.T) {
	inWorld(t, 10*time.Millisecond, func(t *testing.T, w *world) {
		var halves [2][]*node
		for h := range halves {
			for i := range 4 {
				n := w.add(i > 1)
				n.start(halves[h]...)
				halves[h] = append(halves[h], n)
			}
		}
		gone := w.add(true)
		time.Sleep(time.Minute)
		check(t, halves[1][3].ctl.Publish(t.Context(), w.revoke(1, gone)))
		time.Sleep(time.Minute)
		all := append(halves[0], halves[1]...)
		// One member hears of one on the other side, and connects to it.
		_, err := halves[0][2].dir.Submit(t.Context(), recordItem(halves[1][0].record.Load()))
		check(t, err)
		check(t, halves[0][2].ctl.Connect(t.Context(), halves[1][0].id))
		took := until(t, 5*time.Second, "all know all, and the revocation", func() bool {
			for _, n := range all {
				if !n.knows(all...) || len(n.dir.RevocationLists()) != 1 {
					return false
				}
			}
			return true
		})
		t.Logf("healed after %v", took)
	})
}

// A restart is back in the control plane after two round trips, and others after half a one more.
func TestRestartIsQuick(t *testing.T) {
	inWorld(t, 20*time.Millisecond, func(t *testing.T, w *world) {
		hubs := []*node{w.add(false), w.add(false), w.add(false)}
		for i, h := range hubs {
			h.start(hubs[:i]...)
		}
		b := w.add(true)
		b.start(hubs...)
		until(t, time.Second, "connected", func() bool { return len(b.ctl.Via()) == 2 })
		time.Sleep(time.Minute)
		hubs[0].port.cut.Store(true) // one of those it knows is dead: that must not cost anything
		b.stop()
		b.start(hubs...)
		took := until(t, time.Second, "two forwarders again", func() bool { return len(b.ctl.Via()) == 2 })
		if took > 90*time.Millisecond {
			t.Errorf("back after %v, want 2 round trips of 40 ms", took)
		}
	})
}

func TestForeignNetworkIsRefused(t *testing.T) {
	inWorld(t, time.Millisecond, func(t *testing.T, w *world) {
		a := w.add(false)
		a.start()
		other := newWorld(t, time.Millisecond)
		other.net = w.net
		defer other.stop()
		x := other.add(false)
		x.addr = netip.MustParseAddrPort("45.0.88.1:51820")
		x.start()
		conn, err := x.host.Dial(t.Context(), a.id, []netip.AddrPort{a.addr})
		check(t, err)
		until(t, time.Second, "the connection ends", func() bool { return conn.Context().Err() != nil })
		if err := context.Cause(conn.Context()); !strings.Contains(err.Error(), "another network") {
			t.Errorf("ended because: %v", err)
		}
	})
}
