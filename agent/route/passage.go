package route

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// What this machine forwards between the overlay and other interfaces, where it gives the overlay access to 192.0.2.0/24:
//
//	chain forward {
//		type filter hook forward priority filter; policy accept;
//		iif "gw0" oifname != @inside ip daddr 192.0.2.0/24 accept
//		iif "gw0" oifname != @inside counter drop
//		oif "gw0" iifname != @inside ip saddr 192.0.2.0/24 accept
//		oif "gw0" iifname != @inside counter drop
//	}
//	chain translate {
//		type nat hook postrouting priority srcnat; policy accept;
//		iif "gw0" oifname != @inside masquerade
//	}
//
// Members choose the destinations of what they send, and forwarding is one switch for the whole machine. Without "forward", any member
// could go through any other that forwards for whatever reason to wherever that one can go: its other networks, the internet in its name.
// What is forwarded between interfaces that are not ours is not looked at.
//
// "translate" makes a LAN reachable with nothing configured on it: its hosts know no way to the overlay, so they see the address that
// this machine has among them. With keep the sources stay, and the LAN's router needs a route to the overlay by way of this machine;
// then packets between the LAN and the overlay pass the leak guard in both directions (the first four rules of "arrive", the first of "leave"):
//
//	ip saddr 192.0.2.0/24 ip daddr 10.77.0.1 drop                  (this node's own address: what is for it does not come from a LAN)
//	ip saddr 192.0.2.0/24 fib saddr . iif oif missing drop         (a source that this machine would not reach there)
//	ip saddr 192.0.2.0/24 ip daddr 10.77.0.0/16 accept
//	ip saddr 10.77.0.0/16 ip daddr 192.0.2.0/24 accept             (leave)

// Behind names the networks behind this node that the overlay may reach through it, in place of those named before. With keep, source
// addresses are not translated. It does not switch forwarding on (Forward).
func (r *Router) Behind(networks []netip.Prefix, keep bool) error {
	for _, p := range networks {
		if err := checkNetwork(p); err != nil {
			return fmt.Errorf("giving the overlay access to %v: %w", p, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("giving the overlay access to %v: interface %s is closed", networks, r.cfg.Interface)
	}
	if slices.Equal(r.behind, networks) && r.keep == keep {
		return nil
	}
	old, kept := r.behind, r.keep
	r.behind, r.keep = slices.Clone(networks), keep
	if err := r.guard().set(); err != nil {
		r.behind, r.keep = old, kept
		return err
	}
	return nil
}

func checkNetwork(p netip.Prefix) error {
	if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() || p.Bits() == 0 {
		return fmt.Errorf("it is no prefix of some network")
	}
	return nil
}

func (r *ruleset) addPassage() {
	forward := r.AddChain(&nftables.Chain{
		Table: r.table, Name: "forward", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, d := range []struct {
		in, out expr.MetaKey
		field   addrField
	}{
		{expr.MetaKeyIIF, expr.MetaKeyOIFNAME, destination},
		{expr.MetaKeyOIF, expr.MetaKeyIIFNAME, source},
	} {
		for _, p := range r.behind {
			r.add(forward, meta(d.in, r.index), r.outside(d.out), match(d.field, p), verdict(expr.VerdictAccept))
		}
		r.add(forward, meta(d.in, r.index), r.outside(d.out), verdict(expr.VerdictDrop))
	}
	if len(r.behind) == 0 || r.keep {
		return // a nat chain has every connection of this machine tracked: only where it is needed
	}
	translate := r.AddChain(&nftables.Chain{
		Table: r.table, Name: "translate", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	r.add(translate, meta(expr.MetaKeyIIF, r.index), r.outside(expr.MetaKeyOIFNAME), []expr.Any{&expr.Masq{}})
}

// addExceptions lets the networks behind this node and the overlay see each other's addresses.
func (r *ruleset) addExceptions(arrive, leave *nftables.Chain) {
	for _, p := range r.behind {
		for _, a := range r.own {
			r.add(arrive, r.outside(expr.MetaKeyIIFNAME), match(source, p), match(destination, netip.PrefixFrom(a, a.BitLen())), verdict(expr.VerdictDrop))
		}
		for _, o := range r.overlay {
			r.add(arrive, r.outside(expr.MetaKeyIIFNAME), match(source, p), match(destination, o), wrongWay(), verdict(expr.VerdictDrop))
			r.add(arrive, r.outside(expr.MetaKeyIIFNAME), match(source, p), match(destination, o), verdict(expr.VerdictAccept))
			r.add(leave, match(source, o), match(destination, p), verdict(expr.VerdictAccept))
		}
	}
}

// wrongWay is "fib saddr . iif oif missing": strict reverse path filtering (RFC 3704, 2.2) for these packets.
func wrongWay() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
	}
}
