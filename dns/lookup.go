package dns

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// found is what the zone says to a question: records, or the zone whose SOA says for how long there are none.
type found struct {
	rcode  int // success or NXDOMAIN; success without records is NODATA
	answer []dns.RR
	extra  []dns.RR
	apex   string // of the zone that the name is in
	cut    bool   // the answer is a part only: the client must ask over TCP
}

// lookup answers a question of class IN for a plain type (neither a transfer nor another meta type; ANY is allowed) for a client that takes size
// bytes. It returns false if the name is in none of our zones. It follows RFC 1034, 4.3.2 and RFC 4592, without a tree:
// the place of each label says what it can be.
func (z *Zone) lookup(q dns.Question, size int) (found, bool) {
	if rel, ok := relative(q.Name, z.domain); ok {
		return z.forward(q, rel, size), true
	}
	return z.reverse(q)
}

// relative returns name without the domain, "" for the domain itself, and whether it is in the domain. Names are those that package
// miekg/dns reads from the wire: a dot within a label has a backslash before it.
func relative(name, domain string) (string, bool) {
	i := len(name) - len(domain)
	switch {
	case i < 0 || !strings.EqualFold(name[i:], domain):
		return "", false
	case i == 0:
		return "", true
	case isDot(name, i-1):
		return name[:i-1], true
	}
	return "", false
}

// isDot reports whether name[i] is a dot between labels and no part of one.
func isDot(name string, i int) bool {
	if name[i] != '.' {
		return false
	}
	slashes := 0
	for j := i - 1; j >= 0 && name[j] == '\\'; j-- {
		slashes++
	}
	return slashes%2 == 0
}

// lastLabel returns what is before the last label of a name without a final dot, and that label in lower case.
func lastLabel(name string) (rest, label string) {
	for i := len(name) - 1; i >= 0; i-- {
		if isDot(name, i) {
			return name[:i], strings.ToLower(name[i+1:])
		}
	}
	return "", strings.ToLower(name)
}

// forward answers for a name in the domain; rel is what stands before it.
func (z *Zone) forward(q dns.Question, rel string, size int) found {
	if rel == "" {
		return z.top(q, z.domain)
	}
	rest, first := lastLabel(rel)
	if first == "_tcp" || first == "_udp" {
		return z.everywhere(q, rest, first[1:], size)
	}
	m := z.members[first]
	switch {
	case m == nil:
		return z.missing()
	case rest == "":
		return z.host4and6(q, m.addrs)
	}
	below, name := lastLabel(rest)
	w := m.workload(name)
	if w == nil {
		return z.missing()
	}
	if below == "" {
		return z.host4and6(q, w.Addrs)
	}
	return z.below(q, w, first, below, size)
}

// top answers at the apex of a zone.
func (z *Zone) top(q dns.Question, apex string) found {
	f := found{apex: apex}
	switch q.Qtype {
	case dns.TypeSOA:
		f.answer = []dns.RR{z.soa(q.Name)}
	case dns.TypeNS:
		f.answer = []dns.RR{&dns.NS{Hdr: header(q.Name, dns.TypeNS), Ns: z.self}}
		if rel, ok := relative(z.self, z.domain); ok && z.members[rel] != nil {
			f.extra = addresses(f.extra, z.self, z.members[rel].addrs)
		}
	case dns.TypeANY:
		f.answer = []dns.RR{minimal(q.Name)}
	}
	return f
}

// everywhere answers for _http._tcp of the domain: all instances of a service.
func (z *Zone) everywhere(q dns.Question, rest, proto string, size int) found {
	if rest == "" {
		if !z.protos[proto] {
			return z.missing()
		}
		return found{apex: z.domain}.any(q)
	}
	rest, name := lastLabel(rest)
	bare, ok := strings.CutPrefix(name, "_")
	in := z.services[service{bare, proto}]
	if !ok || len(in) == 0 || rest != "" {
		return z.missing()
	}
	return z.srv(q, in, size)
}

// below answers for names below a workload's: its services, and else the workload's own addresses (RFC 4592).
func (z *Zone) below(q dns.Question, w *Workload, member, rel string, size int) found {
	rest, label := lastLabel(rel)
	if label == "*" && rest != "" {
		return z.missing() // the wildcard itself exists, and has no wildcard below it (RFC 4592, 2.2.1)
	}
	proto := strings.TrimPrefix(label, "_")
	if label == proto || !w.offers(proto) {
		return z.host4and6(q, w.Addrs)
	}
	if rest == "" {
		return found{apex: z.domain}.any(q)
	}
	rest, name := lastLabel(rest)
	var in []instance
	for _, p := range w.Ports {
		if p.Proto == proto && "_"+p.Name == name {
			in = append(in, instance{w.Name, member, p.Number})
		}
	}
	if len(in) == 0 || rest != "" {
		return z.missing()
	}
	return z.srv(q, in, size)
}

func (w *Workload) offers(proto string) bool {
	for _, p := range w.Ports {
		if p.Proto == proto {
			return true
		}
	}
	return false
}

func (z *Zone) missing() found { return found{rcode: dns.RcodeNameError, apex: z.domain} }

// any adds what a question for ANY gets at a name that exists.
func (f found) any(q dns.Question) found {
	if q.Qtype == dns.TypeANY {
		f.answer = []dns.RR{minimal(q.Name)}
	}
	return f
}

// host4and6 answers at a name that has addresses.
func (z *Zone) host4and6(q dns.Question, addrs []netip.Addr) found {
	f := found{apex: z.domain}
	if q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA {
		for _, a := range addrs {
			if rr := address(q.Name, a); rr.Header().Rrtype == q.Qtype {
				f.answer = append(f.answer, rr)
			}
		}
	}
	return f.any(q)
}

// srvFixed is the size of an SRV record without its target, the owner's name being a pointer to the question: RFC 1035, 4.1.4; RFC 2782.
const srvFixed = 2 + 10 + 6

// srv answers at a name that has services. What does not fit is left out before it costs time.
func (z *Zone) srv(q dns.Question, in []instance, size int) found {
	f := found{apex: z.domain}.any(q)
	if q.Qtype != dns.TypeSRV {
		return f
	}
	room := size - headerSize - len(q.Name) - 5 - optSize
	start := 0
	if len(in)*(srvFixed+len(z.domain)+4) > room { // surely too many: the shortest target is a.a. and the domain
		start = rand.IntN(len(in))
	}
	f.answer = make([]dns.RR, 0, min(len(in), room/srvFixed+1))
	for k := range in {
		i := in[(start+k)%len(in)]
		target := z.host(i.workload, i.member)
		if room -= srvFixed + len(target) + 1; room < 0 {
			f.cut = size < dns.MaxMsgSize // over TCP there is nothing larger to ask for
			return f
		}
		f.answer = append(f.answer, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Weight: 1, Port: i.port, Target: target})
	}
	for _, i := range in {
		w := z.members[i.member].workload(i.workload)
		target := z.host(i.workload, i.member)
		if room -= len(w.Addrs) * (len(target) + 1 + 10 + 16); room < 0 {
			return f // additional records are a courtesy (RFC 2181, 9)
		}
		f.extra = addresses(f.extra, target, w.Addrs)
	}
	return f
}

// addresses appends the address records of a name.
func addresses(rrs []dns.RR, name string, addrs []netip.Addr) []dns.RR {
	for _, a := range addrs {
		rrs = append(rrs, address(name, a))
	}
	return rrs
}

func address(name string, a netip.Addr) dns.RR {
	if a = a.Unmap(); a.Is4() {
		return &dns.A{Hdr: header(name, dns.TypeA), A: net.IP(a.AsSlice())}
	}
	return &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: net.IP(a.AsSlice())}
}

// soa returns the SOA of a zone. Nobody transfers it, so that its timers mean nothing, but for the last one: the time to live of negative answers.
func (z *Zone) soa(apex string) dns.RR {
	return &dns.SOA{
		Hdr: header(apex, dns.TypeSOA), Ns: z.self, Mbox: "hostmaster." + z.domain, Serial: z.serial,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: TTL,
	}
}

// minimal is the answer to a question for ANY: RFC 8482, 4.2.
func minimal(name string) dns.RR {
	return &dns.HINFO{Hdr: header(name, dns.TypeHINFO), Cpu: "RFC8482"}
}

func header(name string, typ uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: TTL}
}
