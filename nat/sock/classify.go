package sock

import "encoding/binary"

// Class says who a datagram is for.
type Class uint8

// The classes, in the order in which Classify looks for them.
const (
	Unknown   Class = iota // nobody: dropped and counted
	WireGuard              // the device
	ICE                    // nat/ice: connectivity checks and their answers
	STUN                   // nat/stun: plain Binding requests, answers to our own, reachability indications
	QUIC                   // libp2p
)

// String returns the class as metrics and logs name it.
func (c Class) String() string {
	switch c {
	case WireGuard:
		return "wireguard"
	case ICE:
		return "ice"
	case STUN:
		return "stun"
	case QUIC:
		return "quic"
	}
	return "unknown"
}

// Sizes and numbers of RFC 8489, 5 (header), 18 (registries) and RFC 8445, 16.1 (PRIORITY).
const (
	stunHeader     = 20
	stunCookie     = 0x2112A442
	stunMethods    = 0x3EEF // the bits of the type that are the method
	stunBinding    = 0x0001
	stunClasses    = 0x0110 // the bits of the type that are the class
	stunRequest    = 0x0000
	stunIndication = 0x0010
	attrPriority   = 0x0024
)

// isWireGuard is the whole cost that a data packet pays: type 1..4 and three zero bytes (WireGuard paper, 5.4). It is tested first, so
// that a receiver index equal to the STUN cookie changes nothing; a STUN Binding message has 0x01 or 0x11 in its second byte and
// QUIC has bit 0x40 set, so neither can pass for WireGuard.
func isWireGuard(b []byte) bool {
	return len(b) >= 4 && binary.LittleEndian.Uint32(b)-1 < 4
}

// Classify sorts one datagram. tag is the start of the transaction IDs that nat/stun gives to its own requests. It reads b only,
// allocates nothing and takes time linear in the number of attributes of a STUN message (RFC 7983 calls this demultiplexing).
//
// Of STUN, only the Binding method is ours. A request is ICE's if it carries PRIORITY, which RFC 8445, 7.1.1 demands of every
// connectivity check and no other request has. A STUN message whose length field does not fit the datagram is nobody's.
func Classify(b []byte, tag [4]byte) Class {
	switch {
	case isWireGuard(b):
		return WireGuard
	case len(b) >= 8 && binary.BigEndian.Uint32(b[4:]) == stunCookie && b[0]&0xC0 == 0:
		return classifySTUN(b, tag)
	case len(b) > 0 && b[0]&0x40 != 0: // the fixed bit of RFC 9000, 17.2 and 17.3
		return QUIC
	}
	return Unknown
}

func classifySTUN(b []byte, tag [4]byte) Class {
	if len(b) < stunHeader || len(b)%4 != 0 || int(binary.BigEndian.Uint16(b[2:])) != len(b)-stunHeader {
		return Unknown
	}
	typ := binary.BigEndian.Uint16(b)
	if typ&stunMethods != stunBinding {
		return Unknown // TURN is later work
	}
	switch typ & stunClasses {
	case stunRequest:
		if hasAttribute(b[stunHeader:], attrPriority) {
			return ICE
		}
		return STUN
	case stunIndication: // pion keeps its pairs alive with requests, so indications are the reachability test's
		return STUN
	}
	if [4]byte(b[8:12]) == tag {
		return STUN
	}
	return ICE
}

// hasAttribute walks the attributes of a STUN message (RFC 8489, 14: type, length, value padded to 4 bytes).
func hasAttribute(attrs []byte, want uint16) bool {
	for len(attrs) >= 4 {
		if binary.BigEndian.Uint16(attrs) == want {
			return true
		}
		size := 4 + (int(binary.BigEndian.Uint16(attrs[2:]))+3)&^3
		if size > len(attrs) {
			return false
		}
		attrs = attrs[size:]
	}
	return false
}
