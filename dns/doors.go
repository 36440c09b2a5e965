package dns

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Bind is an address to answer on, for what arrives through one interface; empty: through any.
type Bind struct {
	netip.AddrPort
	Interface string
}

func (b Bind) String() string {
	if b.Interface == "" {
		return b.AddrPort.String()
	}
	return b.AddrPort.String() + " (" + b.Interface + ")"
}

// socket is one Bind.
type socket struct {
	udp   *net.UDPConn
	tcp   *net.TCPListener
	index int // of the interface that it is bound to; one that is made anew under the same name is another
}

// fits reports whether the socket still is what b asks for. While the interface cannot be looked up, it is.
func (k *socket) fits(b Bind) bool {
	if k == nil {
		return false
	}
	now := indexOf(b.Interface)
	return now == 0 || now == k.index
}

func (k *socket) close() error {
	var errs []error
	for _, c := range []io.Closer{k.udp, k.tcp} {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// doors are the sockets, which may change while the server runs.
type doors struct {
	own atomic.Pointer[map[netip.Addr]bool] // our own addresses have no limit, and may ask for all names; never nil after New

	mu     sync.Mutex // guards what follows
	first  netip.AddrPort
	bound  map[Bind]*socket
	serve  func(*socket) // nil: not running
	closed bool
}

// Listen replaces the addresses that the server answers on: it binds what is new and then closes what is no more; what stays does not
// miss a question. Where binding fails, the error says so for each, and all others are served. It may be called before and during Run.
func (s *Server) Listen(on []Bind) error {
	for _, b := range on {
		if err := checkAddr(b.AddrPort); err != nil {
			return err
		}
	}
	return s.doors.replace(on)
}

// Answers reports whether the server has bound an address.
func (s *Server) Answers(b Bind) bool {
	s.doors.mu.Lock()
	defer s.doors.mu.Unlock()
	return s.doors.bound[b] != nil && !s.doors.closed
}

// Addr returns the first address that New was told, with the port that was bound.
func (s *Server) Addr() netip.AddrPort {
	s.doors.mu.Lock()
	defer s.doors.mu.Unlock()
	return s.doors.first
}

func (d *doors) replace(on []Bind) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errors.New("dns: the server has ended")
	}
	var errs []error
	next, own := map[Bind]*socket{}, map[netip.Addr]bool{}
	for _, b := range on {
		if next[b] != nil {
			continue
		}
		k := d.bound[b]
		if !k.fits(b) {
			var err error
			if k, err = bind(b.AddrPort, b.Interface); err != nil {
				errs = append(errs, fmt.Errorf("listen for DNS questions on %v: %w", b, err))
				continue
			}
			k.index = indexOf(b.Interface)
			if d.serve != nil {
				d.serve(k)
			}
		}
		next[b] = k
		own[b.Addr().Unmap()] = true
		if !d.first.IsValid() {
			d.first = k.udp.LocalAddr().(*net.UDPAddr).AddrPort()
		}
	}
	d.own.Store(&own) // before the old ones close, so that no new one is limited
	for b, k := range d.bound {
		if next[b] != k {
			errs = append(errs, k.close())
		}
	}
	d.bound = next
	return errors.Join(errs...)
}

// open serves the sockets there are, and those that come.
func (d *doors) open(serve func(*socket)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serve = serve
	for k := range maps.Values(d.bound) {
		serve(k)
	}
}

func (d *doors) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	var errs []error
	for k := range maps.Values(d.bound) {
		errs = append(errs, k.close())
	}
	return errors.Join(errs...)
}

func (d *doors) isOwn(a netip.Addr) bool { return (*d.own.Load())[a] }

func (d *doors) listensOn(a netip.AddrPort) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for b, k := range d.bound {
		if b.Addr().Unmap() == a.Addr().Unmap() && k.udp.LocalAddr().(*net.UDPAddr).Port == int(a.Port()) {
			return true
		}
	}
	return false
}

func checkAddr(a netip.AddrPort) error {
	if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
		return fmt.Errorf("dns: cannot listen on %s: want one address of this machine, not all of them", a)
	}
	return nil
}
