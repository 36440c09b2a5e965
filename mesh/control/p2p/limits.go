package p2p

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// The limits for connections that others open and that are not proven.
const (
	strangersPerAddress = 4    // from one IPv4 address or IPv6 /56, which is what a household gets
	membersPerAddress   = 64   // from an address where members are: a farm behind one router that restarts
	strangersInAll      = 192  // handshakes included
	verifyAbove         = 32   // from so many on, an address must prove itself by a Retry packet before it takes a place
	connections         = 4096 // in all
)

// errTooMany ends the handshake of a connection that found no place.
var errTooMany = errors.New("too many connections that are not proven")

// limits is a resource manager that tells members from strangers. libp2p's own counts connections per address before it looks at
// its allowlist, and takes networks into account that are in the list when it is made only; so the counting per address is done
// here, and libp2p's is left with streams, memory and totals.
type limits struct {
	network.ResourceManager
	members atomic.Pointer[map[netip.Addr]bool]

	mu        sync.Mutex           // guards what follows
	strangers map[netip.Prefix]int // bounded: the values sum up to all
	all       int
}

func newLimits() (*limits, error) {
	conf := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: connections, ConnsInbound: connections, ConnsOutbound: connections, FD: rcmgr.Unlimited,
			Streams: 8 * connections, StreamsInbound: 8 * connections, StreamsOutbound: 8 * connections, Memory: 128 << 20,
		},
		Transient: rcmgr.ResourceLimits{
			Conns: 512, ConnsInbound: 256, ConnsOutbound: 256, FD: rcmgr.Unlimited,
			Streams: 512, StreamsInbound: 256, StreamsOutbound: 256, Memory: 32 << 20,
		},
		ProtocolDefault: rcmgr.ResourceLimits{
			Streams: 4 * connections, StreamsInbound: 4 * connections, StreamsOutbound: 4 * connections, Memory: 64 << 20,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: 8, ConnsInbound: 8, ConnsOutbound: 8, Streams: 256, StreamsInbound: 128, StreamsOutbound: 128, Memory: 32 << 20,
		},
	}
	free := rcmgr.ConnLimitPerSubnet{PrefixLength: 0, ConnCount: math.MaxInt32}
	rm, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(conf.Build(rcmgr.DefaultLimits.Scale(128<<20, 1024))),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{free}, []rcmgr.ConnLimitPerSubnet{free}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{}), // the default would also hold back our own redials
	)
	if err != nil {
		return nil, fmt.Errorf("making the resource manager: %w", err)
	}
	return &limits{ResourceManager: rm, strangers: make(map[netip.Prefix]int)}, nil
}

func (l *limits) welcome(addrs map[netip.Addr]bool) { l.members.Store(&addrs) }

func (l *limits) isMember(a netip.Addr) bool {
	m := l.members.Load()
	return m != nil && (*m)[a]
}

// place is what counts as one address.
func place(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 56
	}
	p, _ := a.Prefix(bits) // cannot fail: a is valid and the lengths are in range
	return p
}

// enter takes a place for a connection from a, and returns how to give it back.
func (l *limits) enter(a netip.Addr) (leave func(), err error) {
	limit, total := strangersPerAddress, strangersInAll
	switch {
	case a.IsLoopback():
		limit = strangersInAll
	case l.isMember(a):
		limit, total = membersPerAddress, 2*strangersInAll // strangers cannot take the members' places
	}
	p := place(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.strangers[p] >= limit || l.all >= total {
		return nil, errTooMany
	}
	l.strangers[p]++
	l.all++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.strangers[p]--; l.strangers[p] == 0 {
			delete(l.strangers, p)
		}
		l.all--
	}), nil
}

// VerifySourceAddress implements network.ResourceManager. It is asked before OpenConnection.
func (l *limits) VerifySourceAddress(addr net.Addr) bool {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return true
	}
	a := ap.Addr().Unmap().WithZone("")
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.IsLoopback() || l.isMember(a) {
		return l.all >= strangersInAll
	}
	return l.all >= verifyAbove || l.strangers[place(a)] >= strangersPerAddress/2
}

// OpenConnection implements network.ResourceManager. Only connections that others open are counted by address.
func (l *limits) OpenConnection(dir network.Direction, usefd bool, endpoint ma.Multiaddr) (network.ConnManagementScope, error) {
	leave := func() {}
	if dir == network.DirInbound {
		ip, err := manet.ToIP(endpoint)
		if err != nil {
			return nil, err
		}
		a, ok := netip.AddrFromSlice(ip)
		if !ok {
			return nil, fmt.Errorf("connection from %v, which is no IP address", endpoint)
		}
		if leave, err = l.enter(a.Unmap()); err != nil {
			return nil, err
		}
	}
	s, err := l.ResourceManager.OpenConnection(dir, usefd, endpoint)
	if err != nil {
		leave()
		return nil, err
	}
	return &scope{ConnManagementScope: s, leave: leave}, nil
}

// scope gives back its place when the connection is proven or ends, whichever is first.
type scope struct {
	network.ConnManagementScope
	leave func()
}

func (s *scope) Done() {
	s.leave()
	s.ConnManagementScope.Done()
}
