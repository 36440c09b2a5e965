package dns

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func on(addrs ...string) (out []Bind) {
	for _, a := range addrs {
		out = append(out, Bind{AddrPort: netip.MustParseAddrPort(a)})
	}
	return out
}

// answered reports whether somebody answers for the network at an address.
func answered(t *testing.T, at, network string) bool {
	t.Helper()
	c := dns.Client{Net: network}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion("alice.farm.internal.", dns.TypeA), at)
	return err == nil && m.Rcode == dns.RcodeSuccess && len(m.Answer) == 1
}

// TestListenChanges: addresses come and go while the server runs, and one that cannot be had takes nothing from the others.
func TestListenChanges(t *testing.T) {
	s := run(t, Config{})
	first := s.Addr().String()
	second := "127.0.0.2" + first[strings.LastIndexByte(first, ':'):]
	err := s.Listen(append(on(loopback, second), on("192.0.2.1:53")...))
	if err == nil || !strings.Contains(err.Error(), "192.0.2.1:53") {
		t.Errorf("an address of another machine: %v", err)
	}
	for _, network := range []string{"udp", "tcp"} {
		if !answered(t, first, network) || !answered(t, second, network) {
			t.Errorf("not all addresses are answered over %s", network)
		}
	}
	if !s.doors.isOwn(netip.MustParseAddr("127.0.0.2")) || s.doors.isOwn(netip.MustParseAddr("192.0.2.1")) {
		t.Error("who has no limit is not who answers")
	}
	if err := s.Listen(on(second)); err != nil {
		t.Error(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		if answered(t, first, network) {
			t.Errorf("the address that went is still answered over %s", network)
		}
		if !answered(t, second, network) {
			t.Errorf("the address that stayed is not answered over %s", network)
		}
	}
	if err := s.Listen(on("0.0.0.0:53")); err == nil || !answered(t, second, "udp") {
		t.Errorf("all addresses: %v", err)
	}
}

// TestForwardChanges: the servers that other names are asked of change with the machine's network, and nothing that the former said is kept.
func TestForwardChanges(t *testing.T) {
	says := func(records int) netip.AddrPort {
		return fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, _ bool) { answerA(w, m, records) })
	}
	s := run(t, Config{})
	ask := func() *dns.Msg { return exchanged(t, s, "udp", "example.com.", dns.TypeA) }
	if m := ask(); m.Rcode != dns.RcodeRefused || m.RecursionAvailable {
		t.Errorf("without an upstream: %v", m)
	}
	for i, up := range []netip.AddrPort{says(1), says(2)} {
		if err := s.Forward([]netip.AddrPort{up}); err != nil {
			t.Fatal(err)
		}
		before := s.chain.forward.current.Load()
		m := ask()
		if len(m.Answer) != i+1 || !m.RecursionAvailable || kept(before.cache) == 0 {
			t.Errorf("asked %v: %v", up, m)
		}
		if err := s.Forward([]netip.AddrPort{up}); err != nil || s.chain.forward.current.Load() != before {
			t.Errorf("the same servers again made another forwarder: %v", err)
		}
	}
	for what, bad := range map[string]netip.AddrPort{"itself": s.Addr(), "no address": netip.MustParseAddrPort("0.0.0.0:53"), "no port": netip.MustParseAddrPort("192.0.2.1:0")} {
		if err := s.Forward([]netip.AddrPort{bad}); err == nil {
			t.Errorf("%s is taken for an upstream", what)
		}
	}
	if m := ask(); m.Rcode != dns.RcodeSuccess {
		t.Errorf("after wrong servers: %v", m)
	}
	if err := s.Forward(nil); err != nil {
		t.Fatal(err)
	}
	if m := ask(); m.Rcode != dns.RcodeRefused {
		t.Errorf("without an upstream again: %v", m)
	}
}

func kept(c *cache) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

func TestReverseZones(t *testing.T) {
	for prefix, want := range map[string][]string{
		"10.64.0.0/16":  {"64.10.in-addr.arpa"},
		"10.64.16.0/22": {"16.64.10.in-addr.arpa", "17.64.10.in-addr.arpa", "18.64.10.in-addr.arpa", "19.64.10.in-addr.arpa"},
		"10.64.0.0/15":  {"64.10.in-addr.arpa", "65.10.in-addr.arpa"},
		"10.0.0.0/8":    {"10.in-addr.arpa"},
		"10.1.2.3/32":   {"3.2.1.10.in-addr.arpa"},
		"255.0.0.0/8":   {"255.in-addr.arpa"},
		"fd00:1:2::/48": {"2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa"},
		"fd00:1:2::/47": {"2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", "3.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa"},
	} {
		got := ReverseZones([]netip.Prefix{netip.MustParsePrefix(prefix)})
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q, want %q", prefix, got, want)
		}
		z := BuildZone(Data{Domain: "farm.internal", Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}})
		for _, zone := range got { // the zone answers for exactly these
			f, ok := z.lookup(dns.Question{Name: zone + ".", Qtype: dns.TypeSOA, Qclass: dns.ClassINET}, 512)
			if !ok || f.apex != zone+"." {
				t.Errorf("%s: the zone does not answer for %s but for %q", prefix, zone, f.apex)
			}
		}
	}
}
