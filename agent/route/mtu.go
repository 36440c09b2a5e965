package route

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A peer whose path carries less than the interface's MTU has routes of its own, with that MTU and the TCP segment size that goes with it
// ("advmss": what this machine asks others to send), so that the kernel makes packets that fit:
//
//	10.77.0.7 dev gw0 mtu 1328 advmss 1288
//	fd00:1:2:7::/112 dev gw0 mtu 1328 advmss 1268
//
// IPv6 promises everybody 1280 bytes (RFC 8200, 5). Where the path has less, packets that this machine forwards may still be that long, or
// the kernel would drop them and tell a sender that does not listen (Linux ignores "packet too big" below 1280); the shared socket fragments
// them outside. What this machine sends by itself it can cut to size: it finds a second route first, by a rule for its own packets only.
//
//	main:   fd00:1:2:7::/112 dev gw0 mtu 1280 advmss 1156
//	PREF:   from all iif lo lookup TABLE
//	TABLE:  fd00:1:2:7::/112 dev gw0 mtu 1216 advmss 1156
//
// Prefixes behind members have one route in their own table; the second would shadow a connected network.

const minIPv6 = 1280

// limits is what PeerMTU was told, and what is set because of it.
type limits struct {
	want map[netip.Prefix]int
	have map[limited]int
	rule bool
}

// limited is one route with an MTU of its own.
type limited struct {
	table  int
	prefix netip.Prefix
}

// ownTable holds the routes for this machine's own packets, and ownPreference is its rule's: before those of routed prefixes and main.
func ownTable(iface string) int { return tableID(iface) ^ 0x67000000 ^ 0x68000000 }

func ownPreference(iface string) int { return 5000 + tableID(iface)&0xfff }

// PeerMTU says how large packets to a prefix may be where that is less than the interface's MTU, in place of what it said before. A prefix
// is part of the overlay, or a network that Route routes, now or later.
func (r *Router) PeerMTU(mtus map[netip.Prefix]int) error {
	for p, mtu := range mtus {
		if !p.IsValid() || p != p.Masked() || mtu < 256 || mtu > 65535 {
			return fmt.Errorf("limiting packets to %v on interface %s to %d bytes: that is no prefix, or no MTU", p, r.cfg.Interface, mtu)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("limiting packets on interface %s: it is closed", r.cfg.Interface)
	}
	r.limits.want = maps.Clone(mtus)
	return limiter{r}.limit(false)
}

// limiter is the part of Router that knows what the paths carry.
type limiter struct{ *Router }

// limit makes the routes what they should be; again: also those that should be there already, because addresses have changed.
func (r limiter) limit(again bool) error {
	want := map[limited]int{}
	for p, mtu := range r.limits.want {
		inside := func(o netip.Prefix) bool { return o.Overlaps(p) && o.Bits() <= p.Bits() }
		switch {
		case slices.ContainsFunc(r.activePrefixes(), inside):
			want[limited{unix.RT_TABLE_MAIN, p}] = forwardMTU(p, mtu)
			if p.Addr().Is6() && mtu < minIPv6 {
				want[limited{ownTable(r.cfg.Interface), p}] = mtu
			}
		case slices.Contains(r.routed, p):
			want[limited{tableID(r.cfg.Interface), p}] = forwardMTU(p, mtu)
		}
	}
	var errs []error
	for l, mtu := range want {
		if r.limits.have[l] == mtu && !again {
			continue
		}
		if err := netlink.RouteReplace(r.limitedRoute(l, mtu)); err != nil {
			errs = append(errs, r.fail(fmt.Sprintf("limiting packets to %v to %d bytes on", l.prefix, mtu), err))
			delete(want, l)
		}
	}
	for l := range r.limits.have {
		if _, ok := want[l]; !ok {
			errs = append(errs, r.unlimit(l))
		}
	}
	r.limits.have = want
	own := func(l limited) bool { return l.table == ownTable(r.cfg.Interface) }
	return errors.Join(append(errs, r.ownRule(slices.ContainsFunc(slices.Collect(maps.Keys(want)), own)))...)
}

// forwardMTU is what a packet may have that this machine forwards.
func forwardMTU(p netip.Prefix, mtu int) int {
	if p.Addr().Is6() {
		return max(mtu, minIPv6)
	}
	return mtu
}

// limitedRoute names the segment size too: IPv6's would otherwise be 1220 at least (net.ipv6.route.min_adv_mss).
func (r limiter) limitedRoute(l limited, mtu int) *netlink.Route {
	route := r.overlayRoute(l.prefix)
	if l.table == tableID(r.cfg.Interface) {
		route = r.routedRoute(l.prefix)
	}
	route.Table, route.MTU = l.table, mtu
	route.AdvMSS = r.limits.want[l.prefix] - 40 // IPv4 and TCP headers
	if l.prefix.Addr().Is6() {
		route.AdvMSS -= 20
	}
	return route
}

// unlimit removes a route, or, where the prefix is still routed, its limit.
func (r limiter) unlimit(l limited) error {
	if l.table == tableID(r.cfg.Interface) {
		if slices.Contains(r.routed, l.prefix) {
			return netlink.RouteReplace(r.routedRoute(l.prefix))
		}
		return nil
	}
	route := r.overlayRoute(l.prefix)
	route.Table, route.Src = l.table, nil // whichever source address it had
	return gone(netlink.RouteDel(route))
}

func (r limiter) ownRule(on bool) error {
	if on == r.limits.rule {
		return nil
	}
	r.limits.rule = on
	if !on {
		return r.removeOwnRule()
	}
	return r.addOwnRule()
}

func (r limiter) addOwnRule() error {
	if err := netlink.RuleAdd(r.theRule()); err != nil && !errors.Is(err, unix.EEXIST) {
		return r.fail("adding the routing rule for small paths of", err)
	}
	return nil
}

// theRule leads to the routes for this machine's own packets.
func (r limiter) theRule() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.IifName = netlink.FAMILY_V6, ownPreference(r.cfg.Interface), ownTable(r.cfg.Interface), "lo"
	return rule
}

// removeOwnRule removes the rule, a killed process' too.
func (r limiter) removeOwnRule() error {
	err := netlink.RuleDel(r.theRule())
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // a kernel without IPv6
	}
	return gone(err)
}

// unlimitAll takes every limit away.
func (r limiter) unlimitAll() error {
	r.limits.want = nil
	return errors.Join(r.limit(false), r.removeOwnRule())
}
