package wire

import (
	"fmt"
	"net/netip"
)

// AddrPortBytes returns a's binary form: 4 or 16 bytes of address, then the port, least significant byte first, as netip.AddrPort's
// MarshalBinary does it. IPv4-mapped addresses become IPv4 and zones are dropped: a zone means nothing on another machine. An
// invalid a gives bytes that ParseAddrPort refuses.
func AddrPortBytes(a netip.AddrPort) []byte {
	b, err := netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()).MarshalBinary()
	if err != nil { // MarshalBinary has no way to fail
		return nil
	}
	return b
}

// ParseAddrPort reads what AddrPortBytes wrote. It refuses what nobody can be reached at or must be sent to on another's word: zones,
// port 0, the unspecified address, multicast and broadcast.
func ParseAddrPort(b []byte) (netip.AddrPort, error) {
	if len(b) != 6 && len(b) != 18 {
		return netip.AddrPort{}, fmt.Errorf("address and port of %d bytes, want 6 (IPv4) or 18 (IPv6, without a zone)", len(b))
	}
	var a netip.AddrPort
	if err := a.UnmarshalBinary(b); err != nil {
		return netip.AddrPort{}, fmt.Errorf("address and port: %w", err)
	}
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	ip := a.Addr()
	switch {
	case ip.IsUnspecified():
		return netip.AddrPort{}, fmt.Errorf("address %v is the unspecified address", a)
	case ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.AddrPort{}, fmt.Errorf("address %v is no single host's", a)
	case a.Port() == 0:
		return netip.AddrPort{}, fmt.Errorf("address %v has port 0", a)
	}
	return a, nil
}

// AddrPortsBytes is AddrPortBytes of each element.
func AddrPortsBytes(as []netip.AddrPort) [][]byte {
	out := make([][]byte, len(as))
	for i, a := range as {
		out[i] = AddrPortBytes(a)
	}
	return out
}

// ParseAddrPorts is ParseAddrPort of each element; the first bad one is an error that names its index.
func ParseAddrPorts(bs [][]byte) ([]netip.AddrPort, error) {
	out := make([]netip.AddrPort, len(bs))
	for i, b := range bs {
		a, err := ParseAddrPort(b)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		out[i] = a
	}
	return out, nil
}
