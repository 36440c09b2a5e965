package sock

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// fakeBind stands for StdNetBind: it gives the batches that the test puts in and keeps what is sent.
type fakeBind struct {
	mu       sync.Mutex
	in       chan batch
	sent     []sent
	sendErr  error
	openErr  error
	port     uint16 // what Open says
	opens    []uint16
	closings int
}

type batch struct {
	packets [][]byte
	from    netip.AddrPort
}

type sent struct {
	b  []byte
	to netip.AddrPort
}

func (f *fakeBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	f.opens = append(f.opens, port)
	if f.openErr != nil {
		return nil, 0, f.openErr
	}
	return []conn.ReceiveFunc{f.receiveIPv4(), f.receiveIPv6()}, f.port, nil
}

func (f *fakeBind) receiveIPv4() conn.ReceiveFunc {
	return func(b [][]byte, s []int, e []conn.Endpoint) (int, error) { return f.receive(b, s, e) }
}
func (f *fakeBind) receiveIPv6() conn.ReceiveFunc {
	return func(b [][]byte, s []int, e []conn.Endpoint) (int, error) { return f.receive(b, s, e) }
}

func (f *fakeBind) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	in, ok := <-f.in
	if !ok {
		return 0, net.ErrClosed
	}
	for i, p := range in.packets {
		sizes[i] = copy(bufs[i], p)
		eps[i] = &conn.StdNetEndpoint{AddrPort: in.from}
	}
	return len(in.packets), nil
}

func (f *fakeBind) Close() error                                { f.closings++; return nil }
func (f *fakeBind) SetMark(uint32) error                        { return nil }
func (f *fakeBind) BatchSize() int                              { return 128 }
func (f *fakeBind) ParseEndpoint(string) (conn.Endpoint, error) { return nil, errors.New("unused") }
func (f *fakeBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range bufs {
		f.sent = append(f.sent, sent{bytes.Clone(b), ep.(*conn.StdNetEndpoint).AddrPort})
	}
	return f.sendErr
}

var peer = netip.MustParseAddrPort("192.0.2.7:4242")

type fixture struct {
	*Sock
	bind  *fakeBind
	recv  []conn.ReceiveFunc
	bufs  [][]byte
	sizes []int
	eps   []conn.Endpoint
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{bind: &fakeBind{in: make(chan batch, 1), port: 51820}, sizes: make([]int, 128), eps: make([]conn.Endpoint, 128)}
	f.Sock = newSock(Config{TransactionTag: testTag}, f.bind)
	for range 128 {
		f.bufs = append(f.bufs, make([]byte, 65535))
	}
	var err error
	if f.recv, _, err = f.Open(51820); err != nil {
		t.Fatal(err)
	}
	return f
}

// arrive passes a batch through the receive function and returns the sizes that the device sees.
func (f *fixture) arrive(t testing.TB, family int, from netip.AddrPort, packets ...[]byte) []int {
	f.bind.in <- batch{packets, from}
	n, err := f.recv[family](f.bufs, f.sizes, f.eps)
	if err != nil || n != len(packets) {
		t.Fatalf("received %d, %v", n, err)
	}
	return f.sizes[:n]
}

func TestEachDatagramGoesToItsReader(t *testing.T) {
	f := newFixture(t)
	iceConn, stunConn := f.ICE(), f.STUN()
	q4, err := f.QUIC("udp4")
	if err != nil {
		t.Fatal(err)
	}
	q6, err := f.QUIC("udp6")
	if err != nil {
		t.Fatal(err)
	}
	s := samples(t)
	wg, check, plain, quic := s["transport"].b, s["check"].b, s["plain request"].b, s["QUIC long header"].b
	mapped := netip.AddrPortFrom(netip.AddrFrom16(peer.Addr().As16()), peer.Port())
	sizes := f.arrive(t, 0, mapped, wg, check, plain, quic, []byte{5}, wg)
	if want := []int{len(wg), 0, 0, 0, 0, len(wg)}; fmt.Sprint(sizes) != fmt.Sprint(want) {
		t.Fatalf("the device sees sizes %v, want %v", sizes, want)
	}
	f.bufs[1][0] = 0xff // the device reuses its buffers: the facades must have copies
	six := netip.MustParseAddrPort("[2001:db8::7]:4242")
	f.arrive(t, 1, six, quic)
	for _, c := range []struct {
		name string
		conn net.PacketConn
		want []byte
		from netip.AddrPort
	}{{"ice", iceConn, check, peer}, {"stun", stunConn, plain, peer}, {"quic4", q4, quic, peer}, {"quic6", q6, quic, six}} {
		b := make([]byte, 1500)
		n, from, err := c.conn.ReadFrom(b)
		if err != nil || !bytes.Equal(b[:n], c.want) {
			t.Fatalf("%s: %x, %v", c.name, b[:n], err)
		}
		if got := from.(*net.UDPAddr).AddrPort(); got != c.from {
			t.Errorf("%s: from %v, want %v (IPv4 unmapped)", c.name, got, c.from)
		}
	}
	want := Counters{WireGuard: 2, ICE: Queue{Received: 1}, STUN: Queue{Received: 1}, QUIC: Queue{Received: 2}, Unknown: 1}
	if got := f.Counters(); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
}

func TestFloodIsDroppedAndCounted(t *testing.T) {
	f := newFixture(t)
	iceConn := f.ICE()
	check := samples(t)["check"].b
	for range 10 * queueICE {
		f.arrive(t, 0, peer, check)
	}
	c := f.Counters()
	if c.ICE != (Queue{Received: queueICE, Dropped: 9 * queueICE}) {
		t.Fatalf("counters %+v", c)
	}
	// Nobody listens for QUIC; a giant fits no queue.
	f.arrive(t, 0, peer, []byte{0x40}, append(build(t, stun.BindingRequest), make([]byte, 4000)...))
	giant := build(t, stun.BindingRequest, stun.RawAttribute{Type: 0x8022, Value: make([]byte, maxDatagram)})
	f.STUN()
	f.arrive(t, 0, peer, giant)
	if c := f.Counters(); c.QUIC.Dropped != 1 || c.STUN.Dropped != 1 || c.Unknown != 1 {
		t.Fatalf("counters %+v", c)
	}
	if n, _, err := iceConn.ReadFrom(make([]byte, 10)); n != 10 || err != nil {
		t.Fatalf("a short read gives %d, %v", n, err)
	}
}

func TestWireGuardCostsNothing(t *testing.T) {
	f := newFixture(t)
	packet := append([]byte{4, 0, 0, 0}, make([]byte, 1400)...)
	sizes, eps := make([]int, 128), make([]conn.Endpoint, 128)
	ep := &conn.StdNetEndpoint{AddrPort: peer}
	for i := range f.bufs {
		copy(f.bufs[i], packet)
		sizes[i], eps[i] = len(packet), ep
	}
	if n := testing.AllocsPerRun(100, func() { f.sort(f.bufs, sizes, eps, false) }); n != 0 {
		t.Errorf("%v allocations for a batch of WireGuard packets", n)
	}
}

func BenchmarkSortBatch(b *testing.B) {
	f := newFixture(b)
	sizes, eps := make([]int, 128), make([]conn.Endpoint, 128)
	ep := &conn.StdNetEndpoint{AddrPort: peer}
	for i := range f.bufs {
		f.bufs[i][0] = 4
		sizes[i], eps[i] = 1400, ep
	}
	for b.Loop() {
		f.sort(f.bufs, sizes, eps, false)
	}
}

func TestFacadeWrites(t *testing.T) {
	f := newFixture(t)
	c := f.ICE()
	mapped := &net.UDPAddr{IP: peer.Addr().AsSlice(), Port: int(peer.Port())}
	mapped.IP = mapped.IP.To16()
	if n, err := c.WriteTo([]byte("abc"), mapped); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if got := f.bind.sent; len(got) != 1 || got[0].to != peer || string(got[0].b) != "abc" {
		t.Fatalf("sent %v", got)
	}
	f.bind.sendErr = syscall.ENETUNREACH
	if n, err := c.WriteTo([]byte("abc"), mapped); n != 3 || err != nil {
		t.Fatalf("the facade shows the network's error: %d, %v", n, err)
	}
	if err := f.WriteTo([]byte("abc"), peer); !errors.Is(err, syscall.ENETUNREACH) {
		t.Fatalf("Sock.WriteTo hides it: %v", err)
	}
	f.bind.sendErr = conn.ErrUDPGSODisabled{}
	if err := f.WriteTo([]byte("abc"), peer); err != nil {
		t.Fatalf("sent again without GSO, but: %v", err)
	}
	for _, bad := range []string{"192.0.2.1:0", "[fe80::1%eth0]:9"} {
		if err := f.WriteTo([]byte("abc"), netip.MustParseAddrPort(bad)); err == nil {
			t.Errorf("sent to %s", bad)
		}
	}
	if _, err := c.WriteTo([]byte("abc"), &net.TCPAddr{}); err == nil {
		t.Error("a TCP address was taken")
	}
	if got := f.Counters().WriteErrors; got != 1 {
		t.Errorf("%d write errors counted", got)
	}
}

func TestFacadeSurvivesDownAndUp(t *testing.T) {
	f := newFixture(t)
	c := f.ICE()
	if got := c.LocalAddr().String(); got != "[::]:51820" {
		t.Errorf("local address %s", got)
	}
	q, _ := f.QUIC("udp4")
	if got := q.LocalAddr().String(); got != "0.0.0.0:51820" {
		t.Errorf("local address %s", got)
	}
	close(f.bind.in)
	if _, err := f.recv[0](f.bufs, f.sizes, f.eps); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("the device must see net.ErrClosed, got %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.bind.in, f.bind.port = make(chan batch, 1), 40000
	var err error
	if f.recv, _, err = f.Open(40000); err != nil {
		t.Fatal(err)
	}
	check := samples(t)["check"].b
	f.arrive(t, 1, peer, check)
	if n, _, err := c.ReadFrom(make([]byte, 1500)); n != len(check) || err != nil {
		t.Fatalf("after Down and Up: %d, %v", n, err)
	}
	if got := c.LocalAddr().(*net.UDPAddr).Port; got != 40000 {
		t.Errorf("port %d", got)
	}
}

func TestFacadeOwnership(t *testing.T) {
	f := newFixture(t)
	if f.ICE() != f.ICE() || f.STUN() != f.STUN() {
		t.Error("another facade at the second call")
	}
	q, err := f.QUIC("udp4")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.QUIC("udp4"); err == nil {
		t.Error("handed out twice")
	}
	if _, err := f.QUIC("udp"); err == nil {
		t.Error("a third family")
	}
	_ = q.Close()
	_ = q.Close()
	if _, _, err := q.ReadFrom(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if _, err := q.WriteTo(nil, net.UDPAddrFromAddrPort(peer)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	if _, err := f.QUIC("udp4"); err != nil {
		t.Errorf("not free again after Close: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		c := f.STUN()
		read := func() error { _, _, err := c.ReadFrom(make([]byte, 10)); return err }
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		start := time.Now()
		err := read()
		var timeout net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(start) != time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the deadline has passed, yet: %v", err)
		}
		// One moved while somebody waits, into the past.
		_ = c.SetDeadline(time.Now().Add(time.Hour))
		time.AfterFunc(time.Minute, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { _ = c.Close() })
		if err := read(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("Close while reading: %v", err)
		}
	})
}

func TestOpen(t *testing.T) {
	bind := &fakeBind{openErr: &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}}
	s := newSock(Config{}, bind)
	if _, _, err := s.Open(51820); !errors.Is(err, ErrPortBusy) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("busy port: %v", err)
	}
	bind.openErr = syscall.EACCES
	if _, _, err := s.Open(51820); errors.Is(err, ErrPortBusy) || !errors.Is(err, syscall.EACCES) {
		t.Errorf("refused: %v", err)
	}
	if s.Port() != 0 {
		t.Errorf("port %d before Open", s.Port())
	}
	// Without IPv6, StdNetBind says port 0.
	bind.openErr, bind.port = nil, 0
	fns, port, err := s.Open(51820)
	if err != nil || port != 51820 || s.Port() != 51820 {
		t.Errorf("without IPv6: port %d, %v", port, err)
	}
	if fns[0].PrettyName() != "v4" || fns[1].PrettyName() != "v6" {
		t.Errorf("wireguard-go would call them %s and %s", fns[0].PrettyName(), fns[1].PrettyName())
	}
	if _, port, err = s.Open(0); err != nil || port == 0 || bind.closings != 1 || bind.opens[len(bind.opens)-1] != port {
		t.Errorf("without IPv6, any port: %d, %v, opened %v", port, err, bind.opens)
	}
	ep, err := s.ParseEndpoint("[::ffff:192.0.2.7]:4242")
	if err != nil || ep.DstToString() != "192.0.2.7:4242" {
		t.Errorf("endpoint %v, %v", ep, err)
	}
}

// TestRealSocket runs on loopback, at a port that the kernel picks, because what it checks is StdNetBind itself: that both families
// arrive, that IPv4 is not mapped, and that a busy port is told apart.
func TestRealSocket(t *testing.T) {
	s := New(Config{TransactionTag: testTag})
	fns, port, err := s.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	forDevice := make(chan string, 10)
	for _, fn := range fns {
		wait.Go(func() {
			bufs, sizes, eps := make([][]byte, s.BatchSize()), make([]int, s.BatchSize()), make([]conn.Endpoint, s.BatchSize())
			for i := range bufs {
				bufs[i] = make([]byte, 65535)
			}
			for {
				n, err := fn(bufs, sizes, eps)
				if err != nil {
					return
				}
				for i, size := range sizes[:n] {
					if size > 0 {
						forDevice <- eps[i].DstToString()
					}
				}
			}
		})
	}
	defer wait.Wait()
	defer s.Close()
	if _, _, err := New(Config{}).Open(port); !errors.Is(err, ErrPortBusy) {
		t.Errorf("the port is taken, but: %v", err)
	}
	d := device.NewDevice(tuntest.NewChannelTUN().TUN(), New(Config{}), device.NewLogger(device.LogLevelSilent, ""))
	defer d.Close()
	if err := d.IpcSet(fmt.Sprintf("listen_port=%d\n", port)); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); !errors.Is(err, ErrPortBusy) {
		t.Errorf("the port is taken, but the device says: %v", err)
	}
	c := s.STUN()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	request := build(t, stun.BindingRequest, stun.TransactionID)
	targets := []string{"127.0.0.1"}
	if len(fns) == 2 && runtime.GOOS == "linux" {
		if l, err := net.ListenPacket("udp6", "[::1]:0"); err == nil {
			_ = l.Close()
			targets = append(targets, "::1")
		}
	}
	for _, target := range targets {
		to := netip.AddrPortFrom(netip.MustParseAddr(target), port)
		if _, err := c.WriteTo(request, net.UDPAddrFromAddrPort(to)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1500)
		n, from, err := c.ReadFrom(b)
		if err != nil || !bytes.Equal(b[:n], request) || from.(*net.UDPAddr).AddrPort() != to {
			t.Fatalf("from %v: %x, %v, want from %v", from, b[:n], err, to)
		}
		if err := s.WriteTo(append([]byte{4, 0, 0, 0}, make([]byte, 28)...), to); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-forDevice:
			if got != to.String() {
				t.Errorf("the device gets the endpoint %s, want %v", got, to)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the device got nothing")
		}
	}
}
