package explain

import (
	"net/netip"
	"slices"

	"github.com/gridwire/gridwire/nat"
)

// Behaviour is what a NAT does, in the words of RFC 4787 and in plain ones.
type Behaviour struct {
	Mapping   string // 4.1
	Filtering string // 5
	Meaning   string
	Advice    []string
	IPv6Works bool // members answered over it
}

// The words of RFC 4787. Members test from one strange address and port; which of the two a filter minds is not found out, because it makes no
// difference to hole punching.
const (
	independent = "endpoint-independent"
	dependent   = "address-dependent, or address and port-dependent"
)

// NAT judges a report. advertised says that the owner named an address under which this machine can be reached; others is how many other members
// the network has.
func NAT(r nat.Report, local []netip.Addr, port uint16, advertised bool, others int) Behaviour {
	b := Behaviour{Mapping: "unknown", Filtering: "unknown", Meaning: "Not enough members have been asked yet to tell."}
	b.IPv6Works = slices.ContainsFunc(r.Mappings, func(m nat.Mapping) bool { return m.Mapped.Addr().Is6() })
	switch r.Type {
	case nat.Open:
		b.Mapping, b.Filtering = "none", independent
		b.Meaning = "Strangers' packets arrive here: every member can link to this machine directly, and it helps others find each other."
	case nat.EndpointIndependent:
		b.independent(r, local, port)
	case nat.EndpointDependent:
		b.Mapping, b.Filtering = dependent, dependent
		b.Meaning = "This machine's NAT is symmetric: it gives every destination another port. Links work to members that strangers can reach."
		b.Advice = []string{Side{Name: "this machine", NAT: r.Type, Local: local, Port: port}.forwarding(), "or IPv6 here and there: then no NAT is in the way"}
		if b.Advice[0] == "" {
			b.Advice = []string{"this is a carrier's NAT, on which nobody can forward a port: ask the provider for IPv6 or a public IPv4 address"}
		}
		if r.Reachable {
			b.Filtering = independent
			b.Meaning, b.Advice = "This machine's NAT gives every destination another port, but strangers' packets arrive at one of them: every member can link to it directly.", nil
		}
	case nat.Blocked:
		b.Meaning = "No member answered by UDP. Either all of them are off, or this network blocks UDP, which gridwire needs."
		b.Advice = []string{"allow outgoing UDP on this network's firewall, or try another network (a phone's hotspot): if it works there, this network blocks UDP"}
	case nat.Unknown:
		switch {
		case len(r.Mappings) == 0 && others > 0:
			b.Meaning = "No other member can be asked how this machine looks from outside: all of them are off, or this network blocks UDP, which gridwire needs."
			b.Advice = []string{"see whether another member is running, best one that strangers can reach", "allow outgoing UDP on this network's firewall, or try another network"}
		case len(r.Mappings) == 0:
			b.Meaning = "This is the only member so far; there is nobody who could say how it looks from outside."
			b.Advice = []string{"let another machine in: gridwire invite --name NAME; one of the two must be reachable by strangers, or both be on one LAN"}
		default:
			b.Meaning = "Only one member has answered, which is not enough to tell how this NAT treats different destinations. Links work all the same."
		}
	}
	if advertised && r.Type != nat.Open {
		b.Meaning += " Its owner says that strangers reach it at the advertised address."
	}
	return b
}

// independent tells a firewall from a NAT, and a full cone from others.
func (b *Behaviour) independent(r nat.Report, local []netip.Addr, port uint16) {
	b.Mapping, b.Filtering = independent, dependent
	own := func(a netip.AddrPort) bool { return a.Port() == port && slices.Contains(local, a.Addr()) }
	translated := slices.ContainsFunc(r.Mappings, func(m nat.Mapping) bool { return !own(m.Mapped) })
	if !translated {
		b.Mapping = "none"
	}
	switch {
	case r.Reachable:
		b.Filtering = independent
		b.Meaning = "This machine is behind a NAT that lets strangers' packets in: every member can link to it directly."
	case translated:
		b.Meaning = "This machine is behind an ordinary NAT: links to all members work directly, except to those behind a symmetric NAT."
	default:
		b.Meaning = "There is no NAT, but a firewall lets in answers only: links to all members work directly, except to those behind a symmetric NAT."
		b.Advice = []string{"to make this machine reachable by everybody, let its UDP port in: gridwire doctor prints the command for this machine's own firewall"}
	}
}
