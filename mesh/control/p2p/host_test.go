package p2p

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/goleak"

	"github.com/gridwire/gridwire/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// udpHost is a host on real sockets.
func udpHost(t *testing.T, ok func(netip.Addr) bool) *Host {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{
		Identity: key, Log: slog.New(slog.DiscardHandler), AddressOK: ok,
		Sockets: func(family string) (net.PacketConn, error) { return net.ListenUDP(family, nil) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func loopback(h *Host) []netip.AddrPort {
	var out []netip.AddrPort
	for _, m := range h.swarm.ListenAddresses() {
		ap, err := addrPort(m)
		if err != nil {
			continue
		}
		a := netip.MustParseAddr("127.0.0.1")
		if ap.Addr().Is6() {
			a = netip.IPv6Loopback()
		}
		out = append(out, netip.AddrPortFrom(a, ap.Port()))
	}
	return out
}

func TestRealSockets(t *testing.T) {
	a, b := udpHost(t, nil), udpHost(t, nil)
	for _, strangers := range []bool{true, false} {
		b.Handle(map[bool]protocol.ID{true: "/open/1", false: "/member/1"}[strangers], strangers, func(c *Conn, s network.Stream) {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	seen := make(chan *Conn, 1)
	detach := b.Attach(func(c *Conn) { seen <- c })
	defer detach()
	conn, err := a.Dial(ctx, b.ID(), loopback(b)[:1]) // by two addresses there may be two
	if err != nil {
		t.Fatal(err)
	}
	there := <-seen
	if there.ID() != a.ID() || !there.Inbound() || conn.Inbound() || conn.ID() != b.ID() {
		t.Errorf("%v %v, %v %v", there.ID(), there.Inbound(), conn.ID(), conn.Inbound())
	}
	if again, err := a.Dial(ctx, b.ID(), nil); err != nil || again != conn {
		t.Errorf("a second dial gave another connection, or %v", err)
	}
	echo := func(id protocol.ID) error {
		s, err := conn.Open(ctx, id)
		if err != nil {
			return err
		}
		defer s.Close()
		if _, err := s.Write([]byte("x")); err != nil {
			return err
		}
		_, err = io.ReadFull(s, make([]byte, 1))
		return err
	}
	if err := echo("/open/1"); err != nil {
		t.Errorf("the protocol for strangers: %v", err)
	}
	time.AfterFunc(300*time.Millisecond, there.Prove)
	if err := echo("/member/1"); err != nil {
		t.Errorf("a stream that waits for the proof: %v", err)
	}
	if smoothed, least := conn.RTT(); smoothed <= 0 || least <= 0 || !conn.Remote().Addr().IsLoopback() {
		t.Errorf("RTT %v, at least %v, remote %v", smoothed, least, conn.Remote())
	}
	conn.Close(errors.New("enough"))
	select {
	case <-there.Context().Done():
	case <-ctx.Done():
		t.Error("the other side does not hear of the end")
	}
}

// After a change of the network a connection whose proof is under way is of no use, and stands in the way of a new one.
func TestCloseUnproven(t *testing.T) {
	a, b, c := udpHost(t, nil), udpHost(t, nil), udpHost(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	dial := func(h *Host) *Conn {
		t.Helper()
		conn, err := a.Dial(ctx, h.ID(), loopback(h)[:1])
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	unproven, stranger := dial(b), dial(c)
	why := errors.New("moved")
	a.CloseUnproven(func(id mesh.NodeID) bool { return id == b.ID() }, why)
	if !errors.Is(context.Cause(unproven.Context()), why) || stranger.Context().Err() != nil {
		t.Errorf("of the member: %v, of the stranger: %v", context.Cause(unproven.Context()), stranger.Context().Err())
	}
	proven := dial(b)
	if proven == unproven {
		t.Fatal("the closed connection was given again")
	}
	proven.Prove()
	a.CloseUnproven(func(mesh.NodeID) bool { return true }, why)
	if proven.Context().Err() != nil || stranger.Context().Err() == nil {
		t.Errorf("proven: %v, unproven: %v", proven.Context().Err(), stranger.Context().Err())
	}
}

func TestDialRefuses(t *testing.T) {
	h := udpHost(t, func(a netip.Addr) bool { return !netip.MustParsePrefix("10.64.0.0/10").Contains(a) })
	other := udpHost(t, nil)
	bad := []netip.AddrPort{
		{}, netip.MustParseAddrPort("10.64.1.1:51820"), netip.MustParseAddrPort("0.0.0.0:1"), netip.MustParseAddrPort("224.0.0.1:1"),
		netip.MustParseAddrPort("[fe80::1%eth0]:1"), netip.MustParseAddrPort("192.0.2.1:0"),
	}
	if _, err := h.Dial(t.Context(), other.ID(), bad); !errors.Is(err, ErrNoAddress) {
		t.Errorf("%v, want ErrNoAddress", err)
	}
	// Somebody else answers at the address.
	third := udpHost(t, nil)
	if _, err := h.Dial(t.Context(), other.ID(), loopback(third)); err == nil {
		t.Error("another host was taken for the one dialled")
	}
}

func TestSocketsAreHandedOutOnce(t *testing.T) {
	h := udpHost(t, nil)
	f := h.socket()
	c, err := f("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := f("udp4", nil); err == nil {
		t.Error("the socket was handed out twice")
	}
}
