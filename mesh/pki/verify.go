package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// Verify judges a member's chain (leaf, issuer; the root may follow): signatures, constraints (RFC 5280, section 6), addresses, our
// extension and time. It does not know who is revoked. Errors wrap ErrWrongNetwork, ErrExpired or ErrNotYetValid where they apply; a
// chain that is expired and anything else besides gets the error for what else it is.
//
// It costs two signature checks. Whoever holds the issuer already uses Issuer.Verify, which costs one.
func Verify(chain [][]byte, root *Root, now time.Time) (*Leaf, *Issuer, error) {
	l, i, err := VerifyAtAnyTime(chain, root)
	if err != nil {
		return nil, nil, err
	}
	if err := l.CheckTime(now); err != nil {
		return nil, nil, err
	}
	return l, i, nil
}

// VerifyAtAnyTime is Verify without the question whether the chain is valid now: for certificates that may have expired, or for callers
// who ask Leaf.CheckTime again and again.
func VerifyAtAnyTime(chain [][]byte, root *Root) (*Leaf, *Issuer, error) {
	switch {
	case len(chain) == 3 && bytes.Equal(chain[2], root.Cert.Raw):
	case len(chain) != 2:
		return nil, nil, fmt.Errorf("chain of %d certificates, want the member's and its issuer's", len(chain))
	}
	i, err := ParseIssuer(chain[1], root)
	if err != nil {
		return nil, nil, err
	}
	l, err := i.VerifyAtAnyTime(chain[0], root)
	if err != nil {
		return nil, nil, err
	}
	return l, i, nil
}

// Verify judges the certificate of a member admitted by this issuer as the function Verify does, without checking the issuer's
// signature again.
func (i *Issuer) Verify(leaf []byte, root *Root, now time.Time) (*Leaf, error) {
	l, err := i.VerifyAtAnyTime(leaf, root)
	if err != nil {
		return nil, err
	}
	if err := l.CheckTime(now); err != nil {
		return nil, err
	}
	return l, nil
}

// VerifyAtAnyTime is Issuer.Verify without the question whether the chain is valid now.
func (i *Issuer) VerifyAtAnyTime(leaf []byte, root *Root) (*Leaf, error) {
	if i.anchor == nil {
		return nil, errors.New("checking a member's certificate: the issuer was not made by ParseIssuer")
	}
	if i.root != root.KeyID() {
		return nil, fmt.Errorf("checking a certificate by issuer %s: %w than %s", i.Name, ErrWrongNetwork, root.Network.Name)
	}
	c, err := parseCertificate(leaf, "member's")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(c.AuthorityKeyId, i.KeyID[:]) {
		return nil, fmt.Errorf("member's certificate was signed by the key %x, not by issuer %s (%v)", c.AuthorityKeyId, i.Name, i.KeyID)
	}
	w := windowOf(c, i.Cert, root.Cert)
	if w.to.Before(w.from) {
		return nil, errors.New("member's certificate and its issuer's are never valid at the same time")
	}
	// The issuer is the trust anchor: ParseIssuer verified it up to the root, and crypto/x509 applies an anchor's name constraints and
	// path length like any other's. At w.from all are valid, so that whatever fails here is not the time.
	if _, err := c.Verify(x509.VerifyOptions{
		Roots: i.anchor, CurrentTime: w.from, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return nil, fmt.Errorf("member's certificate is not validly signed by issuer %s: %w", i.Name, err)
	}
	l, err := i.read(c, root.Network)
	if err != nil {
		return nil, err
	}
	l.NotBefore, l.NotAfter = w.from, w.to
	if l.Issued.Before(w.from) || l.Issued.After(w.to) {
		l.Issued = w.from // another program made it and did not say, or said nonsense
	}
	if l.Admitted.Unix() <= 0 || l.Admitted.After(c.NotBefore) {
		l.Admitted = c.NotBefore
	}
	return l, nil
}

// read takes the meaning out of a leaf whose signature and constraints have been checked.
func (i *Issuer) read(c *x509.Certificate, n mesh.Network) (*Leaf, error) {
	l := &Leaf{Cert: c, ID: mesh.NodeIDOf(publicKey(c)), Issuer: i.KeyID, Serial: serialText(c.SerialNumber)}
	if c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return nil, errors.New("member's certificate is one of an authority (CA flag or key usage)")
	}
	if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, errors.New("member's certificate is not for digital signatures (key usage)")
	}
	var err error
	if l.Name, err = nameOf(c, n); err != nil {
		return nil, err
	}
	if l.Addrs, err = i.addrsOf(c, l.ID, n); err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", l.Name, err)
	}
	var ext memberExtension
	if err := readExtension(c.Extensions, oidMember, &ext); err != nil {
		return nil, fmt.Errorf("certificate of %s is not one of a member: %w", l.Name, err)
	}
	if err := l.readExtension(&ext, n); err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", l.Name, err)
	}
	return l, nil
}

// nameOf demands exactly one name, one label below the domain: the name constraints would let through any depth.
func nameOf(c *x509.Certificate, n mesh.Network) (mesh.Name, error) {
	if len(c.DNSNames) != 1 || len(c.EmailAddresses) > 0 || len(c.URIs) > 0 {
		return "", fmt.Errorf("the certificate has %d DNS names, %d e-mail addresses and %d URIs, want one DNS name",
			len(c.DNSNames), len(c.EmailAddresses), len(c.URIs))
	}
	label, ok := strings.CutSuffix(c.DNSNames[0], "."+n.Domain)
	if !ok {
		return "", fmt.Errorf("the certificate is for %q, which is not below %s", c.DNSNames[0], n.Domain)
	}
	if err := checkName(label); err != nil {
		return "", fmt.Errorf("the certificate is for %q: %w", c.DNSNames[0], err)
	}
	return mesh.Name(label), nil
}

// addrsOf demands the IPv6 address that follows from the key, and at most one IPv4 address besides.
func (i *Issuer) addrsOf(c *x509.Certificate, id mesh.NodeID, n mesh.Network) ([]netip.Addr, error) {
	var v6, v4 netip.Addr
	for _, ip := range c.IPAddresses {
		a, _ := netip.AddrFromSlice(ip)
		switch {
		case a.Is4() && !v4.IsValid():
			v4 = a
		case a.Is6() && !v6.IsValid():
			v6 = a
		default:
			return nil, fmt.Errorf("it has the addresses %v, want one IPv6 address and at most one IPv4 address", c.IPAddresses)
		}
	}
	if want := mesh.NodeAddr(n.ID, id); v6 != want {
		return nil, fmt.Errorf("its IPv6 address %v does not follow from its key, want %v", v6, want)
	}
	if !v4.IsValid() {
		return []netip.Addr{v6}, nil
	}
	if err := i.checkIPv4(v4); err != nil {
		return nil, err
	}
	return []netip.Addr{v6, v4}, nil
}

func (l *Leaf) readExtension(ext *memberExtension, n mesh.Network) (err error) {
	if l.WireGuard, err = parseWireGuard(ext.WireGuard); err != nil {
		return err
	}
	if err := CheckTags(ext.Tags); err != nil {
		return err
	}
	l.Tags = ext.Tags
	if len(ext.Routes) > MaxRoutes {
		return fmt.Errorf("%d routes, the limit is %d", len(ext.Routes), MaxRoutes)
	}
	for _, b := range ext.Routes {
		p, err := parsePrefix(b)
		if err != nil {
			return fmt.Errorf("route: %w", err)
		}
		l.Routes = append(l.Routes, p)
	}
	l.Issued, l.Admitted = time.Unix(ext.Issued, 0).UTC(), time.Unix(ext.Admitted, 0).UTC()
	return CheckRoutes(l.Routes, n)
}
