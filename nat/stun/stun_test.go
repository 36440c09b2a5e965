package stun

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	tag    = [4]byte{'g', 'w', 's', '1'}
	addrA  = netip.MustParseAddrPort("192.0.2.1:51820")
	addrB  = netip.MustParseAddrPort("192.0.2.2:51820")
	addrB6 = netip.MustParseAddrPort("[2001:db8::2]:51820")
)

// wire joins fake facades; each packet takes 10 ms.
type wire struct {
	mu    sync.Mutex
	ends  map[netip.AddrPort]*end
	drop  func(b []byte) bool
	alter func(b []byte) []byte
}

type end struct {
	wire     *wire
	addr     netip.AddrPort
	in       chan packet
	mu       sync.Mutex
	deadline chan struct{}
	sent     [][]byte
}

type packet struct {
	b    []byte
	from netip.AddrPort
}

func (w *wire) end(a netip.AddrPort) *end {
	e := &end{wire: w, addr: a, in: make(chan packet, 100), deadline: make(chan struct{})}
	w.ends[a] = e
	return e
}

func newWire() *wire { return &wire{ends: make(map[netip.AddrPort]*end)} }

func (e *end) ReadFrom(b []byte) (int, net.Addr, error) {
	e.mu.Lock()
	d := e.deadline
	e.mu.Unlock()
	select {
	case p := <-e.in:
		return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
	case <-d:
		return 0, nil, os.ErrDeadlineExceeded
	}
}

func (e *end) WriteTo(b []byte, to net.Addr) (int, error) {
	e.mu.Lock()
	e.sent = append(e.sent, append([]byte(nil), b...))
	e.mu.Unlock()
	e.wire.mu.Lock()
	defer e.wire.mu.Unlock()
	copied := append([]byte(nil), b...)
	if e.wire.drop != nil && e.wire.drop(copied) {
		return len(b), nil
	}
	if e.wire.alter != nil {
		copied = e.wire.alter(copied)
	}
	if r := e.wire.ends[to.(*net.UDPAddr).AddrPort()]; r != nil {
		time.AfterFunc(10*time.Millisecond, func() { r.in <- packet{copied, e.addr} })
	}
	return len(b), nil
}

func (e *end) Close() error                     { return nil }
func (e *end) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(e.addr) }
func (e *end) SetDeadline(time.Time) error      { return nil }
func (e *end) SetWriteDeadline(time.Time) error { return nil }
func (e *end) SetReadDeadline(time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.deadline)
	return nil
}

func run(t *testing.T, e *end, key string) *STUN {
	t.Helper()
	s, err := New(Config{Conn: e, Tag: tag, MemberKey: []byte(key), StrangersPerSecond: 1, StrangersBurst: 3})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func TestBind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, key := range []string{"", "0123456789abcdef0123456789abcdef"} {
			w := newWire()
			a, b := w.end(addrA), w.end(addrB)
			sa := run(t, a, key)
			run(t, b, key)
			m, err := sa.Bind(t.Context(), addrB)
			if err != nil || m.Mapped != addrA || m.Server != addrB || m.RTT != 20*time.Millisecond {
				t.Fatalf("%+v, %v", m, err)
			}
			if len(a.sent) != 1 || len(a.sent[0]) < 44 || [4]byte(a.sent[0][8:12]) != tag {
				t.Errorf("request %x", a.sent)
			}
			if len(b.sent) != 1 || len(b.sent[0]) != 32 {
				t.Errorf("answer %x", b.sent)
			}
			if len(sa.requests) != 0 {
				t.Error("the request is not forgotten")
			}
		}
	})
}

func TestBindRetransmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		a := w.end(addrA)
		w.end(addrB) // somebody, but no server
		sa := run(t, a, "")
		start := time.Now()
		_, err := sa.Bind(t.Context(), addrB)
		if !errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), addrB.String()) || time.Since(start) != 3100*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		if len(a.sent) != maxRequests {
			t.Errorf("%d requests", len(a.sent))
		}
		lost := 0
		w.drop = func([]byte) bool { lost++; return lost <= 2 }
		run(t, w.end(addrB), "")
		if m, err := sa.Bind(t.Context(), addrB); err != nil || m.RTT != 320*time.Millisecond {
			t.Errorf("with two lost: %+v, %v", m, err)
		}
		w.drop = func([]byte) bool { return true }
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := sa.Bind(ctx, addrB); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrNoAnswer) {
			t.Errorf("cancelled: %v", err)
		}
		if _, err := sa.Bind(t.Context(), netip.AddrPort{}); err == nil {
			t.Error("asked nobody")
		}
	})
}

func TestBindBadAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		sa := run(t, w.end(addrA), "")
		run(t, w.end(addrB), "")
		answer := func(set ...stun.Setter) func([]byte) []byte {
			return func(b []byte) []byte {
				if b[0] != 1 { // the request
					return b
				}
				m := stun.MustBuild(append([]stun.Setter{stun.NewTransactionIDSetter([12]byte(b[8:20]))}, set...)...)
				return m.Raw
			}
		}
		for want, alter := range map[string]func([]byte) []byte{
			"STUN error 420":     answer(stun.BindingError, stun.ErrorCodeAttribute{Code: 420, Reason: []byte("no")}),
			"without saying why": answer(stun.BindingError),
			"no usable XOR":      answer(stun.BindingSuccess),
			"cannot be":          answer(stun.BindingSuccess, stun.XORMappedAddress{IP: net.IPv4zero, Port: 1}),
		} {
			w.mu.Lock()
			w.alter = alter
			w.mu.Unlock()
			if _, err := sa.Bind(t.Context(), addrB); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("want %q, got %v", want, err)
			}
		}
	})
}

// TestForgedAnswer: an answer with the right transaction ID from another address is not believed.
func TestForgedAnswer(t *testing.T) {
	s, err := New(Config{Conn: newWire().end(addrA), Tag: tag})
	if err != nil {
		t.Fatal(err)
	}
	id, r, err := s.open(addrB)
	if err != nil {
		t.Fatal(err)
	}
	m := stun.MustBuild(stun.NewTransactionIDSetter(id), stun.BindingSuccess, stun.XORMappedAddress{IP: addrA.Addr().AsSlice(), Port: 1})
	var scratch stun.Message
	s.handle(&scratch, m.Raw, netip.MustParseAddrPort("192.0.2.66:51820"))
	if len(r.answer) != 0 {
		t.Error("a forged answer was believed")
	}
	s.handle(&scratch, m.Raw, addrB)
	s.handle(&scratch, m.Raw, addrB)
	if len(r.answer) != 1 {
		t.Error("the true answer was not taken")
	}
	for i := 0; err == nil; i++ {
		if _, _, err = s.open(addrB); i > maxRequestsOpen {
			t.Fatal("no limit to requests under way")
		}
	}
}

func TestServerBudget(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	s := newServer(key, 1, 3)
	now := time.Unix(1000, 0)
	ask := func(from netip.AddrPort, set ...stun.Setter) []byte {
		m := stun.MustBuild(append([]stun.Setter{stun.TransactionID, stun.BindingRequest}, set...)...)
		out := s.answer(m, from, now)
		if len(out) > len(m.Raw) {
			t.Errorf("answer of %d bytes to a request of %d", len(out), len(m.Raw))
		}
		return out
	}
	pad := stun.NewSoftware("gridwire mesh member")
	for i := range 5 {
		if got := ask(addrA, pad) != nil; got != (i < 3) {
			t.Errorf("stranger's request %d answered: %v", i, got)
		}
	}
	for range 100 {
		if ask(addrB6, stun.MessageIntegrity(key)) == nil {
			t.Fatal("a member is not answered once strangers have spent the budget")
		}
	}
	if ask(addrA, stun.MessageIntegrity("another network's key")) != nil {
		t.Error("a forged credential is exempt")
	}
	now = now.Add(2 * time.Second)
	if ask(addrA, pad) == nil || ask(addrA) != nil {
		t.Error("a short request must be silent, a padded one answered")
	}
	if ask(addrA, pad, stun.RawAttribute{Type: 0x0003, Value: make([]byte, 4)}) != nil { // CHANGE-REQUEST
		t.Error("answered what it does not understand")
	}
	now = now.Add(time.Minute)
	out := ask(addrB6, pad)
	var m stun.Message
	m.Raw = out
	if err := m.Decode(); err != nil || len(m.Attributes) != 1 || m.Attributes[0].Type != stun.AttrXORMappedAddress || len(out) != 44 {
		t.Errorf("answer %v: %v, want XOR-MAPPED-ADDRESS only", m, err)
	}
}

func TestReachabilityProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		sa, sb := run(t, w.end(addrA), ""), run(t, w.end(addrB), "")
		nonce := [12]byte{1, 2, 3}
		source, cancel, err := sa.Await(nonce)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := sa.Await(nonce); err == nil {
			t.Error("one nonce awaited twice")
		}
		for _, n := range [][12]byte{{9}, nonce, nonce} {
			if err := sb.Probe(addrA, n); err != nil {
				t.Fatal(err)
			}
		}
		if from := <-source; from != addrB {
			t.Errorf("probe from %v", from)
		}
		cancel()
		time.Sleep(time.Second) // for the second copy
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if _, err := sa.Expect(ctx, nonce); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		time.AfterFunc(time.Second, func() { _ = sb.Probe(addrA, nonce) })
		if from, err := sa.Expect(t.Context(), nonce); err != nil || from != addrB {
			t.Errorf("%v, %v", from, err)
		}
		if len(sa.expected) != 0 {
			t.Error("nonces left")
		}
		for i := range maxExpected {
			if _, _, err := sa.Await([12]byte{byte(i), 7}); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := sa.Await([12]byte{255, 255}); err == nil {
			t.Error("no limit to nonces")
		}
	})
}

// FuzzHandle gives both ends what strangers may send: never more bytes out than in, and only to the sender.
func FuzzHandle(f *testing.F) {
	key := stun.MessageIntegrity("0123456789abcdef0123456789abcdef")
	f.Add(stun.MustBuild(stun.BindingRequest, stun.NewTransactionIDSetter([12]byte{1}), key).Raw)
	f.Add(stun.MustBuild(stun.BindingRequest, stun.NewTransactionIDSetter([12]byte{2}), stun.NewSoftware("gridwire mesh member")).Raw)
	f.Add(stun.MustBuild(stun.BindingSuccess, stun.NewTransactionIDSetter([12]byte{3}), stun.XORMappedAddress{IP: addrA.Addr().AsSlice(), Port: 1}).Raw)
	f.Add(stun.MustBuild(stun.BindingError, stun.NewTransactionIDSetter([12]byte{3}), stun.ErrorCodeAttribute{Code: 400, Reason: []byte("no")}).Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		e := newWire().end(addrA)
		s, err := New(Config{Conn: e, Tag: tag, MemberKey: key})
		if err != nil {
			t.Fatal(err)
		}
		r := &request{server: addrB6, answer: make(chan answer, 1)}
		s.requests[[12]byte{3}] = r
		var scratch stun.Message
		s.handle(&scratch, b, addrB6)
		if len(e.sent) > 1 || len(e.sent) == 1 && (len(e.sent[0]) > len(b) || e.sent[0][0] != 1) {
			t.Fatalf("%d bytes in, out %x", len(b), e.sent)
		}
		if len(r.answer) == 1 {
			if a := <-r.answer; a.err == nil && (!a.mapped.IsValid() || a.mapped.Port() == 0 || a.mapped.Addr().Is4In6()) {
				t.Fatalf("mapped %v", a.mapped)
			}
		}
	})
}
