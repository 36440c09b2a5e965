package agent

import (
	"net/netip"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/links"
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

// TestSeen: a record's time is by the clock of whoever signed it.
func TestSeen(t *testing.T) {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	bob := mesh.NodeID{2}
	for name, c := range map[string]struct {
		signed, heard time.Duration // before now; heard 0: never
		ahead         time.Duration // as far as is known
		want          time.Duration
	}{
		"a packet since the record":           {signed: time.Hour, heard: time.Minute, want: time.Minute},
		"a record since the packet":           {signed: time.Minute, heard: time.Hour, want: time.Minute},
		"a record only":                       {signed: time.Hour, want: time.Hour},
		"a clock that is ahead, as is known":  {signed: -time.Hour, heard: 3 * time.Hour, ahead: 3 * time.Hour, want: 2 * time.Hour},
		"a clock that is behind, as is known": {signed: 3 * time.Hour, ahead: -2 * time.Hour, want: time.Hour},
		"ahead, and nobody knows":             {signed: -time.Hour, heard: 3 * time.Hour, want: 3 * time.Hour},
		"ahead, and never heard":              {signed: -time.Hour, want: 0},
	} {
		l := links.Status{}
		if c.heard > 0 {
			l.LastHeard = now.Add(-c.heard)
		}
		skews := map[mesh.NodeID]time.Duration{}
		if c.ahead != 0 {
			skews[bob] = c.ahead
		}
		if got := now.Sub(seen(&mesh.Member{ID: bob, Updated: now.Add(-c.signed)}, l, skews, now)); got != c.want {
			t.Errorf("%s: seen %v ago, want %v", name, got, c.want)
		}
	}
}
