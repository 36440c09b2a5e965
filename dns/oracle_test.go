package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// master is the slow oracle: the zone as the list of records that a zone file would have, and the algorithms of RFC 1034, 4.3.2 and RFC
// 4592 over it, with nothing that knows what the labels mean.
type master struct {
	apexes  []string
	records []dns.RR // TYPE65280, which is for private use, stands for a name that exists, with or without other records
}

func expand(d Data) *master {
	m := &master{apexes: []string{d.Domain + "."}}
	add := func(format string, args ...any) {
		rr, err := dns.NewRR(fmt.Sprintf(format, args...))
		if err != nil {
			panic(err)
		}
		m.records = append(m.records, rr)
	}
	addrs := func(owner string, list []netip.Addr) {
		add("%s 2 IN TYPE65280 \\# 0", owner)
		for _, a := range list {
			add("%s 2 IN %s %s", owner, map[bool]string{true: "A", false: "AAAA"}[a.Is4()], a)
		}
	}
	pointer := func(name string, list []netip.Addr) {
		for _, a := range list {
			for _, p := range d.Prefixes {
				if p.Contains(a) {
					r, _ := dns.ReverseAddr(a.String())
					add("%s 2 IN PTR %s", r, name)
				}
			}
		}
	}
	for _, p := range d.Prefixes {
		m.apexes = append(m.apexes, cuts(p)...)
	}
	for _, a := range m.apexes {
		add("%s 2 IN SOA %s.%s. hostmaster.%s. %d 3600 600 86400 2", a, d.Self, d.Domain, d.Domain, d.Serial)
		add("%s 2 IN NS %s.%s.", a, d.Self, d.Domain)
	}
	for _, mem := range d.Members {
		name := mem.Name + "." + d.Domain + "."
		addrs(name, mem.Addrs)
		pointer(name, mem.Addrs)
		for _, w := range mem.Workloads {
			host := w.Name + "." + name
			addrs(host, w.Addrs)
			addrs("*."+host, w.Addrs)
			pointer(host, w.Addrs)
			for _, p := range w.Ports {
				if len(w.Addrs) > 0 {
					add("_%s._%s.%s 2 IN SRV 0 1 %d %s", p.Name, p.Proto, host, p.Number, host)
					add("_%s._%s.%s. 2 IN SRV 0 1 %d %s", p.Name, p.Proto, d.Domain, p.Number, host)
				}
			}
		}
	}
	return m
}

// cuts lists the reverse zones of a prefix the long way: every address range at the next label boundary.
func cuts(p netip.Prefix) (out []string) {
	step, suffix := 4, 0
	if p.Addr().Is4() {
		step = 8
	}
	bits := p.Bits()
	for bits%step != 0 {
		bits++
	}
	suffix = p.Addr().BitLen()/step - bits/step // labels to take off the front of a full reverse name
	for i := range 1 << (bits - p.Bits()) {
		b := p.Masked().Addr().AsSlice()
		n := i << (8 - (bits-1)%8 - 1) // into the byte where the boundary lies
		b[(bits-1)/8] |= byte(n)
		a, _ := netip.AddrFromSlice(b)
		full, _ := dns.ReverseAddr(a.String())
		out = append(out, strings.Join(strings.SplitN(full, ".", suffix+1)[suffix:], "."))
	}
	return out
}

func (m *master) exists(name string) bool {
	return slices.ContainsFunc(m.records, func(rr dns.RR) bool { return dns.IsSubDomain(name, rr.Header().Name) })
}

// lookup returns what an authoritative server of these zones says.
func (m *master) lookup(name string, typ uint16) (rcode int, answer []string, apex string, ours bool) {
	name = strings.ToLower(name)
	for _, a := range m.apexes {
		if dns.IsSubDomain(a, name) && len(a) > len(apex) {
			apex = a
		}
	}
	if apex == "" {
		return 0, nil, "", false
	}
	owner := name
	if !m.exists(name) {
		encloser := name
		for !m.exists(encloser) {
			i, end := dns.NextLabel(encloser, 0)
			if end {
				panic("no apex above " + name)
			}
			encloser = encloser[i:]
		}
		owner = "*." + encloser
		if !m.exists(owner) {
			return dns.RcodeNameError, nil, apex, true
		}
	}
	if typ == dns.TypeANY {
		return 0, []string{"HINFO"}, apex, true
	}
	for _, rr := range m.records {
		if rr.Header().Name == owner && rr.Header().Rrtype == typ {
			answer = append(answer, data(rr))
		}
	}
	slices.Sort(answer)
	return 0, slices.Compact(answer), apex, true
}

// data is a record without its owner.
func data(rr dns.RR) string {
	if rr.Header().Rrtype == dns.TypeHINFO {
		return "HINFO"
	}
	return strings.TrimPrefix(rr.String(), rr.Header().Name)
}

// randomFarm has few names, so that they meet.
func randomFarm(r *rand.Rand) Data {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	d := Data{Domain: pick("farm.internal", "a", "tcp.a.b"), Self: pick("a", "nobody"), Serial: r.Uint32()}
	d.Prefixes = []netip.Prefix{
		netip.MustParsePrefix(pick("fd00:1:2::/48", "fd00:1:2::/46", "fd00::/16", "fd00:1:2::/127")),
		netip.MustParsePrefix(pick("10.77.0.0/16", "10.76.0.0/15", "10.77.1.0/24", "10.77.0.0/18", "10.77.1.128/25")),
	}
	addrs := func() (out []netip.Addr) {
		for range r.IntN(3) {
			out = append(out, netip.MustParseAddr(pick("fd00:1:2::1", "fd00:1:2::1:1", "fd00:1:2::11", "10.77.1.1", "10.77.1.200", "10.78.1.1", "10.77.2.1", "192.0.2.1")))
		}
		slices.SortFunc(out, netip.Addr.Compare)
		return slices.Compact(out)
	}
	for _, name := range []string{"a", "b", "http"} {
		if r.IntN(3) == 0 {
			continue
		}
		m := Member{Name: name, Addrs: addrs()}
		for _, w := range []string{"a", "b", "tcp"} {
			if r.IntN(2) == 0 {
				continue
			}
			wl := Workload{Name: w, Addrs: addrs()}
			for range r.IntN(3) {
				wl.Ports = append(wl.Ports, Port{pick("http", "a"), uint16(r.IntN(3)), pick("tcp", "udp")})
			}
			m.Workloads = append(m.Workloads, wl)
		}
		d.Members = append(d.Members, m)
	}
	return d
}

// randomName is in or near the zone, and often one of its own.
func randomName(r *rand.Rand, d Data, m *master) string {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	if r.IntN(4) == 0 {
		name := m.records[r.IntN(len(m.records))].Header().Name
		return pick(name, name, strings.ToUpper(name), "a."+name)
	}
	suffix := pick(d.Domain+".", d.Domain+".", d.Domain+".", strings.ToUpper(d.Domain)+".", "internal.", "x.", ".")
	labels := []string{"a", "b", "A", "http", "_http", "_HTTP", "_tcp", "_udp", "_a", "tcp", "*", "nope", `a\.b`, `\\`, `\000`, "x" + `\.` + d.Domain}
	if r.IntN(3) == 0 {
		full, _ := dns.ReverseAddr(pick("fd00:1:2::1", "fd00:1:2::2", "fd00:1:3::1", "fd00:1:2::1:1", "10.77.1.1", "10.77.0.1", "10.77.1.200", "10.76.9.9", "10.77.64.1", "192.0.2.1"))
		parts := strings.SplitAfter(full, ".")
		suffix = strings.Join(parts[r.IntN(len(parts)-2):], "")
		labels = []string{"1", "0", "f", "256", "01", "x", "_tcp", "*", `\.`}
	}
	name := suffix
	if suffix == "." {
		name = ""
	}
	for range r.IntN(5) {
		name = pick(labels...) + "." + name
	}
	if name == "" {
		return "."
	}
	return name
}

// TestZoneOracle compares the zone with the oracle, for random networks and names.
func TestZoneOracle(t *testing.T) {
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeSOA, dns.TypeNS, dns.TypeANY, dns.TypeTXT, dns.TypeHTTPS, dns.TypeDS}
	kinds := map[string]int{}
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		d := randomFarm(r)
		z, m := BuildZone(d), expand(d)
		if len(z.LeftOut()) > 0 {
			t.Fatalf("seed %d: left out: %q", seed, z.LeftOut())
		}
		for range 150 {
			name, typ := randomName(r, d, m), types[r.IntN(len(types))]
			if b, err := (&dns.Msg{Question: []dns.Question{{Name: name, Qtype: typ}}}).Pack(); err != nil || len(b) == 0 {
				continue
			}
			rcode, want, apex, ours := m.lookup(name, typ)
			f, ok := z.lookup(dns.Question{Name: name, Qtype: typ, Qclass: dns.ClassINET}, dns.MaxMsgSize)
			var got []string
			for _, rr := range f.answer {
				got = append(got, data(rr))
				if owner := rr.Header().Name; owner != name {
					t.Fatalf("seed %d: %s: the answer is for %s", seed, name, owner)
				}
			}
			slices.Sort(got)
			if ok != ours || ok && (f.rcode != rcode || !slices.Equal(got, want) || f.apex != apex) || f.cut {
				t.Fatalf("seed %d: %s %s\n got: ours %t, rcode %d, apex %s, %q\nwant: ours %t, rcode %d, apex %s, %q\n%+v",
					seed, name, dns.TypeToString[typ], ok, f.rcode, f.apex, got, ours, rcode, apex, want, d)
			}
			kinds[fmt.Sprint(ok, rcode, min(len(want), 2))]++
		}
	}
	for _, k := range []string{"false 0 0", "true 0 0", "true 0 1", "true 0 2", "true 3 0"} { // outside, NODATA, one, several, NXDOMAIN
		if kinds[k] < 30 {
			t.Errorf("only %d questions of kind %q: the test asks the wrong ones (%v)", kinds[k], k, kinds)
		}
	}
}
