// Package firewall says what a host's packet filter does with one packet, by reading its rules: those of nftables (`nft -j list ruleset`) and of
// iptables (`iptables -S`).
//
// It is pure and errs on the side of not knowing: a condition that it does not understand makes the answer Unknown, never a false alarm.
package firewall

import (
	"cmp"
	"slices"
	"strings"
)

// Packet is the first packet of a flow.
type Packet struct {
	Out       bool   // this machine sends it; else it arrives
	Forwarded bool   // it arrives and is passed on, by an interface that no rule names
	Interface string // by which it comes or goes; empty: some interface that no rule names
	V6        bool
	SrcPort   int // UDP
	DstPort   int
}

// Fate is what becomes of a packet.
type Fate int

// The fates.
const (
	Passes Fate = iota
	Dropped
	Unknown // a rule that cannot be judged decides
)

// Verdict is the fate, and where it is decided.
type Verdict struct {
	Fate  Fate
	Chain *Chain // that drops it
}

// Ruleset is what one tool reported.
type Ruleset struct {
	chains map[string]*Chain // by table and name
	bases  []*Chain
}

// Chain is a list of rules.
type Chain struct {
	Family string // inet, ip, ip6; what the tool calls it
	Table  string
	Name   string
	hook   string // of a base chain: prerouting, input, forward, output
	prio   int
	policy Fate
	rules  []rule
}

type verdict int

const (
	next verdict = iota // no terminal statement
	accept
	drop
	ret
	jump
	gotoChain
)

type rule struct {
	conditions []func(Packet) tri
	do         verdict
	target     string
	choose     func(Packet) (verdict, string, tri) // a verdict map, in place of do
}

// tri is yes, no, or a condition that is not understood.
type tri int

const (
	no tri = iota
	yes
	maybe
)

func truth(b bool) tri {
	if b {
		return yes
	}
	return no
}

// Judge follows a packet through all base chains that it meets. Tables for which skip is true are left out (nil: none).
func (r *Ruleset) Judge(p Packet, skip func(*Chain) bool) Verdict {
	hooks := []string{"prerouting", "input"}
	switch {
	case p.Out:
		hooks = []string{"output"}
	case p.Forwarded:
		hooks = []string{"prerouting", "forward"}
	}
	unsure := false
	for _, hook := range hooks {
		bases := slices.DeleteFunc(slices.Clone(r.bases), func(c *Chain) bool {
			ours := p.Forwarded && strings.HasPrefix(c.Table, "gridwire_") // it lets through what it should
			return c.hook != hook || !c.sees(p) || ours || skip != nil && skip(c)
		})
		slices.SortStableFunc(bases, func(a, b *Chain) int { return cmp.Compare(a.prio, b.prio) })
		for _, c := range bases {
			w := walk{set: r, packet: p}
			v := w.chain(c, 0)
			if v == next || v == ret {
				if v = accept; c.policy == Dropped {
					v = drop
				}
			}
			switch {
			case v == drop && !w.unsure:
				return Verdict{Dropped, c}
			case v == drop:
				return Verdict{Unknown, c}
			}
			unsure = unsure || w.unsureDrop
		}
	}
	if unsure {
		return Verdict{Fate: Unknown}
	}
	return Verdict{}
}

// sees reports whether packets of p's family pass through the chain.
func (c *Chain) sees(p Packet) bool {
	return c.Family == "inet" || c.Family == "ip" && !p.V6 || c.Family == "ip6" && p.V6
}

const maxDepth = 16 // the kernel's own limit for jumps

type walk struct {
	set        *Ruleset
	packet     Packet
	unsure     bool // a rule that may accept was passed over
	unsureDrop bool // a rule that may drop was passed over
}

func (w *walk) chain(c *Chain, depth int) verdict {
	if depth > maxDepth {
		return next
	}
	left := false // a rule may have returned before
	for _, r := range c.rules {
		met := yes
		for _, cond := range r.conditions {
			switch cond(w.packet) {
			case no:
				met = no
			case maybe:
				if met == yes {
					met = maybe
				}
			}
		}
		do, target := r.do, r.target
		if r.choose != nil && met != no {
			var sure tri
			do, target, sure = r.choose(w.packet)
			if sure == maybe && met == yes {
				met = maybe
			}
			if sure == no {
				met = no
			}
		}
		if met == no {
			continue
		}
		left = left || met == maybe && do == ret
		if v := w.act(c, do, target, met, depth); v != next {
			w.unsure = w.unsure || left && v == drop
			return v
		}
	}
	return next
}

// act carries out a rule whose conditions are met, or may be.
func (w *walk) act(c *Chain, do verdict, target string, met tri, depth int) verdict {
	switch do {
	case jump, gotoChain:
		to, ok := w.set.chains[c.Family+" "+c.Table+" "+target]
		if !ok {
			w.unsure, w.unsureDrop = true, true // a target that is no chain: an extension
			return next
		}
		if met == maybe {
			in := walk{set: w.set, packet: w.packet}
			switch v := in.chain(to, depth+1); {
			case v == accept || in.unsure:
				w.unsure = true
			case v == drop:
				w.unsureDrop = true
			}
			return next
		}
		v := w.chain(to, depth+1)
		if v == ret {
			v = next
		}
		if v == next && do == gotoChain {
			return ret
		}
		return v
	case next:
		return next
	}
	if met == maybe {
		w.unsure = w.unsure || do == accept
		w.unsureDrop = w.unsureDrop || do == drop
		return next
	}
	return do
}
