package ice

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gridwire/gridwire/nat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func natCandidate(a netip.AddrPort) nat.Candidate {
	return nat.Candidate{Type: nat.ServerReflexive, Addr: a}
}

// world is one arrangement of two members.
type world struct {
	a, b         *simHost
	extraA       []netip.AddrPort
	extraB       []netip.AddrPort
	internet     *segment
	wantLocal    nat.CandidateType // of A, the controlling side; "" means that it must fail
	wantRemote   nat.CandidateType
	wantAddrB    string // where A must reach B, if the test cares
	within       time.Duration
	natA, natB   *natBox
	lateB, lateA time.Duration // when Connect is called
}

const (
	wan      = 20 * time.Millisecond // one way, each access link
	stunHost = "198.51.100.1:51820"
)

// behind makes a host behind a NAT of this kind and what a STUN server sees of it.
func behind(internet *segment, kind natKind, ext, inner string) (*simHost, *natBox, []netip.AddrPort) {
	lan := newSegment(time.Millisecond)
	n := newNAT(kind, ext, lan, internet)
	h := newHost().at(lan, inner)
	return h, n, []netip.AddrPort{n.mapping(netip.AddrPortFrom(h.addrs[0], simPort), stunHost)}
}

func natPair(kindA, kindB natKind) func() *world {
	return func() *world {
		w := &world{internet: newSegment(wan), within: 400 * time.Millisecond}
		w.a, w.natA, w.extraA = behind(w.internet, kindA, "198.51.100.2", "192.168.1.2")
		w.b, w.natB, w.extraB = behind(w.internet, kindB, "198.51.100.3", "192.168.1.3")
		w.wantLocal, w.wantRemote = nat.ServerReflexive, nat.ServerReflexive
		return w
	}
}

func with(w func() *world, change func(*world)) func() *world {
	return func() *world { x := w(); change(x); return x }
}

func worlds() map[string]func() *world {
	public := func() *world {
		w := &world{internet: newSegment(wan), wantLocal: nat.Host, wantRemote: nat.Host, within: 200 * time.Millisecond}
		w.a = newHost().at(w.internet, "198.51.100.2")
		w.b = newHost().at(w.internet, "198.51.100.3")
		return w
	}
	dualStack := func() *world { // NATs on IPv4, stateful firewalls on IPv6
		w := natPair(portRestricted, portRestricted)()
		w.a.at(w.internet, "2001:db8::2").firewall = true
		w.b.at(w.internet, "2001:db8::3").firewall = true
		w.wantLocal, w.wantRemote, w.wantAddrB = nat.Host, nat.Host, "[2001:db8::3]:51820"
		return w
	}
	oneLAN := func() *world { // behind one NAT that hairpins
		w := &world{internet: newSegment(wan), wantLocal: nat.Host, wantRemote: nat.Host, wantAddrB: "192.168.1.3:51820", within: 100 * time.Millisecond}
		lan := newSegment(time.Millisecond)
		n := newNAT(fullCone, "198.51.100.2", lan, w.internet)
		w.a, w.b = newHost().at(lan, "192.168.1.2"), newHost().at(lan, "192.168.1.3")
		w.extraA = []netip.AddrPort{n.mapping(w.a.local()[0], stunHost)}
		w.extraB = []netip.AddrPort{n.mapping(w.b.local()[0], stunHost)}
		return w
	}
	carrier := func() *world { // A behind a home router behind a carrier's NAT
		w := natPair(portRestricted, portRestricted)()
		carrier, home := newSegment(5*time.Millisecond), newSegment(time.Millisecond)
		outer := newNAT(portRestricted, "198.51.100.9", carrier, w.internet)
		inner := newNAT(portRestricted, "100.64.0.9", home, carrier)
		w.a = newHost().at(home, "192.168.7.2")
		w.extraA = []netip.AddrPort{outer.mapping(inner.mapping(w.a.local()[0], stunHost), stunHost)}
		return w
	}
	symmetricPublic := func() *world { // the public side cannot know where A comes from: peer-reflexive
		w := natPair(symmetric, portRestricted)()
		w.b, w.extraB = newHost().at(w.internet, "198.51.100.4"), nil
		w.wantLocal, w.wantRemote = nat.PeerReflexive, nat.Host
		return w
	}
	return map[string]func() *world{
		"public":     public,
		"one LAN":    oneLAN,
		"dual stack": dualStack,
		"dual stack, IPv6 is dead": with(dualStack, func(w *world) {
			w.internet.drop = func(p packetOnWire) bool { return p.to.Addr().Is6() }
			w.wantLocal, w.wantRemote, w.wantAddrB = nat.ServerReflexive, nat.ServerReflexive, ""
		}),
		"full cone":                     natPair(fullCone, fullCone),
		"port-restricted":               natPair(portRestricted, portRestricted),
		"port-restricted and full cone": natPair(portRestricted, fullCone),
		"carrier NAT":                   carrier,
		"symmetric and public":          symmetricPublic,
		"symmetric and full cone":       with(natPair(symmetric, fullCone), func(w *world) { w.wantLocal = nat.PeerReflexive }),
		"full cone and symmetric":       with(natPair(fullCone, symmetric), func(w *world) { w.wantRemote = nat.PeerReflexive }),
		"symmetric both":                with(natPair(symmetric, symmetric), func(w *world) { w.wantLocal = "" }),
		"symmetric and port-restricted": with(natPair(symmetric, portRestricted), func(w *world) { w.wantLocal = "" }),
		"B late by 3 s":                 with(natPair(portRestricted, portRestricted), func(w *world) { w.lateB, w.within = 3*time.Second, 3300*time.Millisecond }),
		"A late by 3 s":                 with(natPair(portRestricted, portRestricted), func(w *world) { w.lateA, w.within = 3*time.Second, 3300*time.Millisecond }),
		"B late by 6 s, public":         with(public, func(w *world) { w.lateB, w.within = 6*time.Second, 6200*time.Millisecond }),
		"lossy": with(natPair(portRestricted, portRestricted), func(w *world) {
			var n atomic.Int32
			w.internet.drop = func(packetOnWire) bool { return n.Add(1)%3 == 0 }
			w.within = 2 * time.Second
		}),
	}
}

func TestWorlds(t *testing.T) {
	for name, build := range worlds() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := build()
				a := start(t, newFactory(t, w.a), w.a, true, w.extraA...)
				b := start(t, newFactory(t, w.b), w.b, false, w.extraB...)
				began := time.Now()
				connect(t, a, b, w.lateA, w.lateB)
				ea, eb := <-a.events, <-b.events
				if w.wantLocal == "" {
					if ea.Kind != Failed || eb.Kind != Failed || ea.Reason == "" || len(ea.Pairs) == 0 {
						t.Fatalf("A %v, B %v: should have failed", ea, eb)
					}
					t.Logf("%v: A says: %s", time.Since(began), ea.Reason)
					return
				}
				if ea.Kind != Selected || eb.Kind != Selected {
					t.Fatalf("A %v: %s\n%v\nB %v: %s\n%v", ea.Kind, ea.Reason, ea.Pairs, eb.Kind, eb.Reason, eb.Pairs)
				}
				if ea.Pair.Local.Addr != eb.Pair.Remote.Addr || ea.Pair.Remote.Addr != eb.Pair.Local.Addr {
					t.Errorf("different pairs:\nA %v\nB %v", ea.Pair, eb.Pair)
				}
				if ea.Pair.Local.Type != w.wantLocal || ea.Pair.Remote.Type != w.wantRemote {
					t.Errorf("A selected %v, want %s -> %s", ea.Pair, w.wantLocal, w.wantRemote)
				}
				if w.wantAddrB != "" && ea.Pair.Remote.Addr.String() != w.wantAddrB {
					t.Errorf("A selected %v, want B at %s", ea.Pair, w.wantAddrB)
				}
				if !ea.Pair.Nominated || ea.Pair.State != "succeeded" || ea.Pair.ResponsesGot == 0 || ea.Pair.RequestsSent == 0 {
					t.Errorf("A's pair is incomplete: %v", ea.Pair)
				}
				if took := time.Since(began); took > w.within {
					t.Errorf("took %v, want at most %v", took, w.within)
				} else {
					t.Logf("took %v: %v", took, ea.Pair)
				}
			})
		})
	}
}

// connect gives each side the other's description, each after its own time.
func connect(t *testing.T, a, b *side, lateA, lateB time.Duration) {
	t.Helper()
	go func() { time.Sleep(lateB); _ = b.Connect(a.Local(), 0) }() // virtual time
	go func() { time.Sleep(lateA); _ = a.Connect(b.Local(), 0) }()
}

// TestCloseRightAfterSelected: the side that selects first closes at once, and the other must select the same all the same.
func TestCloseRightAfterSelected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natPair(portRestricted, portRestricted)()
		a := start(t, newFactory(t, w.a), w.a, true, w.extraA...)
		b := start(t, newFactory(t, w.b), w.b, false, w.extraB...)
		a.c.OnEvent = func(e Event) { _ = a.Close(); a.events <- e }
		connect(t, a, b, 0, 0)
		if ea, eb := <-a.events, <-b.events; ea.Kind != Selected || eb.Kind != Selected {
			t.Fatalf("A %v, B %v %s", ea.Kind, eb.Kind, eb.Reason)
		}
		time.Sleep(2 * linger)
		synctest.Wait()
		if n := len(a.factory.mux.conns) + len(a.factory.mux.pending); n != 0 {
			t.Errorf("%d entries left in the mux", n)
		}
		if len(a.Pairs()) == 0 {
			t.Error("no pairs after the end")
		}
	})
}

// TestGlare: both sides start a session at once, and a third runs beside them; each pair of sessions must find its own.
func TestGlare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natPair(portRestricted, portRestricted)()
		fa, fb := newFactory(t, w.a), newFactory(t, w.b)
		var sides []*side
		for range 3 {
			a := start(t, fa, w.a, true, w.extraA...)
			b := start(t, fb, w.b, false, w.extraB...)
			connect(t, a, b, 0, 20*time.Millisecond)
			sides = append(sides, a, b)
		}
		for i, s := range sides {
			if e := <-s.events; e.Kind != Selected {
				t.Errorf("side %d: %v %s", i, e.Kind, e.Reason)
			}
		}
	})
}

// TestDelay: nothing is sent before it is over, but a check that arrives early ends the wait.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := worlds()["public"]()
		a := start(t, newFactory(t, w.a), w.a, true)
		b := start(t, newFactory(t, w.b), w.b, false)
		began := time.Now()
		if err := b.Connect(a.Local(), time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := a.Connect(b.Local(), 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := a.host.sent(b.host.local()[0]) + b.host.sent(a.host.local()[0]); n != 0 {
			t.Errorf("%d packets before the delay was over", n)
		}
		if e := <-b.events; e.Kind != Selected || time.Since(began) > 300*time.Millisecond {
			t.Errorf("%v after %v", e.Kind, time.Since(began))
		}
	})
}

func TestStrangersAndFloods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := worlds()["public"]()
		f := newFactory(t, w.a)
		a := start(t, f, w.a, true)
		b := start(t, newFactory(t, w.b), w.b, false)
		m := f.mux
		// A session that nobody has connected keeps the newest checks only.
		b2 := newHost().at(w.internet, "198.51.100.77")
		for range 10 * queueLength {
			_, _ = b2.WriteTo(checkFor(t, a.Local().Ufrag), net.UDPAddrFromAddrPort(w.a.local()[0]))
			_, _ = b2.WriteTo(checkFor(t, "stranger"), net.UDPAddrFromAddrPort(w.a.local()[0]))
			_, _ = b2.WriteTo([]byte("garbage"), net.UDPAddrFromAddrPort(w.a.local()[0]))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(m.conns[muxKey{a.Local().Ufrag, true}].queue); n != queueLength {
			t.Errorf("%d checks kept, want %d", n, queueLength)
		}
		if len(m.pending) != 0 {
			t.Errorf("%d requests under way", len(m.pending))
		}
		connect(t, a, b, 0, 0)
		if e := <-a.events; e.Kind != Selected || e.Pair.Remote.Addr != w.b.local()[0] {
			t.Errorf("after the flood: %v %v", e.Kind, e.Pair)
		}
		if n := w.a.sent(b2.local()[0]); n != 0 {
			t.Errorf("%d packets sent to the stranger", n)
		}
	})
}

// TestSilentTargetsAreBudgeted: on a peer's word we send only so much to an address, however many sessions name it.
func TestSilentTargetsAreBudgeted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := worlds()["public"]()
		f := newFactory(t, w.a)
		victim := netip.MustParseAddrPort("198.51.100.200:53")
		const sessions = 10
		var all []*side
		for range sessions {
			s := start(t, f, w.a, true)
			if err := s.Connect(nat.Description{Ufrag: "evil", Pwd: strings.Repeat("x", 22), Candidates: []nat.Candidate{{Type: nat.Host, Addr: victim}}}, 0); err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
		began := time.Now()
		for _, s := range all {
			if e := <-s.events; e.Kind != Failed || !strings.Contains(e.Reason, "not answered") {
				t.Errorf("%v %s", e.Kind, e.Reason)
			}
		}
		if took := time.Since(began); took < sessionLimit || took > sessionLimit+time.Second {
			t.Errorf("failed after %v", took)
		}
		if n, most := w.a.sent(victim), targetBurst+targetPerSecond*9; n == 0 || n > most {
			t.Errorf("%d packets to the victim, want at most %d", n, most)
		}
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := worlds()["public"]()
		f, err := NewFactory(Config{Conn: w.a, Local: w.a.local, Accept: func(a netip.Addr) bool { return a != w.b.addrs[0] }})
		if err != nil {
			t.Fatal(err)
		}
		a := start(t, f, w.a, true)
		b := start(t, newFactory(t, w.b), w.b, false)
		if err := a.Connect(nat.Description{Candidates: b.Local().Candidates}, 0); err == nil {
			t.Error("connected without credentials")
		}
		connect(t, a, b, 0, 0)
		if e := <-a.events; e.Kind != Failed || !strings.Contains(e.Reason, "can be used from here") {
			t.Errorf("a refused address was used: %v %s", e.Kind, e.Reason)
		}
		if n := w.a.sent(w.b.local()[0]); n != 0 {
			t.Errorf("%d packets to a refused address", n)
		}
		synctest.Wait()
		if err := a.Connect(b.Local(), 0); !errors.Is(err, net.ErrClosed) {
			t.Errorf("connected after the end: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := f.Start(SessionConfig{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("started after Close: %v", err)
		}
		empty := newFactory(t, newHost())
		if _, err := empty.Start(SessionConfig{}); err == nil {
			t.Error("started without an address")
		}
	})
}
