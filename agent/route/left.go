package route

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/nft"
)

// Left is what agents that were killed have left of this package's: tables and rules of interfaces that are not there any more. An agent makes
// its interface before anything else and lets it go after everything else, so a running one is never taken for a killed one, and the kernel
// removes the interface of a process that dies, with its addresses and routes.
type Left struct {
	tables []*nftables.Table
	rules  []*netlink.Rule
}

// FindLeft looks. Without CAP_NET_ADMIN the tables cannot be seen: that is an error, and what was found nevertheless is returned too.
func FindLeft() (Left, error) {
	var l Left
	// Tables and rules first, and then the interfaces: what an agent makes at this moment has its interface already.
	tables, terr := ourTables()
	rules, err := ourRules()
	if err != nil {
		return l, err
	}
	all, err := net.Interfaces()
	if err != nil {
		return l, fmt.Errorf("list this machine's interfaces: %w", err)
	}
	for _, rule := range rules {
		used := func(i net.Interface) bool {
			first := rulePreference(i.Name)
			return rule.Priority == first || rule.Priority == first+1 || rule.Priority == ownPreference(i.Name)
		}
		if !slices.ContainsFunc(all, used) {
			l.rules = append(l.rules, rule)
		}
	}
	alive := func(i net.Interface, table string) bool {
		return table == nft.Prefix+i.Name || table == mssTable(i.Name).Name
	}
	for _, t := range tables {
		if !slices.ContainsFunc(all, func(i net.Interface) bool { return alive(i, t.Name) }) {
			l.tables = append(l.tables, t)
		}
	}
	return l, terr
}

// ourTables are this package's tables of all interfaces.
func ourTables() ([]*nftables.Table, error) {
	tables, err := nft.Ours()
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("list nftables: %s: %w", needNetAdmin, unix.EPERM)
	}
	return slices.DeleteFunc(tables, func(t *nftables.Table) bool { return strings.HasSuffix(t.Name, "_workloads") }), err
}

// ourRules recognises our rules by what their numbers say of each other, whatever the interface was called.
func ourRules() (out []*netlink.Rule, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without this family
		}
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, fmt.Errorf("list routing rules: %w", err)
		}
		for _, rule := range rules {
			if ownKind(rule, rules) {
				rule.Family = family
				out = append(out, &rule)
			}
		}
	}
	return out, nil
}

// ownKind reports whether a rule is one of those that this package makes: the second of routed prefixes, the first, which stands before a
// second one, or that for small paths.
func ownKind(rule netlink.Rule, all []netlink.Rule) bool {
	low := rule.Table & 0xffffff
	second := func(r netlink.Rule) bool {
		return r.Table>>24 == 0x67 && r.Priority == 10000+(r.Table&0xffffff)&0xfff*2+1
	}
	switch {
	case second(rule):
		return true
	case rule.Table == unix.RT_TABLE_MAIN && rule.SuppressPrefixlen == defaultBits:
		return slices.ContainsFunc(all, func(r netlink.Rule) bool { return second(r) && r.Priority == rule.Priority+1 })
	}
	return rule.Table>>24 == 0x68 && rule.Priority == 5000+low&0xfff
}

// What says it in words, a phrase for each kind; nothing if nothing is left.
func (l Left) What() (out []string) {
	var names []string
	for _, t := range l.tables {
		if !slices.Contains(names, t.Name) { // the guard has one for each family
			names = append(names, t.Name)
		}
	}
	switch {
	case len(names) == 1:
		out = append(out, "nftables table "+names[0])
	case len(names) > 1:
		out = append(out, "nftables tables "+strings.Join(names, ", "))
	}
	if len(l.rules) > 0 {
		out = append(out, fmt.Sprintf("%d routing rules (ip rule)", len(l.rules)))
	}
	return out
}

// Interfaces are those of which there are tables.
func (l Left) Interfaces() (out []string) {
	for _, t := range l.tables {
		name := strings.TrimPrefix(t.Name, nft.Prefix)
		if !strings.HasSuffix(name, "_mss") && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// Remove removes it all.
func (l Left) Remove() error {
	var errs []error
	for _, rule := range l.rules {
		errs = append(errs, gone(netlink.RuleDel(rule)))
	}
	for _, t := range l.tables {
		c, err := nftables.New()
		if err == nil {
			c.DelTable(t)
			err = gone(c.Flush())
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing what a killed agent left: %w", err)
	}
	return nil
}

// Guarded reports whether an interface is a gridwire agent's: a TUN with a leak guard.
func Guarded(iface string) bool {
	link, err := netlink.LinkByName(iface)
	if err != nil || link.Type() != "tun" && link.Type() != "tuntap" {
		return false
	}
	missing, err := lacksTable(guardTables(iface)...)
	return err == nil && !missing
}
