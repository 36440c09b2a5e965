//go:build linux

package lab

import (
	"fmt"
	"net/netip"
)

// Segment is a place where a host or a router's WAN side can be plugged in: the internet (Lab.WAN), a router's LAN (Router), or a
// switch with nothing else on it (LAN).
type Segment interface {
	// lease assigns addresses; want's valid fields are wishes, refused with an error when they do not fit.
	lease(n *node, want lease) (lease, error)
	// far returns the namespace in which the far end of n's cable belongs.
	far() string
	// attach prepares the segment for n, whose cable is there already and whose lease is n.lease; it is repeated after each change.
	attach(n *node) error
	// detach undoes what attach did; the cable is still there. Failing is not an option: what is left harms nobody.
	detach(n *node)
	// route sends prefix to n, and makes the rest of the internet send it here.
	route(prefix netip.Prefix, n *node) error
	// setFilter drops frames of n's cable silently, both ways.
	setFilter(n *node, f filter) error
}

// filter is what a cable swallows.
type filter int32

const (
	filterNone filter = iota
	filterUDP
	filterAll
)

// lease is a node's place in a segment. Invalid fields mean that there is none.
type lease struct {
	v4, v6   netip.Prefix
	gw4, gw6 netip.Addr
	static   bool // gateways' link-layer addresses are set by hand: the internet has no ARP
}

// node is a namespace with one cable: a host, or a router by its WAN side.
type node struct {
	lab    *Lab
	name   string
	ns     string
	id     int    // number in the lab: names and link-layer addresses come from it
	ifname string // of the cable's near end
	no6    bool   // wants no global IPv6 address
	leases int    // taken so far: each has another IPv6 interface identifier
	lease  lease
	at     Segment
	routes []netip.Prefix // prefixes behind this node
}

func newNode(l *Lab, name, ifname string, settings ...[]string) (*node, error) {
	id, err := l.reserve(name)
	if err != nil {
		return nil, err
	}
	n := &node{lab: l, name: name, ns: l.self.ns(name), id: id, ifname: ifname}
	if err := newNamespace(n.ns, settings...); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return n, nil
}

func (n *node) nearMAC() string { return mac(0, n.id) }
func (n *node) farMAC() string  { return mac(1, n.id) }

// port is the name of the cable's far end, unique in the lab, so that it can be moved anywhere.
func (n *node) port() string { return fmt.Sprintf("p%d", n.id) }

// mac returns a locally administered address.
func mac(kind, id int) string { return fmt.Sprintf("02:00:00:%02x:%02x:%02x", kind, id>>8, id&0xff) }

// plug connects the node to a segment, its first or another; the interface stays the same, as a laptop's does.
func (n *node) plug(to Segment, want lease) error {
	got, err := to.lease(n, want)
	if err != nil {
		return fmt.Errorf("plug %s in: %w", n.name, err)
	}
	if n.at == nil {
		err = runIP("", fmt.Sprintf("link add %s address %s netns %s type veth peer name %s address %s netns %s",
			n.ifname, n.nearMAC(), n.ns, n.port(), n.farMAC(), to.far()))
	} else {
		err = n.unplug(to)
	}
	if err != nil {
		return fmt.Errorf("plug %s in: %w", n.name, err)
	}
	n.at = to
	return n.renew(got)
}

// unplug takes the cable out of its segment and its far end to the next.
func (n *node) unplug(to Segment) error {
	if err := n.at.setFilter(n, filterNone); err != nil {
		return err
	}
	n.at.detach(n)
	return runIP(n.at.far(), fmt.Sprintf("link set %s netns %s", n.port(), to.far()))
}

// renew takes a new lease in the same segment: the old addresses go, the new ones come, routes follow.
func (n *node) renew(next lease) error {
	old := n.lease
	n.lease = next
	n.leases++
	for _, gw := range []netip.Addr{old.gw4, old.gw6} { // flushing addresses does not remove all of this
		if gw.IsValid() {
			tryIP(n.ns, fmt.Sprintf("route del default via %v dev %s", gw, n.ifname), fmt.Sprintf("neigh del %v dev %s", gw, n.ifname))
		}
	}
	if err := runIP(n.ns, fmt.Sprintf("addr flush dev %s scope global", n.ifname), fmt.Sprintf("link set %s up", n.ifname)); err != nil {
		return fmt.Errorf("configure %s: %w", n.name, err)
	}
	if err := runIP(n.ns, n.addressing()...); err != nil {
		return fmt.Errorf("configure %s: %w", n.name, err)
	}
	if err := n.settle(); err != nil {
		return err
	}
	for _, addr := range []netip.Prefix{next.v4, next.v6} {
		if addr.IsValid() {
			n.lab.logf("%s has %v", n.name, addr)
		}
	}
	return nil
}

// settle makes the segment carry the node's traffic.
func (n *node) settle() error {
	if err := n.at.attach(n); err != nil {
		return fmt.Errorf("attach %s: %w", n.name, err)
	}
	if err := awaitUp(n.ns, n.ifname); err != nil {
		return fmt.Errorf("attach %s: %w", n.name, err)
	}
	for _, p := range n.routes {
		if err := n.at.route(p, n); err != nil {
			return fmt.Errorf("route %v to %s: %w", p, n.name, err)
		}
	}
	return nil
}

// addressing returns the ip commands that put the lease in force.
func (n *node) addressing() []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	family := func(addr netip.Prefix, gw netip.Addr) {
		if !addr.IsValid() {
			return
		}
		add("addr replace %v dev %s nodad", addr, n.ifname)
		if !gw.IsValid() {
			return
		}
		if n.lease.static {
			add("neigh replace %v lladdr %s dev %s nud permanent", gw, n.farMAC(), n.ifname)
		}
		add("route replace default via %v dev %s onlink", gw, n.ifname)
	}
	family(n.lease.v4, n.lease.gw4)
	family(n.lease.v6, n.lease.gw6)
	return lines
}

// Cut makes everything that goes through the node's cable vanish, both ways, while the link stays up: the path dies silently. Of Cut
// and BlockUDP the last one holds.
func (n *node) Cut() error { return n.at.setFilter(n, filterAll) }

// Reconnect ends Cut.
func (n *node) Reconnect() error { return n.at.setFilter(n, filterNone) }

// BlockUDP makes UDP, and nothing else, vanish on the node's cable, both ways.
func (n *node) BlockUDP() error { return n.at.setFilter(n, filterUDP) }

// UnblockUDP ends BlockUDP.
func (n *node) UnblockUDP() error { return n.at.setFilter(n, filterNone) }

// Unplug pulls the cable out of the wall: the node sees its link go down.
func (n *node) Unplug() error { return runIP(n.at.far(), fmt.Sprintf("link set %s down", n.port())) }

// Plug puts the cable back.
func (n *node) Plug() error { return n.settle() }

// Addr returns the node's IPv4 address where its cable ends; invalid if it has none.
func (n *node) Addr() netip.Addr { return n.lease.v4.Addr() }

// Addr6 returns the node's global IPv6 address; invalid if it has none.
func (n *node) Addr6() netip.Addr { return n.lease.v6.Addr() }

// Name returns the name in the lab.
func (n *node) Name() string { return n.name }

// Namespace returns the network namespace's name, for `ip netns exec`.
func (n *node) Namespace() string { return n.ns }

// Do runs fn on a thread that is in the node's namespace: sockets that fn opens belong to the node. Goroutines that fn starts do
// not run there.
func (n *node) Do(fn func() error) error { return inNamespace(n.ns, fn) }

// portFilter drops frames at the far end of a node's cable by nftables; it works on bridge ports and on routed ones.
func portFilter(ns, port string, f filter) error {
	match := ""
	switch f {
	case filterNone:
		return runNFT(ns, fmt.Sprintf("table netdev cut_%s\ndelete table netdev cut_%s\n", port, port))
	case filterUDP:
		match = "meta l4proto udp "
	}
	return runNFT(ns, fmt.Sprintf(`table netdev cut_%[1]s
delete table netdev cut_%[1]s
table netdev cut_%[1]s {
	chain from {
		type filter hook ingress device "%[1]s" priority 0
		%[2]scounter drop
	}
	chain to {
		type filter hook egress device "%[1]s" priority 0
		%[2]scounter drop
	}
}
`, port, match))
}

// pool hands out the addresses of an IPv4 prefix in order, never the same one twice, so that an old address stays nobody's.
type pool struct {
	prefix netip.Prefix
	next   uint32 // offset of the next
	end    uint32 // offset after the last
}

func (p *pool) take(want netip.Addr) (netip.Addr, error) {
	if want.IsValid() {
		if !p.prefix.Contains(want) {
			return want, fmt.Errorf("address %v is not in %v", want, p.prefix)
		}
		return want, nil
	}
	if p.next >= p.end {
		return netip.Addr{}, fmt.Errorf("no address is left in %v", p.prefix)
	}
	a := addOffset(p.prefix, p.next)
	p.next++
	return a, nil
}
