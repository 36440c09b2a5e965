package pmtu

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/gridwire/gridwire/agent/tunnel"
	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

// TestTheKernelBelievesIt: what TooBig makes, handed in through a real tunnel, changes what the kernel knows of the path to a peer.
func TestTheKernelBelievesIt(t *testing.T) {
	nstest.Require(t)
	tun, err := tunnel.New(tunnel.Config{Interface: "gw0", PrivateKey: [32]byte{1}, Bind: conn.NewDefaultBind()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tun.Close() })
	up := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1}
	if err := netlink.LinkAdd(up); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range up.Fds {
			_ = f.Close()
		}
	})
	for name, prefixes := range map[string][]string{
		"gw0": {"fd00::1/64", "10.77.0.1/24"}, "up0": {"2001:db8:1::1/32", "192.0.2.1/24"},
	} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range prefixes {
			addr, err := netlink.ParseAddr(p)
			if err != nil {
				t.Fatal(err)
			}
			addr.Flags = 2 // IFA_F_NODAD
			if addr.IP.To4() != nil {
				addr.Flags = 0
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				t.Fatal(err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		from, us, peer string
		mtu            int
	}{
		{"fd00::2", "fd00::1", "[2001:db8:2::7]:40000", 1280},
		{"10.77.0.2", "10.77.0.1", "192.0.2.7:40000", 1276},
	} {
		peer := netip.MustParseAddrPort(c.peer)
		if err := tun.Inject(TooBig(netip.MustParseAddr(c.from), netip.MustParseAddr(c.us), tun.Port(), peer, c.mtu)); err != nil {
			t.Fatal(err)
		}
		routes, err := netlink.RouteGet(net.IP(peer.Addr().AsSlice()))
		if err != nil || routes[0].MTU != c.mtu {
			t.Errorf("the path to %v: %+v %v, want MTU %d", peer, routes, err, c.mtu)
		}
	}
	if err := tun.Close(); err != nil {
		t.Error(err)
	}
	if err := tun.Inject([]byte{0x60}); err == nil {
		t.Error("handed a packet to a tunnel that is closed")
	}
}
