//go:build linux

package lab

import (
	"fmt"
	"strings"
	"time"
)

// coneObjects are what a NAT other than Linux's own remembers: external leads an external port to its host (FullCone and hairpin),
// restricted the same for one remote address (AddressRestricted), owner and taken say whose an external port is.
var coneObjects = []struct{ what, name, kind string }{
	{"map", "external", "inet_service : ipv4_addr . inet_service"},
	{"map", "restricted", "inet_service . ipv4_addr : ipv4_addr . inet_service"},
	{"set", "taken", "inet_service"},
	{"set", "owner", "inet_service . ipv4_addr"},
}

// element returns the nftables commands that add a port forwarding.
func (f forward) element() string {
	return fmt.Sprintf("add element ip lab forwards { udp . %[1]d : %[2]v . %[1]d, tcp . %[1]d : %[2]v . %[1]d }\n", f.port, f.to)
}

// ruleset returns everything the router's firewall and NAT do, replacing what was there.
//
// Linux's NAT alone filters by connection, so endpoint-independent filtering (RFC 4787, 5) needs a memory of its own: every packet
// that leaves notes, after its source was translated, which host the external port belongs to, and packets from strangers are
// translated back by that note. It ages like a conntrack entry of two directions, refreshed by outbound packets only (RFC 4787, 4.3).
func (r *Router) ruleset() string {
	var b strings.Builder
	b.WriteString("table ip lab\ndelete table ip lab\ntable ip lab {\n")
	if r.cfg.Kind != None {
		r.writeNAT(&b)
	}
	r.writeFirewall(&b)
	b.WriteString("}\n")
	if r.cfg.IPv6 {
		b.WriteString(firewall6)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.forwards {
		b.WriteString(f.element())
	}
	return b.String()
}

func (r *Router) writeNAT(b *strings.Builder) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	wan, lan := r.Addr(), r.lan4
	line("map forwards { type inet_proto . inet_service : ipv4_addr . inet_service; }")
	if r.cfg.cones() {
		r.writeMemory(b)
	}
	line("chain out { type nat hook postrouting priority srcnat;")
	switch r.cfg.Kind {
	case Symmetric:
		line(`oifname "wan" counter masquerade fully-random`)
	case FullCone, AddressRestricted:
		// Another host has this external port. Linux would share it between destinations; here one port is one mapping. The range
		// must not hold the port itself, or Linux keeps it; from the second packet on it prefers what it chose for the first.
		const taken = `oifname "wan" udp sport @taken udp sport . ip saddr != @owner`
		line(taken + ` udp sport < 32768 counter masquerade to :32768-60999`)
		line(taken + ` udp sport >= 32768 counter masquerade to :1024-32767`)
		fallthrough
	default:
		line(`oifname "wan" counter masquerade`)
	}
	if r.cfg.Hairpin {
		line(`oifname "lan" ip saddr %v ct status dnat ct original ip daddr %v counter snat to %v`, lan, wan, wan)
	}
	line("}")

	line("chain back { type nat hook prerouting priority dstnat;")
	line(`iifname "wan" ip daddr %v dnat ip to meta l4proto . th dport map @forwards`, wan)
	switch r.cfg.Kind {
	case FullCone:
		line(`iifname "wan" ip daddr %v meta l4proto udp dnat ip to udp dport map @external`, wan)
	case AddressRestricted:
		line(`iifname "wan" ip daddr %v meta l4proto udp dnat ip to udp dport . ip saddr map @restricted`, wan)
	}
	if r.cfg.Hairpin {
		line(`iifname "lan" ip daddr %v dnat ip to meta l4proto . th dport map @forwards`, wan)
		line(`iifname "lan" ip daddr %v meta l4proto udp dnat ip to udp dport map @external`, wan)
	}
	line("}")
}

// writeMemory adds the objects that remember mappings, and the chain that fills them.
func (r *Router) writeMemory(b *strings.Builder) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	timeout := 2 * time.Minute // RFC 4787, REQ-5, and Linux's for flows of two directions
	if r.cfg.UDPTimeout > 0 {
		timeout = r.cfg.UDPTimeout
	}
	for _, o := range coneObjects {
		line("%s %s { type %s; flags dynamic,timeout; timeout %ds; size 65535; }", o.what, o.name, o.kind, int(timeout/time.Second))
	}

	line("chain note { type filter hook postrouting priority srcnat + 10;") // the source is translated here
	for _, direction := range []string{"original", "reply"} {
		inside := fmt.Sprintf("ct %s ip saddr . ct %s proto-src", direction, direction)
		match := `oifname "wan" meta l4proto udp ct direction ` + direction
		line(`%s update @external { udp sport : %s }`, match, inside)
		line(`%s update @restricted { udp sport . ip daddr : %s }`, match, inside)
		line(`%s update @taken { udp sport } update @owner { udp sport . ct %s ip saddr }`, match, direction)
	}
	line("}")
}

func (r *Router) writeFirewall(b *strings.Builder) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	line("chain incoming { type filter hook input priority filter;")
	line(`ct state established,related accept`)
	if !r.cfg.AcceptInput {
		// Dropped before conntrack confirms it: an unanswered entry would occupy the tuple of a flow from inside.
		line(`iifname "wan" counter drop`)
	}
	line(`iifname "lan" ip daddr %v counter drop`, r.Addr()) // no hairpin, or no such mapping
	line("}")
	if r.cfg.Kind == None {
		return
	}
	line("chain through { type filter hook forward priority filter;")
	line(`iifname "wan" ct state established,related accept`)
	line(`iifname "wan" ct status dnat counter accept`)
	line(`iifname "wan" counter drop`)
	line("}")
}

const firewall6 = `table ip6 lab
delete table ip6 lab
table ip6 lab {
	chain through {
		type filter hook forward priority filter
		iifname "wan" ct state established,related accept
		iifname "wan" counter drop
	}
	chain incoming {
		type filter hook input priority filter
		iifname "wan" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		iifname "wan" ct state established,related accept
		iifname "wan" counter drop
	}
}
`
