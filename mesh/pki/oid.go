package pki

import (
	"crypto/ed25519"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"

	"github.com/gridwire/gridwire/mesh"
)

// The object identifiers of gridwire's extensions.
//
// They stand below 2.25, the arc that ITU-T X.667 opens to everybody without registration. A real 2.25.UUID has an arc of 128 bits,
// and Go's encoding/asn1 and crypto/x509 refuse any arc above 2^31-1, so ours is the first 31 bits of a hash instead of a UUID:
// 870926982 is SHA-256("github.com/gridwire/gridwire"), the first 4 bytes, big-endian, without the top bit. A collision would do no
// harm: the extensions are read only in certificates that a gridwire root vouches for.
//
//	2.25.N.1  in a root:              SEQUENCE { version INTEGER, name, domain UTF8String, ipv4 OCTET STRING }
//	2.25.N.2  in an issuer:           SEQUENCE { version INTEGER, name UTF8String, index INTEGER }
//	2.25.N.3  in a leaf or a request: SEQUENCE { version INTEGER, wireguard OCTET STRING (32), tags SEQUENCE OF string,
//	                                             routes SEQUENCE OF OCTET STRING, issued INTEGER OPTIONAL,
//	                                             admitted INTEGER OPTIONAL }
//	2.25.N.4  in a CRL entry:         SEQUENCE { version INTEGER, kind INTEGER, issuerKeyID OCTET STRING (20), nodeID OCTET STRING (32) }
//	2.25.N.5  in a device's:          SEQUENCE { version INTEGER, gateways SEQUENCE OF SEQUENCE { nodeID OCTET STRING (32),
//	                                             ipv4 OCTET STRING }, issued INTEGER }
//
// A prefix is its address (4 or 16 octets) and its length in one more octet; an empty ipv4 says that there is none. issued and
// admitted are in Unix seconds. None is critical, so that openssl and other verifiers accept the certificates; here their absence is an error.
// Later versions may append fields: whoever reads skips what follows the fields it knows. The version says which fields the writer
// knew; it never changes the meaning of earlier ones.
var (
	oidRoot    = asn1.ObjectIdentifier{2, 25, arc, 1}
	oidIssuer  = asn1.ObjectIdentifier{2, 25, arc, 2}
	oidMember  = asn1.ObjectIdentifier{2, 25, arc, 3}
	oidRevoked = asn1.ObjectIdentifier{2, 25, arc, 4}
	oidDevice  = asn1.ObjectIdentifier{2, 25, arc, 5}
)

const (
	arc              = 870926982
	extensionVersion = 1
)

type rootExtension struct {
	Version int
	Name    string `asn1:"utf8"`
	Domain  string `asn1:"utf8"`
	IPv4    []byte
}

type issuerExtension struct {
	Version int
	Name    string `asn1:"utf8"`
	Index   int
}

type memberExtension struct {
	Version   int
	WireGuard []byte
	Tags      []string
	Routes    [][]byte
	Issued    int64 `asn1:"optional"`
	Admitted  int64 `asn1:"optional"`
}

type deviceExtension struct {
	Version  int
	Gateways []deviceGateway
	Issued   int64
}

type deviceGateway struct {
	Node []byte
	IPv4 []byte
}

type revokedExtension struct {
	Version int
	Kind    int
	Issuer  []byte
	Node    []byte
}

func (e *rootExtension) version() int    { return e.Version }
func (e *issuerExtension) version() int  { return e.Version }
func (e *memberExtension) version() int  { return e.Version }
func (e *revokedExtension) version() int { return e.Version }
func (e *deviceExtension) version() int  { return e.Version }

func marshalExtension(oid asn1.ObjectIdentifier, v any) (pkix.Extension, error) {
	b, err := asn1.Marshal(v)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encoding extension %v: %w", oid, err)
	}
	return pkix.Extension{Id: oid, Value: b}, nil
}

// readExtension decodes the one extension with this OID into v. encoding/asn1 skips what follows the known fields inside a SEQUENCE,
// which is what later versions rely on; a test holds it to that.
func readExtension(exts []pkix.Extension, oid asn1.ObjectIdentifier, v interface{ version() int }) error {
	var value []byte
	for _, e := range exts {
		if !e.Id.Equal(oid) {
			continue
		}
		if value != nil {
			return fmt.Errorf("extension %v is there twice", oid)
		}
		value = e.Value
	}
	if value == nil {
		return fmt.Errorf("it lacks the extension %v", oid)
	}
	rest, err := asn1.Unmarshal(value, v)
	if err != nil {
		return fmt.Errorf("extension %v is damaged: %w", oid, err)
	}
	if len(rest) > 0 {
		return fmt.Errorf("extension %v has %d bytes behind its end", oid, len(rest))
	}
	if v.version() < 1 {
		return fmt.Errorf("extension %v has version %d, want 1 or higher", oid, v.version())
	}
	return nil
}

// prefixBytes returns nil for an invalid prefix.
func prefixBytes(p netip.Prefix) []byte {
	if !p.IsValid() {
		return nil
	}
	return append(p.Addr().AsSlice(), byte(p.Bits()))
}

func parsePrefix(b []byte) (netip.Prefix, error) {
	if len(b) == 5 || len(b) == 17 {
		a, _ := netip.AddrFromSlice(b[:len(b)-1])
		if p := netip.PrefixFrom(a, int(b[len(b)-1])); p.IsValid() {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("%x is not a prefix: want 4 or 16 octets of address and one of length", b)
}

func parseWireGuard(b []byte) (k mesh.WGKey, err error) {
	if len(b) != len(k) {
		return k, fmt.Errorf("WireGuard key of %d bytes, want %d", len(b), len(k))
	}
	k = mesh.WGKey(b)
	if k.IsZero() {
		return k, errors.New("the WireGuard key is all zeros")
	}
	return k, nil
}

func checkIdentity(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("identity key of %d bytes, want %d", len(key), ed25519.PublicKeySize)
	}
	return nil
}
