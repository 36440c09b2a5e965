package sock

import (
	"fmt"
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
)

// anyPortTries is how often Open looks for a free port by itself; another program can take the port in between.
const anyPortTries = 16

// Open implements conn.Bind: it opens the socket of each family that the machine has on one port, 0 for any. If the port is
// taken, the error is ErrPortBusy.
func (s *Sock) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, actual, err := s.inner.Open(port)
	if err == nil && actual == 0 {
		// On a machine without IPv6, StdNetBind forgets the port that IPv4 got (bind_std.go overwrites it with the failed call's 0).
		if actual = port; port == 0 {
			_ = s.inner.Close()
			fns, actual, err = s.openFree()
		}
	}
	if err != nil {
		if isBusy(err) {
			return nil, 0, fmt.Errorf("opening UDP port %d for the mesh: %w: %w", port, ErrPortBusy, err)
		}
		return nil, 0, fmt.Errorf("opening UDP port %d for the mesh: %w", port, err)
	}
	wrapped := make([]conn.ReceiveFunc, len(fns))
	for i, fn := range fns {
		if fn.PrettyName() == "v6" {
			wrapped[i] = s.receiveIPv6(fn)
		} else {
			wrapped[i] = s.receiveIPv4(fn)
		}
	}
	s.port.Store(uint32(actual))
	s.log.Debug("shared socket open", "port", actual, "families", len(fns))
	return wrapped, actual, nil
}

// openFree opens on a port that the kernel says is free.
func (s *Sock) openFree() (fns []conn.ReceiveFunc, port uint16, err error) {
	for range anyPortTries {
		var probe *net.UDPConn
		if probe, err = net.ListenUDP("udp4", nil); err != nil {
			return nil, 0, err
		}
		port = uint16(probe.LocalAddr().(*net.UDPAddr).Port)
		_ = probe.Close()
		if fns, _, err = s.inner.Open(port); err == nil || !isBusy(err) {
			return fns, port, err
		}
	}
	return nil, 0, err
}

// The two functions differ in name only: wireguard-go names its receive routine after the function's.
func (s *Sock) receiveIPv4(fn conn.ReceiveFunc) conn.ReceiveFunc {
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, err := fn(bufs, sizes, eps)
		s.sort(bufs[:n], sizes[:n], eps[:n], false)
		return n, err
	}
}

func (s *Sock) receiveIPv6(fn conn.ReceiveFunc) conn.ReceiveFunc {
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, err := fn(bufs, sizes, eps)
		s.sort(bufs[:n], sizes[:n], eps[:n], true)
		return n, err
	}
}

// sort leaves WireGuard's datagrams of a batch to the device and takes out the others.
//
// The source address that StdNetBind remembers with an endpoint is cleared: wireguard-go drops a stale one through a route listener
// that it starts only for a *conn.StdNetBind, so under this wrapper a roamed machine would go on sending from the address it lost.
// (With GRO, which every current kernel has, nearly all endpoints come without one anyway.)
func (s *Sock) sort(bufs [][]byte, sizes []int, eps []conn.Endpoint, v6 bool) {
	var wireguard uint64
	for i, size := range sizes {
		if size == 0 {
			continue
		}
		b := bufs[i][:size]
		if isWireGuard(b) {
			wireguard++
			eps[i].ClearSrc()
			continue
		}
		sizes[i] = 0
		s.deliver(b, eps[i], v6)
	}
	if wireguard > 0 {
		s.wireguard.Add(wireguard) // once for a batch
	}
}

func (s *Sock) deliver(b []byte, ep conn.Endpoint, v6 bool) {
	std, ok := ep.(*conn.StdNetEndpoint)
	if !ok {
		s.unknown.Add(1)
		return
	}
	from := unmap(std.AddrPort)
	switch Classify(b, s.tag) {
	case ICE:
		s.ice.Load().push(b, from, &s.tallyICE)
	case STUN:
		s.stun.Load().push(b, from, &s.tallySTUN)
	case QUIC:
		if v6 {
			s.quic6.Load().push(b, from, &s.tallyQUIC)
		} else {
			s.quic4.Load().push(b, from, &s.tallyQUIC)
		}
	default:
		s.unknown.Add(1)
	}
}

// Close implements conn.Bind. The facades stay, see the package comment.
func (s *Sock) Close() error { return s.inner.Close() }

// SetMark implements conn.Bind.
func (s *Sock) SetMark(mark uint32) error { return s.inner.SetMark(mark) }

// Send implements conn.Bind: the data path, wireguard-go's own.
func (s *Sock) Send(bufs [][]byte, ep conn.Endpoint) error { return s.inner.Send(bufs, ep) }

// BatchSize implements conn.Bind.
func (s *Sock) BatchSize() int { return s.inner.BatchSize() }

// ParseEndpoint implements conn.Bind; IPv4 addresses come out as such also if they were written IPv4-mapped.
func (s *Sock) ParseEndpoint(text string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", text, err)
	}
	return &conn.StdNetEndpoint{AddrPort: unmap(a)}, nil
}
