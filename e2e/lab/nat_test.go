//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestNATBehaviour checks mapping and filtering of each kind as RFC 4787 names them (4.1 and 5), for a host behind one router.
func TestNATBehaviour(t *testing.T) {
	type filtering struct{ stranger, otherPort bool } // who else gets in: another address, another port of an address sent to
	kinds := map[NATKind]filtering{
		FullCone: {true, true}, AddressRestricted: {false, true}, PortRestricted: {false, false}, Symmetric: {false, false},
	}
	onEachInternet(t, func(t *testing.T, o Options) {
		for kind, want := range kinds {
			t.Run(kind.String(), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, o)
				p, q, s := must(l.Public("p"))(t), must(l.Public("q"))(t), must(l.Public("s"))(t)
				r := must(l.Router("r", NATConfig{Kind: kind}, nil))(t)
				a := must(r.Host("a"))(t)
				as, ps, p2, qs, ss := udp(t, a, 51820), udp(t, p, 1000), udp(t, p, 2000), udp(t, q, 1000), udp(t, s, 1000)

				mapped := through(as, ps)
				if mapped.Addr() != r.Addr() {
					t.Fatalf("seen as %v, want the router's %v", mapped, r.Addr())
				}
				ss.send(mapped, "from a stranger")
				if want.stranger {
					as.expect("from a stranger")
				}
				p2.send(mapped, "from another port")
				if want.otherPort {
					as.expect("from another port")
				}
				ps.send(mapped, "answer")
				if from := as.expect("answer"); from != ps.at {
					t.Errorf("the answer comes from %v, want %v", from, ps.at)
				}

				second, third := through(as, qs), through(as, p2)
				same := second == mapped && third == mapped
				if kind == Symmetric && (second == mapped || third == mapped || second == third) {
					t.Errorf("mapped to %v, %v, %v, want a different port for each destination", mapped, second, third)
				}
				if kind != Symmetric && !same {
					t.Errorf("mapped to %v, %v, %v, want one mapping", mapped, second, third)
				}
				if kind != Symmetric && mapped.Port() != 51820 {
					t.Errorf("mapped to %v, want the port kept", mapped)
				}
				if kind == Symmetric { // neither may what one mapping let in use the other
					qs.send(mapped, "to another's mapping")
					qs.send(second, "to its own")
					as.expect("to its own")
				}
				ss.send(netip.AddrPortFrom(r.Addr(), 40000), "to no mapping")
				qs.send(second, "still there")
				as.expect("still there")
			})
		}
	})
}

// TestTwoBehindOneCone has two hosts with one port number: each needs a mapping of its own for endpoint-independent filtering.
func TestTwoBehindOneCone(t *testing.T) {
	onEachInternet(t, func(t *testing.T, o Options) {
		l := newLab(t, o)
		p, q, s := must(l.Public("p"))(t), must(l.Public("q"))(t), must(l.Public("s"))(t)
		r := must(l.Router("r", NATConfig{Kind: FullCone}, nil))(t)
		a, b := must(r.Host("a"))(t), must(r.Host("b"))(t)
		as, bs, ps, qs, ss := udp(t, a, 51820), udp(t, b, 51820), udp(t, p, 1000), udp(t, q, 1000), udp(t, s, 1000)
		am, bm := through(as, ps), through(bs, qs) // different destinations: Linux alone would give both one port
		if am.Port() == bm.Port() {
			t.Fatalf("both are mapped to %v", am)
		}
		if again := through(bs, ps); again != bm {
			t.Errorf("b is mapped to %v and %v", bm, again)
		}
		ss.send(am, "for a")
		ss.send(bm, "for b")
		as.expect("for a")
		bs.expect("for b")
		as.send(ss.at, "answer") // by the mapping that the stranger opened
		if from := ss.expect("answer"); from != am {
			t.Errorf("the answer comes from %v, want %v", from, am)
		}
		direct := through(as, bs) // one switch: not through the router
		if direct != as.at {
			t.Errorf("on the LAN a is seen as %v, want %v", direct, as.at)
		}
	})
}

// TestInput shows what unsolicited packets do to a mapping that does not exist yet: see NATConfig.AcceptInput.
func TestInput(t *testing.T) {
	for _, accept := range []bool{false, true} {
		t.Run(fmt.Sprint("accept ", accept), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			p := must(l.Public("p"))(t)
			r := must(l.Router("r", NATConfig{AcceptInput: accept}, nil))(t)
			a := must(r.Host("a"))(t)
			as, ps := udp(t, a, 51820), udp(t, p, 1000)
			ps.send(netip.AddrPortFrom(r.Addr(), 51820), "too early")
			mapped := through(as, ps)
			if kept := mapped.Port() == 51820; kept == accept {
				t.Errorf("mapped to %v after an early packet", mapped)
			}
		})
	}
}

// TestCrossing shows what Options.Delay is for: packets that cross in flight open two routers that accept input, one after the
// other does not.
func TestCrossing(t *testing.T) {
	l := newLab(t, Options{Delay: 20 * time.Millisecond})
	p := must(l.Public("p"))(t)
	r1, r2 := must(l.Router("r1", NATConfig{AcceptInput: true}, nil))(t), must(l.Router("r2", NATConfig{AcceptInput: true}, nil))(t)
	a, b := must(r1.Host("a"))(t), must(r2.Host("b"))(t)
	ps := udp(t, p, 1000)
	pair := func(port uint16) (as, bs *socket, am, bm netip.AddrPort) {
		as, bs = udp(t, a, port), udp(t, b, port)
		return as, bs, through(as, ps), through(bs, ps)
	}
	as, bs, am, bm := pair(51820)
	as.send(bm, "crossing")
	bs.send(am, "crossing")
	as.expect("crossing")
	if from := bs.expect("crossing"); from != am {
		t.Errorf("b sees %v, want %v", from, am)
	}

	as, bs, am, bm = pair(51821)
	as.send(bm, "too early")
	through(as, ps) // "too early" is past the middle now, so what p sends comes to the router of b after it
	ps.send(bm, "after it")
	bs.expect("after it")
	bs.send(am, "from another port by now")
	as.send(bm, "to the old port")
	as.silent("b's mapping was taken by the early packet")
	bs.silent("b's mapping was taken by the early packet")
}

func TestForward(t *testing.T) {
	onEachInternet(t, func(t *testing.T, o Options) {
		l := newLab(t, o)
		p := must(l.Public("p"))(t)
		r := must(l.Router("r", NATConfig{}, nil))(t)
		a := must(r.Host("a"))(t)
		check(t, r.Forward(51820, a))
		as, ps := udp(t, a, 51820), udp(t, p, 1000)
		for _, when := range []string{"first", "after Forget", "after Renumber"} {
			ps.send(netip.AddrPortFrom(r.Addr(), 51820), when)
			as.send(as.expect(when), "answer")
			if from := ps.expect("answer"); from.Port() != 51820 {
				t.Errorf("%s: the answer comes from %v", when, from)
			}
			if when == "first" {
				check(t, r.Forget())
			} else {
				check(t, r.Renumber())
			}
		}
		other := must(l.Router("other", NATConfig{}, nil))(t)
		if err := other.Forward(1, a); err == nil || !strings.Contains(err.Error(), "not behind it") {
			t.Errorf("forwarded to a host elsewhere: %v", err)
		}
	})
}

func TestForgetAndRenumber(t *testing.T) {
	for _, kind := range []NATKind{PortRestricted, FullCone, Symmetric} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			p := must(l.Public("p"))(t)
			r := must(l.Router("r", NATConfig{Kind: kind}, nil))(t)
			a := must(r.Host("a"))(t)
			as, ps := udp(t, a, 51820), udp(t, p, 1000)
			mapped := through(as, ps)

			check(t, r.Forget())
			ps.send(mapped, "to a forgotten mapping")
			mapped = through(as, ps)
			ps.send(mapped, "to a new one")
			as.expect("to a new one")

			check(t, r.Renumber())
			ps.send(mapped, "to the old address")
			next := through(as, ps)
			if next.Addr() == mapped.Addr() || next.Addr() != r.Addr() {
				t.Errorf("renumbered from %v, the router has %v, a is seen as %v", mapped, r.Addr(), next)
			}
			ps.send(next, "to the new address")
			as.expect("to the new address")
		})
	}
}

// TestUDPTimeout waits for mappings to expire, which only the kernel's clock does.
func TestUDPTimeout(t *testing.T) {
	for _, kind := range []NATKind{PortRestricted, FullCone} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{})
			p := must(l.Public("p"))(t)
			r := must(l.Router("r", NATConfig{Kind: kind, UDPTimeout: time.Second}, nil))(t)
			a := must(r.Host("a"))(t)
			as, ps := udp(t, a, 51820), udp(t, p, 1000)
			mapped := through(as, ps)
			time.Sleep(1500 * time.Millisecond)
			ps.send(mapped, "to an expired mapping")
			ps.send(through(as, ps), "to a new one")
			as.expect("to a new one")
		})
	}
}

// TestCarrier puts two homes behind one carrier's NAT.
func TestCarrier(t *testing.T) {
	onEachInternet(t, func(t *testing.T, o Options) {
		for _, hairpin := range []bool{false, true} {
			t.Run(fmt.Sprint("hairpin ", hairpin), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, o)
				p := must(l.Public("p"))(t)
				carrier := must(l.Router("carrier", NATConfig{CarrierGrade: true, Hairpin: hairpin}, nil))(t)
				same := netip.MustParsePrefix("192.168.1.0/24") // homes have the same addresses inside
				r1 := must(l.Router("r1", NATConfig{LAN: same}, carrier))(t)
				r2 := must(l.Router("r2", NATConfig{LAN: same}, carrier))(t)
				a, b := must(r1.Host("a"))(t), must(r2.Host("b"))(t)
				if a.Addr() != b.Addr() || !carrier.LANPrefix().Contains(r1.Addr()) {
					t.Fatalf("a has %v, b has %v, r1 has %v", a.Addr(), b.Addr(), r1.Addr())
				}
				as, bs, ps := udp(t, a, 51820), udp(t, b, 51821), udp(t, p, 1000)
				am, bm := through(as, ps), through(bs, ps)
				if am.Addr() != carrier.Addr() || bm.Addr() != carrier.Addr() {
					t.Fatalf("seen as %v and %v, want the carrier's %v", am, bm, carrier.Addr())
				}
				as.send(bm, "opens a's router") // b's router filters it
				bs.send(am, "hello")
				if !hairpin {
					ps.send(am, "from outside")
					as.expect("from outside")
					return
				}
				if from := as.expect("hello"); from != bm {
					t.Errorf("a sees b as %v, want its external address %v", from, bm)
				}
				as.send(bm, "answer")
				if from := bs.expect("answer"); from != am {
					t.Errorf("b sees a as %v, want its external address %v", from, am)
				}
			})
		}
	})
}

// TestPunching opens a path between two port-restricted NATs by crossing packets, one of the NATs behind another.
func TestPunching(t *testing.T) {
	onEachInternet(t, func(t *testing.T, o Options) {
		l := newLab(t, o)
		p := must(l.Public("p"))(t)
		carrier := must(l.Router("carrier", NATConfig{CarrierGrade: true}, nil))(t)
		r1 := must(l.Router("r1", NATConfig{}, carrier))(t)
		r2 := must(l.Router("r2", NATConfig{}, nil))(t)
		a, b := must(r1.Host("a"))(t), must(r2.Host("b"))(t)
		as, bs, ps := udp(t, a, 51820), udp(t, b, 51820), udp(t, p, 1000)
		am, bm := through(as, ps), through(bs, ps)
		as.send(bm, "opens")
		bs.send(am, "arrives")
		if from := as.expect("arrives"); from != bm {
			t.Errorf("a sees %v, want %v", from, bm)
		}
		as.send(bm, "back")
		if from := bs.expect("back"); from != am {
			t.Errorf("b sees %v, want %v", from, am)
		}
	})
}

func TestNoNAT(t *testing.T) {
	l := newLab(t, Options{})
	p := must(l.Public("p"))(t)
	r := must(l.Router("r", NATConfig{Kind: None}, nil))(t)
	a := must(r.Host("a"))(t)
	as, ps := udp(t, a, 51820), udp(t, p, 1000)
	ps.send(as.at, "unsolicited")
	as.expect("unsolicited")
	if from := through(as, ps); from != as.at {
		t.Errorf("seen as %v, want %v", from, as.at)
	}
}

func TestNATConfig(t *testing.T) {
	l := newLab(t, Options{})
	home := must(l.Router("home", NATConfig{}, nil))(t)
	for name, bad := range map[string]struct {
		cfg    NATConfig
		behind *Router
	}{
		"kind":   {NATConfig{Kind: 9}, nil},
		"ipv6":   {NATConfig{IPv6: true}, nil},
		"public": {NATConfig{Kind: None}, home},
		"lan":    {NATConfig{LAN: netip.MustParsePrefix("10.0.0.0/8")}, nil},
		"time":   {NATConfig{UDPTimeout: 1}, nil},
	} {
		if _, err := l.Router("bad-"+name, bad.cfg, bad.behind); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := l.Public("home"); err == nil {
		t.Error("two nodes with one name")
	}
	if _, err := l.Public("Ho me"); err == nil {
		t.Error("a bad name was taken")
	}
}
