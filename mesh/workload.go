package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Limits of what a member may name beside itself; they travel in its record, which every member keeps.
const (
	MaxWorkloads     = 256 // of one member
	MaxWorkloadPorts = 16  // of one workload
	MaxWorkloadAddrs = 4   // of one workload
)

// CheckWorkloads checks the limits, and that names are DNS labels of which none is there twice. Whether the member may have the addresses
// is not judged here: only its certificate says that (MayAddress).
func CheckWorkloads(ws []Workload) error {
	if len(ws) > MaxWorkloads {
		return fmt.Errorf("%d workloads, at most %d are allowed on one member", len(ws), MaxWorkloads)
	}
	seen := make(map[Name]bool, len(ws))
	for _, w := range ws {
		if err := w.Check(); err != nil {
			return err
		}
		if seen[w.Name] {
			return fmt.Errorf("workload %s is there twice", w.Name)
		}
		seen[w.Name] = true
	}
	return nil
}

// Check checks one workload's name and limits.
func (w Workload) Check() error {
	if n, err := ParseName(string(w.Name)); err != nil {
		return fmt.Errorf("workload: %w", err)
	} else if n != w.Name {
		return fmt.Errorf("workload %q: its name is not in lower case", w.Name)
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("workload %s: %w", w.Name, fmt.Errorf(format, args...))
	}
	switch {
	case len(w.Addrs) == 0:
		return fail("it has no address")
	case len(w.Addrs) > MaxWorkloadAddrs:
		return fail("%d addresses, at most %d are allowed", len(w.Addrs), MaxWorkloadAddrs)
	case len(w.Ports) > MaxWorkloadPorts:
		return fail("%d ports, at most %d are allowed", len(w.Ports), MaxWorkloadPorts)
	}
	for i, a := range w.Addrs {
		if !oneHost(a) {
			return fail("address %v is no single host's", a)
		}
		if slices.Contains(w.Addrs[:i], a) {
			return fail("address %v is there twice", a)
		}
	}
	for i, p := range w.Ports {
		if err := p.Check(); err != nil {
			return fail("%w", err)
		}
		for _, q := range w.Ports[:i] {
			if p.Number == q.Number && p.Protocol == q.Protocol && p.Name == q.Name {
				return fail("port %s is there twice", p)
			}
		}
	}
	return nil
}

// oneHost says whether a can be the address of one machine on a network. An IPv4 address in IPv6's form would have two spellings.
func oneHost(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// Check checks a port's number, protocol and name.
func (p Port) Check() error {
	if p.Number == 0 {
		return fmt.Errorf("port 0, want 1 to 65535")
	}
	if p.Protocol != "tcp" && p.Protocol != "udp" {
		return fmt.Errorf("port %d: protocol %q, want tcp or udp", p.Number, p.Protocol)
	}
	if p.Name == "" {
		return nil
	}
	// RFC 6335, 5.1: a service name has at most 15 characters, and one letter at least.
	n, err := ParseName(p.Name)
	if err != nil || string(n) != p.Name || len(p.Name) > 15 || strings.Contains(p.Name, "--") || !strings.ContainsAny(p.Name, "abcdefghijklmnopqrstuvwxyz") {
		return fmt.Errorf("port %d: service name %q: want 1 to 15 lower-case letters, digits and single inner hyphens, one letter at least", p.Number, p.Name)
	}
	return nil
}

// String writes p as ParsePort reads it.
func (p Port) String() string {
	s := strconv.Itoa(int(p.Number)) + "/" + p.Protocol
	if p.Name != "" {
		return p.Name + "=" + s
	}
	return s
}

// ParsePort reads [NAME=]NUMBER[/PROTOCOL], such as http=8080/tcp or 8080; tcp where no protocol is named.
func ParsePort(s string) (Port, error) {
	name, rest, named := strings.Cut(s, "=")
	if !named {
		name, rest = "", s
	}
	number, protocol, given := strings.Cut(rest, "/")
	if !given {
		protocol = "tcp"
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || named && name == "" {
		return Port{}, fmt.Errorf("port %q: want [NAME=]NUMBER[/PROTOCOL] with a number from 1 to 65535, such as http=8080/tcp", s)
	}
	p := Port{Name: strings.ToLower(name), Number: uint16(n), Protocol: strings.ToLower(protocol)}
	return p, p.Check()
}

// MayAddress reports whether a workload of m may have the address a: it lies in m's own block, and is not the node's, or in a prefix that
// m's certificate authorises.
func (m *Member) MayAddress(a netip.Addr) bool {
	return MayAddress(m.Block, m.Routes, a)
}

// MayAddress is Member.MayAddress for a node with this block and these routes. ::1 of the block is the node; ::0 of a prefix is any
// router on it (RFC 4291, 2.6.1).
func MayAddress(block netip.Prefix, routes []netip.Prefix, a netip.Addr) bool {
	if block.Contains(a) {
		base := block.Masked().Addr()
		return a != base && a != base.Next()
	}
	return slices.ContainsFunc(routes, func(p netip.Prefix) bool { return p.Contains(a) })
}
