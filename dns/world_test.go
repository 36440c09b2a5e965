package dns

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// farm is the network that most tests ask about.
func farm() Data {
	a := netip.MustParseAddr
	return Data{
		Domain:   "farm.internal",
		Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:1:2::/48"), netip.MustParsePrefix("10.77.0.0/16")},
		Self:     "bob",
		Serial:   42,
		Members: []Member{
			{Name: "alice", Addrs: []netip.Addr{a("fd00:1:2::a:0:0:1"), a("10.77.0.1")}, Workloads: []Workload{
				{Name: "web", Addrs: []netip.Addr{a("fd00:1:2::a:0:0:2")}, Ports: []Port{{"http", 8080, "tcp"}, {"", 1, "tcp"}}},
				{Name: "db", Addrs: []netip.Addr{a("fd00:1:2::a:0:0:3"), a("192.0.2.7")}, Ports: []Port{{"syslog", 514, "udp"}}},
			}},
			{Name: "bob", Addrs: []netip.Addr{a("fd00:1:2::b:0:0:1")}, Workloads: []Workload{
				{Name: "web", Addrs: []netip.Addr{a("fd00:1:2::b:0:0:2")}, Ports: []Port{{"http", 80, "tcp"}}},
			}},
			{Name: "xn--bcher-kva", Addrs: []netip.Addr{a("fd00:1:2::c:0:0:1")}},
		},
	}
}

// large is a network of the size that the mesh is built for.
func large(members, workloads int) Data {
	d := Data{Domain: "farm.internal", Self: "m0", Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:1:2::/48"), netip.MustParsePrefix("10.77.0.0/16")}}
	for i := range members {
		b := netip.MustParseAddr("fd00:1:2::1").As16()
		b[8], b[9] = byte(i>>8), byte(i)
		m := Member{Name: fmt.Sprintf("m%d", i), Addrs: []netip.Addr{netip.AddrFrom16(b), netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)})}}
		for w := range workloads {
			b[14], b[15] = byte((w+2)>>8), byte(w+2)
			m.Workloads = append(m.Workloads, Workload{
				Name: fmt.Sprintf("w%d", w), Addrs: []netip.Addr{netip.AddrFrom16(b)}, Ports: []Port{{"http", 8080, "tcp"}, {"metrics", 9100, "tcp"}},
			})
		}
		d.Members = append(d.Members, m)
	}
	return d
}

// chainOf answers out of a zone, with no upstream.
func chainOf(z *Zone) *chain {
	return &chain{zone: func() *Zone { return z }, onQuery: func(string, string) {}}
}

// question is a packet that asks for name; edit may change the message first.
func question(t testing.TB, name string, typ uint16, edit func(*dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	m.Id = 4711
	if edit != nil {
		edit(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatalf("pack question for %s: %v", name, err)
	}
	return b
}

// asked is the answer of c to a question, which must be a proper one.
func asked(t testing.TB, c *chain, packet []byte, tcp bool) *dns.Msg {
	t.Helper()
	b, q := c.local(packet, via{tcp, true}, time.Unix(0, 0), nil)
	if q != nil || b == nil {
		t.Fatalf("no answer to % x", packet)
	}
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("answer % x: %v", b, err)
	}
	if !m.Response || m.Id != 4711 {
		t.Fatalf("answer is no response to question 4711: %v", m)
	}
	return m
}
