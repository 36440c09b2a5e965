package agent

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/dns"
	"github.com/gridwire/gridwire/mesh"
)

// zoneDebounce collects changes of the View: a heal brings hundreds, and a zone of 5,000 members takes a moment to build.
const zoneDebounce = 100 * time.Millisecond

// names answers DNS for the network's domain on this node's overlay addresses, from its own View: it works with every other member off.
type names struct {
	n    *node
	zone atomic.Pointer[dns.Zone]

	mu     sync.Mutex // guards counts
	counts map[query]uint64
}

// query is what is counted: type and response code.
type query struct{ Type, RCode string }

func newNames(n *node) *names { return &names{n: n, counts: map[query]uint64{}} }

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

// run serves until ctx ends. A port that somebody else has is said and given up: links do not need names.
func (x *names) run(ctx context.Context) error {
	srv, err := x.listen()
	if err != nil {
		x.n.log.Warn("names are off on this machine", "err", err)
	}
	if srv == nil {
		<-ctx.Done()
		return nil
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait.Go(func() { x.follow(ctx) })
	return srv.Run(ctx)
}

func (x *names) listen() (*dns.Server, error) {
	if !x.n.cfg.DNS.Serve {
		return nil, nil
	}
	_, leaf, _, err := x.n.membership.Load().Leaf()
	if err != nil {
		return nil, err
	}
	var on []netip.AddrPort
	for _, a := range (report{x.n}).addrs(leaf.Addrs) {
		on = append(on, netip.AddrPortFrom(a, 53))
	}
	return dns.New(dns.Config{
		Listen: on, Interface: x.n.cfg.Interface, Zone: x.zone.Load, Upstream: x.n.cfg.DNS.Upstream, Log: x.n.log.With("part", "dns"), OnQuery: x.count,
		ForwardFor: x.n.gateway.Serves, // a telephone has one name server at a time
	})
}

// follow builds the zone anew when the View changes.
func (x *names) follow(ctx context.Context) {
	views, cancel := x.n.dir.Watch()
	defer cancel()
	for serial := uint32(time.Now().Unix()); ; serial++ { // rises over restarts, too
		x.zone.Store(dns.BuildZone(zoneData(x.n.dir.View(), serial)))
		select {
		case <-views:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(zoneDebounce):
		case <-ctx.Done():
			return
		}
	}
}

func zoneData(v *mesh.View, serial uint32) dns.Data {
	d := dns.Data{Domain: v.Network.Domain, Prefixes: []netip.Prefix{v.Network.IPv6}, Serial: serial}
	if v.Network.IPv4.IsValid() {
		d.Prefixes = append(d.Prefixes, v.Network.IPv4)
	}
	for m := range v.All() {
		d.Members = append(d.Members, dns.Member{Name: string(m.Name), Addrs: m.Addrs})
		if m.ID == v.Self {
			d.Self = string(m.Name)
		}
	}
	for dev := range v.Devices() {
		d.Members = append(d.Members, dns.Member{Name: string(dev.Name), Addrs: dev.Addrs()})
	}
	return d
}
