package pmtu

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

func TestMain(m *testing.M) {
	os.Exit(nstest.Main(func() int {
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			println(err.Error())
			return 1
		}
		return code
	}, nil))
}

// TestRunner: with real sockets on the loopback interface of a namespace of its own, and a peer that answers what has at most 1300 bytes.
func TestRunner(t *testing.T) {
	nstest.Require(t)
	peer, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback, Port: links.ProbePort})
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() { // ends when the socket is closed below
		defer close(answered)
		buf := make([]byte, 2048)
		for {
			n, from, err := peer.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if n+probeOverhead <= 1300 {
				buf[3] = 2 // a reply
				_, _ = peer.WriteToUDPAddrPort(buf[:8], from)
			}
		}
	}()
	id := mesh.NodeID{7}
	applied := make(chan map[mesh.NodeID]Path, 64)
	r := New(Config{
		Interface: "lo", Addr: netip.IPv6Loopback(), MTU: 1420, Log: slog.New(slog.DiscardHandler),
		Links: func(context.Context) []Link {
			return []Link{{Peer: id, Addr: netip.IPv6Loopback(), Up: true, Remote: netip.MustParseAddrPort("192.0.2.1:51820")}}
		},
		Passed: func() uint64 { return 0 },
		Apply: func(p map[mesh.NodeID]Path) {
			select {
			case applied <- p:
			default:
			}
		},
		Name: func(mesh.NodeID) mesh.Name { return "bob" },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }() // awaited below
	r.CameUp(id)
	limit := time.After(20 * time.Second)
	for found := false; !found; {
		select {
		case p := <-applied:
			found = p[id].MTU == 1296 && p[id].Settled
		case err := <-done:
			t.Fatal("Run ended:", err)
		case <-limit:
			t.Fatalf("found %+v", r.Paths())
		}
	}
	if r.Paths()[id].MTU != 1296 {
		t.Errorf("Paths: %+v", r.Paths())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = peer.Close()
	<-answered
	if err := New(Config{Interface: "nosuch0", Addr: netip.IPv6Loopback(), Log: slog.New(slog.DiscardHandler)}).Run(t.Context()); err == nil {
		t.Error("ran on an interface that does not exist")
	}
}
