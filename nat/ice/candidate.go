package ice

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/pion/ice/v2"

	"github.com/gridwire/gridwire/nat"
)

// Limits. A description must fit a 4 KiB envelope, and each remote candidate is a target that we send to on the peer's word.
const (
	maxLocal  = 16
	maxRemote = 16
	maxText   = 256 // of ufrag and password, RFC 8445, 5.3
)

// Type preferences of RFC 8445, 5.1.2.2.
const (
	preferHost   = 126
	preferPrflx  = 110
	preferSrflx  = 100
	topPriority  = preferHost<<24 | 65535<<8 | 255 // that of pion's own local candidates
	preferenceV6 = 65535                           // local preferences (RFC 8421, 4): IPv6 before IPv4
	preferenceV4 = 32767
)

// priority is RFC 8445, 5.1.2.1 for component 1. index counts the candidates of the same type and family, so that all are different.
func priority(t nat.CandidateType, addr netip.Addr, index int) uint32 {
	prefer := preferSrflx
	switch t {
	case nat.Host:
		prefer = preferHost
	case nat.PeerReflexive:
		prefer = preferPrflx
	}
	local := preferenceV6
	if addr.Is4() {
		local = preferenceV4
	}
	return uint32(prefer)<<24 | uint32(local-index)<<8 | 255
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// usable reports whether a can be a candidate's address at all. IPv6 link-local addresses mean nothing without a zone, which cannot be
// signalled; loopback is left to Config.Accept.
func usable(a netip.AddrPort) bool {
	ip := a.Addr()
	return a.IsValid() && a.Port() != 0 && !ip.IsUnspecified() && !ip.IsMulticast() && ip.Zone() == "" &&
		!(ip.Is6() && ip.IsLinkLocalUnicast()) && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// hostAddresses cleans what Config.Local said: IPv6 first, else in its order.
func hostAddresses(local []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range local {
		if a = unmap(a); usable(a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int { return cmp.Compare(rank(a), rank(b)) })
	return out[:min(len(out), maxLocal)]
}

func rank(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return 1
	}
	return 0
}

// describe makes the candidates of a local description. A reflexive address that is a host address too (there is no NAT) is left out.
func describe(hosts []netip.AddrPort, extra []nat.Candidate) []nat.Candidate {
	var out []nat.Candidate
	index := make(map[[2]bool]int)
	add := func(t nat.CandidateType, a netip.AddrPort) {
		k := [2]bool{t == nat.Host, a.Addr().Is4()}
		out = append(out, nat.Candidate{Type: t, Addr: a, Priority: priority(t, a.Addr(), index[k])})
		index[k]++
	}
	reflexive := hostAddresses(addresses(extra))
	reflexive = slices.DeleteFunc(reflexive, func(a netip.AddrPort) bool { return slices.Contains(hosts, a) })
	for _, a := range hosts[:min(len(hosts), maxLocal-min(len(reflexive), maxLocal/2))] {
		add(nat.Host, a)
	}
	for _, a := range reflexive[:min(len(reflexive), maxLocal-len(out))] {
		add(nat.ServerReflexive, a)
	}
	return out
}

func addresses(candidates []nat.Candidate) []netip.AddrPort {
	out := make([]netip.AddrPort, len(candidates))
	for i, c := range candidates {
		out[i] = c.Addr
	}
	return out
}

// filterRemote returns the candidates of a remote description that we may send to, best first: no addresses that cannot be a path, none
// of our own (they would only reach ourselves), at most maxRemote.
func filterRemote(candidates []nat.Candidate, own []netip.AddrPort, accept func(netip.Addr) bool) []nat.Candidate {
	var out []nat.Candidate
	for _, c := range candidates {
		c.Addr = unmap(c.Addr)
		seen := func(o nat.Candidate) bool { return o.Addr == c.Addr }
		if !usable(c.Addr) || !accept(c.Addr.Addr()) || slices.Contains(own, c.Addr) || slices.ContainsFunc(out, seen) {
			continue
		}
		if c.Type != nat.Host {
			c.Type = nat.ServerReflexive
		}
		if c.Priority == 0 {
			c.Priority = priority(c.Type, c.Addr.Addr(), 0)
		}
		c.Priority = min(c.Priority, topPriority) // pion pairs by the smaller of the two: ours must not become it
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b nat.Candidate) int { return cmp.Compare(b.Priority, a.Priority) })
	return out[:min(len(out), maxRemote)]
}

// split says which remote candidates are checked at once and which familyLead later. pion nominates the first pair that works, so if both
// sides have IPv6 it gets a lead of a little more than a check interval; without it the family would be a matter of luck. Both
// sides decide the same from the two descriptions, so that their checks still cross.
func split(hosts []netip.AddrPort, remote []nat.Candidate) (first, later []nat.Candidate) {
	six := func(a netip.AddrPort) bool { return a.Addr().Is6() }
	if !slices.ContainsFunc(hosts, six) || !slices.ContainsFunc(addresses(remote), six) {
		return remote, nil
	}
	for _, c := range remote {
		if six(c.Addr) {
			first = append(first, c)
		} else {
			later = append(later, c)
		}
	}
	return first, later
}

// toPion makes pion's candidate.
func toPion(c nat.Candidate) (ice.Candidate, error) {
	addr, port := c.Addr.Addr().String(), int(c.Addr.Port())
	if c.Type == nat.Host {
		return ice.NewCandidateHost(&ice.CandidateHostConfig{
			Network: "udp", Address: addr, Port: port, Component: ice.ComponentRTP, Priority: c.Priority})
	}
	return ice.NewCandidateServerReflexive(&ice.CandidateServerReflexiveConfig{
		Network: "udp", Address: addr, Port: port, Component: ice.ComponentRTP, Priority: c.Priority})
}

// known returns the candidate with this address, or a peer-reflexive one: nobody has signalled it.
func known(candidates []nat.Candidate, addr netip.AddrPort) nat.Candidate {
	for _, c := range candidates {
		if c.Addr == addr {
			return c
		}
	}
	return nat.Candidate{Type: nat.PeerReflexive, Addr: addr, Priority: priority(nat.PeerReflexive, addr.Addr(), 0)}
}
