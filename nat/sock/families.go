package sock

import (
	"errors"
	"net"
	"reflect"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
)

// families is wireguard-go's own bind with one sender for each address family.
//
// StdNetBind.Send takes the address that it hands to the kernel out of a pool, and copies the destination into it before it gives it the
// right length (bind_std.go; WireGuard/wireguard-go pull request 135). An IPv6 datagram that gets an address last used for IPv4 therefore
// goes to one of which only the first four bytes are right: to another member, or to nobody. A machine with peers in both families loses
// a good part of what it sends by IPv6 that way. Here no pool ever sees both: four and six are the same bind with the same sockets, and
// each with pools of its own.
type families struct {
	mu   sync.Mutex // held by Open, Close and SetMark; Send does not take it
	open bool
	four atomic.Pointer[family] // its bind owns the sockets; also what sends before Open and after Close, which fails
	six  atomic.Pointer[family]

	small fragmenting
}

// family is the bind that sends in one address family, and its socket; nil if the machine has none.
type family struct {
	*conn.StdNetBind
	udp *net.UDPConn
}

var _ conn.Bind = (*families)(nil)

func newFamilies() *families {
	f := &families{}
	f.reset()
	return f
}

func (f *families) reset() {
	f.four.Store(&family{StdNetBind: newStd()})
	f.six.Store(&family{StdNetBind: newStd()})
}

func newStd() *conn.StdNetBind { return conn.NewStdNetBind().(*conn.StdNetBind) }

// Open implements conn.Bind.
func (f *families) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	// A new one each time: a pool may be copied only before its first use, and nobody sends or receives by this one yet.
	four, six := newStd(), newStd()
	fns, actual, err := four.Open(port)
	if err != nil {
		return nil, 0, err
	}
	udp4, err4 := wholeOnly(four, false)
	udp6, err6 := wholeOnly(four, true)
	if err := errors.Join(err4, err6); err != nil {
		return nil, 0, errors.Join(err, four.Close())
	}
	reflect.ValueOf(six).Elem().Set(reflect.ValueOf(four).Elem())
	f.four.Store(&family{four, udp4})
	f.six.Store(&family{six, udp6})
	f.open = true
	return fns, actual, nil
}

// Close implements conn.Bind. The sockets are four's.
func (f *families) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	four := f.four.Load()
	f.reset()
	f.open = false
	return four.Close()
}

// Send implements conn.Bind.
func (f *families) Send(bufs [][]byte, ep conn.Endpoint) error {
	b := f.six.Load()
	if ep.DstIP().Is4() {
		b = f.four.Load()
	}
	if limit, ok := f.small.limit(ep); ok {
		return f.small.send(b, bufs, ep, limit)
	}
	err := b.Send(bufs, ep)
	if err != nil && len(bufs) > 1 && tooLong(err) {
		return sendSingly(b, bufs, ep)
	}
	return err
}

// SetMark implements conn.Bind.
func (f *families) SetMark(mark uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.four.Load().SetMark(mark)
}

// BatchSize implements conn.Bind.
func (f *families) BatchSize() int { return f.four.Load().BatchSize() }

// ParseEndpoint implements conn.Bind.
func (f *families) ParseEndpoint(s string) (conn.Endpoint, error) {
	return f.four.Load().ParseEndpoint(s)
}
