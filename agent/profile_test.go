package agent

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/nat"
)

func ports(s ...string) (out []netip.AddrPort) {
	for _, a := range s {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

func TestEndpointOf(t *testing.T) {
	for name, c := range map[string]struct {
		m          mesh.Member
		want, says string
	}{
		"public": {mesh.Member{Reachable: true, Endpoints: ports("[2001:db8::1]:5", "10.0.0.1:5", "203.0.113.7:5")}, "203.0.113.7:5", ""},
		"IPv6 alone is better than a private address": {mesh.Member{Reachable: true, Endpoints: ports("10.0.0.1:5", "[2001:db8::1]:5")}, "[2001:db8::1]:5", ""},
		"private":           {mesh.Member{Reachable: true, Endpoints: ports("192.168.1.5:5")}, "192.168.1.5:5", "its own network only"},
		"behind a NAT":      {mesh.Member{NAT: "endpoint-independent", LAN: ports("192.168.1.5:5")}, "", "--endpoint bob=192.168.1.5:5"},
		"behind a firewall": {mesh.Member{NAT: "blocked", LAN: ports("203.0.113.7:5")}, "", "--advertise HOST:PORT"},
		"not tested":        {mesh.Member{NAT: string(nat.Unknown), LAN: ports("192.168.1.5:5", "203.0.113.7:5")}, "203.0.113.7:5", "nobody has tested"},
		"nothing known":     {mesh.Member{}, "", "do not reach bob (NAT: unknown)"},
	} {
		c.m.Name = "bob"
		got, why := endpointOf(&c.m)
		if got != c.want || !strings.Contains(why, c.says) || c.says == "" && why != "" {
			t.Errorf("%s: %q, %q; want %q, %q", name, got, why, c.want, c.says)
		}
	}
}

var twoGateways = []*mesh.Member{{ID: mesh.NodeID{1}, Name: "bob"}, {ID: mesh.NodeID{2}, Name: "olga"}}

func TestEndpoints(t *testing.T) {
	got, err := endpoints([]string{"olga=home.example.org:51820", "bob=[2001:db8::1]:7"}, twoGateways)
	if err != nil || got[mesh.NodeID{2}] != "home.example.org:51820" || got[mesh.NodeID{1}] != "[2001:db8::1]:7" {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := endpoints([]string{"192.0.2.1:7"}, twoGateways[:1]); err != nil || got[mesh.NodeID{1}] != "192.0.2.1:7" {
		t.Errorf("%v, %v", got, err)
	}
	for says, given := range map[string][]string{
		"want HOST:PORT":      {"192.0.2.1"},
		"like home.example":   {"192.0.2.1:0"},
		"GATEWAY=HOST:PORT":   {"192.0.2.1:65536"},
		"neither an address":  {"bob=a b:1"},
		"nor a host's name":   {"bob=:1"},
		"not among":           {"zoe=192.0.2.1:1"},
		"the device has 2":    {"192.0.2.1:1"},
		"bob has one already": {"bob=192.0.2.1:1", "bob=192.0.2.1:2"},
	} {
		if _, err := endpoints(given, twoGateways); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", given, err, says)
		}
	}
}

// FuzzEndpoints: what is accepted is one address or host name with a port, and nothing that would end a line of the configuration.
func FuzzEndpoints(f *testing.F) {
	for _, s := range []string{"bob=192.0.2.1:5", "olga=home.example.org:1", "bob=[::1]:9", "x", "bob=a\nEndpoint = b:1", "bob=[fe80::1%a\nEndpoint = b]:1"} {
		f.Add(s)
	}
	if got, err := endpoints([]string{"bob=192.0.2.1:5"}, twoGateways); err != nil || len(got) != 1 {
		f.Fatalf("seed refused: %v", err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := endpoints([]string{s}, twoGateways)
		if err != nil {
			return
		}
		for _, at := range got {
			host, port, err := net.SplitHostPort(at)
			if err != nil || host == "" || port == "" || strings.ContainsAny(at, " \t\r\n=,") {
				t.Fatalf("accepted %q", at)
			}
		}
	})
}

func TestGatewayless(t *testing.T) {
	d := &mesh.Device{Name: "phone", Profiles: []mesh.Profile{{Gateway: mesh.NodeID{1}}, {Gateway: mesh.NodeID{2}}}}
	v := mesh.NewView(mesh.Network{}, mesh.NodeID{9})
	for says, v := range map[string]*mesh.View{
		"no gateway any more":   v,
		"(gridwire gateway on)": v.With(&mesh.Member{ID: mesh.NodeID{1}, Name: "bob"}),
	} {
		if got := strings.Join(gatewayless(v, d), " "); !strings.Contains(got, says) || !strings.Contains(got, "phone") {
			t.Errorf("it says %q, want %q", got, says)
		}
	}
	if got := gatewayless(v.With(&mesh.Member{ID: mesh.NodeID{2}, Name: "olga", Gateway: true}), d); len(got) != 0 {
		t.Errorf("with one gateway on: %q", got)
	}
}

// TestDeviceNames: a device's name leads to where it is.
func TestDeviceNames(t *testing.T) {
	here, there := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	d := &mesh.Device{ID: mesh.NodeID{7}, Name: "phone", WireGuard: mesh.WGKey{7}, Profiles: []mesh.Profile{
		{Gateway: mesh.NodeID{1}, Addrs: []netip.Addr{here}}, {Gateway: mesh.NodeID{2}, Addrs: []netip.Addr{there}},
	}}
	v := mesh.NewView(mesh.Network{Domain: "farm.internal"}, mesh.NodeID{1}).WithDevice(d).
		With(&mesh.Member{ID: mesh.NodeID{1}, Name: "bob", WireGuard: mesh.WGKey{1}, Gateway: true}).
		With(&mesh.Member{ID: mesh.NodeID{2}, Name: "olga", WireGuard: mesh.WGKey{2}, Gateway: true, Connected: []mesh.WGKey{d.WireGuard}})
	for _, m := range zoneData(v, 1).Members {
		if m.Name == "phone" && (len(m.Addrs) != 1 || m.Addrs[0] != there) {
			t.Errorf("it leads to %v, want %v", m.Addrs, there)
		}
	}
	if n := len(zoneData(v, 1).Members); n != 3 {
		t.Errorf("%d names", n)
	}
}
