// Package lan finds members on this machine's own networks by multicast DNS (RFC 6762, DNS-SD), with no router, no default route and
// no address known before.
//
// What a neighbour sees is a service whose name is an HMAC of the network's secret and the UTC day, an instance and a host with
// random names, and a text that only members can open: it holds the node's ID, sealed. Yesterday's and tomorrow's names are looked
// for as well, since clocks differ. Each answer holds the addresses of the interface that it leaves by and no others.
//
// It owns its sockets on port 5353, which it shares with whoever else speaks mDNS, and starts anew whenever the links change: libp2p's
// service takes interfaces and addresses once, so that a box that booted before DHCP advertised 127.0.0.1 for ever. It never dials:
// it names members and addresses, and whoever listens decides.
package lan

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/zeroconf/v2"

	"github.com/gridwire/gridwire/mesh"
)

const (
	domain    = "local"
	ttl       = 120  // seconds: what RFC 6762, 10 recommends for addresses
	maxLinks  = 8    // a container host has hundreds of bridges and veths
	maxFound  = 4096 // entries after which looking starts anew: zeroconf remembers each for as long as its sender wishes
	tryAgain  = time.Minute
	fewestGap = 10 * time.Second // between starts that nobody asked for
)

// Link is an interface of this machine.
type Link struct {
	Index     int
	Name      string
	Prefixes  []netip.Prefix // this machine's addresses on it, with the length of the link's prefix
	Multicast bool
}

// Config is what a LAN needs.
type Config struct {
	Self   mesh.NodeID
	Secret []byte // the network's
	Port   uint16 // UDP port of this node's shared socket
	// Known says whether the node is a member. Nobody else is named to Found.
	Known func(mesh.NodeID) bool
	// Found takes a member and where it says it is. It must not block. It may be told the same again.
	Found func(mesh.NodeID, []netip.AddrPort)
	Now   func() time.Time // for the day
	Log   *slog.Logger
}

// LAN is discovery on this machine's links.
type LAN struct {
	cfg     Config
	changed chan struct{}

	mu    sync.Mutex // guards links
	links []Link
}

// New returns a LAN that knows no links. It starts nothing.
func New(cfg Config) *LAN { return &LAN{cfg: cfg, changed: make(chan struct{}, 1)} }

// Changed takes the links there are, and starts anew on them. It does not block.
func (l *LAN) Changed(links []Link) {
	l.mu.Lock()
	l.links = slices.Clone(links)
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Run announces this node and looks for others until ctx ends.
func (l *LAN) Run(ctx context.Context) {
	for ctx.Err() == nil {
		round, cancel := context.WithCancel(ctx)
		done := make(chan time.Duration, 1)
		go func() { done <- l.round(round) }() // waited for below
		midnight := time.NewTimer(untilTomorrow(l.cfg.Now()))
		select {
		case <-ctx.Done():
		case <-l.changed:
		case <-midnight.C:
		case pause := <-done: // it ended by itself
			done <- 0
			select {
			case <-ctx.Done():
			case <-l.changed:
			case <-time.After(pause):
			}
		}
		midnight.Stop()
		cancel()
		<-done
	}
}

func untilTomorrow(now time.Time) time.Duration {
	return now.UTC().Truncate(24 * time.Hour).Add(24*time.Hour + time.Second).Sub(now)
}

// round announces and looks for others on the links there are now. It returns early, with how long to wait before the next, when that
// fails or when too many entries were found.
func (l *LAN) round(ctx context.Context) time.Duration {
	ifaces, v4, v6 := l.interfaces()
	if len(ifaces) == 0 {
		<-ctx.Done() // until there are links
		return 0
	}
	id, err := newIdentity(l.cfg.Secret, l.cfg.Self)
	if err != nil {
		l.cfg.Log.Warn("discovery on the LAN is off", "err", err)
		return tryAgain
	}
	now := l.cfg.Now()
	// No addresses are given: so each answer holds those of the interface that it leaves by.
	server, err := zeroconf.RegisterProxy(id.instance, serviceName(l.cfg.Secret, now, 0), domain, int(l.cfg.Port), id.host, nil,
		[]string{id.text}, ifaces, zeroconf.TTL(ttl))
	if err != nil {
		l.cfg.Log.Warn("discovery on the LAN is off: this node cannot announce itself", "err", err)
		return tryAgain
	}
	defer server.Shutdown()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var readers, browsers sync.WaitGroup
	found := make(chan *zeroconf.ServiceEntry)
	for day := -1; day <= 1; day++ {
		entries := make(chan *zeroconf.ServiceEntry, 16)
		browsers.Go(func() {
			if err := l.browse(ctx, serviceName(l.cfg.Secret, now, day), entries, ifaces, v4, v6); err != nil {
				l.cfg.Log.Warn("discovery on the LAN is off: this node cannot look for others", "err", err)
				cancel()
			}
		})
		readers.Go(func() { forward(ctx, entries, found) })
	}
	l.read(ctx, found)
	cancel()
	browsers.Wait()
	readers.Wait()
	return fewestGap
}

// browse looks for a service until ctx ends. It closes entries.
func (l *LAN) browse(ctx context.Context, service string, entries chan *zeroconf.ServiceEntry, ifaces []net.Interface, v4, v6 bool) error {
	families := zeroconf.IPv4AndIPv6
	switch {
	case !v6:
		families = zeroconf.IPv4
	case !v4:
		families = zeroconf.IPv6
	}
	err := zeroconf.Browse(ctx, service, domain, entries, zeroconf.SelectIfaces(ifaces), zeroconf.SelectIPTraffic(families))
	if err != nil {
		close(entries) // it closes them itself when it could begin
	}
	return err
}

// forward passes entries on until they end: zeroconf cannot stop while somebody does not read.
func forward(ctx context.Context, from <-chan *zeroconf.ServiceEntry, to chan<- *zeroconf.ServiceEntry) {
	for e := range from {
		select {
		case to <- e:
		case <-ctx.Done():
		}
	}
}

// read tells about members until ctx ends or too much was found.
func (l *LAN) read(ctx context.Context, found <-chan *zeroconf.ServiceEntry) {
	for range maxFound {
		select {
		case <-ctx.Done():
			return
		case e := <-found:
			if id, addrs, ok := l.open(e); ok {
				l.cfg.Found(id, addrs)
			}
		}
	}
}

// open returns the member that an entry is about.
func (l *LAN) open(e *zeroconf.ServiceEntry) (mesh.NodeID, []netip.AddrPort, bool) {
	if len(e.Text) != 1 || e.Port <= 0 || e.Port > 65535 {
		return mesh.NodeID{}, nil, false
	}
	id, err := openText(l.cfg.Secret, e.Instance, e.Text[0])
	if err != nil || id == l.cfg.Self || !l.cfg.Known(id) {
		return mesh.NodeID{}, nil, false
	}
	var addrs []netip.AddrPort
	for _, ip := range append(slices.Clone(e.AddrIPv4), e.AddrIPv6...) {
		// A link-local IPv6 address means nothing without a zone, and no other part of gridwire could use it.
		if a, ok := netip.AddrFromSlice(ip); ok && !(a.Is6() && !a.Is4In6() && a.IsLinkLocalUnicast()) {
			addrs = append(addrs, netip.AddrPortFrom(a.Unmap(), uint16(e.Port)))
		}
	}
	return id, addrs, len(addrs) > 0
}

// interfaces returns the links to speak on, and whether any has addresses of each family.
func (l *LAN) interfaces() (ifaces []net.Interface, v4, v6 bool) {
	l.mu.Lock()
	links := slices.Clone(l.links)
	l.mu.Unlock()
	for _, link := range links {
		if !link.Multicast || len(link.Prefixes) == 0 {
			continue
		}
		ifi, err := net.InterfaceByIndex(link.Index)
		if err != nil {
			continue // it is gone; that news is on its way
		}
		ifaces = append(ifaces, *ifi)
		for _, p := range link.Prefixes {
			v4, v6 = v4 || p.Addr().Is4(), v6 || p.Addr().Is6()
		}
		if len(ifaces) == maxLinks {
			break
		}
	}
	return ifaces, v4, v6
}
