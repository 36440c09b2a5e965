package agent

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/gridwire/gridwire/mesh"
)

func TestMembersAreAskedInTheFamilyThatTheyDoNotAdvertise(t *testing.T) {
	four, six := netip.MustParseAddrPort("198.51.100.10:51820"), netip.MustParseAddrPort("[2001:db8::1]:51820")
	home, ula := netip.MustParseAddrPort("192.168.1.2:51820"), netip.MustParseAddrPort("[fd00::1]:51820")
	for name, c := range map[string]struct{ endpoints, lan, want []netip.AddrPort }{
		"both":              {[]netip.AddrPort{six, four}, []netip.AddrPort{four, six, home}, []netip.AddrPort{six, four}},
		"IPv6 only":         {[]netip.AddrPort{six}, []netip.AddrPort{four, six}, []netip.AddrPort{six, four}},
		"IPv4 only":         {[]netip.AddrPort{four}, []netip.AddrPort{four, six, ula}, []netip.AddrPort{four, six}},
		"IPv4 behind a NAT": {[]netip.AddrPort{six}, []netip.AddrPort{home, six}, []netip.AddrPort{six}},
	} {
		if got := askAt(&mesh.Member{Endpoints: c.endpoints, LAN: c.lan}); !slices.Equal(got, c.want) {
			t.Errorf("%s: asked at %v, want %v", name, got, c.want)
		}
	}
}
