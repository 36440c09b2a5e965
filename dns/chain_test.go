package dns

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestHostile: packets that are no proper questions, and what each gets.
func TestHostile(t *testing.T) {
	c := chainOf(BuildZone(farm()))
	good := question(t, "alice.farm.internal.", dns.TypeAAAA, nil)
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	set := func(i int, v byte) []byte { return edit(func(b []byte) []byte { b[i] = v; return b }) }
	for what, x := range map[string]struct {
		packet []byte
		rcode  int // -1: no answer
	}{
		"nothing":                {nil, -1},
		"half a header":          {good[:11], -1},
		"a response":             {set(2, good[2]|0x80), -1},
		"a header alone":         {good[:12], dns.RcodeFormatError},
		"a cut question":         {good[:len(good)-1], dns.RcodeFormatError},
		"two questions":          {set(5, 2), dns.RcodeFormatError},
		"no question":            {set(5, 0), dns.RcodeFormatError},
		"an answer in it":        {set(7, 1), dns.RcodeFormatError},
		"256 additional records": {set(10, 1), dns.RcodeFormatError},
		"an update":              {set(2, dns.OpcodeUpdate<<3), dns.RcodeNotImplemented},
		"a notify":               {set(2, dns.OpcodeNotify<<3), dns.RcodeNotImplemented},
		"opcode 15":              {set(2, 15<<3), dns.RcodeNotImplemented},
		"a pointer to itself":    {edit(func(b []byte) []byte { return append(b[:12], 0xc0, 12, 0, 1, 0, 1) }), dns.RcodeFormatError},
		"a pointer past the end": {edit(func(b []byte) []byte { return append(b[:12], 0xff, 0xff, 0, 1, 0, 1) }), dns.RcodeFormatError},
		"a label of type 01":     {set(12, 0x41), dns.RcodeFormatError},
		"a name over 255": {edit(func(b []byte) []byte {
			return append(append(b[:12], bytes.Repeat([]byte("\x3f"+strings.Repeat("a", 63)), 4)...), 0, 0, 1, 0, 1)
		}), dns.RcodeFormatError},
		"two OPT records": {question(t, "farm.internal.", dns.TypeA, func(m *dns.Msg) {
			m.SetEdns0(1232, false).SetEdns0(1232, false)
			m.Extra = append(m.Extra, m.Extra[0])
			m.Extra = m.Extra[:2]
		}), dns.RcodeFormatError},
		"an OPT that is not root":  {question(t, "farm.internal.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false); m.Extra[0].Header().Name = "x." }), dns.RcodeFormatError},
		"EDNS version 1":           {question(t, "farm.internal.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers},
		"class CH":                 {question(t, "version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		"class ANY":                {question(t, "alice.farm.internal.", dns.TypeA, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), dns.RcodeRefused},
		"type OPT":                 {question(t, "alice.farm.internal.", dns.TypeOPT, nil), dns.RcodeRefused},
		"type TSIG":                {question(t, "alice.farm.internal.", dns.TypeTSIG, nil), dns.RcodeRefused},
		"an incremental transfer":  {question(t, "farm.internal.", dns.TypeIXFR, func(m *dns.Msg) { m.Ns = []dns.RR{BuildZone(farm()).soa("farm.internal.")} }), dns.RcodeRefused},
		"a name of null bytes":     {question(t, `\000\255\.\\.farm.internal.`, dns.TypeA, nil), dns.RcodeNameError},
		"a good one":               {good, dns.RcodeSuccess},
		"a good one with trailing": {append(bytes.Clone(good), 1, 2, 3), dns.RcodeSuccess},
	} {
		for _, tcp := range []bool{false, true} {
			b, q := c.local(x.packet, via{tcp, true}, time.Unix(0, 0), nil)
			if q != nil || (b == nil) != (x.rcode < 0) {
				t.Errorf("%s: answer % x", what, b)
				continue
			}
			if b == nil {
				continue
			}
			m := new(dns.Msg)
			if err := m.Unpack(b); err != nil {
				t.Errorf("%s: answer % x: %v", what, b, err)
			}
			if m.Rcode != x.rcode || !m.Response || !bytes.Equal(b[:2], x.packet[:2]) {
				t.Errorf("%s: %v, want rcode %d", what, m, x.rcode)
			}
			if x.rcode == dns.RcodeFormatError && len(b) != headerSize {
				t.Errorf("%s: %d bytes of answer", what, len(b))
			}
		}
	}
}

// TestEDNS: an OPT record is answered with one, and only then; the size that it names bounds the answer.
func TestEDNS(t *testing.T) {
	c := chainOf(BuildZone(large(3, 40)))
	for _, x := range []struct {
		size, limit int // size 0: no EDNS
	}{{0, 512}, {1, 512}, {512, 512}, {900, 900}, {1232, 1232}, {65535, 1232}} {
		p := question(t, "_http._tcp.farm.internal.", dns.TypeSRV, func(m *dns.Msg) {
			if x.size > 0 {
				m.SetEdns0(uint16(x.size), true)
			}
		})
		b, _ := c.local(p, via{false, true}, time.Unix(0, 0), nil)
		m := asked(t, c, p, false)
		if len(b) > x.limit || len(b) < x.limit-100 || !m.Truncated || m.Rcode != 0 {
			t.Errorf("size %d: answer of %d bytes, TC %t, rcode %d", x.size, len(b), m.Truncated, m.Rcode)
		}
		opt := m.IsEdns0()
		if (opt != nil) != (x.size > 0) || opt != nil && (opt.UDPSize() != maxUDP || !opt.Do()) {
			t.Errorf("size %d: OPT record %v", x.size, opt)
		}
		whole := asked(t, c, p, true)
		if whole.Truncated || len(whole.Answer) != 120 {
			t.Errorf("over TCP: TC %t, %d instances", whole.Truncated, len(whole.Answer))
		}
	}
	m := asked(t, c, question(t, "example.com.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false) }), false)
	if e, ok := m.IsEdns0().Option[0].(*dns.EDNS0_EDE); !ok || e.InfoCode != dns.ExtendedErrorCodeNotAuthoritative || m.IsEdns0().Do() {
		t.Errorf("refusal: %v", m)
	}
}

// TestNoZoneYet: before the first snapshot there is no wrong answer, NXDOMAIN above all.
func TestNoZoneYet(t *testing.T) {
	if m := asked(t, chainOf(nil), question(t, "alice.farm.internal.", dns.TypeA, nil), false); m.Rcode != dns.RcodeServerFailure {
		t.Error(m)
	}
}

// TestCounts: every answer is counted, with few labels.
func TestCounts(t *testing.T) {
	c := chainOf(BuildZone(farm()))
	got := make(map[string]int)
	c.onQuery = func(qtype, rcode string) { got[qtype+" "+rcode]++ }
	for typ := range uint16(65535) {
		if _, q := c.local(question(t, "alice.farm.internal.", typ, func(m *dns.Msg) { m.SetEdns0(1232, false) }), via{false, true}, time.Unix(0, 0), nil); q != nil {
			t.Fatal("forwarded")
		}
	}
	c.local(make([]byte, 12), via{false, true}, time.Unix(0, 0), nil)
	if len(got) > 25 || got["A NOERROR"] != 1 || got["other FORMERR"] != 1 || got["other NOERROR"] < 60000 {
		t.Errorf("counts: %v", got)
	}
}

// FuzzChain: any packet gets an answer that is a proper one for it, no larger than allowed, or none.
func FuzzChain(f *testing.F) {
	z := BuildZone(farm())
	f.Add(question(f, "alice.farm.internal.", dns.TypeAAAA, nil), false)
	f.Add(question(f, "_http._tcp.farm.internal.", dns.TypeSRV, func(m *dns.Msg) { m.SetEdns0(4096, true) }), true)
	f.Add(question(f, `a\.b.web.alice.farm.internal.`, dns.TypeANY, nil), false)
	f.Add(question(f, "1.0.77.10.in-addr.arpa.", dns.TypePTR, nil), false)
	f.Add(question(f, "f.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, nil), false)
	f.Add(question(f, "version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), false)
	f.Add(question(f, "farm.internal.", dns.TypeIXFR, func(m *dns.Msg) { m.Ns = []dns.RR{z.soa("farm.internal.")} }), false)
	f.Add(append(make([]byte, 12), 0xc0, 12, 0, 1, 0, 1), false)
	f.Fuzz(func(t *testing.T, packet []byte, tcp bool) {
		for _, forward := range []*forwarder{nil, newForwarder(nil, nil)} {
			c := chainOf(z)
			c.forward.current.Store(forward)
			b, q := c.local(packet, via{tcp, true}, time.Unix(0, 0), make([]byte, 2*maxUDP))
			if q != nil {
				if forward == nil || b != nil {
					t.Fatal("forwarded without upstream, or answered and forwarded")
				}
				b = c.busy(q)
			}
			if b == nil {
				if len(packet) >= headerSize && packet[2]&0x80 == 0 {
					t.Fatal("a question without an answer")
				}
				continue
			}
			checkAnswer(t, packet, b, tcp)
		}
	})
}

func checkAnswer(t *testing.T, packet, b []byte, tcp bool) {
	limit := maxUDP
	if tcp {
		limit = dns.MaxMsgSize
	}
	var m, asked dns.Msg
	if err := m.Unpack(b); err != nil {
		t.Fatalf("answer % x: %v", b, err)
	}
	if len(b) > limit || !m.Response || !bytes.Equal(b[:2], packet[:2]) || packet[2]>>3&15 != b[2]>>3&15 {
		t.Fatalf("answer of %d bytes: %v", len(b), m)
	}
	if m.Rcode == dns.RcodeFormatError {
		return
	}
	if err := asked.Unpack(packet); err != nil || m.Rcode == dns.RcodeNotImplemented {
		return
	}
	if asked.IsEdns0() == nil && !tcp && len(b) > dns.MinMsgSize {
		t.Fatalf("%d bytes to a client without EDNS", len(b))
	}
	if len(m.Question) != 1 || m.Question[0] != asked.Question[0] || (m.IsEdns0() == nil) != (asked.IsEdns0() == nil) {
		t.Fatalf("asked %v\nanswered %v", asked, m)
	}
}

func BenchmarkAnswer(b *testing.B) {
	c := chainOf(BuildZone(large(5000, 20)))
	for what, name := range map[string]string{
		"member": "m4321.farm.internal.", "workload": "w7.m1234.farm.internal.", "wildcard": "a.b.w7.m1234.farm.internal.", "missing": "nobody.farm.internal.",
		"service": "_http._tcp.w7.m1234.farm.internal.", "list": "_http._tcp.farm.internal.", "reverse": "7.1.77.10.in-addr.arpa.", "outside": "example.com.",
	} {
		typ := dns.TypeAAAA
		switch what {
		case "service", "list":
			typ = dns.TypeSRV
		case "reverse":
			typ = dns.TypePTR
		}
		p := question(b, name, typ, func(m *dns.Msg) { m.SetEdns0(1232, false) })
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 2*maxUDP)
			for b.Loop() {
				if r, _ := c.local(p, via{false, true}, time.Time{}, buf); r == nil {
					b.Fatal("no answer")
				}
			}
		})
	}
}
