package networks

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

var (
	alice, bob = mesh.NodeID{1}, mesh.NodeID{2}
	t0         = time.UnixMilli(1_800_000_000_000)
)

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func router(id mesh.NodeID, rtt time.Duration, ps ...string) Router {
	return Router{ID: id, Prefixes: prefixes(ps...), Reachable: rtt > 0, RTT: max(rtt, 0)}
}

const down = -1

func want(t *testing.T, p Plan, prefix string, s State, via mesh.NodeID) Network {
	t.Helper()
	i := slices.IndexFunc(p.Networks, func(n Network) bool { return n.Prefix.String() == prefix })
	if i < 0 {
		t.Fatalf("%s is not in %+v", prefix, p.Networks)
	}
	n := p.Networks[i]
	if n.State != s || n.Via != via {
		t.Errorf("%s is %s by way of %v, want %s, %v", prefix, n.State, n.Via, s, via)
	}
	if has := slices.Contains(p.Peers[via], n.Prefix); has != !via.IsZero() {
		t.Errorf("%s: the peers get %v", prefix, p.Peers)
	}
	return n
}

func TestTheReachableRouterWithTheLowestRTT(t *testing.T) {
	c := New()
	const net = "192.168.1.0/24"
	step := func(after time.Duration, a, b time.Duration) Plan {
		return c.Step(Input{Routers: []Router{router(alice, a, net), router(bob, b, net)}}, t0.Add(after))
	}
	want(t, step(0, 40*time.Millisecond, 10*time.Millisecond), net, Active, bob)
	// down: the other one at once
	want(t, step(time.Second, 40*time.Millisecond, down), net, Active, alice)
	// back: after the patience
	want(t, step(2*time.Second, 40*time.Millisecond, 10*time.Millisecond), net, Active, alice)
	want(t, step(4*time.Second, 40*time.Millisecond, 10*time.Millisecond), net, Active, alice)
	want(t, step(5*time.Second, 40*time.Millisecond, 10*time.Millisecond), net, Active, bob)
	// a small difference is noise, however long
	for s := range 60 {
		want(t, step(time.Duration(6+s)*time.Second, 9*time.Millisecond, 10*time.Millisecond), net, Active, bob)
	}
	// a better one that is so only now and then never gets there
	for s := range 60 {
		rtt := 2 * time.Millisecond
		if s%3 == 2 {
			rtt = 12 * time.Millisecond
		}
		want(t, step(time.Duration(70+s)*time.Second, rtt, 10*time.Millisecond), net, Active, bob)
	}
	// both down: the choice stays, and packets to it do not go elsewhere
	p := step(200*time.Second, down, down)
	n := want(t, p, net, Unreachable, bob)
	if !slices.Contains(p.Routes, n.Prefix) || n.Reason == "" {
		t.Errorf("plan %+v", p)
	}
	want(t, step(201*time.Second, 90*time.Millisecond, down), net, Active, alice)
	// an RTT that is not measured yet counts as the worst
	fresh := New().Step(Input{Routers: []Router{{ID: alice, Prefixes: prefixes(net), Reachable: true}, router(bob, time.Second, net)}}, t0)
	want(t, fresh, net, Active, bob)
}

func TestARouterThatLeavesTakesItsNetworksAlong(t *testing.T) {
	c := New()
	in := Input{Routers: []Router{router(alice, 5*time.Millisecond, "192.168.1.0/24", "2001:db8:7::/64"), router(bob, 9*time.Millisecond, "192.168.1.0/24")}}
	p := c.Step(in, t0)
	want(t, p, "2001:db8:7::/64", Active, alice)
	if !p.Watch {
		t.Error("two routers for one prefix are not watched")
	}
	in.Routers = in.Routers[1:]
	p = c.Step(in, t0)
	want(t, p, "192.168.1.0/24", Active, bob)
	if len(p.Networks) != 1 || p.Watch {
		t.Errorf("plan %+v", p)
	}
	in.Routers[0].Prefixes = nil // its renewed certificate has none
	if p = c.Step(in, t0); len(p.Routes)+len(p.Peers)+len(p.Networks) != 0 || len(c.chosen) != 0 {
		t.Errorf("plan %+v, chosen %v", p, c.chosen)
	}
}

func TestTheMachinesOwnNetworksAreNotShadowed(t *testing.T) {
	in := Input{
		Routers: []Router{router(alice, time.Millisecond, "192.168.1.0/24", "192.168.2.0/24", "10.0.0.0/8", "172.16.0.0/12", "2001:db8:7::/64")},
		Foreign: []Foreign{
			{netip.MustParsePrefix("192.168.1.0/24"), "eth0"}, {netip.MustParsePrefix("0.0.0.0/0"), "eth0"},
			{netip.MustParsePrefix("10.9.0.0/16"), "eth1"}, {netip.MustParsePrefix("172.0.0.0/8"), "tun3"},
		},
		Own: prefixes("192.168.2.0/24", "10.8.0.0/16"),
	}
	p := New().Step(in, t0)
	if n := want(t, p, "192.168.1.0/24", Local, mesh.NodeID{}); !strings.Contains(n.Reason, "192.168.1.0/24 on eth0") {
		t.Errorf("reason %q", n.Reason)
	}
	if n := want(t, p, "192.168.2.0/24", Local, mesh.NodeID{}); !strings.Contains(n.Reason, "itself") {
		t.Errorf("reason %q", n.Reason)
	}
	want(t, p, "172.16.0.0/12", Local, mesh.NodeID{})
	want(t, p, "2001:db8:7::/64", Active, alice)
	for addr, wanted := range map[string]bool{"10.1.2.3": true, "10.8.2.3": false, "10.9.2.3": false, "10.10.2.3": true, "192.168.1.7": false, "172.16.0.1": false} {
		in := func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr(addr)) }
		if got := slices.ContainsFunc(p.Peers[alice], in); got != wanted {
			t.Errorf("alice may send from %s: %v, want %v", addr, got, wanted)
		}
	}
	if got := p.Routes; !slices.Equal(got, prefixes("10.0.0.0/8", "2001:db8:7::/64")) {
		t.Errorf("routes %v", got)
	}
}

func TestTheLongestPrefixThatIsReachable(t *testing.T) {
	c := New()
	step := func(large, small time.Duration) Plan {
		return c.Step(Input{Routers: []Router{router(alice, large, "10.1.0.0/16"), router(bob, small, "10.1.2.0/24")}}, t0)
	}
	p := step(time.Millisecond, 50*time.Millisecond)
	want(t, p, "10.1.0.0/16", Active, alice)
	want(t, p, "10.1.2.0/24", Active, bob)
	p = step(time.Millisecond, down)
	want(t, p, "10.1.2.0/24", Unreachable, mesh.NodeID{}) // alice takes its packets
	p = step(down, down)
	want(t, p, "10.1.2.0/24", Unreachable, bob)
	p = step(time.Millisecond, 50*time.Millisecond)
	want(t, p, "10.1.2.0/24", Active, bob)
}

func TestNeitherDefaultRoutesNorForeignFamilies(t *testing.T) {
	in := Input{NoIPv4: true, Routers: []Router{{ID: alice, Reachable: true, Prefixes: append(prefixes("0.0.0.0/0", "::/0", "192.168.1.0/24", "192.168.1.9/24"), netip.Prefix{})}}}
	p := New().Step(in, t0)
	want(t, p, "192.168.1.0/24", Off, mesh.NodeID{})
	if len(p.Networks) != 1 || len(p.Routes)+len(p.Peers) != 0 {
		t.Errorf("plan %+v", p)
	}
}

// TestWithoutAgreesWithASlowOne checks each address of a small prefix.
func TestWithoutAgreesWithASlowOne(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	p := netip.MustParsePrefix("192.0.2.0/24")
	for range 300 {
		var holes []netip.Prefix
		for range r.IntN(5) {
			h, err := netip.AddrFrom4([4]byte{192, 0, byte(1 + r.IntN(3)), byte(r.IntN(256))}).Prefix(22 + r.IntN(11))
			if err != nil {
				t.Fatal(err)
			}
			holes = append(holes, h)
		}
		got := Without(p, holes)
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			count := 0
			for _, g := range got {
				if g != g.Masked() {
					t.Fatalf("%v is not canonical", g)
				}
				if g.Contains(a) {
					count++
				}
			}
			wanted := 1
			if slices.ContainsFunc(holes, func(h netip.Prefix) bool { return h.Contains(a) }) {
				wanted = 0
			}
			if count != wanted {
				t.Fatalf("%v without %v: %v has %v %d times, want %d", p, holes, got, a, count, wanted)
			}
		}
	}
	if got := Without(netip.MustParsePrefix("2001:db8::/32"), prefixes("2001:db8::7/128")); len(got) != 96 {
		t.Errorf("a /32 without one address is %d prefixes, want 96", len(got))
	}
}
