//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// NATKind is how a router maps and filters UDP (RFC 4787).
type NATKind int

// The kinds. All but Symmetric map independently of the endpoint and keep the port number where they can.
const (
	// PortRestricted is Linux's plain masquerade, what most home routers run: address and port-dependent filtering. Two hosts
	// behind it that use one port number share the external port towards different destinations, as in real life.
	PortRestricted NATKind = iota
	// AddressRestricted lets in whatever comes from an address that the mapping was used for.
	AddressRestricted
	// FullCone lets in whatever comes to a mapping: endpoint-independent filtering.
	FullCone
	// Symmetric maps to a random port for each destination: masquerade fully-random.
	Symmetric
	// None routes; the LAN has public addresses and no IPv4 firewall.
	None
)

func (k NATKind) String() string {
	return [...]string{"port-restricted", "address-restricted", "full cone", "symmetric", "no NAT"}[k]
}

// NATConfig describes a router.
type NATConfig struct {
	Kind         NATKind
	AcceptInput  bool          // unsolicited packets reach the router itself (refused, not dropped), which leaves conntrack entries
	IPv6         bool          // gets a prefix and routes it, behind a stateful firewall; Options.IPv6 must be set
	Hairpin      bool          // hosts behind it reach each other by their external addresses (RFC 4787, 6)
	CarrierGrade bool          // its LAN is in 100.64.0.0/10 and its customers do not see each other there (RFC 6598)
	LAN          netip.Prefix  // default 192.168.N.0/24 with N of its own; homes may well have the same
	UDPTimeout   time.Duration // of mappings, whole seconds; default: Linux's 30 s, 120 s once both sides have sent
}

// Router is a home or carrier router: a Segment for the hosts behind it, and a node on its WAN side, which can be cut or blocked.
type Router struct {
	node
	cfg    NATConfig
	bridge bridge
	lan4   netip.Prefix
	gw4    netip.Addr
	lan6   netip.Prefix // invalid: no IPv6

	mu       sync.Mutex // guards what follows
	hosts    pool
	forwards []forward
}

type forward struct {
	port uint16
	to   netip.Addr
}

// Router makes a router on the internet, or behind another if behind is not nil.
func (l *Lab) Router(name string, cfg NATConfig, behind *Router) (*Router, error) {
	if err := cfg.check(l, behind); err != nil {
		return nil, fmt.Errorf("make router %s: %w", name, err)
	}
	n, err := newNode(l, name, "wan", forwarding, plainBridge, cfg.timeouts())
	if err != nil {
		return nil, err
	}
	n.no6 = !cfg.IPv6
	r := &Router{node: *n, cfg: cfg, bridge: bridge{ns: n.ns, name: "lan", isolated: cfg.CarrierGrade}}
	if err := r.number(); err != nil {
		return nil, fmt.Errorf("make router %s: %w", name, err)
	}
	lines := append(r.bridge.up(r.id), fmt.Sprintf("addr add %v dev lan", netip.PrefixFrom(r.gw4, r.lan4.Bits())))
	if r.lan6.IsValid() {
		lines = append(lines, fmt.Sprintf("addr add %v dev lan nodad", host6(r.lan6, 1)))
	}
	if err := runIP(r.ns, lines...); err != nil {
		return nil, fmt.Errorf("make router %s: %w", name, err)
	}
	var uplink Segment = l.wan
	if behind != nil {
		uplink = behind
	}
	if err := r.plug(uplink, lease{}); err != nil {
		return nil, err
	}
	if err := runNFT(r.ns, r.ruleset()); err != nil {
		return nil, fmt.Errorf("make router %s: %w", name, err)
	}
	l.mu.Lock()
	l.routers = append(l.routers, r)
	l.mu.Unlock()
	l.logf("router %s: %v", name, cfg.Kind)
	return r, nil
}

func (c *NATConfig) check(l *Lab, behind *Router) error {
	switch {
	case c.Kind < PortRestricted || c.Kind > None:
		return fmt.Errorf("NAT kind %d does not exist", c.Kind)
	case c.IPv6 && !l.opts.IPv6:
		return errors.New("it shall have IPv6, but the internet has none: set Options.IPv6")
	case c.IPv6 && behind != nil && !behind.cfg.IPv6:
		return fmt.Errorf("it shall have IPv6, but %s, which it is behind, has none", behind.name)
	case c.Kind == None && behind != nil && behind.cfg.Kind != None:
		return errors.New("it shall have public addresses, but it is behind a NAT")
	case c.Kind == None && (c.Hairpin || c.CarrierGrade || c.LAN.IsValid()):
		return errors.New("without NAT there is no hairpin, and its LAN is given by the internet")
	case c.LAN.IsValid() && (!c.LAN.Addr().Is4() || c.LAN.Bits() < 16 || c.LAN.Bits() > 28):
		return fmt.Errorf("LAN %v: want an IPv4 prefix of /16 to /28", c.LAN)
	case c.UDPTimeout < 0 || c.UDPTimeout%time.Second != 0:
		return fmt.Errorf("UDP timeout %v: want whole seconds", c.UDPTimeout)
	}
	return nil
}

// cones reports whether the NAT needs a memory beside conntrack's.
func (c *NATConfig) cones() bool {
	return c.Kind == FullCone || c.Kind == AddressRestricted || c.Hairpin
}

func (c *NATConfig) timeouts() []string {
	if c.UDPTimeout == 0 {
		return nil
	}
	s := int(c.UDPTimeout / time.Second)
	return []string{fmt.Sprintf("netfilter/nf_conntrack_udp_timeout=%d", s), fmt.Sprintf("netfilter/nf_conntrack_udp_timeout_stream=%d", s)}
}

// number gives the LAN its prefixes.
func (r *Router) number() (err error) {
	switch {
	case r.cfg.Kind == None:
		if r.lan4, err = r.lab.wan.publicLAN(); err != nil {
			return err
		}
		r.routes = append(r.routes, r.lan4)
	case r.cfg.LAN.IsValid():
		r.lan4 = r.cfg.LAN.Masked()
	case r.cfg.CarrierGrade:
		r.lan4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 + byte(r.id>>8), byte(r.id), 0}), 24)
	case r.id > 255:
		return errors.New("more than 255 nodes: say which LAN it shall have")
	default:
		r.lan4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(r.id), 0}), 24)
	}
	r.gw4 = addOffset(r.lan4, 1)
	r.hosts = pool{prefix: r.lan4, next: 2, end: 1<<(32-r.lan4.Bits()) - 1}
	if r.cfg.IPv6 {
		r.lan6 = r.lab.wan.subnet6(subnetLAN, r.id)
		r.routes = append(r.routes, r.lan6)
	}
	return nil
}

// Host makes a host behind the router.
func (r *Router) Host(name string) (*Host, error) { return r.lab.newHost(name, r, lease{}) }

// LANPrefix returns the IPv4 prefix behind the router.
func (r *Router) LANPrefix() netip.Prefix { return r.lan4 }

// Forward makes UDP and TCP that arrive at the router's WAN address on port go to the same port of a host behind it.
func (r *Router) Forward(port uint16, to *Host) error {
	if to.at != Segment(r) {
		return fmt.Errorf("forward port %d of %s: %s is not behind it", port, r.name, to.name)
	}
	if r.cfg.Kind == None {
		return fmt.Errorf("forward port %d of %s: it has no NAT", port, r.name)
	}
	f := forward{port, to.Addr()}
	if err := runNFT(r.ns, f.element()); err != nil {
		return fmt.Errorf("forward port %d of %s: %w", port, r.name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forwards = append(r.forwards, f)
	return nil
}

// Forget makes the NAT lose all its mappings, as a router does that restarts. Port forwardings stay.
func (r *Router) Forget() error {
	if err := r.forgetCones(); err != nil {
		return err
	}
	return r.Do(func() error { return runTool(exec.Command("conntrack", "-F"), "") })
}

// forgetCones flushes what the restricted and full cone kinds and hairpin remember beside conntrack.
func (r *Router) forgetCones() error {
	if !r.cfg.cones() {
		return nil
	}
	var lines string
	for _, object := range coneObjects {
		lines += fmt.Sprintf("flush %s ip lab %s\n", object.what, object.name)
	}
	return runNFT(r.ns, lines)
}

// Renumber gives the router another WAN address, as a provider does; the mappings are lost with the old one.
func (r *Router) Renumber() error {
	next, err := r.at.lease(&r.node, lease{})
	if err != nil {
		return fmt.Errorf("renumber %s: %w", r.name, err)
	}
	if err := r.renew(next); err != nil {
		return fmt.Errorf("renumber %s: %w", r.name, err)
	}
	if err := runNFT(r.ns, r.ruleset()); err != nil {
		return fmt.Errorf("renumber %s: %w", r.name, err)
	}
	return r.Forget()
}

func (r *Router) lease(n *node, want lease) (lease, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, err := r.hosts.take(want.v4.Addr())
	if err != nil {
		return lease{}, err
	}
	got := lease{v4: netip.PrefixFrom(a, r.lan4.Bits()), gw4: r.gw4}
	if r.lan6.IsValid() && !n.no6 {
		got.v6, got.gw6 = host6(r.lan6, n.id<<6+n.leases), host6(r.lan6, 1).Addr()
	}
	return got, nil
}

func (r *Router) far() string { return r.ns }

func (r *Router) attach(n *node) error {
	// An external port must not go on leading to an address that its host has left. The next packet from inside notes it again.
	if err := r.forgetCones(); err != nil {
		return err
	}
	return r.bridge.attach(n)
}

func (r *Router) detach(*node) {}

func (r *Router) route(p netip.Prefix, n *node) error {
	via := n.lease.v4.Addr()
	if p.Addr().Is6() {
		via = n.lease.v6.Addr()
	}
	if err := runIP(r.ns, fmt.Sprintf("route replace %v via %v dev lan", p, via)); err != nil {
		return err
	}
	r.mu.Lock()
	if !slices.Contains(r.routes, p) {
		r.routes = append(r.routes, p)
	}
	r.mu.Unlock()
	return r.at.route(p, &r.node)
}

func (r *Router) setFilter(n *node, f filter) error { return portFilter(r.ns, n.port(), f) }
