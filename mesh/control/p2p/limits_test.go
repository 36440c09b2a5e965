package p2p

import (
	"net"
	"net/netip"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
)

func endpoint(t *testing.T, s string) ma.Multiaddr {
	t.Helper()
	m, err := multiaddr(netip.MustParseAddrPort(s))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func testLimits(t *testing.T) *limits {
	t.Helper()
	l, err := newLimits()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// open opens inbound connections until one is refused, at most n, and returns them.
func open(t *testing.T, l *limits, n int, addr func(int) string) (out []network.ConnManagementScope) {
	t.Helper()
	for i := range n {
		s, err := l.OpenConnection(network.DirInbound, false, endpoint(t, addr(i)))
		if err != nil {
			break
		}
		out = append(out, s)
	}
	return out
}

func same(addr string) func(int) string { return func(int) string { return addr } }

func TestStrangersPerAddress(t *testing.T) {
	l := testLimits(t)
	got := open(t, l, 100, same("198.51.100.1:1000"))
	if len(got) != strangersPerAddress {
		t.Errorf("%d connections, want %d", len(got), strangersPerAddress)
	}
	if n := len(open(t, l, 1, same("198.51.100.2:1000"))); n != 1 {
		t.Error("another address found no place")
	}
	// A household has a /56.
	six := open(t, l, 100, func(i int) string {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, 2, byte(i)}), 1).String()
	})
	if len(six) != strangersPerAddress {
		t.Errorf("%d connections from one /56, want %d", len(six), strangersPerAddress)
	}
	// A place is given back once, by the proof or by the end.
	s := got[0].(*scope)
	s.leave()
	if n := len(open(t, l, 100, same("198.51.100.1:1000"))); n != 1 {
		t.Errorf("%d more after one was proven, want 1", n)
	}
	s.Done()
	if n := len(open(t, l, 100, same("198.51.100.1:1000"))); n != 0 {
		t.Errorf("%d more after the proven one ended, want 0", n)
	}
	for _, s := range got[1:] {
		s.Done()
	}
	if n := len(open(t, l, 100, same("198.51.100.1:1000"))); n != strangersPerAddress-1 {
		t.Errorf("%d after all but one ended, want %d", n, strangersPerAddress-1)
	}
}

func TestMembersAreWelcome(t *testing.T) {
	l := testLimits(t)
	// Strangers everywhere.
	n := len(open(t, l, 10_000, func(i int) string {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 1).String()
	}))
	if n != strangersInAll {
		t.Errorf("%d strangers, want %d", n, strangersInAll)
	}
	l.welcome(map[netip.Addr]bool{netip.MustParseAddr("198.51.100.9"): true})
	if n := len(open(t, l, 9, same("198.51.100.9:1000"))); n != 9 {
		t.Errorf("%d of a farm of 9 behind one router came in", n)
	}
	for range 100 { // our own dials are not counted
		if _, err := l.OpenConnection(network.DirOutbound, false, endpoint(t, "203.0.113.77:1")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerifySourceAddress(t *testing.T) {
	l := testLimits(t)
	a := &net.UDPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 5}
	if l.VerifySourceAddress(a) {
		t.Error("the first one must pay a round trip")
	}
	open(t, l, 2, same("198.51.100.1:1000"))
	if !l.VerifySourceAddress(a) {
		t.Error("an address with several connections is believed")
	}
	open(t, l, verifyAbove, func(i int) string {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 1, byte(i)}), 1).String()
	})
	if !l.VerifySourceAddress(&net.UDPAddr{IP: net.IPv4(198, 51, 100, 200), Port: 5}) {
		t.Error("in a flood a new address is believed")
	}
	l.welcome(map[netip.Addr]bool{netip.MustParseAddr("198.51.100.9"): true})
	if l.VerifySourceAddress(&net.UDPAddr{IP: net.IPv4(198, 51, 100, 9), Port: 5}) {
		t.Error("in a flood a member pays a round trip")
	}
}

// The table of strangers is empty when they are gone.
func TestTableIsBounded(t *testing.T) {
	l := testLimits(t)
	for i := range 10_000 {
		s, err := l.OpenConnection(network.DirInbound, false, endpoint(t, netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 1).String()))
		if err != nil {
			t.Fatal(err)
		}
		s.Done()
	}
	if len(l.strangers) != 0 || l.all != 0 {
		t.Errorf("%d addresses and %d connections are left", len(l.strangers), l.all)
	}
}
