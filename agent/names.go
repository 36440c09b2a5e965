package agent

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/dns"
	"github.com/gridwire/gridwire/mesh"
)

const (
	// zoneDebounce is the least time between two zones, and zoneShare the least multiple of what building one takes: a heal brings hundreds
	// of changes, and a zone of 5,000 members with 20 workloads each takes a third of a second. A joiner learns of the members one after
	// the other, and may use their names as soon as the first link is up.
	zoneDebounce = 10 * time.Millisecond
	zoneShare    = 4
	// bindRetry is how soon a port that somebody else had is tried again.
	bindRetry = 15 * time.Second
)

// names answers DNS for the network's domain on this node's overlay addresses, from its own View: it works with every other member off.
type names struct {
	n        *node
	resolver *resolving
	zone     atomic.Pointer[dns.Zone]
	of       atomic.Pointer[mesh.View]    // what the zone is built of
	server   atomic.Pointer[dns.Server]   // nil: not yet
	serving  atomic.Pointer[[]netip.Addr] // the addresses that are answered on; nil: none
	gateway  atomic.Bool                  // devices use this node as their only name server: other names are looked up for them, too
	wake     chan struct{}

	mu      sync.Mutex       // guards what follows
	counts  map[query]uint64 // since the start
	through []string         // workloads' interfaces
	ask     []netip.AddrPort // whom the system would ask without us, where its resolver sends us all questions
}

// query is what is counted: type and response code.
type query struct{ Type, RCode string }

func newNames(n *node) *names {
	x := &names{n: n, counts: map[query]uint64{}, wake: make(chan struct{}, 1)}
	x.resolver = newResolving(n, x)
	return x
}

func (x *names) count(qtype, rcode string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.counts[query{qtype, rcode}]++
}

// queries returns the counts since the start.
func (x *names) queries() map[query]uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := make(map[query]uint64, len(x.counts))
	for q, c := range x.counts {
		out[q] = c
	}
	return out
}

// nudge has the addresses looked at again: they, or the machine's network, may have changed. It never blocks.
func (x *names) nudge() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// Through names the interfaces of this node's workloads, in place of those named before: questions are answered that come from there. The
// interfaces exist, and the leak guard trusts them.
func (x *names) Through(ifaces []string) {
	x.mu.Lock()
	x.through = slices.Clone(ifaces)
	x.mu.Unlock()
	x.nudge()
}

// takeOver sets whom the system would ask without us.
func (x *names) takeOver(servers []netip.Addr) {
	var ask []netip.AddrPort
	for _, a := range servers {
		ask = append(ask, netip.AddrPortFrom(a, dnsPort))
	}
	x.mu.Lock()
	x.ask = ask
	x.mu.Unlock()
	if srv := x.server.Load(); srv != nil { // at once: the system sends its questions next
		_, to := x.wanted()
		_ = srv.Forward(to) // keepBound says what is wrong with it
	}
	x.nudge()
}

const dnsPort = 53

// run serves until ctx ends. A port that somebody else has is said, and tried again: links do not need names.
func (x *names) run(ctx context.Context) error {
	if !x.n.cfg.DNS.Serve {
		<-ctx.Done()
		return nil
	}
	srv, err := dns.New(dns.Config{
		Zone: x.zone.Load, Log: x.n.log.With("part", "dns"), OnQuery: x.count,
		// A telephone has one name server at a time, and a container may have none but this node.
		ForwardFor: func(client netip.Addr) bool { return x.n.gateway.Serves(client) || x.n.workloads.has(client) },
	})
	if err != nil {
		return err
	}
	x.server.Store(srv)
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	wait.Go(func() { x.follow(ctx) })
	wait.Go(func() { x.keepBound(ctx, srv) })
	return srv.Run(ctx)
}

// keepBound has the server answer on the addresses that this node has at the moment.
func (x *names) keepBound(ctx context.Context, srv *dns.Server) {
	retry := time.NewTicker(bindRetry)
	defer retry.Stop()
	said := ""
	for {
		on, to := x.wanted()
		problem := ""
		for _, err := range []error{srv.Listen(on), srv.Forward(to)} {
			if err != nil && ctx.Err() == nil {
				problem = strings.TrimSpace(problem + " " + err.Error())
			}
		}
		if problem != said && problem != "" {
			x.n.log.Warn("names are not answered everywhere on this machine", "err", problem)
		} else if problem != said {
			x.n.log.Info("names are answered everywhere on this machine again")
		}
		said = problem
		x.bound(srv, on)
		select {
		case <-ctx.Done():
			return
		case <-x.wake:
		case <-retry.C:
		}
	}
}

// bound tells the system's resolver where it may ask.
func (x *names) bound(srv *dns.Server, on []dns.Bind) {
	var here []netip.Addr
	for _, b := range on {
		if b.Interface == x.n.cfg.Interface && srv.Answers(b) {
			here = append(here, b.Addr())
		}
	}
	if len(here) == 0 {
		x.serving.Store(nil)
	} else {
		x.serving.Store(&here)
	}
	x.resolver.settle(here)
}

// wanted returns where to answer, and whom to ask for names outside.
func (x *names) wanted() (on []dns.Bind, to []netip.AddrPort) {
	_, leaf, _, err := x.n.membership.Load().Leaf()
	if err != nil {
		return nil, nil // not possible: it was read when the node was built
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, iface := range append([]string{x.n.cfg.Interface}, x.through...) {
		for _, a := range (report{x.n}).addrs(leaf.Addrs) {
			on = append(on, dns.Bind{AddrPort: netip.AddrPortFrom(a, dnsPort), Interface: iface})
		}
	}
	switch {
	case len(x.n.cfg.DNS.Upstream) > 0:
		to = x.n.cfg.DNS.Upstream
	case len(x.ask) > 0:
		to = x.ask
	case x.gateway.Load():
		to = x.resolver.systemServers()
	}
	return on, to
}

// follow builds the zone anew when the View changes.
func (x *names) follow(ctx context.Context) {
	views, cancel := x.n.dir.Watch()
	defer cancel()
	said := ""
	for serial := uint32(time.Now().Unix()); ; serial++ { // rises over restarts, too
		start := time.Now()
		view := x.n.dir.View()
		zone := dns.BuildZone(zoneData(view, serial))
		x.zone.Store(zone)
		x.of.Store(view)
		next := time.After(max(zoneDebounce, zoneShare*time.Since(start)))
		if is := servesDevices(view); x.gateway.Swap(is) != is {
			x.nudge()
		}
		if out := strings.Join(zone.LeftOut(), "; "); out != said {
			said = out
			if out != "" {
				x.n.log.Warn("not all names are in the DNS", "left out", out)
			}
		}
		select {
		case <-views:
		case <-ctx.Done():
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
}

func zoneData(v *mesh.View, serial uint32) dns.Data {
	d := dns.Data{Domain: v.Network.Domain, Prefixes: overlayZones(v.Network), Serial: serial}
	for m := range v.All() {
		d.Members = append(d.Members, dns.Member{Name: string(m.Name), Addrs: m.Addrs, Workloads: zoneWorkloads(m)})
		if m.ID == v.Self {
			d.Self = string(m.Name)
		}
	}
	for dev := range v.Devices() {
		d.Members = append(d.Members, dns.Member{Name: string(dev.Name), Addrs: reachAddrs(v, dev)})
	}
	return d
}

// servesDevices reports whether this node is the gateway of a device.
func servesDevices(v *mesh.View) bool {
	me, ok := v.Me()
	if !ok || !me.Gateway {
		return false
	}
	for d := range v.Devices() {
		if _, ok := d.At(v.Self); ok {
			return true
		}
	}
	return false
}

// overlayZones are the prefixes with a reverse zone.
func overlayZones(n mesh.Network) []netip.Prefix {
	out := []netip.Prefix{n.IPv6}
	if n.IPv4.IsValid() {
		out = append(out, n.IPv4)
	}
	return out
}

func zoneWorkloads(m *mesh.Member) []dns.Workload {
	var out []dns.Workload
	for _, w := range m.Workloads {
		d := dns.Workload{Name: string(w.Name), Addrs: w.Addrs}
		for _, p := range w.Ports {
			d.Ports = append(d.Ports, dns.Port{Name: p.Name, Number: p.Number, Proto: p.Protocol})
		}
		out = append(out, d)
	}
	return out
}
