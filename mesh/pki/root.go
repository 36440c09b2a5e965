package pki

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/netip"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// Root is a network's root certificate, checked. It is immutable.
type Root struct {
	Cert    *x509.Certificate
	Network mesh.Network
}

// KeyID returns the key identifier of the root key.
func (r *Root) KeyID() mesh.KeyID { return mesh.KeyIDOf(publicKey(r.Cert)) }

// NoIPv4 is the pool to give to NewRoot for a network with IPv6 only.
func NoIPv4() netip.Prefix { return netip.PrefixFrom(netip.IPv4Unspecified(), 32) }

// NewRoot makes the certificate of a new network, valid from Backdate before now for 20 years. Without a domain it is NAME.internal.
// The IPv4 pool is mesh.DefaultIPv4Pool if pool is the zero Prefix, and none if it is NoIPv4.
func NewRoot(name mesh.Name, domain string, pool netip.Prefix, key Key, now time.Time) ([]byte, error) {
	if err := checkKey(key, nil, "root"); err != nil {
		return nil, fmt.Errorf("making network %s: %w", name, err)
	}
	pub := key.Public().(ed25519.PublicKey)
	if domain == "" {
		domain = string(name) + ".internal"
	}
	switch pool {
	case netip.Prefix{}:
		pool = mesh.DefaultIPv4Pool(mesh.NetworkIDOf(pub))
	case NoIPv4():
		pool = netip.Prefix{}
	}
	ext := rootExtension{Version: extensionVersion, Name: string(name), Domain: domain, IPv4: prefixBytes(pool)}
	if _, err := ext.network(pub); err != nil {
		return nil, fmt.Errorf("making network %s: %w", name, err)
	}
	value, err := marshalExtension(oidRoot, ext)
	if err != nil {
		return nil, fmt.Errorf("making network %s: %w", name, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("making network %s: %w", name, err)
	}
	id := mesh.KeyIDOf(pub)
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject: pkix.Name{
			Organization: []string{string(name)}, CommonName: string(name) + " root", SerialNumber: id.String(),
		},
		NotBefore:             now.Add(-Backdate).UTC().Truncate(time.Second),
		NotAfter:              now.AddDate(rootYears, 0, 0).UTC().Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,
		SubjectKeyId:          id[:],
		AuthorityKeyId:        id[:],
		ExtraExtensions:       []pkix.Extension{value},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, pub, key)
	if err != nil {
		return nil, fmt.Errorf("making network %s: signing its root certificate: %w", name, err)
	}
	return der, nil
}

// ParseRoot checks that der is the root certificate of a gridwire network, signed by itself. It does not judge whether it has expired:
// Verify does.
func ParseRoot(der []byte) (*Root, error) {
	c, _, err := parseAuthority(der, "root")
	if err != nil {
		return nil, err
	}
	var ext rootExtension
	if err := readExtension(c.Extensions, oidRoot, &ext); err != nil {
		return nil, fmt.Errorf("root certificate is not one of a gridwire network: %w", err)
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		return nil, fmt.Errorf("root certificate of network %q is not signed by its own key: %w", ext.Name, err)
	}
	n, err := ext.network(publicKey(c))
	if err != nil {
		return nil, fmt.Errorf("root certificate of network %q: %w", ext.Name, err)
	}
	return &Root{Cert: c, Network: n}, nil
}

// network checks the extension's fields and derives the network from them and the root key.
func (e *rootExtension) network(key ed25519.PublicKey) (mesh.Network, error) {
	if err := checkName(e.Name); err != nil {
		return mesh.Network{}, err
	}
	if d, err := mesh.ParseDomain(e.Domain); err != nil {
		return mesh.Network{}, err
	} else if d != e.Domain {
		return mesh.Network{}, fmt.Errorf("domain %q is not in lower case without a final dot, want %q", e.Domain, d)
	}
	id := mesh.NetworkIDOf(key)
	n := mesh.Network{ID: id, Name: mesh.Name(e.Name), Domain: e.Domain, IPv6: mesh.IPv6Prefix(id)}
	if len(e.IPv4) == 0 {
		return n, nil
	}
	pool, err := parsePrefix(e.IPv4)
	if err != nil {
		return mesh.Network{}, fmt.Errorf("IPv4 pool: %w", err)
	}
	n.IPv4 = pool
	return n, CheckPool(pool)
}

// CheckPool says whether an IPv4 pool is one that no host on the internet has (RFC 1918, and RFC 6598 for who asks for it), and large
// enough to be divided among issuers.
func CheckPool(pool netip.Prefix) error {
	if !pool.Addr().Is4() || mesh.IssuerIPv4Count(pool) == 0 || pool.Bits() < 8 {
		return fmt.Errorf("IPv4 pool %v: want an IPv4 prefix between /8 and /26", pool)
	}
	if pool != pool.Masked() {
		return fmt.Errorf("IPv4 pool %v has bits behind its length, did you mean %v?", pool, pool.Masked())
	}
	for _, private := range []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10}), 8),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16}), 12),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168}), 16),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10),
	} {
		if private.Bits() <= pool.Bits() && private.Contains(pool.Addr()) {
			return nil
		}
	}
	return fmt.Errorf("IPv4 pool %v is not private: take one from 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16", pool)
}

// checkName says whether s is a name in its canonical form.
func checkName(s string) error {
	n, err := mesh.ParseName(s)
	if err == nil && string(n) != s {
		err = fmt.Errorf("name %q is not in lower case", s)
	}
	return err
}
