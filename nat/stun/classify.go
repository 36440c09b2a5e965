package stun

import (
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/nat"
)

// carrierNAT is RFC 6598's: private, though netip does not say so.
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

// Private reports whether a is from a range that means different machines in different places.
func Private(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback() || carrierNAT.Contains(a)
}

// Classify judges what the members that were asked have seen. local and port are our own addresses and the shared port; silent are the
// servers that did not answer; reachable is the outcome of the reachability test. It is a pure function.
//
// A server on our own network sees a local address, and one inside a carrier's network another than one in the internet, so
// mappings are compared only with those of the same family and the same kind (private or not): the NAT is endpoint-dependent if two
// servers saw two different addresses (RFC 4787, 4.1). One server alone proves nothing, unless the NAT kept our port, as
// those with endpoint-independent mapping do. Without a NAT the type is open if strangers get in; a full-cone NAT lets them in too, but
// only while its mapping is kept alive, so it is not called open. IPv4 decides the type if any server was asked over it: IPv6 has no NATs to speak of.
func Classify(local []netip.Addr, port uint16, mappings []nat.Mapping, silent []netip.AddrPort, reachable bool, now time.Time) nat.Report {
	r := nat.Report{Reachable: reachable, Mappings: slices.Clone(mappings), Silent: slices.Clone(silent), At: now}
	isLocal := func(a netip.AddrPort) bool { return a.Port() == port && slices.Contains(local, a.Addr()) }
	r.Mapped = distinct(r.Mappings)
	family := r.Mappings
	if v4 := slices.DeleteFunc(slices.Clone(r.Mappings), func(m nat.Mapping) bool { return !m.Mapped.Addr().Is4() }); len(v4) > 0 {
		family = v4
	}
	switch {
	case len(family) == 0 && reachable:
		r.Type = nat.Open
	case len(family) == 0 && len(silent) > 0:
		r.Type = nat.Blocked
	case len(family) == 0:
		r.Type = nat.Unknown
	case !slices.ContainsFunc(family, func(m nat.Mapping) bool { return !isLocal(m.Mapped) }):
		// No NAT. Open only if strangers get in: a firewall that lets in answers alone needs keepalives as a NAT does.
		r.Type = nat.EndpointIndependent
		if reachable {
			r.Type = nat.Open
		}
	default:
		r.Type = mappingType(family, port, isLocal)
	}
	return r
}

// mappingType judges mappings of one family.
func mappingType(mappings []nat.Mapping, port uint16, isLocal func(netip.AddrPort) bool) nat.Type {
	type kind struct{ private bool }
	first := make(map[kind]nat.Mapping)
	agreed, kept := false, false
	for _, m := range mappings {
		if isLocal(m.Mapped) {
			continue // a member on our own network
		}
		k := kind{Private(m.Mapped.Addr())}
		if f, ok := first[k]; !ok {
			first[k] = m
		} else if f.Mapped != m.Mapped {
			return nat.EndpointDependent
		} else if f.Server != m.Server {
			agreed = true
		}
		kept = kept || m.Mapped.Port() == port
	}
	switch {
	case agreed || kept:
		return nat.EndpointIndependent
	}
	return nat.Unknown
}

// distinct returns the mapped addresses: first those that mean something in the internet, then those that more servers saw; of equals,
// the one that was seen first.
func distinct(mappings []nat.Mapping) []netip.AddrPort {
	count := make(map[netip.AddrPort]int)
	var out []netip.AddrPort
	for _, m := range mappings {
		if count[m.Mapped]++; count[m.Mapped] == 1 {
			out = append(out, m.Mapped)
		}
	}
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int {
		if pa, pb := Private(a.Addr()), Private(b.Addr()); pa != pb {
			if pa {
				return 1
			}
			return -1
		}
		return count[b] - count[a]
	})
	return out
}

// overlay puts the first answers of a round over the mappings that stand: those whose servers have not answered yet stay, so that a mapped
// address is not given up and found again each time. An answer that contradicts them, of the same family and the same kind, ends that:
// this machine or its NAT has moved.
func overlay(standing, answered []nat.Mapping) []nat.Mapping {
	alike := func(a, b nat.Mapping) bool {
		return a.Mapped.Addr().Is4() == b.Mapped.Addr().Is4() && Private(a.Mapped.Addr()) == Private(b.Mapped.Addr())
	}
	out := slices.Clone(answered)
	for _, old := range standing {
		again := slices.ContainsFunc(answered, func(m nat.Mapping) bool { return m.Server == old.Server })
		moved := slices.ContainsFunc(answered, func(m nat.Mapping) bool {
			return alike(m, old) && !slices.ContainsFunc(standing, func(o nat.Mapping) bool { return o.Mapped == m.Mapped })
		})
		if !again && !moved {
			out = append(out, old)
		}
	}
	return out
}
