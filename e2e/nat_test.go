//go:build linux

package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

var (
	home      = lab.NATConfig{Kind: lab.PortRestricted}
	cone      = lab.NATConfig{Kind: lab.FullCone}
	symmetric = lab.NATConfig{Kind: lab.Symmetric}
	accepting = lab.NATConfig{Kind: lab.PortRestricted, AcceptInput: true}
	carrier   = lab.NATConfig{Kind: lab.PortRestricted, CarrierGrade: true}
)

// internets are a documentation range, which libp2p counts as not public, and one that looks public.
var internets = map[string]netip.Prefix{
	"documentation": netip.MustParsePrefix("198.51.100.0/24"),
	"public":        netip.MustParsePrefix("45.0.0.0/24"),
}

// TestPairsThatMustBeDirect joins two members behind each pair of NATs, with one public member to signal through.
func TestPairsThatMustBeDirect(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string][2]lab.NATConfig{
		"port-restricted and port-restricted": {home, home},
		"port-restricted and full cone":       {home, cone},
		"full cone and full cone":             {cone, cone},
		"symmetric and full cone":             {symmetric, cone},
	} {
		for internet, prefix := range internets {
			t.Run(name+" on "+internet, func(t *testing.T) {
				w := newWorld(t, lab.Options{Internet: prefix})
				alice, bob, carol := w.public("alice"), w.home("bob", pair[0]), w.home("carol", pair[1])
				w.mesh(alice, bob, carol)
				w.linkedAll(10*time.Second, alice, bob, carol)
			})
		}
	}
}

func TestDoubleNATIsDirect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	cgn := w.router("cgn", carrier, nil)
	carol := must(w.router("carol-r", home, cgn).Host("carol"))(t)
	dave := must(w.router("dave-r", home, cgn).Host("dave"))(t)
	w.mesh(alice, bob, carol, dave)
	w.linkedAll(10*time.Second, alice, bob, carol)
	w.linked(bob, dave, 10*time.Second)
}

func TestSymmetricReachesPublic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", symmetric)
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
}

// TestAcceptingRouters: conntrack on a router that accepts unsolicited packets to itself holds the tuple that its own host needs, unless
// the first checks of both sides cross in flight. They can only where packets take time.
func TestAcceptingRouters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{Delay: 20 * time.Millisecond})
	alice, bob, carol := w.public("alice"), w.home("bob", accepting), w.home("carol", accepting)
	w.mesh(alice, bob, carol)
	w.linkedAll(10*time.Second, alice, bob, carol)
}

func TestSameLANGoesOverTheSwitch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	r := w.router("r", home, nil)
	bob, carol := must(r.Host("bob"))(t), must(r.Host("carol"))(t)
	w.mesh(alice, bob, carol)
	w.linkedAll(10*time.Second, alice, bob, carol)
	w.eventually(5*time.Second, "bob sends to carol's own address", func() bool {
		return w.remote(bob, "carol").Addr() == carol.Addr() && w.remote(carol, "bob").Addr() == bob.Addr()
	})
}

func TestIPv6IsUsedWhereBothHaveIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{IPv6: true})
	alice := w.public("alice")
	six := lab.NATConfig{Kind: lab.Symmetric, IPv6: true}
	bob, carol := w.home("bob", six), w.home("carol", six)
	w.mesh(alice, bob, carol)
	w.linkedAll(10*time.Second, alice, bob, carol)
	if a := w.remote(bob, "carol"); !a.Addr().Is6() {
		t.Errorf("bob reaches carol at %v, want IPv6: IPv4 is behind two symmetric NATs", a)
	}
}

// TestImpossiblePairsAreSaid: the pairs that physics keeps apart are unreachable with the reason, and everybody else is linked.
func TestImpossiblePairsAreSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, carol := w.public("alice"), w.home("bob", symmetric), w.home("carol", symmetric)
	w.mesh(alice, bob, carol)
	w.linked(alice, bob, 10*time.Second)
	w.linked(alice, carol, 10*time.Second)
	w.eventually(30*time.Second, "bob says why carol is unreachable", func() bool {
		p := w.peer(bob, "carol")
		return p.State == "unreachable" && p.Path.Kind == "none" && strings.Contains(w.run(bob, "explain", "carol"), "symmetric")
	})
	if st, err := bob.Status(w.ctx(5 * time.Second)); err != nil || st.Self.NAT != "endpoint-dependent" {
		t.Errorf("bob's NAT: %q, %v", st.Self.NAT, err)
	}
}
