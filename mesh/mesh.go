// Package mesh says what a network and a member are, and holds the immutable View of who is in it.
//
// It owns no state and starts nothing: keys, names and addresses here are values. Whatever can be derived from a key (a network's
// IPv6 prefix, a node's block) is derived here and nowhere else, so that every member computes the same.
package mesh

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// NodeID identifies a node: its Ed25519 public identity key, which is also its libp2p host key.
type NodeID [ed25519.PublicKeySize]byte

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// NodeIDOf returns the ID of the node that holds key. It panics if key is not 32 bytes long, which no parser lets through.
func NodeIDOf(key ed25519.PublicKey) NodeID { return NodeID([]byte(key)) }

// NodeIDFromBytes checks the length of b.
func NodeIDFromBytes(b []byte) (NodeID, error) {
	if len(b) != ed25519.PublicKeySize {
		return NodeID{}, fmt.Errorf("node ID of %d bytes, want %d", len(b), ed25519.PublicKeySize)
	}
	return NodeID(b), nil
}

// ParseNodeID reads what String wrote.
func ParseNodeID(s string) (NodeID, error) {
	b, err := idEncoding.DecodeString(strings.ToUpper(s))
	if err != nil {
		return NodeID{}, fmt.Errorf("node ID %q is not base32: %w", s, err)
	}
	return NodeIDFromBytes(b)
}

// String returns the ID in lower-case base32, 52 characters.
func (id NodeID) String() string { return strings.ToLower(idEncoding.EncodeToString(id[:])) }

// Short returns the first 8 characters of String, for logs.
func (id NodeID) Short() string { return id.String()[:8] }

// PublicKey returns the identity key.
func (id NodeID) PublicKey() ed25519.PublicKey { return ed25519.PublicKey(bytes.Clone(id[:])) }

// Compare orders node IDs; of two peers the smaller one controls ICE.
func (id NodeID) Compare(other NodeID) int { return bytes.Compare(id[:], other[:]) }

// IsZero reports whether id is unset.
func (id NodeID) IsZero() bool { return id == NodeID{} }

// MarshalText implements encoding.TextMarshaler.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *NodeID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseNodeID(string(b))
	return err
}

// NetworkID is the SHA-256 of a network's root public key.
type NetworkID [sha256.Size]byte

// NetworkIDOf returns the ID of the network with this root key.
func NetworkIDOf(root ed25519.PublicKey) NetworkID {
	return sha256.Sum256(append([]byte("gridwire network v1\n"), root...))
}

// NetworkIDFromBytes checks the length of b.
func NetworkIDFromBytes(b []byte) (NetworkID, error) {
	if len(b) != sha256.Size {
		return NetworkID{}, fmt.Errorf("network ID of %d bytes, want %d", len(b), sha256.Size)
	}
	return NetworkID(b), nil
}

// String returns the ID in hexadecimal.
func (n NetworkID) String() string { return hex.EncodeToString(n[:]) }

// WGKey is a WireGuard public key (X25519).
type WGKey [32]byte

// String returns the key as `wg` prints it.
func (k WGKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero reports whether k is unset.
func (k WGKey) IsZero() bool { return k == WGKey{} }

// MarshalText implements encoding.TextMarshaler.
func (k WGKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *WGKey) UnmarshalText(b []byte) error {
	d, err := base64.StdEncoding.Strict().DecodeString(string(b))
	if err != nil || len(d) != len(k) {
		return fmt.Errorf("WireGuard key %.60q is not %d bytes in base64", b, len(k))
	}
	*k = WGKey(d)
	return nil
}

// KeyID is the subject key identifier of an issuer or a root: SHA-256 of the public key, truncated to 160 bits (RFC 7093, 2 (1)).
type KeyID [20]byte

// KeyIDOf returns the key identifier of key.
func KeyIDOf(key ed25519.PublicKey) KeyID {
	sum := sha256.Sum256(key)
	return KeyID(sum[:20])
}

// String returns the identifier in hexadecimal.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// Name is a DNS label: letters, digits and inner hyphens, lower case, 1 to 63 characters.
type Name string

// ParseName returns s in lower case, or an error that says what a name may be.
func ParseName(s string) (Name, error) {
	n := strings.ToLower(s)
	if len(n) == 0 || len(n) > 63 {
		return "", fmt.Errorf("name %q has %d characters, want 1 to 63", s, len(n))
	}
	for i := range len(n) {
		c := n[i]
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if letter || c == '-' && i > 0 && i < len(n)-1 {
			continue
		}
		return "", fmt.Errorf("name %q: a name is a DNS label of letters, digits and inner hyphens", s)
	}
	return Name(n), nil
}

// ParseDomain checks that s is a DNS name of at least one label, without the final dot, and returns it in lower case.
func ParseDomain(s string) (string, error) {
	d := strings.TrimSuffix(strings.ToLower(s), ".")
	if len(d) > 180 {
		return "", fmt.Errorf("domain of %d characters: at most 180, so that names below it fit", len(d))
	}
	for label := range strings.SplitSeq(d, ".") {
		if _, err := ParseName(label); err != nil {
			return "", fmt.Errorf("domain %q: %w", s, err)
		}
	}
	return d, nil
}

// Network is what all members of one network agree on; all of it follows from the root certificate.
type Network struct {
	ID     NetworkID
	Name   Name
	Domain string       // without the final dot
	IPv6   netip.Prefix // /48, RFC 4193, from ID
	IPv4   netip.Prefix // pool, a /16 unless set at init; invalid: the network has no IPv4
}

// Member is one node as its certificate and its newest record describe it. A Member is immutable once it is in a View.
type Member struct {
	ID        NodeID
	Name      Name // the name in use: CertName, or CertName-xxxx where somebody else rightly holds it
	CertName  Name
	WireGuard WGKey
	SealKey   [32]byte     // X25519, HPKE envelopes to this member are sealed to it
	Addrs     []netip.Addr // overlay addresses, IPv6 first
	Block     netip.Prefix // the node's own /112
	Tags      []string
	Routes    []netip.Prefix // further prefixes its certificate authorises

	Serial    string // of the certificate, hexadecimal
	IssuerID  KeyID
	NotBefore time.Time
	NotAfter  time.Time
	Issuer    bool  // may admit, renew and revoke
	IssuerKey KeyID // its own key identifier, set when Issuer

	Seq       uint64
	Boot      uint64
	Updated   time.Time        // when the record was signed
	Endpoints []netip.AddrPort // where packets from anybody arrive
	LAN       []netip.AddrPort // addresses on its own networks
	Reachable bool             // others found that Endpoints work
	Via       []NodeID         // members that hold a control connection to it
	NAT       string
	Software  string
	Workloads []Workload
	Gateway   bool    // serves devices that cannot run an agent
	Connected []WGKey // those of them that it has heard of just now
}

// Workload is something on a member that has a name of its own.
type Workload struct {
	Name  Name
	Addrs []netip.Addr // in the member's Block or in its Routes
	Ports []Port
}

// Port is a service that a workload offers.
type Port struct {
	Name     string // service name without underscore, such as http (RFC 6335); may be empty
	Number   uint16
	Protocol string // tcp or udp
}
