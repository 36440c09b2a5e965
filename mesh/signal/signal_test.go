package signal

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

func TestDirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "zoe")
		w.link("alice", "bob", 40*time.Millisecond)
		w.link("alice", "zoe", 10*time.Millisecond)
		if err := w.send("alice", "bob"); err != nil {
			t.Fatal(err)
		}
		if d := w.arrived("bob", "alice"); d.delay != 20*time.Millisecond {
			t.Errorf("delay %v, want half of the round trip", d.delay)
		}
		if w.frames() != "alice>bob h0" {
			t.Errorf("frames: %v", w.frames())
		}
		if c := w.nodes["alice"].Counters(); c.Sent != 1 || c.Failed != 0 {
			t.Errorf("%+v", c)
		}
	})
}

// A connection that is dead, which nobody has noticed, costs directHead and not the timeout.
func TestDeadDirectConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "zoe")
		w.link("alice", "bob", 40*time.Millisecond)
		w.link("alice", "zoe", 10*time.Millisecond)
		w.link("zoe", "bob", 10*time.Millisecond)
		w.dead[[2]mesh.NodeID{w.nodes["alice"].id, w.nodes["bob"].id}] = true
		start := time.Now()
		if err := w.send("alice", "bob"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > directHead+50*time.Millisecond {
			t.Errorf("took %v", d)
		}
		w.arrived("bob", "alice")
	})
}

// A forwarder that is dead, which nobody has noticed, does not keep the sender from asking again one that had no connection yet.
func TestDeadForwarder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "f1", "f2")
		w.link("alice", "f1", 40*time.Millisecond)
		w.link("alice", "f2", 40*time.Millisecond)
		w.dead[[2]mesh.NodeID{w.nodes["alice"].id, w.nodes["f1"].id}] = true
		time.AfterFunc(100*time.Millisecond, func() { w.link("f2", "bob", 10*time.Millisecond) })
		start := time.Now()
		if err := w.send("alice", "bob"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > patience+100*time.Millisecond {
			t.Errorf("took %v", d)
		}
		w.arrived("bob", "alice")
	})
}

// Both ends are told who was in between.
func TestWhoCarriedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "f1", "f2")
		told := map[mesh.Name]string{}
		for _, name := range []mesh.Name{"alice", "bob"} {
			w.nodes[name].cfg.Carried = func(peer, by mesh.NodeID, sent bool) {
				told[name] += fmt.Sprintf("%s by %s, sent %v;", w.byID[peer].name, w.byID[by].name, sent)
			}
		}
		w.link("alice", "f1", 10*time.Millisecond)
		w.link("alice", "f2", 10*time.Millisecond)
		w.link("f2", "bob", 10*time.Millisecond)
		if err := w.send("alice", "bob"); err != nil {
			t.Fatal(err)
		}
		w.link("alice", "bob", 10*time.Millisecond)
		if err := w.send("alice", "bob"); err != nil {
			t.Fatal(err)
		}
		if want := "bob by f2, sent true;bob by bob, sent true;"; told["alice"] != want {
			t.Errorf("alice was told %q, want %q", told["alice"], want)
		}
		if want := "alice by f2, sent false;alice by alice, sent false;"; told["bob"] != want {
			t.Errorf("bob was told %q, want %q", told["bob"], want)
		}
	})
}

func TestOneForwarder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "f1", "f2", "f3", "f4")
		for _, f := range []mesh.Name{"f1", "f2", "f3", "f4"} {
			w.link("alice", f, 20*time.Millisecond)
		}
		w.link("f4", "bob", 60*time.Millisecond)
		w.via("bob", "f4")
		if err := w.send("alice", "bob"); err != nil {
			t.Fatal(err)
		}
		if d := w.arrived("bob", "alice"); d.delay != 40*time.Millisecond {
			t.Errorf("delay %v, want 10 ms and 30 ms", d.delay)
		}
		if n := strings.Count(w.frames(), "alice>"); n > maxParallel || !strings.Contains(w.frames(), "alice>f4") {
			t.Errorf("frames: %v", w.frames())
		}
	})
}

func TestTwoForwarders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "f1", "f2", "f3")
		w.link("alice", "f1", 20*time.Millisecond)
		w.link("f1", "f2", 20*time.Millisecond)
		w.link("f2", "bob", 20*time.Millisecond)
		w.via("bob", "f2")
		if err := w.send("alice", "bob"); err != nil {
			t.Fatal(err)
		}
		if d := w.arrived("bob", "alice"); d.delay != 30*time.Millisecond {
			t.Errorf("delay %v", d.delay)
		}
		// Three would be needed: refused, with the reason.
		w.mu.Lock()
		delete(w.rtt, [2]mesh.NodeID{w.nodes["f2"].id, w.nodes["bob"].id})
		w.mu.Unlock()
		w.link("f2", "f3", time.Millisecond)
		w.link("f3", "bob", time.Millisecond)
		w.via("bob", "f2", "f3")
		w.link("f1", "f2", 20*time.Millisecond)
		err := w.send("alice", "bob")
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "by f1: by f2: no connection to bob") {
			t.Errorf("got %v", err)
		}
		if strings.Contains(w.frames(), "f2>f3") || strings.Contains(w.frames(), "f3>bob") {
			t.Errorf("frames: %v", w.frames())
		}
		if c := w.nodes["alice"].Counters(); c.Sent != 1 || c.Failed != 1 {
			t.Errorf("%+v", c)
		}
	})
}

// Several ways at once: one delivery.
func TestManyWaysOneDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "f1", "f2", "f3", "g")
		for n, f := range []mesh.Name{"f1", "f2", "f3"} {
			w.link("alice", f, 20*time.Millisecond)
			w.link(f, "g", time.Duration(n+1)*time.Millisecond)
			w.link(f, "bob", 500*time.Millisecond)
		}
		w.link("g", "bob", time.Millisecond)
		w.via("bob", "g")
		if err := w.send("alice", "bob"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		w.arrived("bob", "alice")
	})
}

// Without any connection the sender dials whom the receiver's record names, and tries again.
func TestConnectsAndRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "public", "gone")
		w.member("public", func(m *mesh.Member) { m.Reachable = true })
		w.link("public", "bob", 20*time.Millisecond)
		w.via("bob", "gone", "public")
		start := time.Now()
		if err := w.send("alice", "bob"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Errorf("took %v", d)
		}
		w.arrived("bob", "alice")
		w.nodes["bob"].got = nil
		w.member("bob", func(m *mesh.Member) { m.Reachable, m.Via = true, nil })
		if err := w.send("gone", "bob"); err != nil { // dials bob himself
			t.Fatal(err)
		}
		w.arrived("bob", "gone")
	})
}

// A forwarder without a connection to the receiver's own forwarders makes one: the sender may not be able to.
func TestForwarderConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "f1", "public")
		w.link("alice", "f1", 10*time.Millisecond)
		w.link("public", "bob", 10*time.Millisecond)
		w.member("public", func(m *mesh.Member) { m.Reachable = true })
		w.via("bob", "public")
		if err := w.send("alice", "bob"); err != nil {
			t.Fatal(err)
		}
		d := w.arrived("bob", "alice")
		if want := 5*time.Millisecond + 20*time.Millisecond + 10*time.Millisecond + 5*time.Millisecond; d.delay != want {
			t.Errorf("delay %v, want %v: the time for connecting counts", d.delay, want)
		}
	})
}

func TestSendRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob")
		stranger := mesh.NodeID{1}
		if err := w.nodes["alice"].Send(t.Context(), stranger, offer); !errors.Is(err, ErrNotMember) {
			t.Errorf("to a stranger: %v", err)
		}
		if err := w.nodes["alice"].Send(t.Context(), w.nodes["alice"].id, offer); err == nil {
			t.Error("to itself")
		}
		start := time.Now()
		if err := w.send("alice", "bob"); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "no control connection") {
			t.Errorf("nobody there: %v", err)
		}
		if time.Since(start) > 3*time.Second {
			t.Errorf("took %v", time.Since(start))
		}
		w.member("bob", func(m *mesh.Member) { m.SealKey = [32]byte{} })
		if err := w.send("alice", "bob"); !errors.Is(err, ErrNoSealKey) {
			t.Errorf("no seal key: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		w.member("bob", func(m *mesh.Member) { m.SealKey = [32]byte(w.nodes["bob"].seal.PublicKey().Bytes()) })
		w.link("alice", "bob", time.Hour)
		time.AfterFunc(time.Second, cancel)
		start = time.Now()
		if err := w.nodes["alice"].Send(ctx, w.nodes["bob"].id, offer); !errors.Is(err, ErrUnreachable) || time.Since(start) > time.Second {
			t.Errorf("cancelled: %v after %v", err, time.Since(start))
		}
	})
}

func (w *world) envelope(from, to mesh.Name) []byte {
	var id [16]byte
	_, _ = rand.Read(id[:])
	seal := [32]byte(w.nodes[to].seal.PublicKey().Bytes())
	env, err := wire.SealEnvelope(w.nodes[from].key, w.nodes[to].id, seal, offer, id, day0)
	if err != nil {
		w.t.Fatal(err)
	}
	return env
}

func TestHandleRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "eve")
		w.link("eve", "bob", time.Millisecond)
		w.link("alice", "bob", time.Millisecond)
		env := w.envelope("alice", "bob")
		altered := bytes.Clone(env)
		altered[len(altered)-100] ^= 1
		for name, c := range map[string]struct {
			from mesh.Name
			f    *wire.SignalFrame
			says string
		}{
			"altered":         {"alice", &wire.SignalFrame{Envelope: altered}, "envelope"},
			"empty":           {"alice", &wire.SignalFrame{}, "envelope"},
			"too large":       {"alice", &wire.SignalFrame{Envelope: make([]byte, 5000)}, "envelope"},
			"hides its way":   {"eve", &wire.SignalFrame{Envelope: env}, "says that nobody forwarded it"},
			"too many hops":   {"eve", &wire.SignalFrame{Envelope: env, Hops: 3}, "at most 2"},
			"own, come back":  {"eve", &wire.SignalFrame{Envelope: w.envelope("bob", "eve"), Hops: 1}, "come back"},
			"spent hops":      {"alice", &wire.SignalFrame{Envelope: w.envelope("alice", "eve"), Hops: 2}, "which is the limit"},
			"not for our key": {"alice", &wire.SignalFrame{Envelope: w.wrongKey("alice", "bob")}, "sealed to another key"},
		} {
			ack := w.nodes["bob"].Handle(context.Background(), w.nodes[c.from].id, c.f)
			if ack.GetDelivered() || !strings.Contains(ack.GetReason(), c.says) {
				t.Errorf("%s: %v", name, ack)
			}
		}
		if ack := w.nodes["bob"].Handle(context.Background(), w.nodes["eve"].id, nil); ack.GetDelivered() {
			t.Error("nil was delivered")
		}
		if len(w.nodes["bob"].got) != 0 {
			t.Errorf("delivered: %v", w.nodes["bob"].got)
		}
		// Repeated by a forwarder: acknowledged, delivered once.
		for range 3 {
			if ack := w.nodes["bob"].Handle(context.Background(), w.nodes["eve"].id, &wire.SignalFrame{Envelope: env, Hops: 1, Delay: 1 << 31}); !ack.GetDelivered() {
				t.Error(ack)
			}
		}
		if d := w.arrived("bob", "alice"); d.delay != maxDelay {
			t.Errorf("a forwarder claims a delay of %v", d.delay)
		}
		// Gone members neither send nor receive.
		w.view = w.view.Without(w.nodes["alice"].id)
		if ack := w.nodes["bob"].Handle(context.Background(), w.nodes["eve"].id, &wire.SignalFrame{Envelope: w.envelope("alice", "bob"), Hops: 1}); ack.GetDelivered() {
			t.Error("from somebody who is no member")
		}
		if ack := w.nodes["bob"].Handle(context.Background(), w.nodes["eve"].id, &wire.SignalFrame{Envelope: w.envelope("eve", "alice")}); ack.GetDelivered() ||
			!strings.Contains(ack.GetReason(), "not a member") {
			t.Error("to somebody who is no member", ack)
		}
	})
}

func (w *world) wrongKey(from, to mesh.Name) []byte {
	env, err := wire.SealEnvelope(w.nodes[from].key, w.nodes[to].id, [32]byte(w.nodes["eve"].seal.PublicKey().Bytes()), offer, [16]byte{9}, day0)
	if err != nil {
		w.t.Fatal(err)
	}
	return env
}

func TestRateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "eve")
		r := newRates()
		eve, now := w.nodes["eve"].id, day0
		let := 0
		for range 10000 {
			if r.origin(eve, now) {
				let++
			}
			now = now.Add(time.Millisecond)
		}
		if let > originBurst+10*originRate+1 {
			t.Errorf("%d envelopes of one member in 10 s", let)
		}
		// One that floods does not keep another from sending.
		for range neighbourBurst + 10 {
			w.nodes["bob"].Handle(context.Background(), eve, &wire.SignalFrame{})
		}
		if ack := w.nodes["bob"].Handle(context.Background(), eve, &wire.SignalFrame{}); !strings.Contains(ack.GetReason(), "too many") {
			t.Error(ack)
		}
		if ack := w.nodes["bob"].Handle(context.Background(), w.nodes["alice"].id, &wire.SignalFrame{Envelope: w.envelope("alice", "bob")}); !ack.GetDelivered() {
			t.Error(ack)
		}
	})
}

// A forwarder that is told to end, or whose asker has gone, does not go on waiting for the next hop.
func TestForwardingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice", "bob", "carol")
		w.link("bob", "carol", time.Millisecond)
		bob, carol := w.nodes["bob"], w.nodes["carol"]
		w.dead[[2]mesh.NodeID{bob.id, carol.id}] = true
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		ack := bob.Handle(ctx, w.nodes["alice"].id, &wire.SignalFrame{Envelope: w.envelope("alice", "carol")})
		if took := time.Since(start); ack.GetDelivered() || took != 100*time.Millisecond {
			t.Errorf("%v after %v", ack, took)
		}
	})
}

// seen against a list of everything: what it says is right for the newest maxSeen envelopes, and its size is bounded.
func TestSeenOracle(t *testing.T) {
	const size = 64
	s := newSeen(size)
	truth := map[seenKey]status{}
	var order []seenKey
	key := func(n int) seenKey { return seenKey{mesh.NodeID{byte(n % 3)}, [16]byte{byte(n), byte(n >> 8)}} }
	for n := range 5000 {
		k := key(n - n%7*5 + 100) // some again
		got := s.claim(k)
		recent := false
		for _, o := range order[max(0, len(order)-size/2):] {
			recent = recent || o == k
		}
		if recent && got != truth[k] || truth[k] == fresh && got != fresh {
			t.Fatalf("step %d: %v, want %v", n, got, truth[k])
		}
		if got == fresh {
			truth[k] = inFlight
			order = append(order, k)
			if n%2 == 0 {
				s.finish(k, n%3 != 0)
				truth[k] = map[bool]status{true: done, false: fresh}[n%3 != 0]
			}
		}
		if len(s.cur)+len(s.old) > 2*size {
			t.Fatalf("%d entries", len(s.cur)+len(s.old))
		}
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t, "alice")
	good := w.nodes["alice"].cfg
	for name, alter := range map[string]func(*Config){
		"no key": func(c *Config) { c.Self = nil }, "no seal key": func(c *Config) { c.Seal = nil },
		"no view": func(c *Config) { c.View = nil }, "no carrier": func(c *Config) { c.Carrier = nil },
	} {
		c := good
		alter(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: made", name)
		}
	}
}

// The delay is what the way takes: one slow answer of a busy machine must not make it longer.
func TestArrivalDelay(t *testing.T) {
	from := mesh.NodeID{1}
	for _, c := range []struct {
		conn Conn
		said uint32 // microseconds
		want time.Duration
	}{
		{Conn{ID: from, RTT: 40 * time.Millisecond, MinRTT: 40 * time.Millisecond}, 0, 20 * time.Millisecond},
		{Conn{ID: from, RTT: 130 * time.Millisecond, MinRTT: 40 * time.Millisecond}, 20_000, 40 * time.Millisecond},
		{Conn{ID: from, RTT: 40 * time.Millisecond}, 0, 20 * time.Millisecond},
		{Conn{ID: from, MinRTT: 40 * time.Millisecond}, 0, 20 * time.Millisecond},
		{Conn{ID: from}, 5_000, 5 * time.Millisecond},
		{Conn{ID: mesh.NodeID{2}, RTT: time.Second}, 0, 0},
	} {
		if got := arrivalDelay(&wire.SignalFrame{Delay: c.said}, from, []Conn{c.conn}); got != c.want {
			t.Errorf("%+v, said %d µs: %v, want %v", c.conn, c.said, got, c.want)
		}
	}
}
