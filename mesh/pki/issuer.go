package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// maxIndex bounds the index of issuers in a network without IPv4, where it chooses nothing.
const maxIndex = 1 << 15

// Issuer is a member's certificate as an issuer, checked by ParseIssuer, which alone can make one. It is immutable.
type Issuer struct {
	Cert   *x509.Certificate
	KeyID  mesh.KeyID
	NodeID mesh.NodeID // the member whose identity key it is
	Name   mesh.Name   // the member's, when it was appointed
	Index  int
	IPv4   netip.Prefix // the part of the pool it gives addresses from; invalid if the network has no IPv4
	Serial string       // hexadecimal

	root   mesh.KeyID
	anchor *x509.CertPool // this certificate alone: leaves are verified up to it, it was verified up to the root already
}

// NewIssuer appoints the member with this identity key an issuer, for 5 years, or until the root expires. index chooses its part of the
// IPv4 pool (mesh.IssuerIPv4) and must differ from every other live issuer's: the keeper of the root key sees to that.
func NewIssuer(root *Root, rootKey Key, issuerKey ed25519.PublicKey, name mesh.Name, index int, now time.Time) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("appointing %s an issuer: %w", name, err) }
	if err := checkKey(rootKey, publicKey(root.Cert), "root"); err != nil {
		return fail(err)
	}
	if err := checkIdentity(issuerKey); err != nil {
		return fail(err)
	}
	if err := checkName(string(name)); err != nil {
		return fail(err)
	}
	if err := windowOf(root.Cert).check("root certificate of network "+string(root.Network.Name), "make a new network", now); err != nil {
		return fail(err)
	}
	ranges, err := issuerRanges(root.Network, index)
	if err != nil {
		return fail(err)
	}
	ext, err := marshalExtension(oidIssuer, issuerExtension{Version: extensionVersion, Name: string(name), Index: index})
	if err != nil {
		return fail(err)
	}
	serial, err := newSerial()
	if err != nil {
		return fail(err)
	}
	id, rootID := mesh.KeyIDOf(issuerKey), root.KeyID()
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject: pkix.Name{
			Organization: []string{string(root.Network.Name)}, CommonName: string(name) + " issuer", SerialNumber: id.String(),
		},
		NotBefore:                   now.Add(-Backdate).UTC().Truncate(time.Second),
		NotAfter:                    earlier(now.AddDate(issuerYears, 0, 0).UTC().Truncate(time.Second), root.Cert.NotAfter),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		SubjectKeyId:                id[:],
		AuthorityKeyId:              rootID[:],
		PermittedDNSDomainsCritical: true, // of all name constraints, despite its name
		PermittedDNSDomains:         []string{root.Network.Domain},
		ExtraExtensions:             []pkix.Extension{ext},
	}
	for _, p := range ranges {
		t.PermittedIPRanges = append(t.PermittedIPRanges, ipNet(p))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, root.Cert, issuerKey, rootKey)
	if err != nil {
		return fail(fmt.Errorf("signing its certificate: %w", err))
	}
	return der, nil
}

// issuerRanges returns the addresses that an issuer may certify: IPv6 first, then its part of the IPv4 pool if there is one.
func issuerRanges(n mesh.Network, index int) ([]netip.Prefix, error) {
	if !n.IPv4.IsValid() {
		if index < 0 || index > maxIndex {
			return nil, fmt.Errorf("issuer index %d is not between 0 and %d", index, maxIndex)
		}
		return []netip.Prefix{n.IPv6}, nil
	}
	p := mesh.IssuerIPv4(n.IPv4, index)
	if !p.IsValid() {
		return nil, fmt.Errorf("issuer index %d: the IPv4 pool %v has parts for %d issuers; remove one before adding another", index,
			n.IPv4, mesh.IssuerIPv4Count(n.IPv4))
	}
	return []netip.Prefix{n.IPv6, p}, nil
}

// ParseIssuer checks that der is an issuer's certificate, signed by root and constrained as the network demands. It does not judge
// whether it has expired or is revoked. A certificate of another network's root gives ErrWrongNetwork.
func ParseIssuer(der []byte, root *Root) (*Issuer, error) {
	c, id, err := parseAuthority(der, "issuer's")
	if err != nil {
		return nil, err
	}
	var ext issuerExtension
	if err := readExtension(c.Extensions, oidIssuer, &ext); err != nil {
		return nil, fmt.Errorf("certificate is not one of an issuer: %w", err)
	}
	i := &Issuer{
		Cert: c, KeyID: id, NodeID: mesh.NodeIDOf(publicKey(c)), Name: mesh.Name(ext.Name), Index: ext.Index,
		Serial: serialText(c.SerialNumber), root: root.KeyID(),
	}
	if err := checkName(ext.Name); err != nil {
		return nil, fmt.Errorf("issuer's certificate: %w", err)
	}
	if !bytes.Equal(c.AuthorityKeyId, i.root[:]) {
		return nil, fmt.Errorf("certificate of issuer %s, signed by the key %x: %w than %s (root key %v)", i.Name, c.AuthorityKeyId,
			ErrWrongNetwork, root.Network.Name, i.root)
	}
	if !bytes.Equal(c.RawIssuer, root.Cert.RawSubject) {
		return nil, fmt.Errorf("certificate of issuer %s names another signer than the root of network %s", i.Name, root.Network.Name)
	}
	if err := c.CheckSignatureFrom(root.Cert); err != nil {
		return nil, fmt.Errorf("certificate of issuer %s is not signed by the root of network %s: %w", i.Name, root.Network.Name, err)
	}
	if err := i.checkConstraints(root.Network); err != nil {
		return nil, fmt.Errorf("certificate of issuer %s: %w", i.Name, err)
	}
	i.anchor = x509.NewCertPool()
	i.anchor.AddCert(c)
	return i, nil
}

// checkConstraints demands exactly the constraints that the index calls for; crypto/x509 then applies them to each leaf.
func (i *Issuer) checkConstraints(n mesh.Network) error {
	c := i.Cert
	if c.MaxPathLen != 0 || !c.MaxPathLenZero {
		return fmt.Errorf("its path length is %d, want 0: an issuer appoints no other issuers", c.MaxPathLen)
	}
	ranges, err := issuerRanges(n, i.Index)
	if err != nil {
		return err
	}
	if len(ranges) > 1 {
		i.IPv4 = ranges[1]
	}
	if !c.PermittedDNSDomainsCritical || !slices.Equal(c.PermittedDNSDomains, []string{n.Domain}) {
		return fmt.Errorf("its name constraints permit the domains %q, want a critical constraint to %q alone", c.PermittedDNSDomains, n.Domain)
	}
	if len(c.PermittedIPRanges) != len(ranges) {
		return fmt.Errorf("its name constraints permit the addresses %v, want %v", c.PermittedIPRanges, ranges)
	}
	for _, p := range ranges {
		if !slices.ContainsFunc(c.PermittedIPRanges, func(r *net.IPNet) bool { return r.String() == p.String() }) {
			return fmt.Errorf("its name constraints permit the addresses %v, want %v", c.PermittedIPRanges, ranges)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
