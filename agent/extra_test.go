package agent

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
)

func TestExtrasAreMerged(t *testing.T) {
	a, b := mesh.NodeID{1}, mesh.NodeID{2}
	p := netip.MustParsePrefix
	var got map[mesh.NodeID][]netip.Prefix
	e := newExtras(func(ev links.Event) { got = ev.(links.Extra).Prefixes })
	want := func(w map[mesh.NodeID][]netip.Prefix) {
		t.Helper()
		if !reflect.DeepEqual(got, w) {
			t.Errorf("got %v, want %v", got, w)
		}
	}
	e.Set("routed", map[mesh.NodeID][]netip.Prefix{b: {p("192.0.2.7/24"), p("10.1.0.0/16")}})
	want(map[mesh.NodeID][]netip.Prefix{b: {p("10.1.0.0/16"), p("192.0.2.0/24")}})
	// The other concern is kept, a default route never passes, and a prefix has one peer.
	e.Set("devices", map[mesh.NodeID][]netip.Prefix{a: {p("fd00::5/128"), p("::/0"), p("0.0.0.0/0"), p("10.1.0.0/16")}})
	want(map[mesh.NodeID][]netip.Prefix{a: {p("10.1.0.0/16"), p("fd00::5/128")}, b: {p("192.0.2.0/24")}})
	e.Set("devices", nil)
	want(map[mesh.NodeID][]netip.Prefix{b: {p("10.1.0.0/16"), p("192.0.2.0/24")}})
	// Of two peers in one concern the lower ID gets it.
	e.Set("routed", map[mesh.NodeID][]netip.Prefix{b: {p("10.1.0.0/16")}, a: {p("10.1.0.0/16")}})
	want(map[mesh.NodeID][]netip.Prefix{a: {p("10.1.0.0/16")}})
}
