package doctor

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gridwire/gridwire/agent/config"
)

func (m Machine) ipv6() Result {
	r := Result{Topic: "IPv6"}
	b, err := m.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	if err != nil {
		return fail(r, Bad, "this kernel has no IPv6, which the overlay is made of", "boot without ipv6.disable=1")
	}
	if strings.TrimSpace(string(b)) == "1" {
		return fail(r, Warn, "is switched off (disable_ipv6); the agent switches it on for its own interface only", "sysctl -w net.ipv6.conf.all.disable_ipv6=0, if that was not on purpose")
	}
	return ok("IPv6", "is on")
}

func (m Machine) ipv4(s Subject) Result {
	const topic = "IPv4 addresses"
	r := Result{Topic: topic}
	if !s.member() || s.Status.Network.IPv4Prefix == "" {
		return ok(topic, "no network with IPv4 to compare with")
	}
	pool, err := netip.ParsePrefix(s.Status.Network.IPv4Prefix)
	if err != nil {
		return fail(r, Bad, err.Error(), "")
	}
	clash, err := m.Clash(pool, s.Status.Self.Interface)
	if err != nil {
		return fail(r, Warn, err.Error(), "")
	}
	if clash != "" {
		return fail(r, Warn, clash+"; IPv4 stays off on this machine, IPv6 and names work",
			"change that route, or make the network with another pool (gridwire init --ipv4)")
	}
	return ok(topic, pool.String()+" is free here")
}

// overhead is what a WireGuard packet adds over IPv6: 40 of IP, 8 of UDP, 32 of WireGuard.
const overhead = 80

// mtu compares the overlay's packets with the interface of the default route; agent/pmtu limits those that are larger.
func (m Machine) mtu(s Subject) Result {
	r := Result{Topic: "MTU"}
	all, err := m.Interfaces()
	if err != nil {
		return fail(r, Warn, err.Error(), "")
	}
	overlay, inner := config.DefaultInterface, 0
	if s.running() && s.Status.Self.Interface != "" {
		overlay = s.Status.Self.Interface
	}
	out, outer := m.defaultInterface(), 0
	for _, i := range all {
		switch i.Name {
		case overlay:
			inner = i.MTU
		case out:
			outer = i.MTU
		}
	}
	switch {
	case outer == 0:
		return ok("MTU", "no default route to compare with")
	case outer < 1280+overhead:
		return fail(r, Warn, fmt.Sprintf("%s carries packets of %d bytes only, less than IPv6 in WireGuard needs (%d): it works, but part of what this machine forwards is sent "+
			"in fragments, which some networks drop", out, outer, 1280+overhead), fmt.Sprintf("ip link set %s mtu 1500, if the network behind it allows that", out))
	case inner > outer-overhead:
		return ok("MTU", fmt.Sprintf("%d on %s is more than fits into %d on %s: packets to each peer are limited to what its path carries", inner, overlay, outer, out))
	case inner == 0:
		return ok("MTU", fmt.Sprintf("%s carries %d bytes", out, outer))
	}
	return ok("MTU", fmt.Sprintf("%d on %s fits into %d on %s", inner, overlay, outer, out))
}

// defaultInterface returns where packets to the internet leave, by IPv4 if there is a way, or nothing.
func (m Machine) defaultInterface() string {
	if b, err := m.ReadFile("/proc/net/route"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
				return f[0]
			}
		}
	}
	for _, r := range m.routes6() {
		if r.prefix.Bits() == 0 && r.dev != "lo" {
			return r.dev
		}
	}
	return ""
}

type route6 struct {
	prefix netip.Prefix
	dev    string
}

// routes6 reads the kernel's IPv6 routes: destination, length, source, length, gateway, metric, two counters, flags, interface.
func (m Machine) routes6() []route6 {
	b, err := m.ReadFile("/proc/net/ipv6_route")
	if err != nil {
		return nil
	}
	var out []route6
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		raw, err1 := hex.DecodeString(f[0])
		bits, err2 := strconv.ParseInt(f[1], 16, 16)
		addr, ok := netip.AddrFromSlice(raw)
		if err1 == nil && err2 == nil && ok {
			out = append(out, route6{netip.PrefixFrom(addr, int(bits)), f[9]})
		}
	}
	return out
}

// vpns are other overlay networks, by how their interfaces are called.
var vpns = []struct{ prefix, name string }{
	{"tailscale", "Tailscale"}, {"zt", "ZeroTier"}, {"wt", "NetBird"}, {"nebula", "Nebula"}, {"ygg", "Yggdrasil"}, {"mycelium", "Mycelium"},
	{"CloudflareWARP", "Cloudflare WARP"}, {"nordlynx", "NordVPN"}, {"wg", "WireGuard"}, {"tun", "a VPN"}, {"ppp", "a VPN or a modem"}, {"hamachi", "Hamachi"},
}

// otherVPNs looks for interfaces and IPv6 routes inside the network's own prefixes, and names the other VPNs that are here.
func (m Machine) otherVPNs(s Subject) Result {
	const topic = "other VPNs"
	r := Result{Topic: topic}
	all, err := m.Interfaces()
	if err != nil {
		return fail(r, Warn, err.Error(), "")
	}
	var ranges []netip.Prefix
	own := ""
	if s.member() {
		own = s.Status.Self.Interface
		for _, text := range []string{s.Status.Network.IPv6Prefix, s.Status.Network.IPv4Prefix} {
			if p, err := netip.ParsePrefix(text); err == nil {
				ranges = append(ranges, p)
			}
		}
	}
	var here []string
	for _, i := range all {
		if i.Name == own || i.Name == "lo" {
			continue
		}
		for _, a := range i.Addrs {
			if k := slices.IndexFunc(ranges, a.Overlaps); k >= 0 {
				return fail(r, Warn, fmt.Sprintf("%s has %v, which is in this network's range %v: packets to members may go there", i.Name, a, ranges[k]),
					fmt.Sprintf("give %s another range, or remove the address: ip addr del %v dev %[1]s", i.Name, a))
			}
		}
		if name := vpnName(i); name != "" && i.Up {
			here = append(here, fmt.Sprintf("%s (%s)", name, i.Name))
		}
	}
	for _, rt := range m.routes6() {
		if k := slices.IndexFunc(ranges, rt.prefix.Overlaps); k >= 0 && rt.prefix.Bits() > 1 && rt.dev != own && rt.dev != "lo" {
			return fail(r, Warn, fmt.Sprintf("the route %v dev %s is in this network's range %v: packets to members may go there", rt.prefix, rt.dev, ranges[k]),
				fmt.Sprintf("ip -6 route del %v dev %s, or give that VPN another range", rt.prefix, rt.dev))
		}
	}
	if len(here) > 0 {
		return ok(topic, strings.Join(here, ", ")+": no range in common")
	}
	return ok(topic, "none")
}

// vpnName recognises an interface by its name: letters, then a number or (ZeroTier) some more.
func vpnName(i Interface) string {
	for _, v := range vpns {
		rest, ok := strings.CutPrefix(i.Name, v.prefix)
		if !ok {
			continue
		}
		_, err := strconv.Atoi(rest)
		if err == nil || rest == "" || v.prefix == "zt" && len(i.Name) == 10 || v.prefix == "wg" && rest[0] == '-' {
			return v.name
		}
	}
	return ""
}
