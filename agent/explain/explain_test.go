package explain

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/nat"
)

var now = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// The sides of the matrix.
var (
	open      = Side{NAT: nat.Open, Reachable: true, Local: addrs("198.51.100.1"), Port: 51820}
	home      = Side{NAT: nat.EndpointIndependent, Local: addrs("192.168.1.5"), Port: 51820, Mapped: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:51820")}}
	cone      = Side{NAT: nat.EndpointIndependent, Reachable: true, Local: addrs("192.168.7.9"), Port: 51820, Mapped: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.9:51820")}}
	symmetric = Side{NAT: nat.EndpointDependent, Local: addrs("192.168.2.6"), Port: 40001}
	mobile    = Side{NAT: nat.EndpointDependent, Local: addrs("100.72.3.4"), Port: 51820}
	blocked   = Side{NAT: nat.Blocked, Local: addrs("10.9.8.7"), Port: 51820}
	unknown   = Side{NAT: nat.Unknown, Local: addrs("192.168.3.3"), Port: 51820}
)

func side(s Side, name string) Side { s.Name = name; return s }

func with6(s Side) Side { s.Local = append(addrs("2001:db8::5"), s.Local...); return s }

func down(self, peer Side) Facts {
	return Facts{Self: side(self, "this machine"), Peer: side(peer, "bob"), Standing: "member", State: "unreachable", Reason: "no packet of the peer arrived", Connections: 2, Tried: true, Now: now}
}

func up(self, peer Side, remote string) Facts {
	f := down(self, peer)
	f.State, f.Reason, f.Remote = "connected", "", netip.MustParseAddrPort(remote)
	return f
}

func TestWhyADirectPathIsAsItIs(t *testing.T) {
	neighbour := home
	neighbour.Local = addrs("192.168.1.6")
	isolated := up(home, neighbour, "198.51.100.7:40000")
	for name, tc := range map[string]struct {
		f      Facts
		why    string
		advice string
	}{
		"same LAN":              {up(home, neighbour, "192.168.1.6:51820"), "Same LAN", ""},
		"same LAN by router":    {isolated, "hole punched", "isolates its clients"},
		"other private network": {up(home, symmetric, "192.168.2.6:40001"), "own address 192.168.2.6 can be reached", ""},
		"IPv6":                  {up(with6(home), with6(home), "[2001:db8::5]:51820"), "Both have IPv6", ""},
		"peer public":           {up(home, open, "198.51.100.1:51820"), "bob has a public address, so packets go straight to it; this machine's NAT", ""},
		"both public":           {up(open, open, "198.51.100.1:51820"), "bob has a public address, so packets go straight to it.", ""},
		"peer forwards":         {up(symmetric, cone, "198.51.100.9:51820"), "bob's router forwards a port", ""},
		"self public":           {up(open, home, "198.51.100.7:51820"), "This machine has a public address", ""},
		"self cone, symmetric":  {up(cone, symmetric, "198.51.100.20:1024"), "Strangers' packets reach this machine", ""},
		"both home":             {up(home, home, "198.51.100.8:51820"), "port-restricted", ""},
		"symmetric let in":      {up(symmetric, home, "198.51.100.8:51820"), "symmetric, but the other lets", ""},
		"no endpoint yet":       {func() Facts { f := up(home, home, "1.2.3.4:5"); f.Remote = netip.AddrPort{}; return f }(), "has not said yet", ""},
	} {
		t.Run(name, func(t *testing.T) {
			why, advice := Words(tc.f)
			if !strings.Contains(why, tc.why) {
				t.Errorf("why: %q, want %q", why, tc.why)
			}
			if got := strings.Join(advice, "\n"); tc.advice == "" && got != "" || !strings.Contains(got, tc.advice) {
				t.Errorf("advice: %q, want %q", got, tc.advice)
			}
		})
	}
}

// matrix is the advice for each pair of NATs that has no path. The first remedy is the cheapest; none may promise what gridwire does not do.
func TestAdviceOverTheNATMatrix(t *testing.T) {
	off := down(home, home)
	off.Reason, off.LastSeen = "it does not answer: it is off, or cut off from the others", now.Add(-3*time.Hour)
	alone := down(home, home)
	alone.Connections = 0
	fresh := down(home, home)
	fresh.State, fresh.Reason = "connecting", ""
	again := off
	again.State = "connecting"
	neighbour := home
	neighbour.Local = addrs("192.168.1.6")
	for name, tc := range map[string]struct {
		f      Facts
		why    string
		advice []string // each remedy begins with it, in this order
	}{
		"blocked here":  {down(blocked, home), "lets no UDP out", []string{"allow outgoing UDP on this network's firewall, at least from this machine's port 51820", "or use another network"}},
		"blocked there": {down(home, blocked), "bob's network lets no UDP out", []string{"on bob: allow outgoing UDP"}},
		"alone":         {alone, "no control connection", []string{"check this machine's own network first", "at least one member"}},
		"fresh":         {fresh, "being made", nil},
		"again":         {again, "being made anew", nil},
		"off":           {off, "it was last seen 3 hours ago", []string{"switch bob on", "if it is on"}},
		"strangers home and home": {down(home, elsewhere(home)), "can be crossed", []string{"it is tried again by itself", "if a router is a Linux box",
			"forward UDP 51820 on bob's router to 192.168.50.5", "or forward UDP 51820 on this machine's router to 192.168.1.5"}},
		"same LAN":                {down(home, neighbour), "one LAN (192.168.1.5 and 192.168.1.6)", []string{"let UDP port 51820 in on this machine", "if it is a guest Wi-Fi"}},
		"home and symmetric":      {down(home, symmetric), "bob's NAT uses another port", []string{"forward UDP 51820 on this machine's router to 192.168.1.5", "or forward UDP 40001 on bob's router to 192.168.2.6, and run the agent on bob with --advertise"}},
		"symmetric and home":      {down(symmetric, home), "this machine's NAT uses another port", []string{"forward UDP 51820 on bob's router to 192.168.1.5", "or forward UDP 40001 on this machine's router"}},
		"home and mobile":         {down(home, mobile), "symmetric", []string{"forward UDP 51820 on this machine's router to 192.168.1.5"}},
		"mobile and home":         {down(mobile, home), "symmetric", []string{"forward UDP 51820 on bob's router to 192.168.1.5"}},
		"symmetric and symmetric": {down(symmetric, symmetric), "both NATs", []string{"forward UDP 40001 on bob's router to 192.168.2.6, and run the agent on bob with --advertise PUBLIC-ADDRESS:40001", "or forward"}},
		"mobile and mobile":       {down(mobile, mobile), "both NATs", []string{"both are behind carriers' NATs"}},
		"symmetric, IPv6 here":    {down(with6(symmetric), symmetric), "both NATs", []string{"switch IPv6 on at bob's router", "forward", "or forward"}},
		"symmetric, IPv6 there":   {down(symmetric, with6(symmetric)), "both NATs", []string{"switch IPv6 on at this machine's router", "forward", "or forward"}},
		"mobile, IPv6 at both":    {down(with6(mobile), with6(mobile)), "both NATs", []string{"both have IPv6, but it does not pass: let UDP port 51820 in", "both are behind carriers"}},
		"home and open":           {down(home, open), "a firewall in between", []string{"on bob: gridwire doctor names the firewall rule that drops UDP port 51820"}},
		"open and home":           {down(open, home), "a firewall in between", []string{"on bob: gridwire doctor, for a firewall that drops outgoing UDP"}},
		"symmetric and cone":      {down(symmetric, cone), "a firewall in between", []string{"on bob: gridwire doctor"}},
		"cone and symmetric":      {down(cone, symmetric), "a firewall in between", []string{"on bob: gridwire doctor"}},
		"unknown and home":        {down(unknown, home), "can be crossed", []string{"it is tried again by itself", "if a router", "forward UDP 51820 on bob's router", "or forward"}},
	} {
		t.Run(name, func(t *testing.T) {
			why, advice := Words(tc.f)
			if !strings.Contains(why, tc.why) {
				t.Errorf("why: %q, want %q", why, tc.why)
			}
			if len(advice) != len(tc.advice) {
				t.Fatalf("advice:\n%s\nwant %d", strings.Join(advice, "\n"), len(tc.advice))
			}
			for i, a := range advice {
				if !strings.HasPrefix(a, tc.advice[i]) {
					t.Errorf("remedy %d: %q, want %q", i, a, tc.advice[i])
				}
				if strings.Contains(a, "UPnP") || strings.Contains(a, "relay") {
					t.Errorf("promises what gridwire does not do: %q", a)
				}
			}
		})
	}
}

// elsewhere is the same kind of side behind a router of its own.
func elsewhere(s Side) Side {
	s.Local, s.Mapped = addrs("192.168.50.5"), []netip.AddrPort{netip.MustParseAddrPort("198.51.100.50:51820")}
	return s
}

// TestEveryPairHasAnAnswer: whatever the two NATs are, a link without a path comes with a reason and a remedy.
func TestEveryPairHasAnAnswer(t *testing.T) {
	sides := []Side{open, home, cone, symmetric, mobile, blocked, unknown, with6(home), with6(symmetric)}
	for _, a := range sides {
		for _, b := range sides {
			why, advice := Words(down(a, elsewhereUnlessPublic(b)))
			if why == "" || len(advice) == 0 {
				t.Errorf("%s and %s: %q, %q", a.NAT, b.NAT, why, advice)
			}
		}
	}
}

func elsewhereUnlessPublic(s Side) Side {
	if s.NAT == nat.Open {
		return s
	}
	return elsewhere(s)
}

func TestWhoIsGone(t *testing.T) {
	for standing, want := range map[string]string{"expired": "start gridwire on bob: it renews by itself", "revoked": "gridwire invite --name bob", "left": "gridwire join TOKEN"} {
		f := down(home, home)
		f.Standing, f.When = standing, now
		why, advice := Words(f)
		if !strings.Contains(why, "1 March 2027") || !strings.Contains(strings.Join(advice, "\n"), want) {
			t.Errorf("%s: %q, %q", standing, why, advice)
		}
	}
}

func TestNATInWords(t *testing.T) {
	port := uint16(51820)
	own := netip.MustParseAddrPort("198.51.100.1:51820")
	mapped := netip.MustParseAddrPort("203.0.113.5:4000")
	saw := func(as ...netip.AddrPort) (out []nat.Mapping) {
		for _, a := range as {
			out = append(out, nat.Mapping{Mapped: a})
		}
		return out
	}
	for name, tc := range map[string]struct {
		r                            nat.Report
		local                        string
		mapping, filtering, say, tip string
	}{
		"open":        {nat.Report{Type: nat.Open, Reachable: true, Mappings: saw(own)}, "198.51.100.1", "none", "endpoint-independent", "Strangers' packets arrive here", ""},
		"firewall":    {nat.Report{Type: nat.EndpointIndependent, Mappings: saw(own)}, "198.51.100.1", "none", "address-dependent", "There is no NAT, but a firewall", "gridwire doctor"},
		"home router": {nat.Report{Type: nat.EndpointIndependent, Mappings: saw(mapped)}, "192.168.1.5", "endpoint-independent", "address-dependent", "ordinary NAT", ""},
		"full cone":   {nat.Report{Type: nat.EndpointIndependent, Reachable: true, Mappings: saw(mapped)}, "192.168.1.5", "endpoint-independent", "endpoint-independent", "lets strangers' packets in", ""},
		"symmetric":   {nat.Report{Type: nat.EndpointDependent, Mappings: saw(mapped)}, "192.168.1.5", "address-dependent", "address-dependent", "symmetric", "forward UDP 51820 on this machine's router to 192.168.1.5"},
		"carrier":     {nat.Report{Type: nat.EndpointDependent, Mappings: saw(mapped)}, "100.64.1.5", "address-dependent", "address-dependent", "symmetric", "carrier's NAT"},
		"let in":      {nat.Report{Type: nat.EndpointDependent, Reachable: true, Mappings: saw(mapped)}, "192.168.1.5", "address-dependent", "endpoint-independent", "strangers' packets arrive", ""},
		"blocked":     {nat.Report{Type: nat.Blocked}, "192.168.1.5", "unknown", "unknown", "No member answered by UDP", "allow outgoing UDP"},
		"nobody":      {nat.Report{Type: nat.Unknown}, "192.168.1.5", "unknown", "unknown", "No other member can be asked", "allow outgoing UDP"},
		"one alone":   {nat.Report{Type: nat.Unknown, Mappings: saw(mapped)}, "192.168.1.5", "unknown", "unknown", "Only one member", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := NAT(tc.r, addrs(tc.local), port, false, 3)
			if !strings.HasPrefix(b.Mapping, tc.mapping) || !strings.HasPrefix(b.Filtering, tc.filtering) || !strings.Contains(b.Meaning, tc.say) {
				t.Errorf("%+v", b)
			}
			if got := strings.Join(b.Advice, "\n"); tc.tip == "" && got != "" || !strings.Contains(got, tc.tip) {
				t.Errorf("advice %q, want %q", got, tc.tip)
			}
		})
	}
}

func TestTheOnlyMember(t *testing.T) {
	if b := NAT(nat.Report{Type: nat.Unknown}, nil, 1, false, 0); !strings.Contains(b.Meaning, "only member") || !strings.Contains(b.Advice[0], "gridwire invite") {
		t.Errorf("%+v", b)
	}
}
