package control

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh/wire"
)

// Whole control planes over the machine's own UDP, on both families at once: a dial by two addresses that both work gives two
// connections, of which both sides must keep the same one.
func TestRealUDPBothFamilies(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of real time")
	}
	w := newWorld(t, 0)
	a, b := w.add(false), w.add(false)
	for _, n := range []*node{a, b} {
		n.prepareUDP()
		r, err := wire.SignRecord(&wire.Record{
			Version: 1, Chain: n.chain, Sequence: 1, Boot: 1, Time: time.Now().UnixMilli(), Reachable: true,
			Endpoints: wire.AddrPortsBytes(n.loopback()), SealKey: make([]byte, 32), Nat: "open", Software: "test",
		}, n.key)
		check(t, err)
		n.record.Store(r)
	}
	defer w.stop()
	a.run()
	b.run(a)
	deadline := time.Now().Add(10 * time.Second)
	settled := func() bool {
		ca, cb := a.ctl.Connections(), b.ctl.Connections()
		return len(ca) == 1 && len(cb) == 1 && len(a.host.Network().Conns()) == 1 && len(b.host.Network().Conns()) == 1
	}
	for stable := 0; stable < 5; {
		if time.Now().After(deadline) {
			t.Fatalf("not settled: %v and %v", a.host.Network().Conns(), b.host.Network().Conns())
		}
		time.Sleep(100 * time.Millisecond)
		if settled() {
			stable++
		} else {
			stable = 0
		}
	}
	if _, err := b.ctl.SendSignal(t.Context(), a.id, new(wire.SignalFrame)); err != nil {
		t.Error(err)
	}
	if since := b.ctl.Connections()[0].Since; time.Since(since) < 400*time.Millisecond {
		t.Errorf("the connection is only %v old: there was one before", time.Since(since))
	}
}

// prepareUDP is prepare on real sockets.
func (n *node) prepareUDP() {
	n.w.t.Helper()
	var mu sync.Mutex
	h, err := NewHost(HostConfig{Identity: n.key, Log: n.log(), Sockets: func(family string) (net.PacketConn, error) {
		mu.Lock()
		defer mu.Unlock()
		c, err := net.ListenUDP(family, nil)
		if err == nil {
			n.udp = append(n.udp, c.LocalAddr().(*net.UDPAddr).AddrPort())
		}
		return c, err
	}})
	check(n.w.t, err)
	n.host, n.stop = h, func() { _ = h.Close() }
}

func (n *node) loopback() (out []netip.AddrPort) {
	for _, ap := range n.udp {
		a := netip.MustParseAddr("127.0.0.1")
		if !ap.Addr().Unmap().Is4() {
			a = netip.IPv6Loopback()
		}
		out = append(out, netip.AddrPortFrom(a, ap.Port()))
	}
	return out
}
