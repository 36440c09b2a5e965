package netmon

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// systemSource is rtnetlink (RFC 3549; man 7 rtnetlink).
type systemSource struct{}

func (systemSource) subscribe() (subscription, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, err
	}
	return &rtnetlink{s}, nil
}

type rtnetlink struct{ *nl.NetlinkSocket }

// wait implements subscription. ENOBUFS says that the kernel dropped messages because we were too slow, and a message that cannot be
// parsed was cut off: both are as good a reason to look as any message.
func (r *rtnetlink) wait() (hint, error) {
	for {
		msgs, _, err := r.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINVAL):
			return hint{}, nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADF):
			return hint{}, os.ErrClosed
		case err != nil:
			return hint{}, err
		}
		if h, ok := judge(msgs); ok {
			return h, nil
		}
	}
}

// judge reports whether any of the messages may matter. Routes to anywhere but the internet do not: on a router they change all the time.
func judge(msgs []syscall.NetlinkMessage) (h hint, ok bool) {
	for _, m := range msgs {
		switch m.Header.Type {
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			ok = ok || isDefault(m.Data)
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			ok = true
			if index, up, valid := linkMessage(m.Data); valid && (!up || m.Header.Type == unix.RTM_DELLINK) {
				h.lost = append(h.lost, index)
			}
		default:
			ok = true
		}
	}
	return h, ok
}

// isDefault reads a struct rtmsg: family, destination length, ...
func isDefault(b []byte) bool { return len(b) >= unix.SizeofRtMsg && b[1] <= maxDefaultBits }

// maxDefaultBits is the longest prefix that counts as a default route.
const maxDefaultBits = 1

// linkMessage reads a struct ifinfomsg: family, pad, type (2 bytes), index (4), flags (4), ...
func linkMessage(b []byte) (index int, up, ok bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return 0, false, false
	}
	index = int(int32(binary.NativeEndian.Uint32(b[4:8])))
	return index, isUp(binary.NativeEndian.Uint32(b[8:12])), true
}

func isUp(flags uint32) bool { return flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0 }

// read implements source.
func (systemSource) read(ignore func(string) bool) (State, error) {
	links, err := again(netlink.LinkList)
	if err != nil {
		return State{}, err
	}
	addrs, err := again(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return State{}, err
	}
	var s State
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || ignore(a.Name) || isPort(a, links) {
			continue
		}
		names[a.Index] = a.Name
		s.Links = append(s.Links, Link{
			Name: a.Name, Index: a.Index, Up: isUp(a.RawFlags), Multicast: a.Flags&net.FlagMulticast != 0,
			Prefixes: prefixesOf(a.Index, addrs),
		})
	}
	slices.SortFunc(s.Links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	return s, readDefaults(&s, names)
}

// again repeats a dump that the kernel says was torn by a change in between. The last answer is taken as it is: the change has made a
// message of its own, so we will look again.
func again[T any](dump func() ([]T, error)) ([]T, error) {
	for range 3 {
		list, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	list, err := dump()
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil
	}
	return list, err
}

// isPort reports whether a link belongs to a bridge, bond or team, which has the addresses. A VRF's links have their own.
func isPort(a *netlink.LinkAttrs, links []netlink.Link) bool {
	if a.MasterIndex == 0 {
		return false
	}
	vrf := func(l netlink.Link) bool { return l.Attrs().Index == a.MasterIndex && l.Type() == "vrf" }
	return !slices.ContainsFunc(links, vrf)
}

func prefixesOf(index int, addrs []netlink.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addrs {
		if a.LinkIndex != index || a.IPNet == nil || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		ip, ok := netip.AddrFromSlice(a.IP)
		bits, size := a.Mask.Size()
		if ok && size != 0 {
			out = append(out, netip.PrefixFrom(ip.Unmap(), bits))
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// readDefaults fills in the default routes of the main table through links that count.
func readDefaults(s *State, names map[int]string) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := again(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue // a kernel without this family has no routes of it
		}
		if err != nil {
			return err
		}
		for _, r := range routes {
			s.Defaults = append(s.Defaults, defaultsOf(r, family, names)...)
		}
	}
	slices.SortFunc(s.Defaults, func(a, b Default) int {
		return cmp.Or(a.Dst.Compare(b.Dst), cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Link, b.Link), a.Gateway.Compare(b.Gateway))
	})
	s.Defaults = slices.Compact(s.Defaults)
	up := map[string]bool{}
	for _, l := range s.Links {
		up[l.Name] = l.Up
	}
	for _, d := range s.Defaults {
		s.DefaultV4 = s.DefaultV4 || d.Dst.Addr().Is4() && up[d.Link]
		s.DefaultV6 = s.DefaultV6 || d.Dst.Addr().Is6() && up[d.Link]
	}
	return nil
}

// defaultsOf returns one Default for each next hop, or none if the route is not a default route.
func defaultsOf(r netlink.Route, family int, names map[int]string) []Default {
	dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if family == netlink.FAMILY_V6 {
		dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if r.Dst != nil {
		ip, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, size := r.Dst.Mask.Size()
		if !ok || size == 0 || bits > maxDefaultBits {
			return nil
		}
		if family == netlink.FAMILY_V4 {
			ip = ip.Unmap()
		}
		dst = netip.PrefixFrom(ip, bits)
	}
	if r.Type != unix.RTN_UNICAST && r.Type != unix.RTN_UNSPEC {
		return nil
	}
	hops := r.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	}
	var out []Default
	for _, h := range hops {
		name, ok := names[h.LinkIndex]
		if !ok {
			continue
		}
		gw, _ := netip.AddrFromSlice(h.Gw)
		out = append(out, Default{Dst: dst, Gateway: gw.Unmap(), Link: name, Metric: r.Priority})
	}
	return out
}
