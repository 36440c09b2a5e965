package route

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Routed prefixes are networks behind members. They live in a table of their own, reached by two rules (here for IPv6 too):
//
//	PREF:   from all lookup main suppress_prefixlength 1
//	PREF+1: not from all fwmark MARK lookup TABLE
//
// So every route of this machine but the default one comes first (a routed prefix never shadows a connected network), and the tunnel's
// own packets, which carry the mark, never enter the tunnel, wherever a peer's endpoint is. A default route may be split into two of one bit
// (OpenVPN's redirect-gateway def1).

// defaultBits is how long a default route may be.
const defaultBits = 1

// tableID and rule preferences follow from the interface's name: an agent that replaces a killed one finds its leftovers, and two agents
// on one machine stay apart.
func tableID(iface string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(iface)) // never fails
	return 0x67000000 | int(h.Sum32()&0xffffff)
}

// rulePreference is between local (0) and main (32766), before wg-quick's (it counts down from main).
func rulePreference(iface string) int { return 10000 + tableID(iface)&0xfff*2 }

// Route makes prefixes the set of networks routed through the tunnel, in place of the set before. Prefixes inside the overlay are
// refused, and so is everything if Config.Mark is 0.
func (r *Router) Route(prefixes []netip.Prefix) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	want := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().Is4In6() || p.Bits() <= defaultBits || slices.ContainsFunc(r.cfg.Prefixes, p.Masked().Overlaps) {
			return fmt.Errorf("routing %v through interface %s: it is no prefix outside the overlay, or it is a default route", p, r.cfg.Interface)
		}
		want = append(want, p.Masked())
	}
	if len(want) > 0 && r.cfg.Mark == 0 {
		return fmt.Errorf("routing %v through interface %s: without a mark on the tunnel's socket its own packets would loop", want, r.cfg.Interface)
	}
	if r.closed {
		return fmt.Errorf("routing %v through interface %s: it is closed", want, r.cfg.Interface)
	}
	return errors.Join(r.routeLocked(want, false), limiter{r}.limit(true))
}

// routeLocked makes the difference to what is routed; with all, also what is there already, since its source address may be another.
// One that fails does not stop the others.
func (r *Router) routeLocked(want []netip.Prefix, all bool) error {
	var errs []error
	var have []netip.Prefix
	for _, p := range want {
		if all || !slices.Contains(r.routed, p) {
			if err := netlink.RouteReplace(r.routedRoute(p)); err != nil {
				errs = append(errs, r.fail(fmt.Sprintf("routing %v through", p), err))
				continue
			}
		}
		have = append(have, p)
	}
	for _, p := range r.routed {
		if !slices.Contains(want, p) {
			errs = append(errs, gone(netlink.RouteDel(r.routedRoute(p))))
		}
	}
	had := len(r.routed) > 0
	r.routed = have
	switch {
	case len(have) > 0 && !had:
		errs = append(errs, r.addRules())
	case len(have) == 0 && had:
		errs = append(errs, r.removeRules())
	}
	return errors.Join(errs...)
}

func (r *Router) routedRoute(p netip.Prefix) *netlink.Route {
	route := r.overlayRoute(p)
	route.Table = tableID(r.cfg.Interface)
	same := func(a netip.Addr) bool { return a.Is4() == p.Addr().Is4() }
	if i := slices.IndexFunc(r.activeAddrs(), same); i >= 0 {
		route.Src = r.activeAddrs()[i].AsSlice()
	}
	return route
}

// rules returns our two rules for one family.
func (r *Router) rules(family int) []*netlink.Rule {
	first, second := netlink.NewRule(), netlink.NewRule()
	for i, rule := range []*netlink.Rule{first, second} {
		rule.Family, rule.Priority = family, rulePreference(r.cfg.Interface)+i
	}
	first.Table, first.SuppressPrefixlen = unix.RT_TABLE_MAIN, defaultBits
	second.Table, second.Mark, second.Invert = tableID(r.cfg.Interface), r.cfg.Mark, true
	return []*netlink.Rule{first, second}
}

func (r *Router) addRules() error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		for _, rule := range r.rules(family) {
			if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
				return r.fail("adding the routing rules of", err)
			}
		}
	}
	return nil
}

// removeRules removes our rules, those of a killed process with another mark too: whatever has our preferences and tables.
func (r *Router) removeRules() error {
	first := rulePreference(r.cfg.Interface)
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without this family
		}
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			errs = append(errs, r.fail("reading the routing rules of", err))
			continue
		}
		for _, rule := range rules {
			ours := rule.Priority == first && rule.Table == unix.RT_TABLE_MAIN && rule.SuppressPrefixlen >= 0 && rule.SuppressPrefixlen <= defaultBits ||
				rule.Priority == first+1 && rule.Table == tableID(r.cfg.Interface)
			if ours {
				rule.Family = family
				errs = append(errs, gone(netlink.RuleDel(&rule)))
			}
		}
	}
	return errors.Join(errs...)
}

// clearTable removes the routed prefixes' routes.
func (r *Router) clearTable() error {
	var errs []error
	for _, p := range r.routed {
		errs = append(errs, gone(netlink.RouteDel(r.routedRoute(p))))
	}
	r.routed = nil
	return errors.Join(errs...)
}
