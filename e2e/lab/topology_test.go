//go:build linux

package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pings says whether an echo request is answered, asking until it is or, for "no", a few times.
func pings(t *testing.T, h *Host, to netip.Addr, want bool) {
	t.Helper()
	patience := patience
	if !want {
		patience = 60 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := h.lab.WaitPing(ctx, h, to.String()); (err == nil) != want {
		t.Fatalf("ping from %s to %v: answered %v, want %v (%v)", h.Name(), to, err == nil, want, err)
	}
}

func TestCutBlockUnplug(t *testing.T) {
	for _, delay := range []time.Duration{0, 2 * time.Millisecond} { // each has filters of its own
		t.Run(delay.String(), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{Delay: delay})
			p := must(l.Public("p"))(t)
			q := must(l.Public("q"))(t)
			r := must(l.Router("r", NATConfig{}, nil))(t)
			a := must(r.Host("a"))(t)
			for _, n := range []*node{a.node, q.node, &r.node} {
				h := a
				if n == q.node {
					h = q
				}
				pings(t, h, p.Addr(), true)
				check(t, n.Cut())
				if flags := must(a.Exec(context.Background(), "cat", "/sys/class/net/eth0/carrier"))(t); string(flags) != "1\n" {
					t.Errorf("a cut is seen as carrier %q", flags)
				}
				pings(t, h, p.Addr(), false)
				check(t, n.BlockUDP())
				pings(t, h, p.Addr(), true)
				hs, ps := udp(t, h, 5000), udp(t, p, 5000)
				hs.send(ps.at, "blocked")
				ps.silent("UDP is blocked")
				check(t, n.UnblockUDP())
				through(hs, ps)
				hs.conn.Close()
				ps.conn.Close()

				check(t, n.Unplug())
				pings(t, h, p.Addr(), false)
				check(t, n.Plug())
				pings(t, h, p.Addr(), true)
			}
		})
	}
}

func TestMove(t *testing.T) {
	for _, delay := range []time.Duration{0, 2 * time.Millisecond} {
		t.Run(delay.String(), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{Delay: delay, IPv6: true})
			p := must(l.Public("p"))(t)
			home := must(l.Router("home", NATConfig{Kind: FullCone, IPv6: true}, nil))(t)
			hotel := must(l.Router("hotel", NATConfig{Kind: Symmetric}, nil))(t)
			lan := must(l.LAN("lan"))(t)
			a := must(home.Host("a"))(t)
			other := must(lan.Host("other", netip.MustParsePrefix("169.254.1.1/16")))(t)
			index := string(must(a.Exec(context.Background(), "cat", "/sys/class/net/eth0/ifindex"))(t))
			visit := func(where string, seen netip.Addr, v6 bool) {
				t.Helper()
				as, ps := udp(t, a, 51820), udp(t, p, 1000)
				defer ps.conn.Close()
				defer as.conn.Close()
				if from := through(as, ps); from.Addr() != seen {
					t.Errorf("%s: a is seen as %v, want %v", where, from, seen)
				}
				pings(t, a, p.Addr6(), v6)
				if a.Addr6().IsValid() != v6 {
					t.Errorf("%s: a has %v", where, a.Addr6())
				}
			}
			visit("home", home.Addr(), true)
			check(t, a.Move(hotel))
			visit("hotel", hotel.Addr(), false)
			before := a.Addr()
			check(t, a.SetAddr(netip.Prefix{}))
			if a.Addr() == before {
				t.Errorf("a still has %v", before)
			}
			visit("hotel, another address", hotel.Addr(), false)
			check(t, a.Move(l.WAN()))
			visit("public", a.Addr(), true)
			check(t, a.SetAddr(netip.PrefixFrom(addOffset(l.opts.Internet, 200), 32)))
			visit("public, another address", addOffset(l.opts.Internet, 200), true)
			check(t, a.MoveTo(lan, netip.MustParsePrefix("169.254.1.2/16")))
			pings(t, a, other.Addr(), true)
			pings(t, a, p.Addr(), false)
			check(t, a.Move(home))
			visit("home again", home.Addr(), true)
			if now := string(must(a.Exec(context.Background(), "cat", "/sys/class/net/eth0/ifindex"))(t)); now != index {
				t.Errorf("the interface's index went from %s to %s", index, now)
			}
			if err := a.SetAddr(netip.MustParsePrefix("8.8.8.8/32")); err == nil {
				t.Error("an address from elsewhere was taken")
			}
		})
	}
}

// TestInternetIsRouted checks what a flat switch would get wrong: multicast, and packets to nobody.
func TestInternetIsRouted(t *testing.T) {
	onEachInternet(t, func(t *testing.T, o Options) {
		l := newLab(t, o)
		p, q := must(l.Public("p"))(t), must(l.Public("q"))(t)
		ps, qs := udp(t, p, 5000), udp(t, q, 5000)
		group := open(t, q, netip.MustParseAddrPort("0.0.0.0:5353"))
		check(t, q.Do(func() error { return joinMulticast(group.conn) }))
		ps.send(netip.MustParseAddrPort("224.0.0.251:5353"), "mdns")
		ps.send(netip.AddrPortFrom(addOffset(l.opts.Internet, 99), 1), "to nobody")
		ps.send(netip.MustParseAddrPort("192.168.77.1:1"), "to a private address")
		through(ps, qs) // were there an ICMP error, this send would report it
		group.silent("multicast crossed the internet")
	})
}

func joinMulticast(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	ifi, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	mreq := &unix.IPMreqn{Multiaddr: [4]byte{224, 0, 0, 251}, Ifindex: int32(ifi.Index)}
	var joined error
	if err := raw.Control(func(fd uintptr) {
		joined = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq)
	}); err != nil {
		return err
	}
	return joined
}

func TestLAN(t *testing.T) {
	l := newLab(t, Options{})
	lan := must(l.LAN("lan"))(t)
	a := must(lan.Host("a", netip.MustParsePrefix("169.254.10.1/16")))(t)
	b := must(lan.Host("b", netip.MustParsePrefix("169.254.10.2/16")))(t)
	as, bs := udp(t, a, 5000), udp(t, b, 5000)
	if from := through(as, bs); from != as.at {
		t.Errorf("b sees %v, want %v", from, as.at)
	}
	if routes := must(a.Exec(context.Background(), "ip", "route", "show", "default"))(t); len(routes) != 0 {
		t.Errorf("a has a default route: %s", routes)
	}
	group := open(t, b, netip.MustParseAddrPort("0.0.0.0:5353"))
	check(t, b.Do(func() error { return joinMulticast(group.conn) }))
	check(t, a.Do(func() error { // with no route to the group, the sender names the interface
		return withInterface(as.conn, "eth0")
	}))
	as.send(netip.MustParseAddrPort("224.0.0.251:5353"), "mdns")
	group.expect("mdns")
	check(t, b.SetAddr(netip.MustParsePrefix("192.168.5.2/24")))
	check(t, a.SetAddr(netip.MustParsePrefix("192.168.5.1/24")))
	pings(t, a, b.Addr(), true)
	c := must(lan.Host("c", netip.MustParsePrefix("fd12:3456::1/64")))(t)
	d := must(lan.Host("d", netip.MustParsePrefix("fd12:3456::2/64")))(t)
	pings(t, c, d.Addr6(), true)
}

func withInterface(c *net.UDPConn, name string) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(ifi.Index)})
	})
	if err != nil {
		return err
	}
	return set
}

// TestIPv6 has hosts behind routers, one behind two: whoever speaks first opens the firewall, strangers stay out.
func TestIPv6(t *testing.T) {
	onEachInternet(t, func(t *testing.T, o Options) {
		o.IPv6 = true
		l := newLab(t, o)
		p := must(l.Public("p"))(t)
		carrier := must(l.Router("carrier", NATConfig{CarrierGrade: true, IPv6: true}, nil))(t)
		r1 := must(l.Router("r1", NATConfig{IPv6: true}, carrier))(t)
		r2 := must(l.Router("r2", NATConfig{Kind: FullCone, IPv6: true}, nil))(t)
		v4only := must(l.Router("r3", NATConfig{}, nil))(t)
		a, b, c := must(r1.Host("a"))(t), must(r2.Host("b"))(t), must(v4only.Host("c"))(t)
		if c.Addr6().IsValid() {
			t.Errorf("c has %v", c.Addr6())
		}
		udp6 := func(h *Host) *socket { return open(t, h, netip.AddrPortFrom(h.Addr6(), 51820)) }
		as, bs, ps := udp6(a), udp6(b), udp6(p)
		if from := through(as, ps); from != as.at {
			t.Errorf("p sees %v, want %v", from, as.at)
		}
		bs.send(as.at, "filtered")
		ps.send(as.at, "answer")
		as.expect("answer")
		through(as, bs) // b has sent before
		through(bs, as)
		check(t, r2.Renumber())
		if from := through(bs, ps); from != bs.at {
			t.Errorf("p sees %v, want %v", from, bs.at)
		}
	})
}

// TestDelay checks that a delayed internet is late by the right time, keeps order, loses nothing and carries whole TCP streams,
// which offloads would break.
func TestDelay(t *testing.T) {
	const delay = 20 * time.Millisecond
	l := newLab(t, Options{Delay: delay})
	p := must(l.Public("p"))(t)
	r := must(l.Router("r", NATConfig{}, nil))(t)
	a := must(r.Host("a"))(t)
	as, ps := udp(t, a, 51820), udp(t, p, 1000)
	through(as, ps)
	var best time.Duration
	for range 5 {
		start := time.Now()
		ps.send(through(as, ps), "back")
		as.expect("back")
		if rtt := time.Since(start); best == 0 || rtt < best {
			best = rtt
		}
	}
	if best < 2*delay || best > 2*delay+10*time.Millisecond {
		t.Errorf("round trip %v, want %v", best, 2*delay)
	}
	for i := range 200 {
		as.send(ps.at, fmt.Sprint(i))
	}
	for i := range 200 {
		ps.expect(fmt.Sprint(i))
	}
	transfer(t, a, p, 4<<20)
	transfer(t, p, p, 1)
}

// transfer sends size bytes by TCP from one host to another.
func transfer(t *testing.T, from, to *Host, size int64) {
	t.Helper()
	var listener net.Listener
	check(t, to.Do(func() (err error) {
		listener, err = net.Listen("tcp4", to.Addr().String()+":0")
		return err
	}))
	defer listener.Close()
	sent := make(chan error, 1)
	go func() { // awaited below
		sent <- from.Do(func() error { // a literal address: net does not leave this goroutine
			conn, err := net.DialTCP("tcp4", nil, listener.Addr().(*net.TCPAddr))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write(make([]byte, size))
			return err
		})
	}()
	conn := must(listener.Accept())(t)
	defer conn.Close()
	check(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	start := time.Now()
	n, err := io.Copy(io.Discard, conn)
	if err != nil || n != size {
		t.Fatalf("received %d of %d bytes: %v", n, size, err)
	}
	check(t, <-sent)
	t.Logf("%d bytes in %v", n, time.Since(start))
}

func TestSwallows(t *testing.T) {
	frame := func(etherType uint16, protocolAt int, protocol byte) []byte {
		b := make([]byte, 60)
		b[12], b[13], b[protocolAt] = byte(etherType>>8), byte(etherType), protocol
		return b
	}
	for _, c := range []struct {
		f    filter
		data []byte
		want bool
	}{
		{filterNone, frame(unix.ETH_P_IP, 23, 17), false},
		{filterAll, frame(unix.ETH_P_ARP, 23, 0), true},
		{filterAll, nil, true},
		{filterUDP, nil, false},
		{filterUDP, frame(unix.ETH_P_IP, 23, 17)[:20], false},
		{filterUDP, frame(unix.ETH_P_IP, 23, 17), true},
		{filterUDP, frame(unix.ETH_P_IP, 23, 6), false},
		{filterUDP, frame(unix.ETH_P_IPV6, 20, 17), true},
		{filterUDP, frame(unix.ETH_P_IPV6, 20, 58), false},
		{filterUDP, frame(unix.ETH_P_ARP, 23, 17), false},
	} {
		if got := swallows(c.f, c.data); got != c.want {
			t.Errorf("swallows(%d, % x) = %v", c.f, c.data, got)
		}
	}
}
