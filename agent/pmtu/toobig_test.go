package pmtu

import (
	"net/netip"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

func TestTooBig(t *testing.T) {
	from4, us4 := netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.1")
	b := TooBig(from4, us4, 51820, netip.MustParseAddrPort("192.0.2.1:40000"), 1276)
	h, err := ipv4.ParseHeader(b)
	if err != nil || h.Src.String() != from4.String() || h.Dst.String() != us4.String() || h.TotalLen != len(b) || checksum(b[:20]) != 0 || checksum(b[20:]) != 0 {
		t.Fatalf("%v %v, sums %x %x", h, err, checksum(b[:20]), checksum(b[20:]))
	}
	m, err := icmp.ParseMessage(1, b[20:])
	if err != nil || m.Type != ipv4.ICMPTypeDestinationUnreachable || m.Code != 4 || b[26] != 1276>>8 || b[27] != 1276&0xff {
		t.Fatalf("%+v %v", m, err)
	}
	quoted := m.Body.(*icmp.DstUnreach).Data
	if q, err := ipv4.ParseHeader(quoted); err != nil || q.Dst.String() != "192.0.2.1" || q.Protocol != protoUDP || quoted[20] != 51820>>8 || quoted[22] != 40000>>8 {
		t.Errorf("quoted %v %v", q, err)
	}

	from6, us6 := netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::1")
	b = TooBig(from6, us6, 51820, netip.MustParseAddrPort("[2001:db8::1]:40000"), 1280)
	h6, err := ipv6.ParseHeader(b)
	if err != nil || h6.Src.String() != "fd00::2" || h6.Dst.String() != "fd00::1" || h6.PayloadLen != len(b)-40 {
		t.Fatalf("%v %v", h6, err)
	}
	m, err = icmp.ParseMessage(58, b[40:])
	if err != nil || m.Type != ipv6.ICMPTypePacketTooBig || m.Body.(*icmp.PacketTooBig).MTU != 1280 {
		t.Fatalf("%+v %v", m, err)
	}
	pseudo := append(icmp.IPv6PseudoHeader(h6.Src, h6.Dst), b[40:]...)
	pseudo[35] = byte(h6.PayloadLen) // which the library leaves out
	if sum := checksum(pseudo); sum != 0 {
		t.Errorf("checksum: %x", sum)
	}
	if q, err := ipv6.ParseHeader(m.Body.(*icmp.PacketTooBig).Data); err != nil || q.Dst.String() != "2001:db8::1" || q.NextHeader != protoUDP {
		t.Errorf("quoted %v %v", q, err)
	}
}
