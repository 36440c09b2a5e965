// Package route gives the tunnel's interface its place in the operating system: addresses, routes, the link itself, and the leak guard
// that keeps overlay addresses on the overlay.
//
// It owns the interface's addresses and state, the routes to the overlay's prefixes (main table), the routed prefixes' table with its two
// rules, the nftables table gridwire_IFACE, and whether this machine forwards packets. It never creates or removes the interface, never
// changes a route, address or rule of anybody else, and never decides which prefixes there are.
package route

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/sysctl"
)

// Config says what the interface is to have.
type Config struct {
	Interface string
	Addrs     []netip.Addr   // this node's overlay addresses, set as /128 and /32
	Prefixes  []netip.Prefix // the overlay: the network's /48 and its IPv4 pool
	Trusted   []string       // further interfaces that may carry overlay addresses (workloads'), see Trust; the tunnel's and lo always may
	Mark      uint32         // of the tunnel's UDP socket; 0: none, and then Route refuses
	Notes     sysctl.Notes   // keep what Forward changed, for the next start after a kill; nil: nothing is kept
	Log       *slog.Logger   // nil: silent
}

// Router is a configured interface. Its methods may be called from any goroutine.
type Router struct {
	cfg  Config
	link netlink.Link
	log  *slog.Logger

	mu       sync.Mutex // guards all below and cfg's addresses, prefixes and trusted interfaces; held over calls to the kernel, which answer at once
	ipv4Off  string
	routed   []netip.Prefix
	behind   []netip.Prefix // see Behind
	keep     bool
	forwards forwarding
	limits   limits
	clamped  bool // the segment sizes of TCP are limited
	closed   bool
}

// Up sets the leak guard, then the addresses, brings the link up and adds the routes; what an earlier process left under the same
// interface name is replaced. If the IPv4 pool clashes with a route of this machine, IPv4 is left out and IPv4Off says why. Errors are
// sentences that name a missing capability or setting; after one, nothing of ours is left.
func Up(c Config) (*Router, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName(c.Interface)
	if err != nil {
		return nil, fmt.Errorf("configuring interface %s: %w", c.Interface, err)
	}
	r := &Router{
		cfg: c, link: link, log: c.Log,
		forwards: forwarding{c.Interface, map[string]bool{}, sysctl.New(sysctlRoot, sysctl.Life(), c.Notes, c.Log)},
	}
	if err := r.up(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (c *Config) check() error {
	c.Addrs, c.Prefixes = slices.Clone(c.Addrs), slices.Clone(c.Prefixes)
	for i, p := range c.Prefixes {
		if !p.IsValid() || p.Addr().Is4In6() || p.Bits() == 0 {
			return fmt.Errorf("configuring interface %s: %v is no overlay prefix", c.Interface, p)
		}
		c.Prefixes[i] = p.Masked()
	}
	for i, a := range c.Addrs {
		c.Addrs[i] = a.Unmap()
		in := func(p netip.Prefix) bool { return p.Contains(c.Addrs[i]) }
		if !slices.ContainsFunc(c.Prefixes, in) {
			return fmt.Errorf("configuring interface %s: address %v is in none of the overlay's prefixes %v", c.Interface, a, c.Prefixes)
		}
	}
	return nil
}

func (r *Router) up() error {
	if err := r.forwards.sysctls.Recover(); err != nil {
		r.log.Warn("could not put back kernel settings that an earlier agent had changed", "err", err)
	}
	// Of other interfaces, too: a killed agent may have had another one. What it left of ours is replaced below.
	if left, err := FindLeft(); err == nil && len(left.What()) > 0 {
		r.log.Info("removing what a killed agent left", "what", left.What(), "err", left.Remove())
	}
	off, err := r.clash()
	if err != nil {
		return err
	}
	r.ipv4Off = off
	if off != "" {
		r.log.Warn("IPv4 is off on this node, IPv6 is not affected", "interface", r.cfg.Interface, "reason", off)
	}
	if err := errors.Join(r.removeRules(), limiter{r}.removeOwnRule()); err != nil {
		return err
	}
	if err := r.guard().set(); err != nil {
		return err
	}
	if err := clampMSS(r.cfg.Interface); err != nil {
		r.log.Warn("TCP connections of workloads may stall where a path is small", "err", err)
	} else {
		r.clamped = true
	}
	if err := r.prepareIPv6(); err != nil {
		return err
	}
	for _, a := range r.activeAddrs() {
		if err := r.addAddr(a); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(r.link); err != nil {
		return r.fail("bringing up", err)
	}
	for _, p := range r.activePrefixes() {
		if err := r.addRoute(p); err != nil {
			return err
		}
	}
	return nil
}

// prepareIPv6 turns IPv6 on for the interface where the machine's default is off, and keeps the kernel from giving it a link-local
// address: nothing may speak to one through the tunnel, and its router solicitations and multicast reports would only wake peers' links.
func (r *Router) prepareIPv6() error {
	is6 := func(a netip.Addr) bool { return a.Is6() }
	if !slices.ContainsFunc(r.cfg.Addrs, is6) {
		return nil
	}
	file := "/proc/sys/net/ipv6/conf/" + r.cfg.Interface + "/disable_ipv6"
	now, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("configuring interface %s: this kernel runs without IPv6 (ipv6.disable=1?), which the overlay needs: %w", r.cfg.Interface, err)
	}
	if err == nil && len(now) > 0 && now[0] == '1' {
		if err := os.WriteFile(file, []byte("0"), 0); err != nil {
			return fmt.Errorf("configuring interface %s: IPv6 is turned off on this machine and may not be turned on for the interface: "+
				"set net.ipv6.conf.all.disable_ipv6=0 (in a container: `--sysctl net.ipv6.conf.all.disable_ipv6=0`): %w", r.cfg.Interface, err)
		}
	}
	if err := netlink.LinkSetIP6AddrGenMode(r.link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
		return r.fail("configuring IPv6 of", err)
	}
	return nil
}

func (r *Router) addAddr(a netip.Addr) error {
	// No duplicate address detection: the address follows from our key, and until DAD is over nothing can be bound to it.
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD}
	if a.Is4() {
		addr.Flags = 0
	}
	if err := netlink.AddrReplace(r.link, addr); err != nil {
		return r.fail(fmt.Sprintf("adding address %v to", a), err)
	}
	return nil
}

func (r *Router) addRoute(p netip.Prefix) error {
	if err := netlink.RouteReplace(r.overlayRoute(p)); err != nil {
		return r.fail(fmt.Sprintf("adding the route to %v through", p), err)
	}
	return nil
}

// overlayRoute names our own address as preferred source, so that programs on this node do not choose another interface's.
func (r *Router) overlayRoute(p netip.Prefix) *netlink.Route {
	route := &netlink.Route{LinkIndex: r.link.Attrs().Index, Dst: ipNet(p), Protocol: unix.RTPROT_STATIC}
	if p.Addr().Is4() {
		route.Scope = netlink.SCOPE_LINK
	}
	if i := slices.IndexFunc(r.cfg.Addrs, p.Contains); i >= 0 {
		route.Src = r.cfg.Addrs[i].AsSlice()
	}
	return route
}

// IPv4Off returns why this node has no overlay IPv4: which of the machine's routes clashes with the pool. "" if it has.
func (r *Router) IPv4Off() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ipv4Off
}

// Recheck looks again whether the IPv4 pool clashes, and turns IPv4 off or on; call it when the machine's network changed. A laptop may
// come into a LAN that uses the pool's addresses, and the leak guard would cut it off from that LAN. It reports whether IPv4Off changed.
func (r *Router) Recheck() (changed bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false, nil
	}
	off, err := r.clash()
	if err != nil || (off == "") == (r.ipv4Off == "") {
		return false, err
	}
	r.ipv4Off = off
	var errs []error
	if off != "" {
		errs = append(errs, r.removeIPv4())
	}
	errs = append(errs, r.guard().set())
	if off == "" {
		errs = append(errs, r.addIPv4())
	}
	errs = append(errs, limiter{r}.limit(false))
	return true, errors.Join(errs...)
}

func (r *Router) addIPv4() error {
	for _, a := range r.cfg.Addrs {
		if a.Is4() {
			if err := r.addAddr(a); err != nil {
				return err
			}
		}
	}
	for _, p := range r.cfg.Prefixes {
		if p.Addr().Is4() {
			if err := r.addRoute(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Router) removeIPv4() error {
	var errs []error
	for _, p := range r.cfg.Prefixes {
		if p.Addr().Is4() {
			errs = append(errs, gone(netlink.RouteDel(r.overlayRoute(p))))
		}
	}
	for _, a := range r.cfg.Addrs {
		if a.Is4() {
			errs = append(errs, r.delAddr(a))
		}
	}
	return errors.Join(errs...)
}

func (r *Router) delAddr(a netip.Addr) error {
	return gone(netlink.AddrDel(r.link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}))
}

// clash returns why IPv4 must stay off, or "".
func (r *Router) clash() (string, error) {
	for _, p := range r.cfg.Prefixes {
		if !p.Addr().Is4() {
			continue
		}
		if what, err := Clash(p, r.cfg.Interface); err != nil || what != "" {
			return what, err
		}
	}
	return "", nil
}

func (r *Router) activePrefixes() []netip.Prefix {
	off := r.ipv4Off != ""
	return slices.DeleteFunc(slices.Clone(r.cfg.Prefixes), func(p netip.Prefix) bool { return off && p.Addr().Is4() })
}

func (r *Router) activeAddrs() []netip.Addr {
	off := r.ipv4Off != ""
	return slices.DeleteFunc(slices.Clone(r.cfg.Addrs), func(a netip.Addr) bool { return off && a.Is4() })
}

// Close takes everything away again, the guard last. It is no error if the interface, and what went with it, is gone already.
func (r *Router) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	errs := []error{r.forwards.sysctls.Restore(), limiter{r}.unlimitAll(), r.removeRules(), r.clearTable()}
	for _, p := range r.cfg.Prefixes {
		errs = append(errs, gone(netlink.RouteDel(r.overlayRoute(p))))
	}
	for _, a := range r.cfg.Addrs {
		errs = append(errs, r.delAddr(a))
	}
	errs = append(errs, gone(netlink.LinkSetDown(r.link)), unclampMSS(r.cfg.Interface), removeGuard(r.cfg.Interface))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("undoing the configuration of interface %s: %w", r.cfg.Interface, err)
	}
	return nil
}

// gone forgives what happens when the thing to be removed is not there.
func gone(err error) error {
	for _, e := range []error{unix.ESRCH, unix.ENODEV, unix.ENXIO, unix.EADDRNOTAVAIL, unix.ENOENT, unix.ENETDOWN} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func (r *Router) fail(doing string, err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s interface %s: %s: %w", doing, r.cfg.Interface, needNetAdmin, err)
	}
	return fmt.Errorf("%s interface %s: %w", doing, r.cfg.Interface, err)
}

const needNetAdmin = "this needs the capability CAP_NET_ADMIN, which this process lacks: run it as root or with AmbientCapabilities=CAP_NET_ADMIN"

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
