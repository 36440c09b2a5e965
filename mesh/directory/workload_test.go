package directory

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/gridwire/gridwire/mesh"
)

// TestNobodyClaimsAnothersAddresses: a workload counts if its addresses lie in the member's own block or in what its certificate
// authorises; the rest of the record stands.
func TestNobodyClaimsAnothersAddresses(t *testing.T) {
	w := newWorld(t, 1)
	b := newBench(t, w, newMemory(), epoch)
	block := mesh.Block(w.root.Network.ID, idOf(key(bob)))
	in := func(last byte) netip.Addr {
		a := block.Addr().As16()
		a[15] = last
		return netip.AddrFrom16(a)
	}
	others := mesh.Block(w.root.Network.ID, idOf(key(carol))).Addr()
	lan := netip.MustParseAddr("192.0.2.7")
	claims := []mesh.Workload{
		{Name: "own", Addrs: []netip.Addr{in(2)}, Ports: []mesh.Port{{Name: "http", Number: 80, Protocol: "tcp"}}},
		{Name: "lan", Addrs: []netip.Addr{lan, in(3)}},
		{Name: "another", Addrs: []netip.Addr{others.Next().Next()}},
		{Name: "anothers-node", Addrs: []netip.Addr{others.Next()}},
		{Name: "own-node", Addrs: []netip.Addr{in(1)}},
		{Name: "router", Addrs: []netip.Addr{in(0)}},
		{Name: "half", Addrs: []netip.Addr{in(4), others.Next().Next()}},
		{Name: "outside", Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.1")}},
		{Name: "pool", Addrs: []netip.Addr{netip.MustParseAddr("10.77.0.9")}},
	}
	b.want(Accepted, w.record(spec{
		key: key(bob), name: "bob", sequence: 1, routes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, workloads: claims,
	}))
	m, ok := b.View().Member(idOf(key(bob)))
	if !ok || !slices.EqualFunc(m.Workloads, claims[:2], sameWorkload) {
		t.Fatalf("workloads %+v, want own and lan", m.Workloads)
	}
	b.want(Accepted, w.record(spec{key: key(bob), name: "bob", sequence: 2, workloads: claims})) // renewed without the route
	if m, _ = b.View().Member(idOf(key(bob))); !slices.EqualFunc(m.Workloads, claims[:1], sameWorkload) {
		t.Fatalf("without the route: workloads %+v, want own", m.Workloads)
	}
	b.want(Accepted, w.record(spec{key: key(bob), name: "bob", sequence: 3}))
	if m, _ = b.View().Member(idOf(key(bob))); len(m.Workloads) != 0 {
		t.Fatalf("they were withdrawn, and are still there: %+v", m.Workloads)
	}
}
