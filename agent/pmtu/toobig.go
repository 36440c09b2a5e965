package pmtu

import (
	"encoding/binary"
	"net/netip"
)

// TooBig returns the ICMP message ("fragmentation needed", RFC 792; "packet too big", RFC 4443) with which a router would tell this machine
// that a datagram of it, from its UDP port to to, did not fit: the path carries mtu bytes. Written into the tunnel's interface, it makes the
// kernel remember that for ten minutes. So the kernel knows how to fragment where no router says so (IPv6), or those that do not fit are
// dropped (many a switch). from and us are the message's own addresses, of to's family: a peer's and this node's inside the tunnel.
func TooBig(from, us netip.Addr, port uint16, to netip.AddrPort, mtu int) []byte {
	if to.Addr().Is4() {
		return tooBig4(from.As4(), us.As4(), port, to, mtu)
	}
	return tooBig6(from.As16(), us.As16(), port, to, mtu)
}

const (
	protoICMP   = 1
	protoUDP    = 17
	protoICMPv6 = 58
	hops        = 64
)

// udpHeader is the start of the datagram that did not fit.
func udpHeader(port uint16, to netip.AddrPort) []byte {
	b := binary.BigEndian.AppendUint16(nil, port)
	b = binary.BigEndian.AppendUint16(b, to.Port())
	return append(b, 0, 8, 0, 0)
}

// The quoted packet's source is left open (zeros): by which of its addresses this machine sends is not known here, and the kernel does
// without.

func tooBig4(from, us [4]byte, port uint16, to netip.AddrPort, mtu int) []byte {
	dst := to.Addr().As4()
	quoted := append(header4(protoUDP, [4]byte{}, dst, mtu-20), udpHeader(port, to)...)
	body := append([]byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quoted...)
	binary.BigEndian.PutUint16(body[2:], checksum(body))
	return append(header4(protoICMP, from, us, len(body)), body...)
}

func header4(proto byte, src, dst [4]byte, payload int) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, hops, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+payload))
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return b
}

func tooBig6(from, us [16]byte, port uint16, to netip.AddrPort, mtu int) []byte {
	quoted := append(header6(protoUDP, [16]byte{}, to.Addr().As16(), mtu-40), udpHeader(port, to)...)
	body := binary.BigEndian.AppendUint32([]byte{2, 0, 0, 0}, uint32(mtu))
	body = append(body, quoted...)
	pseudo := append(append([]byte{}, from[:]...), us[:]...) // RFC 8200, 8.1
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = append(append(pseudo, 0, 0, 0, protoICMPv6), body...)
	binary.BigEndian.PutUint16(body[2:], checksum(pseudo))
	return append(header6(protoICMPv6, from, us, len(body)), body...)
}

func header6(proto byte, src, dst [16]byte, payload int) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, proto, hops
	binary.BigEndian.PutUint16(b[4:], uint16(payload))
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	return b
}

// checksum is the internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
