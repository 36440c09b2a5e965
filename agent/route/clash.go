package route

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Clash returns which route or address of this machine overlaps with pool, in the words of `ip route`, or "" if none does. Routes of the
// interface iface are ours and do not count, nor do default routes and those that lead nowhere (blackhole and the like).
func Clash(pool netip.Prefix, iface string) (string, error) {
	routes, err := listRoutes(netlink.FAMILY_V4, unix.RT_TABLE_UNSPEC)
	if err != nil {
		return "", fmt.Errorf("reading this machine's routes, to see whether %v is free: %w", pool, err)
	}
	names, err := linkNames()
	if err != nil {
		return "", fmt.Errorf("reading this machine's interfaces, to see whether %v is free: %w", pool, err)
	}
	for _, r := range routes {
		if p, ok := occupied(r); ok && p.Overlaps(pool) {
			if what, foreign := describe(r, p, names, iface); foreign {
				return fmt.Sprintf("the overlay's IPv4 pool %v overlaps with this machine's route %s", pool, what), nil
			}
		}
	}
	return "", nil
}

// listRoutes lists the routes of a family in one table, or in all (RT_TABLE_UNSPEC). A list that the kernel says was torn by a change in
// between is asked for again, and at last taken as it is: on a router that never rests it is as good as any.
func listRoutes(family, table int) (routes []netlink.Route, err error) {
	filter := &netlink.Route{Table: table}
	for range 3 {
		routes, err = netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return routes, err
		}
	}
	return routes, nil
}

// Foreign returns the prefixes that this machine reaches by routes of the main table that are not ours, with the interface each leads to
// ("" for several). They come before routed prefixes (the rules in routed.go). Default routes are left out, and so is what is only link-local.
func (r *Router) Foreign() (map[netip.Prefix]string, error) {
	names, err := linkNames()
	if err != nil {
		return nil, fmt.Errorf("reading this machine's interfaces: %w", err)
	}
	out := map[netip.Prefix]string{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := listRoutes(family, unix.RT_TABLE_MAIN)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without this family
		}
		if err != nil {
			return nil, fmt.Errorf("reading this machine's routes: %w", err)
		}
		for _, route := range routes {
			p, ok := occupied(route)
			if !ok || p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast() || p.Addr().IsLoopback() {
				continue
			}
			if _, foreign := describe(route, p, names, r.cfg.Interface); foreign {
				out[p] = names[route.LinkIndex]
			}
		}
	}
	return out, nil
}

func linkNames() (map[int]string, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

// occupied returns the addresses that a route makes unavailable. Prefixes of up to one bit are default routes: VPN clients split theirs
// into 0.0.0.0/1 and 128.0.0.0/1 to outrank the one before.
func occupied(r netlink.Route) (netip.Prefix, bool) {
	switch r.Type {
	case unix.RTN_UNICAST, unix.RTN_LOCAL, unix.RTN_NAT, unix.RTN_ANYCAST, unix.RTN_UNSPEC:
	default:
		return netip.Prefix{}, false
	}
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, size := r.Dst.Mask.Size()
	if !ok || size == 0 || bits <= 1 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), bits), true
}

// describe names a route, and reports whether any of its next hops is not ours.
func describe(r netlink.Route, p netip.Prefix, names map[int]string, iface string) (string, bool) {
	hops := r.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	}
	for _, h := range hops {
		name := names[h.LinkIndex]
		if name == iface && name != "" {
			continue
		}
		what := p.String()
		if h.Gw != nil {
			what += " via " + h.Gw.String()
		}
		if name != "" {
			what += " dev " + name
		}
		return what, true
	}
	return "", false
}
