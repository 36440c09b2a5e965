package wire

import (
	"net/netip"
	"testing"
)

func TestAddrPort(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:51820":          "192.0.2.1:51820",
		"127.0.0.1:1":              "127.0.0.1:1",
		"[2001:db8::1]:65535":      "[2001:db8::1]:65535",
		"[::ffff:192.0.2.1]:51820": "192.0.2.1:51820",
		"[fe80::1%eth0]:51820":     "[fe80::1]:51820",
	} {
		got, err := ParseAddrPort(AddrPortBytes(netip.MustParseAddrPort(in)))
		if err != nil || got.String() != want {
			t.Errorf("%s came back as %v (%v), want %s", in, got, err, want)
		}
	}
}

func TestAddrPortRefused(t *testing.T) {
	zoned, err := netip.MustParseAddrPort("[fe80::1%eth0]:51820").MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := netip.MustParseAddrPort("[::ffff:0.0.0.0]:1").MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		b     []byte
		words string
	}{
		{nil, "0 bytes"},
		{AddrPortBytes(netip.AddrPort{}), "2 bytes"},
		{zoned, "zone"},
		{mapped, "unspecified"},
		{addrs("0.0.0.0:1")[0], "unspecified"},
		{addrs("[::]:1")[0], "unspecified"},
		{addrs("192.0.2.1:0")[0], "port 0"},
		{addrs("224.0.0.1:1")[0], "no single host"},
		{addrs("255.255.255.255:1")[0], "no single host"},
		{addrs("[ff02::1]:1")[0], "no single host"},
	} {
		_, err := ParseAddrPort(c.b)
		wantError(t, err, nil, c.words)
	}
	_, err = ParseAddrPorts(addrs("192.0.2.1:1", "192.0.2.1:0"))
	wantError(t, err, nil, "element 1")
}

func FuzzParseAddrPort(f *testing.F) {
	for _, b := range addrs("192.0.2.1:51820", "[2001:db8::1]:1", "0.0.0.0:0") {
		f.Add(b)
	}
	f.Add([]byte{})
	var accepted counter
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAddrPort(b)
		if err != nil {
			return
		}
		accepted++
		ip := a.Addr()
		if a.Port() == 0 || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() || ip.Is4In6() {
			t.Fatalf("%v was accepted", a)
		}
		again, err := ParseAddrPort(AddrPortBytes(a))
		if err != nil || again != a {
			t.Fatalf("%v came back as %v (%v)", a, again, err)
		}
	})
	accepted.done(f)
}
