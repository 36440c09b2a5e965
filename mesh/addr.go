package mesh

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// IPv6Prefix returns the network's RFC 4193 prefix: fd, then 40 bits of the network ID.
func IPv6Prefix(n NetworkID) netip.Prefix {
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:6], n[:5])
	return netip.PrefixFrom(netip.AddrFrom16(a), 48)
}

// Block returns a node's /112 in the network's prefix: 64 bits of the hash of its identity key, which a verifier recomputes, and
// 16 bits that are the node's own for workloads. Two of 2^32 nodes would collide; the directory takes the older certificate.
func Block(n NetworkID, id NodeID) netip.Prefix {
	a := IPv6Prefix(n).Addr().As16()
	sum := sha256.Sum256(append([]byte("gridwire node v1\n"), id[:]...))
	copy(a[6:14], sum[:8])
	return netip.PrefixFrom(netip.AddrFrom16(a), 112)
}

// NodeAddr returns the node's own IPv6 address, ::1 in its block.
func NodeAddr(n NetworkID, id NodeID) netip.Addr {
	a := Block(n, id).Addr().As16()
	a[15] = 1
	return netip.AddrFrom16(a)
}

// DefaultIPv4Pool returns the /16 of 10.64.0.0/10 that the network's hash chooses. Not 100.64.0.0/10: it collides with carriers' NAT,
// clouds and Tailscale.
func DefaultIPv4Pool(n NetworkID) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64 + n[5]&0x3f, 0, 0}), 16)
}

// IssuerIPv4Count returns how many issuers' sub-prefixes the pool holds: 16 (a /20 each of a /16).
func IssuerIPv4Count(pool netip.Prefix) int {
	if !pool.IsValid() || pool.Bits() > 26 {
		return 0
	}
	return 16
}

// IssuerIPv4 returns the sub-prefix of the pool for the issuer with this index, 4 bits longer than the pool; invalid if there is
// none. An issuer's addresses are disjoint from every other's, so that issuers need not talk to each other to assign them.
func IssuerIPv4(pool netip.Prefix, index int) netip.Prefix {
	if index < 0 || index >= IssuerIPv4Count(pool) {
		return netip.Prefix{}
	}
	bits := pool.Bits() + 4
	b := pool.Masked().Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) + uint32(index)<<(32-bits)
	binary.BigEndian.PutUint32(b[:], v)
	return netip.PrefixFrom(netip.AddrFrom4(b), bits)
}
