package sock

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
)

// A datagram of WireGuard leaves in one piece or not at all: the socket sets "don't fragment" on each and ignores what ICMP says about the
// path (IP_PMTUDISC_PROBE), because agent/pmtu finds out with packets of its own what the path carries, and something that fragments on the
// way would make it see a path that is not there. Linux's default (WANT) is worse than either: once the kernel has learned of a smaller
// path, it refuses every segmented send (EMSGSIZE), which wireguard-go takes for the loss of the whole batch.
//
// Only where the path is too small for what IPv6 demands of a link, 1280 bytes inside the tunnel (RFC 8200, 5), larger datagrams may be
// fragmented. There is no such option for one datagram, so the socket's own is switched for the moment of sending. The kernel fragments to
// what it knows of the path, which it learns by ICMP or from agent/pmtu; IPv4's routers fragment besides. Another peer's datagram that leaves
// in the same microseconds may be fragmented too, or refused and sent again: no harm is done.

// fragmenting is what a bind needs to know about small paths.
type fragmenting struct {
	limits atomic.Pointer[map[netip.AddrPort]int] // nil: none
	mu     sync.Mutex                             // held while a socket's option is switched
}

// Fragment says to which endpoints datagrams longer than so many bytes of UDP payload may be fragmented. It replaces what was said before.
func (s *Sock) Fragment(limits map[netip.AddrPort]int) {
	if f, ok := s.inner.(*families); ok {
		f.small.set(limits)
	}
}

func (g *fragmenting) set(limits map[netip.AddrPort]int) {
	if len(limits) == 0 {
		g.limits.Store(nil)
		return
	}
	own := make(map[netip.AddrPort]int, len(limits))
	for ep, n := range limits {
		own[unmap(ep)] = n
	}
	g.limits.Store(&own)
}

// limit returns from which size on datagrams to ep may be fragmented. It is asked for each batch and nearly always answers at once.
func (g *fragmenting) limit(ep conn.Endpoint) (int, bool) {
	limits := g.limits.Load()
	if limits == nil {
		return 0, false
	}
	std, ok := ep.(*conn.StdNetEndpoint)
	if !ok {
		return 0, false
	}
	n, ok := (*limits)[unmap(std.AddrPort)]
	return n, ok
}

// send sends each datagram of a batch: whole up to limit, and those above in fragments if need be.
func (g *fragmenting) send(b *family, bufs [][]byte, ep conn.Endpoint, limit int) error {
	whole := make([][]byte, 0, len(bufs))
	var large [][]byte
	for _, buf := range bufs {
		if len(buf) > limit {
			large = append(large, buf)
		} else {
			whole = append(whole, buf)
		}
	}
	var errs []error
	if len(whole) > 0 {
		errs = append(errs, b.Send(whole, ep))
	}
	if len(large) > 0 && b.udp != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		six := ep.DstIP().Is6()
		errs = append(errs, mayFragment(b.udp, six, true))
		for _, buf := range large { // one by one: what is segmented cannot be fragmented
			errs = append(errs, b.Send([][]byte{buf}, ep))
		}
		errs = append(errs, mayFragment(b.udp, six, false))
	}
	return errors.Join(errs...)
}

// sendSingly sends a batch again of which something was too long for the network interface, and the rest was given up with it. What has
// arrived already arrives twice, which WireGuard does not let pass.
func sendSingly(f *family, bufs [][]byte, ep conn.Endpoint) (err error) {
	for _, b := range bufs {
		if e := f.Send([][]byte{b}, ep); e != nil {
			err = e
		}
	}
	return err
}

// tooLong reports the errors of a send that is longer than the interface's MTU: a datagram's, and those of segmented ones (EINVAL before
// Linux 6.8).
func tooLong(err error) bool {
	return errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.EINVAL)
}

// wholeOnly sets "don't fragment" on one of an open bind's sockets and returns it; nil if the machine lacks the family.
func wholeOnly(std *conn.StdNetBind, six bool) (*net.UDPConn, error) {
	udp, err := udpConn(std, six)
	if err != nil || udp == nil {
		return nil, err
	}
	return udp, mayFragment(udp, six, false)
}

// udpConn returns a bind's socket of one family; nil if the machine has none. StdNetBind does not hand it out, hence the reflection; an
// error says that the pinned version's field has changed.
func udpConn(std *conn.StdNetBind, six bool) (*net.UDPConn, error) {
	name := "ipv4"
	if six {
		name = "ipv6"
	}
	field := reflect.ValueOf(std).Elem().FieldByName(name)
	if !field.IsValid() || field.Type() != reflect.TypeFor[*net.UDPConn]() {
		return nil, fmt.Errorf("wireguard-go's StdNetBind has no socket %s as in the pinned version", name)
	}
	return (*net.UDPConn)(field.UnsafePointer()), nil
}
