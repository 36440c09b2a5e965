package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// TestAnswers shows what the zone of farm() says, as dig would print it.
func TestAnswers(t *testing.T) {
	c := chainOf(BuildZone(farm()))
	const soa = "farm.internal. 2 IN SOA bob.farm.internal. hostmaster.farm.internal. 42 3600 600 86400 2"
	reverse6, _ := dns.ReverseAddr("fd00:1:2::a:0:0:2")
	reverse6soa := strings.Replace(soa, "farm.internal.", "2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.", 1)
	for _, x := range []struct {
		name, typ, rcode string
		want             []string // the answer, or the authority section if there is none
	}{
		{"alice.farm.internal.", "A", "NOERROR", []string{"alice.farm.internal. 2 IN A 10.77.0.1"}},
		{"alice.farm.internal.", "AAAA", "NOERROR", []string{"alice.farm.internal. 2 IN AAAA fd00:1:2:0:a::1"}},
		{"WEB.Alice.farm.INTERNAL.", "AAAA", "NOERROR", []string{"WEB.Alice.farm.INTERNAL. 2 IN AAAA fd00:1:2:0:a::2"}},
		{"web.alice.farm.internal.", "A", "NOERROR", []string{soa}},
		{"any.thing.web.alice.farm.internal.", "AAAA", "NOERROR", []string{"any.thing.web.alice.farm.internal. 2 IN AAAA fd00:1:2:0:a::2"}},
		{"any.thing.web.alice.farm.internal.", "A", "NOERROR", []string{soa}},
		{"nothing.alice.farm.internal.", "A", "NXDOMAIN", []string{soa}},
		{"xn--bcher-kva.farm.internal.", "AAAA", "NOERROR", []string{"xn--bcher-kva.farm.internal. 2 IN AAAA fd00:1:2:0:c::1"}},
		{`b\195\188cher.farm.internal.`, "AAAA", "NXDOMAIN", []string{soa}},
		{`alice\.farm.internal.`, "A", "REFUSED", nil},
		{`x\.alice.farm.internal.`, "A", "NXDOMAIN", []string{soa}},
		{"_http._tcp.web.alice.farm.internal.", "SRV", "NOERROR", []string{"_http._tcp.web.alice.farm.internal. 2 IN SRV 0 1 8080 web.alice.farm.internal."}},
		{"_syslog._udp.db.alice.farm.internal.", "SRV", "NOERROR", []string{"_syslog._udp.db.alice.farm.internal. 2 IN SRV 0 1 514 db.alice.farm.internal."}},
		{"_http._tcp.farm.internal.", "SRV", "NOERROR", []string{
			"_http._tcp.farm.internal. 2 IN SRV 0 1 8080 web.alice.farm.internal.", "_http._tcp.farm.internal. 2 IN SRV 0 1 80 web.bob.farm.internal."}},
		{"_http._udp.farm.internal.", "SRV", "NXDOMAIN", []string{soa}},
		{"_tcp.farm.internal.", "SRV", "NOERROR", []string{soa}},            // an empty non-terminal
		{"_tcp.web.alice.farm.internal.", "AAAA", "NOERROR", []string{soa}}, // and one in a wildcard's place
		{"_ftp._tcp.web.alice.farm.internal.", "SRV", "NXDOMAIN", []string{soa}},
		{"farm.internal.", "SOA", "NOERROR", []string{soa}},
		{"farm.internal.", "NS", "NOERROR", []string{"farm.internal. 2 IN NS bob.farm.internal."}},
		{"farm.internal.", "A", "NOERROR", []string{soa}},
		{"farm.internal.", "ANY", "NOERROR", []string{`farm.internal. 2 IN HINFO "RFC8482" ""`}},
		{"nothing.farm.internal.", "ANY", "NXDOMAIN", []string{soa}},
		{"1.0.77.10.in-addr.arpa.", "PTR", "NOERROR", []string{"1.0.77.10.in-addr.arpa. 2 IN PTR alice.farm.internal."}},
		{"0.77.10.in-addr.arpa.", "PTR", "NOERROR", []string{strings.Replace(soa, "farm.internal.", "77.10.in-addr.arpa.", 1)}},
		{"2.0.77.10.in-addr.arpa.", "PTR", "NXDOMAIN", []string{strings.Replace(soa, "farm.internal.", "77.10.in-addr.arpa.", 1)}},
		{"77.10.in-addr.arpa.", "NS", "NOERROR", []string{"77.10.in-addr.arpa. 2 IN NS bob.farm.internal."}},
		{"10.in-addr.arpa.", "NS", "REFUSED", nil},
		{"7.2.0.192.in-addr.arpa.", "PTR", "REFUSED", nil}, // an address outside the overlay
		{reverse6, "PTR", "NOERROR", []string{reverse6 + " 2 IN PTR web.alice.farm.internal."}},
		{"f" + reverse6[1:], "PTR", "NXDOMAIN", []string{reverse6soa}},
		{"internal.", "SOA", "REFUSED", nil},
		{"notfarm.internal.", "A", "REFUSED", nil},
		{".", "NS", "REFUSED", nil},
		{"farm.internal.", "AXFR", "REFUSED", nil},
		{"alice.farm.internal.", "IXFR", "REFUSED", nil},
	} {
		m := asked(t, c, question(t, x.name, dns.StringToType[x.typ], nil), false)
		got := m.Answer
		if len(got) == 0 {
			got = m.Ns
		}
		var text []string
		for _, rr := range got {
			text = append(text, strings.ReplaceAll(rr.String(), "\t", " "))
		}
		if dns.RcodeToString[m.Rcode] != x.rcode || !slices.Equal(text, x.want) {
			t.Errorf("%s %s: %s %q\nwant %s %q", x.name, x.typ, dns.RcodeToString[m.Rcode], text, x.rcode, x.want)
		}
		if m.Authoritative != (x.rcode != "REFUSED") || m.RecursionAvailable || m.AuthenticatedData {
			t.Errorf("%s %s: flags %v", x.name, x.typ, m.MsgHdr)
		}
		if m.Question[0].Name != x.name {
			t.Errorf("asked for %s, the answer is about %s", x.name, m.Question[0].Name)
		}
	}
}

// TestAdditional: a client that asks for a service or a name server gets the addresses with it.
func TestAdditional(t *testing.T) {
	c := chainOf(BuildZone(farm()))
	for name, want := range map[string][]string{
		"_http._tcp.farm.internal.": {"web.alice.farm.internal. 2 IN AAAA fd00:1:2:0:a::2", "web.bob.farm.internal. 2 IN AAAA fd00:1:2:0:b::2"},
		"farm.internal.":            {"bob.farm.internal. 2 IN AAAA fd00:1:2:0:b::1"},
	} {
		typ := dns.TypeSRV
		if name == "farm.internal." {
			typ = dns.TypeNS
		}
		var got []string
		for _, rr := range asked(t, c, question(t, name, typ, nil), false).Extra {
			got = append(got, strings.ReplaceAll(rr.String(), "\t", " "))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: additional records %q, want %q", name, got, want)
		}
	}
}

// TestLeftOut: what cannot be in the DNS is left out and named, and the rest is served.
func TestLeftOut(t *testing.T) {
	addr := []netip.Addr{netip.MustParseAddr("fd00::1")}
	long := strings.Repeat("a", 63)
	d := Data{Domain: "Farm.Internal.", Self: "Good", Members: []Member{
		{Name: "Good", Addrs: addr, Workloads: []Workload{
			{Name: "web", Addrs: addr, Ports: []Port{{"http", 1, "sctp"}, {"a_b", 1, "tcp"}, {long, 1, "tcp"}, {"HTTP", 80, "TCP"}}},
			{Name: "web", Addrs: nil},
			{Name: "-x", Addrs: addr},
			{Name: "", Addrs: addr},
			{Name: "empty", Ports: []Port{{"http", 1, "tcp"}}},
		}},
		{Name: "good", Addrs: nil},
		{Name: "a.b"},
		{Name: "_tcp"},
		{Name: long + "x"},
	}}
	z := BuildZone(d)
	if n := len(z.LeftOut()); n != 10 {
		t.Errorf("%d names left out, want 10: %q", n, z.LeftOut())
	}
	c := chainOf(z)
	if m := asked(t, c, question(t, "_http._tcp.farm.internal.", dns.TypeSRV, nil), false); len(m.Answer) != 1 || m.Answer[0].(*dns.SRV).Port != 80 {
		t.Errorf("services: %v", m.Answer)
	}
	if m := asked(t, c, question(t, "empty.good.farm.internal.", dns.TypeAAAA, nil), false); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
		t.Errorf("a workload without an address: %v", m)
	}

	domain := strings.Repeat(strings.Repeat("d", 59)+".", 3) // 180 characters, the longest that a network has
	d = Data{Domain: domain, Members: []Member{
		{Name: long, Addrs: addr, Workloads: []Workload{{Name: "fits", Addrs: addr}, {Name: "doesnotfit", Addrs: addr}}},
		{Name: long[1:], Addrs: addr, Workloads: []Workload{{Name: "atlimit", Addrs: addr}}},
	}}
	if z = BuildZone(d); len(z.LeftOut()) != 1 || !strings.Contains(z.LeftOut()[0], "doesnotfit") {
		t.Errorf("left out: %q", z.LeftOut())
	}
	name := "fits." + long + "." + domain
	if m := asked(t, chainOf(z), question(t, name, dns.TypeAAAA, nil), false); len(m.Answer) != 1 {
		t.Errorf("%s: %v", name, m)
	}
	d.Members = slices.Repeat([]Member{{Name: "same"}}, 1000)
	if n := len(BuildZone(d).LeftOut()); n != maxLeftOut {
		t.Errorf("%d reasons kept, want %d", n, maxLeftOut)
	}
}

// TestLongList: a list of more instances than a message holds is cut over UDP, with TC, and over TCP fills the message, each time another part.
func TestLongList(t *testing.T) {
	c := chainOf(BuildZone(large(200, 20)))
	q := question(t, "_http._tcp.farm.internal.", dns.TypeSRV, nil)
	if m := asked(t, c, q, false); !m.Truncated {
		t.Errorf("4,000 instances over UDP without TC: %d", len(m.Answer))
	}
	first := make(map[string]bool)
	for range 20 {
		m := asked(t, c, q, true)
		if m.Truncated || len(m.Answer) < 1000 {
			t.Fatalf("over TCP: TC %t, %d instances", m.Truncated, len(m.Answer))
		}
		first[m.Answer[0].(*dns.SRV).Target] = true
	}
	if len(first) < 5 {
		t.Errorf("20 answers began with %d different instances", len(first))
	}
}

func BenchmarkBuild(b *testing.B) {
	d := large(5000, 20)
	b.ReportAllocs()
	for b.Loop() {
		if z := BuildZone(d); len(z.pointers) != 110000 {
			b.Fatalf("%d addresses: %q", len(z.pointers), z.LeftOut())
		}
	}
}
