// Package host is the host's side of workloads' interfaces: their addresses and routes, what they may send, and whether they are there.
//
// It owns the veth interfaces whose names begin with workload.InterfacePrefix, their routes, and the nftables table gridwire_IFACE_workloads.
// It never enters a namespace, never touches an interface of anybody else's, and decides nothing: package workload does. The leak guard and
// forwarding are agent/route's; it is told what they have to let through.
package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/workload"
)

// Gateway is the address of this node on every workload's interface. It is link-local and the same everywhere, so that a namespace needs
// nothing but its own address to be told, and no address of the node's is used up.
var Gateway = netip.MustParseAddr("fe80::1")

// Router is what agent/route does for workloads.
type Router interface {
	Trust(ifaces []string) error
	Forward(who string, on bool) error
}

// Config is all that a Host needs; nothing may be nil.
type Config struct {
	Interface string       // the overlay's
	Overlay   netip.Prefix // the network's /48
	Node      func() []netip.Addr
	MTU       int
	Router    Router
	Serve     func(ifaces []string) // names are to be answered for questions from these interfaces too; must not block
	Log       *slog.Logger
}

// Host implements workload.Host.
type Host struct {
	cfg     Config
	applied *workload.Wiring
	done    map[string]setUp // the interfaces that are set up
	doubt   map[string]bool  // those of them that went down and came up again
	seen    map[string]setUp // index and state of each, as Look saw them last
}

// setUp says for which interface, in which state and with which addresses the work was done.
type setUp struct {
	index int
	up    bool
	addrs string
	first netip.Addr // of addrs, IPv6
}

// New changes nothing.
func New(cfg Config) *Host {
	return &Host{cfg: cfg, done: map[string]setUp{}, doubt: map[string]bool{}, seen: map[string]setUp{}}
}

// Apply implements workload.Host. What they may send is settled before anything may pass.
func (h *Host) Apply(w workload.Wiring) error {
	news := h.applied == nil || !same(*h.applied, w) || h.flushed(w)
	if news {
		if err := h.arrange(w); err != nil {
			h.applied = nil
			return err
		}
		h.applied = &w
	}
	var errs []error
	own := h.cfg.Node()
	for _, name := range slices.Sorted(maps.Keys(w.Attached)) {
		did, err := h.setUp(name, w.Attached[name], own)
		news, errs = news || did, append(errs, err)
	}
	maps.DeleteFunc(h.done, func(name string, _ setUp) bool { return w.Attached[name] == nil })
	maps.DeleteFunc(h.doubt, func(name string, _ bool) bool { return w.Attached[name] == nil })
	if news { // also for an interface that came anew under its name
		h.cfg.Serve(slices.Sorted(maps.Keys(w.Attached)))
	}
	return errors.Join(errs...)
}

// flushed reports whether another program removed what says what workloads may send, as reloading a firewall often does.
func (h *Host) flushed(w workload.Wiring) bool {
	if len(w.Attached)+len(w.Shared) == 0 {
		return false
	}
	there, err := hasFilter(h.cfg.Interface)
	if err == nil && !there {
		h.cfg.Log.Warn("another program removed what says what workloads may send; it is set again")
	}
	return err == nil && !there
}

func same(a, b workload.Wiring) bool {
	addrs := slices.Equal[[]netip.Addr]
	return a.Forward == b.Forward && slices.Equal(a.Own, b.Own) && maps.EqualFunc(a.Attached, b.Attached, addrs) && maps.EqualFunc(a.Shared, b.Shared, addrs)
}

func (h *Host) arrange(w workload.Wiring) error {
	trusted := append(slices.Collect(maps.Keys(w.Attached)), slices.Collect(maps.Keys(w.Shared))...)
	slices.Sort(trusted)
	if len(trusted) > 0 {
		if err := setFilter(h.cfg.Interface, h.cfg.Overlay, w); err != nil {
			return err
		}
	}
	if err := h.cfg.Router.Trust(trusted); err != nil {
		return err
	}
	if len(trusted) == 0 {
		if err := removeFilter(h.cfg.Interface); err != nil {
			return err
		}
	}
	return h.cfg.Router.Forward("workloads", w.Forward)
}

// setUp gives an interface its address and the routes to what is behind it, unless that is done already, and reports whether it did anything.
func (h *Host) setUp(name string, addrs, own []netip.Addr) (bool, error) {
	now := h.seen[name]
	now.addrs, now.first = fmt.Sprint(addrs, own), addrs[0]
	if h.done[name] == now {
		return false, nil
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return false, fail("finding", name, err)
	}
	if err := h.prepare(link); err != nil {
		return true, err
	}
	for _, r := range routes(link, addrs, own) {
		if err := netlink.RouteReplace(r); err != nil {
			return true, fail("adding the route to "+r.Dst.IP.String()+" through", name, err)
		}
	}
	if link, err = netlink.LinkByIndex(link.Attrs().Index); err != nil {
		return true, fail("finding", name, err)
	}
	now.index, now.up = link.Attrs().Index, isUp(link.Attrs().RawFlags)
	h.done[name] = now
	return true, nil
}

// isUp reports whether both ends of a veth are up: only then it has a carrier.
func isUp(flags uint32) bool { return flags&unix.IFF_UP != 0 && flags&unix.IFF_LOWER_UP != 0 }

func (h *Host) prepare(link netlink.Link) error {
	name := link.Attrs().Name
	if err := netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
		return fail("configuring IPv6 of", name, err)
	}
	for key, value := range map[string]string{
		"ipv6/conf/" + name + "/disable_ipv6": "0", // the machine's default may be off
		"ipv6/conf/" + name + "/accept_ra":    "0", // a workload is no router of this machine's
		"ipv4/conf/" + name + "/forwarding":   "1",
	} {
		if err := setting(key, value); err != nil {
			return fail("configuring", name, err)
		}
	}
	if link.Attrs().MTU != h.cfg.MTU {
		if err := netlink.LinkSetMTU(link, h.cfg.MTU); err != nil {
			return fail("setting the MTU of", name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fail("bringing up", name, err)
	}
	gw := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(Gateway, 64)), Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrReplace(link, gw); err != nil {
		return fail("adding the address "+Gateway.String()+" to", name, err)
	}
	return nil
}

func setting(key, value string) error {
	path := "/proc/sys/net/" + key
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}

// routes lead to a workload's addresses. IPv4 goes by the IPv6 address of the other end (RFC 8950; Linux 5.2), so that no ARP is needed and
// no address of ours. The preferred source is this node's own address.
func routes(link netlink.Link, addrs, ours []netip.Addr) []*netlink.Route {
	var out []*netlink.Route
	var via netip.Addr
	for _, a := range addrs {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), Protocol: unix.RTPROT_STATIC}
		for _, own := range ours {
			if own.Is4() == a.Is4() {
				r.Src = own.AsSlice()
			}
		}
		if a.Is6() {
			via = a
		} else if via.IsValid() {
			r.Via = &netlink.Via{AddrFamily: nl.FAMILY_V6, Addr: via.AsSlice()}
		}
		out = append(out, r)
	}
	return out
}

// Look implements workload.Host.
func (h *Host) Look(prefix string) (map[string]workload.Link, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("reading this machine's interfaces: %w", err)
	}
	out := map[string]workload.Link{}
	clear(h.seen)
	for _, l := range links {
		a := l.Attrs()
		if l.Type() != "veth" || !strings.HasPrefix(a.Name, prefix) {
			continue
		}
		w := workload.Link{Up: isUp(a.RawFlags)}
		h.seen[a.Name] = setUp{index: a.Index, up: w.Up}
		if w.Up && !h.answers(a) {
			w.Up, w.Why = false, "the interface in its namespace was down, which lost it its address: remove it, and add it again"
		}
		if s := a.Statistics; s != nil { // what we receive, it has sent
			w.Counters = workload.Counters{RxBytes: s.TxBytes, TxBytes: s.RxBytes, RxPackets: s.TxPackets, TxPackets: s.RxPackets}
		}
		out[a.Name] = w
	}
	if err != nil { // torn by a change: what is there is there, but something may be missing
		return out, h.confirm(out)
	}
	return out, nil
}

// answers reports whether the other end still has its address. Linux takes IPv6 addresses and routes from an interface that is set down, and
// coming up does not bring them back. So one that has been down is asked, by neighbour discovery: a datagram to it makes the kernel ask.
func (h *Host) answers(a *netlink.LinkAttrs) bool {
	was, known := h.done[a.Name]
	if known && was.index == a.Index && !was.up {
		h.doubt[a.Name] = true
	}
	if !h.doubt[a.Name] || !known {
		return true
	}
	neighbours, err := netlink.NeighList(a.Index, netlink.FAMILY_V6)
	if err == nil && slices.ContainsFunc(neighbours, func(n netlink.Neigh) bool {
		return n.IP.Equal(was.first.AsSlice()) && n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE) != 0
	}) {
		delete(h.doubt, a.Name)
		return true
	}
	if c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: was.first.AsSlice(), Port: 9}); err == nil { // discard (RFC 863)
		_, _ = c.Write([]byte{0})
		_ = c.Close()
	}
	return false
}

// confirm looks for the interfaces known before that a torn list lacks: one that is missed would be taken for gone.
func (h *Host) confirm(out map[string]workload.Link) error {
	for name := range h.done {
		if _, ok := out[name]; ok {
			continue
		}
		l, err := netlink.LinkByName(name)
		if err == nil {
			out[name] = workload.Link{Up: isUp(l.Attrs().RawFlags)}
			h.seen[name] = setUp{index: l.Attrs().Index, up: isUp(l.Attrs().RawFlags)}
		} else if !errors.As(err, &netlink.LinkNotFoundError{}) {
			return fail("finding", name, err)
		}
	}
	return nil
}

// Reach implements workload.Host.
func (h *Host) Reach(a netip.Addr) (iface, why string) {
	routes, err := netlink.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err != nil || len(routes) == 0 {
		return "", "no route of this machine leads to it"
	}
	r := routes[0]
	switch r.Type {
	case unix.RTN_UNICAST, unix.RTN_LOCAL, unix.RTN_UNSPEC:
	default:
		return "", "this machine's route to it leads nowhere"
	}
	if len(r.MultiPath) > 0 {
		r.LinkIndex = r.MultiPath[0].LinkIndex
	}
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return "", "this machine's route to it is on no interface"
	}
	iface = link.Attrs().Name
	if r.Dst == nil {
		return "", "only the default route leads to it"
	}
	if ones, _ := r.Dst.Mask.Size(); ones == 0 {
		return "", "only the default route leads to it"
	}
	if iface == h.cfg.Interface && r.Type != unix.RTN_LOCAL {
		return "", "no route of this machine leads to it but the mesh's own, which would bring the packets back here: add one, or an address"
	}
	if r.Type == unix.RTN_LOCAL {
		return "lo", ""
	}
	return iface, ""
}

// Delete implements workload.Host. It removes nothing but veth interfaces of ours.
func (h *Host) Delete(iface string) error {
	delete(h.done, iface)
	delete(h.doubt, iface)
	if !strings.HasPrefix(iface, workload.InterfacePrefix(h.cfg.Interface)) {
		return fmt.Errorf("removing interface %s: it is none of the workloads'", iface)
	}
	link, err := netlink.LinkByName(iface)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil && link.Type() != "veth" {
		return fmt.Errorf("removing interface %s: it is a %s and so none of ours", iface, link.Type())
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fail("removing", iface, err)
	}
	return nil
}

// Watch implements workload.Host.
func (h *Host) Watch(ctx context.Context) (<-chan struct{}, error) {
	news := make(chan struct{}, 1)
	updates := make(chan netlink.LinkUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) {
			if ctx.Err() == nil {
				h.cfg.Log.Warn("interfaces are looked at every two seconds only", "err", err)
			}
		},
	}); err != nil {
		return nil, fmt.Errorf("subscribe to changes of interfaces: %w", err)
	}
	prefix := workload.InterfacePrefix(h.cfg.Interface)
	go func() { // ends with the subscription, which ends with ctx
		for u := range updates {
			if !strings.HasPrefix(u.Link.Attrs().Name, prefix) {
				continue
			}
			select {
			case news <- struct{}{}:
			default:
			}
		}
	}()
	return news, nil
}

// Free returns those of the prefixes that no interface or route of this machine uses: addresses may be given out of them. Routes to workloads
// are ours and do not count.
func Free(prefixes []netip.Prefix, iface string) []netip.Prefix {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	ours := map[int]bool{}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	for _, l := range links {
		n := l.Attrs().Name
		ours[l.Attrs().Index] = n == iface || l.Type() == "veth" && strings.HasPrefix(n, workload.InterfacePrefix(iface))
	}
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool {
		return !p.Addr().Is4() || slices.ContainsFunc(routes, func(r netlink.Route) bool {
			if r.Dst == nil || ours[r.LinkIndex] {
				return false
			}
			a, ok := netip.AddrFromSlice(r.Dst.IP)
			ones, _ := r.Dst.Mask.Size()
			return ok && ones > 1 && netip.PrefixFrom(a.Unmap(), ones).Overlaps(p)
		})
	})
}

func fail(doing, iface string, err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("%s interface %s: this needs the capability CAP_NET_ADMIN, which this process lacks: %w", doing, iface, err)
	}
	return fmt.Errorf("%s interface %s: %w", doing, iface, err)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
