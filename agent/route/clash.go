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
	routes, err := allRoutes()
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

// allRoutes lists IPv4 routes of all tables. A list that the kernel says was torn by a change in between is asked for again, and at
// last taken as it is: on a router that never rests it is as good as any.
func allRoutes() (routes []netlink.Route, err error) {
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	for range 3 {
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_V4, all, netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return routes, err
		}
	}
	return routes, nil
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
