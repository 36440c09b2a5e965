package route

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Readdress gives the interface another set of addresses and overlay prefixes: a renewal by another issuer than before brings another
// IPv4 address. What stays is not touched, so that nothing that uses it notices; the new comes before the old goes.
func (r *Router) Readdress(addrs []netip.Addr, prefixes []netip.Prefix) error {
	next := Config{Interface: r.cfg.Interface, Addrs: addrs, Prefixes: prefixes}
	if err := next.check(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || slices.Equal(r.cfg.Addrs, next.Addrs) && slices.Equal(r.cfg.Prefixes, next.Prefixes) {
		return nil
	}
	oldAddrs, oldPrefixes := r.activeAddrs(), r.activePrefixes()
	r.cfg.Addrs, r.cfg.Prefixes = next.Addrs, next.Prefixes
	off, err := r.clash()
	if err != nil {
		return err
	}
	r.ipv4Off = off
	if err := r.guard().set(); err != nil {
		return err
	}
	var errs []error
	for _, a := range r.activeAddrs() {
		if !slices.Contains(oldAddrs, a) {
			errs = append(errs, r.addAddr(a))
		}
	}
	for _, p := range r.activePrefixes() { // again also where the prefix stays: its preferred source may be another
		errs = append(errs, r.addRoute(p))
	}
	errs = append(errs, r.routeLocked(r.routed, true), limiter{r}.limit(true))
	for _, p := range oldPrefixes {
		if !slices.Contains(r.activePrefixes(), p) {
			errs = append(errs, gone(netlink.RouteDel(r.overlayRoute(p))))
		}
	}
	for _, a := range oldAddrs {
		if !slices.Contains(r.activeAddrs(), a) {
			errs = append(errs, r.delAddr(a))
		}
	}
	return errors.Join(errs...)
}
