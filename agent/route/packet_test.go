package route

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// udp4Packet is an IPv4 packet with a UDP datagram, checksums done (the UDP checksum may be left out, RFC 768).
func udp4Packet(src, dst netip.AddrPort, payload string) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^sum(b[:20]))
	binary.BigEndian.PutUint16(b[20:], src.Port())
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	return append(b, payload...)
}

// udp6Packet is an IPv6 packet with a UDP datagram; the checksum covers a pseudo header (RFC 8200, 8.1).
func udp6Packet(src, dst netip.AddrPort, payload string) []byte {
	b := make([]byte, 48, 48+len(payload))
	length := uint16(8 + len(payload))
	b[0], b[6], b[7] = 0x60, unix.IPPROTO_UDP, 64
	binary.BigEndian.PutUint16(b[4:], length)
	copy(b[8:], src.Addr().AsSlice())
	copy(b[24:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[40:], src.Port())
	binary.BigEndian.PutUint16(b[42:], dst.Port())
	binary.BigEndian.PutUint16(b[44:], length)
	b = append(b, payload...)
	pseudo := append([]byte{}, b[8:40]...)
	pseudo = append(pseudo, 0, 0, byte(length>>8), byte(length), 0, 0, 0, unix.IPPROTO_UDP)
	binary.BigEndian.PutUint16(b[46:], ^sum(append(pseudo, b[40:]...)))
	return b
}

// sum is the internet checksum's ones' complement sum (RFC 1071).
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
