//go:build linux

package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
)

// wan is the internet: a namespace with a routed link for each port. With a delay the cables end in another namespace, where a
// delayLine joins each to its link.
type wan struct {
	lab  *Lab
	core string
	edge string // the namespace of delay lines; empty: no delay
	gw4  netip.Addr
	gw6  netip.Addr
	net6 netip.Prefix // /32; invalid: no IPv6

	mu    sync.Mutex // guards what follows
	ports pool
	lans  uint32 // offset of the lowest public LAN handed out, from the top downwards
	lines map[int]*delayLine
}

// lanBits is the length of the public prefix behind a router without NAT.
const lanBits = 28

func newWAN(l *Lab) (*wan, error) {
	size := uint32(1) << (32 - l.opts.Internet.Bits())
	w := &wan{
		lab: l, core: l.self.ns("internet"), lans: size, lines: map[int]*delayLine{},
		gw4:   addOffset(l.opts.Internet, 1),
		ports: pool{prefix: l.opts.Internet, next: 10, end: size - 1},
	}
	l.names["internet"], l.names["delay"] = true, true
	if err := newNamespace(w.core, forwarding, plainBridge); err != nil {
		return nil, fmt.Errorf("make the internet: %w", err)
	}
	// What nobody has vanishes, as it does out there; an ICMP error would tell a peer more than the real internet tells it.
	lines := []string{"route add blackhole default"}
	if l.opts.IPv6 {
		w.net6, w.gw6 = internet6(l.opts.Internet), netip.MustParseAddr("fe80::1")
		lines = append(lines, "route add blackhole ::/0 metric 4096")
	}
	if err := runIP(w.core, lines...); err != nil {
		return nil, fmt.Errorf("make the internet: %w", err)
	}
	if l.opts.Delay > 0 {
		w.edge = l.self.ns("delay")
		if err := newNamespace(w.edge, noIPv6); err != nil {
			return nil, fmt.Errorf("make the delay lines' namespace: %w", err)
		}
	}
	return w, nil
}

// internet6 returns an IPv6 internet that libraries judge as they judge the IPv4 one: a documentation prefix beside a
// documentation prefix, one that looks public beside one that does.
func internet6(v4 netip.Prefix) netip.Prefix {
	for _, doc := range []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"} {
		if netip.MustParsePrefix(doc).Overlaps(v4) {
			return netip.MustParsePrefix("2001:db8::/32")
		}
	}
	return netip.MustParsePrefix("2a10:4000::/32")
}

// subnet6 returns the /64 number id of a kind in the internet's IPv6 prefix.
func (w *wan) subnet6(kind, id int) netip.Prefix {
	a := w.net6.Addr().As16()
	binary.BigEndian.PutUint16(a[4:], uint16(kind))
	binary.BigEndian.PutUint16(a[6:], uint16(id))
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// Kinds of IPv6 subnets.
const (
	subnetPort = iota // of a cable
	subnetLAN         // delegated to a router
)

// host6 returns address number i of a /64.
func host6(subnet netip.Prefix, i int) netip.Prefix {
	a := subnet.Addr().As16()
	binary.BigEndian.PutUint16(a[14:], uint16(i))
	return netip.PrefixFrom(netip.AddrFrom16(a), subnet.Bits())
}

func addOffset(p netip.Prefix, i uint32) netip.Addr {
	b := p.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+i)
	return netip.AddrFrom4(b)
}

// publicLAN takes a prefix for the LAN of a router without NAT.
func (w *wan) publicLAN() (netip.Prefix, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := w.lans - 1<<(32-lanBits)
	if next < w.ports.next || next > w.lans {
		return netip.Prefix{}, fmt.Errorf("no /%d is left in %v", lanBits, w.ports.prefix)
	}
	w.lans, w.ports.end = next, min(w.ports.end, next)
	return netip.PrefixFrom(addOffset(w.ports.prefix, next), lanBits), nil
}

func (w *wan) lease(n *node, want lease) (lease, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, err := w.ports.take(want.v4.Addr())
	if err != nil {
		return lease{}, err
	}
	// A /32: nobody else is on this link, although the neighbours' addresses look alike.
	got := lease{v4: netip.PrefixFrom(a, 32), gw4: w.gw4, static: true}
	if w.net6.IsValid() && !n.no6 {
		got.v6, got.gw6 = host6(w.subnet6(subnetPort, n.id), 2+n.leases), w.gw6
	}
	return got, nil
}

func (w *wan) far() string {
	if w.edge != "" {
		return w.edge
	}
	return w.core
}

func (w *wan) attach(n *node) error {
	if w.edge != "" {
		if err := w.delay(n); err != nil {
			return err
		}
	}
	p := n.port()
	lines := []string{
		fmt.Sprintf("link set %s up", p),
		fmt.Sprintf("addr replace %v/32 dev %s", w.gw4, p),
		fmt.Sprintf("route flush dev %s scope link", p), // of an older lease
		fmt.Sprintf("route replace %v dev %s", n.lease.v4, p),
		fmt.Sprintf("neigh replace %v lladdr %s dev %s nud permanent", n.lease.v4.Addr(), n.nearMAC(), p),
	}
	if n.lease.v6.IsValid() {
		lines = append(lines,
			fmt.Sprintf("addr replace %v/64 dev %s nodad", w.gw6, p),
			fmt.Sprintf("route replace %v dev %s", n.lease.v6.Masked(), p),
			fmt.Sprintf("neigh replace %v lladdr %s dev %s nud permanent", n.lease.v6.Addr(), n.nearMAC(), p))
	}
	if err := runIP(w.core, lines...); err != nil || w.edge == "" {
		return err
	}
	return awaitUp(w.edge, inner(n))
}

// inner is the edge's end of the link between a delay line and the core.
func inner(n *node) string { return fmt.Sprintf("d%d", n.id) }

// delay puts a delay line between the node's cable, which ends in the edge namespace, and its link to the core.
func (w *wan) delay(n *node) error {
	w.mu.Lock()
	_, there := w.lines[n.id]
	w.mu.Unlock()
	p, d := n.port(), inner(n)
	if there { // the cable was plugged back in
		return runIP(w.edge, fmt.Sprintf("link set %s up", p))
	}
	err := runIP("", fmt.Sprintf("link add %s netns %s type veth peer name %s address %s netns %s", d, w.edge, p, n.farMAC(), w.core))
	if err != nil {
		return err
	}
	// A frame that the sender's kernel leaves to the hardware to finish would reach the other side unfinished.
	for ns, dev := range map[string]string{n.ns: n.ifname, w.core: p} {
		if err := offloadsOff(ns, dev); err != nil {
			return err
		}
	}
	if err := runIP(w.edge, fmt.Sprintf("link set %s up", p), fmt.Sprintf("link set %s up", d)); err != nil {
		return err
	}
	line, err := newDelayLine(w.edge, p, d, w.lab.opts.Delay/2) // a frame passes two ports on its way
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.lines[n.id] = line
	w.mu.Unlock()
	return nil
}

func (w *wan) detach(n *node) {
	if w.edge == "" {
		// The link stays, so its addresses must not: the far end moves on with the cable.
		tryIP(w.core, fmt.Sprintf("addr flush dev %s", n.port()))
		return
	}
	w.mu.Lock()
	line := w.lines[n.id]
	delete(w.lines, n.id)
	w.mu.Unlock()
	if line != nil {
		line.close()
	}
	tryIP(w.edge, "link del "+inner(n))
}

func (w *wan) route(p netip.Prefix, n *node) error {
	via := n.lease.v4.Addr()
	if p.Addr().Is6() {
		via = n.lease.v6.Addr()
	}
	return runIP(w.core, fmt.Sprintf("route replace %v via %v dev %s onlink", p, via, n.port()))
}

func (w *wan) setFilter(n *node, f filter) error {
	if w.edge == "" {
		return portFilter(w.core, n.port(), f)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if line := w.lines[n.id]; line != nil {
		line.filter.Store(int32(f))
	}
	return nil
}

func (w *wan) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, line := range w.lines {
		line.close()
		delete(w.lines, id)
	}
}
