//go:build linux

package lab

import (
	"fmt"
	"net/netip"
)

// bridge is a switch in some namespace: a router's LAN, or a LAN of its own.
type bridge struct {
	ns, name string
	isolated bool // ports reach the router only, as a carrier's customers do
}

// up returns the commands that make the bridge. Its link-layer address is fixed, because a bridge otherwise takes the lowest of
// its ports' and neighbours lose it when one comes; snooping without a querier would hold multicast back.
func (b bridge) up(id int) []string {
	return []string{
		fmt.Sprintf("link add %s address %s type bridge mcast_snooping 0", b.name, mac(2, id)),
		fmt.Sprintf("link set %s up", b.name),
	}
}

func (b bridge) attach(n *node) error {
	lines := []string{fmt.Sprintf("link set %s master %s", n.port(), b.name), fmt.Sprintf("link set %s up", n.port())}
	if b.isolated {
		lines = append(lines, fmt.Sprintf("link set %s type bridge_slave isolated on", n.port()))
	}
	return runIP(b.ns, lines...)
}

// LAN is a switch with no router: no gateway, no internet.
type LAN struct {
	lab    *Lab
	name   string
	bridge bridge
}

// LAN makes a switch.
func (l *Lab) LAN(name string) (*LAN, error) {
	id, err := l.reserve(name)
	if err != nil {
		return nil, err
	}
	s := &LAN{lab: l, name: name, bridge: bridge{ns: l.self.ns(name), name: "lan"}}
	if err := newNamespace(s.bridge.ns, plainBridge); err != nil {
		return nil, fmt.Errorf("make switch %s: %w", name, err)
	}
	if err := runIP(s.bridge.ns, s.bridge.up(id)...); err != nil {
		return nil, fmt.Errorf("make switch %s: %w", name, err)
	}
	l.logf("switch %s", name)
	return s, nil
}

// Host makes a host on the switch, with no default route. addr is its address and network, IPv4 or IPv6; the zero Prefix: none
// but the link-local one.
func (s *LAN) Host(name string, addr netip.Prefix) (*Host, error) {
	return s.lab.newHost(name, s, leaseOf(addr))
}

func leaseOf(p netip.Prefix) lease {
	if p.IsValid() && p.Addr().Is6() {
		return lease{v6: p}
	}
	return lease{v4: p}
}

func (s *LAN) lease(_ *node, want lease) (lease, error) { return lease{v4: want.v4, v6: want.v6}, nil }
func (s *LAN) far() string                              { return s.bridge.ns }
func (s *LAN) attach(n *node) error                     { return s.bridge.attach(n) }
func (s *LAN) detach(*node)                             {}

func (s *LAN) route(p netip.Prefix, _ *node) error {
	return fmt.Errorf("route %v: switch %s leads nowhere", p, s.name)
}

func (s *LAN) setFilter(n *node, f filter) error { return portFilter(s.bridge.ns, n.port(), f) }
