package dns

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// TTL is the time to live of every record of the zone and of every negative answer, in seconds. A workload that has moved is to be found
// within 5 s: a cache may have asked just before, and then the change needs its own time to arrive (a record's signing and gossip, the
// zone's building: less than a second in a quiet network, up to three in a busy one). Still a page with a hundred pictures asks once.
const TTL = 2

// Member is a member of the network, with what runs on it.
type Member struct {
	Name      string // a single label (RFC 1035, 2.3.1; A-label if international), unique in the zone
	Addrs     []netip.Addr
	Workloads []Workload
}

// Workload is something on a member that has a name of its own.
type Workload struct {
	Name  string // a single label, unique on the member
	Addrs []netip.Addr
	Ports []Port
}

// Port is a service that a workload offers; one without a name has no SRV record.
type Port struct {
	Name   string // service name without underscore, such as http (RFC 6335)
	Number uint16
	Proto  string // tcp or udp
}

// Data is all that a zone is built from.
type Data struct {
	Domain   string         // with or without the final dot
	Prefixes []netip.Prefix // of the overlay: for addresses in them there are reverse zones
	Self     string         // this member's name: its NS and SOA
	Serial   uint32         // of the SOA
	Members  []Member
}

// Zone is an immutable snapshot of the names of a network. Any number of goroutines may use it.
type Zone struct {
	domain   string // lower case, with the final dot
	self     string // the name server, with the final dot
	serial   uint32
	prefixes []netip.Prefix // the longest first
	members  map[string]*entry
	services map[service][]instance // by member, workload and port
	protos   map[string]bool        // of services
	pointers []pointer              // by address
	leftOut  []string
}

// entry is a member; its workloads are sorted by name.
type entry struct {
	addrs     []netip.Addr
	workloads []Workload
}

type service struct{ name, proto string }

type instance struct {
	workload, member string
	port             uint16
}

// pointer is what has an address; workload is empty where it is the member itself.
type pointer struct {
	addr             netip.Addr
	workload, member string
}

// maxName is the length of the longest name without the final dot: 255 bytes on the wire (RFC 1035, 2.3.4) less the first
// length and the root.
const maxName = 253

// maxLeftOut bounds the reasons that a zone keeps.
const maxLeftOut = 100

// BuildZone builds a zone in time proportional to the names in it: 5,000 members with 20 workloads each take a fraction of a
// second. The zone keeps slices of d, which must not change afterwards. Names that cannot be in the DNS are left out.
func BuildZone(d Data) *Zone {
	z := &Zone{
		domain:   strings.TrimSuffix(strings.ToLower(d.Domain), ".") + ".",
		serial:   d.Serial,
		members:  make(map[string]*entry, len(d.Members)),
		services: make(map[service][]instance),
		protos:   make(map[string]bool, 2),
	}
	for _, p := range d.Prefixes {
		if p.IsValid() && p.Bits() > 0 {
			z.prefixes = append(z.prefixes, p.Masked())
		}
	}
	slices.SortFunc(z.prefixes, func(a, b netip.Prefix) int { return cmp.Compare(b.Bits(), a.Bits()) })
	z.self = z.domain
	if self := strings.ToLower(d.Self); isLabel(self) {
		z.self = self + "." + z.domain
	}
	members, count := slices.Clone(d.Members), 0
	for i := range members {
		members[i].Name = strings.ToLower(members[i].Name)
		count += len(members[i].Addrs)
		for j := range members[i].Workloads {
			count += len(members[i].Workloads[j].Addrs)
		}
	}
	z.pointers = make([]pointer, 0, count)
	slices.SortStableFunc(members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	for i := range members { // in order, so that lists of instances need no sorting
		z.addMember(&members[i])
	}
	slices.SortFunc(z.pointers, comparePointers)
	z.pointers = slices.Compact(z.pointers)
	return z
}

// LeftOut says which names are not in the zone and why, at most a hundred of them.
func (z *Zone) LeftOut() []string { return z.leftOut }

func (z *Zone) addMember(m *Member) {
	name := m.Name
	switch {
	case !isLabel(name):
		z.leave("member %q: its name is no DNS label", m.Name)
		return
	case !z.fits(name):
		z.leave("member %q: its name is too long with the domain", m.Name)
		return
	case z.members[name] != nil:
		z.leave("member %q: there is another one of that name", m.Name)
		return
	}
	e := &entry{addrs: m.Addrs, workloads: make([]Workload, 0, len(m.Workloads))}
	z.members[name] = e
	z.addPointers(m.Addrs, "", name)
	for _, w := range m.Workloads {
		lower := strings.ToLower(w.Name)
		switch {
		case !isLabel(lower):
			z.leave("workload %q of %s: its name is no DNS label", w.Name, name)
		case !z.fits(lower + "." + name):
			z.leave("workload %q of %s: its name is too long with the domain", w.Name, name)
		default:
			w.Name = lower
			e.workloads = append(e.workloads, w)
		}
	}
	slices.SortStableFunc(e.workloads, compareWorkloads)
	e.workloads = slices.CompactFunc(e.workloads, func(a, b Workload) bool {
		if a.Name == b.Name {
			z.leave("workload %q of %s: there is another one of that name", a.Name, name)
		}
		return a.Name == b.Name
	})
	for i := range e.workloads {
		z.addWorkload(&e.workloads[i], name)
	}
}

func (z *Zone) addWorkload(w *Workload, member string) {
	z.addPointers(w.Addrs, w.Name, member)
	w.Ports = z.namedPorts(w, member)
	for _, p := range w.Ports {
		k := service{p.Name, p.Proto}
		z.protos[p.Proto] = true
		z.services[k] = append(z.services[k], instance{w.Name, member, p.Number})
	}
}

// namedPorts returns the ports of w that have SRV records. A workload without an address has none: nobody could reach them.
func (z *Zone) namedPorts(w *Workload, member string) []Port {
	if len(w.Addrs) == 0 {
		return nil
	}
	ports := make([]Port, 0, len(w.Ports))
	for _, p := range w.Ports {
		p.Name, p.Proto = strings.ToLower(p.Name), strings.ToLower(p.Proto)
		switch {
		case p.Name == "":
		case !isLabel(p.Name) || len(p.Name) > 62: // with its underscore it is a label of at most 63
			z.leave("port %q of workload %s.%s: its name is no service name", p.Name, w.Name, member)
		case p.Proto != "tcp" && p.Proto != "udp":
			z.leave("port %q of workload %s.%s: protocol %q is neither tcp nor udp", p.Name, w.Name, member, p.Proto)
		default:
			ports = append(ports, p)
		}
	}
	slices.SortFunc(ports, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Number, b.Number))
	})
	return slices.Compact(ports)
}

func (z *Zone) addPointers(addrs []netip.Addr, workload, member string) {
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		if slices.ContainsFunc(z.prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
			z.pointers = append(z.pointers, pointer{a, workload, member})
		}
	}
}

// fits reports whether the name fits into the DNS with the domain behind it.
func (z *Zone) fits(name string) bool { return len(name)+1+len(z.domain)-1 <= maxName }

func (z *Zone) leave(format string, args ...any) {
	if len(z.leftOut) < maxLeftOut {
		z.leftOut = append(z.leftOut, fmt.Sprintf(format, args...))
	}
}

// workload returns the workload of that name, or nil.
func (e *entry) workload(name string) *Workload {
	i, ok := slices.BinarySearchFunc(e.workloads, name, func(w Workload, n string) int { return cmp.Compare(w.Name, n) })
	if !ok {
		return nil
	}
	return &e.workloads[i]
}

// host returns the full name of a member or, with a workload, of that.
func (z *Zone) host(workload, member string) string {
	if workload == "" {
		return member + "." + z.domain
	}
	return workload + "." + member + "." + z.domain
}

func compareWorkloads(a, b Workload) int { return cmp.Compare(a.Name, b.Name) }

// comparePointers sorts by address, and a member before its workloads: of several names the first is the one that most tools show.
func comparePointers(a, b pointer) int {
	return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.workload, b.workload), cmp.Compare(a.member, b.member))
}

// isLabel reports whether s is a label of letters, digits and inner hyphens, in lower case (RFC 1123, 2.1).
func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0 && i < len(s)-1 {
			continue
		}
		return false
	}
	return true
}
