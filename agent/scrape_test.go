package agent

import (
	"net/netip"
	"testing"

	"github.com/gridwire/gridwire/mesh"
)

// TestWhoMayScrapeOverTheOverlay: a member, and what runs on it, but not a host of a network behind a member.
func TestWhoMayScrapeOverTheOverlay(t *testing.T) {
	v := mesh.NewView(mesh.Network{}, mesh.NodeID{1}).With(&mesh.Member{
		ID: mesh.NodeID{2}, Name: "bob", Addrs: []netip.Addr{netip.MustParseAddr("fd01::2:0:1"), netip.MustParseAddr("10.66.0.2")},
		Block: netip.MustParsePrefix("fd01::2:0:0/96"), Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")},
	})
	for addr, want := range map[string]bool{
		"fd01::2:0:1": true, "fd01::2:0:99": true, "10.66.0.2": true,
		"fd01::3:0:1": false, "10.66.0.3": false, "192.168.7.9": false, "127.0.0.1": false,
	} {
		if got := isMember(v, netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}
