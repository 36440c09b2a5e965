package pki

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// LeafRequest is what an issuer certifies about a member. Duplicate tags and routes are dropped.
type LeafRequest struct {
	Identity  ed25519.PublicKey
	WireGuard mesh.WGKey
	Name      mesh.Name
	IPv4      netip.Addr     // optional; of the issuer's part of the pool
	Tags      []string       // see CheckTags
	Routes    []netip.Prefix // see CheckRoutes
	Lifetime  time.Duration  // 0: DefaultLifetime
	Serial    *big.Int       // nil: random
	Admitted  time.Time      // of the certificate that this one renews; zero: its NotBefore
}

// Leaf is a member's certificate, checked. It is immutable.
type Leaf struct {
	Cert      *x509.Certificate
	ID        mesh.NodeID
	Name      mesh.Name
	WireGuard mesh.WGKey
	Addrs     []netip.Addr // IPv6 first, then IPv4 if it has one
	Tags      []string
	Routes    []netip.Prefix
	Issuer    mesh.KeyID
	Serial    string    // hexadecimal
	Issued    time.Time // when it was signed: NotBefore is earlier, by Backdate
	Admitted  time.Time // NotBefore of the first of the certificates that were renewed up to this one
	NotBefore time.Time // of the whole chain: the latest NotBefore in it
	NotAfter  time.Time // of the whole chain: the earliest NotAfter in it
}

// Sign makes a member's certificate. key is the issuer's. It is valid from Backdate before now for the lifetime asked for, but no
// longer than the issuer and the root. It refuses what Verify would refuse: names that are no label below the network's domain, IPv4
// addresses outside the issuer's part of the pool, malformed tags, routes into the overlay.
func (i *Issuer) Sign(key Key, root *Root, r LeafRequest, now time.Time) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("signing a certificate for %q: %w", r.Name, err)
	}
	if err := i.maySign(key, root, now); err != nil {
		return fail(err)
	}
	if err := r.check(i, root.Network); err != nil {
		return fail(err)
	}
	valid, err := i.validity(root, cmp.Or(r.Lifetime, DefaultLifetime), now)
	if err != nil {
		return fail(err)
	}
	ext, err := marshalExtension(oidMember, r.extension(now))
	if err != nil {
		return fail(err)
	}
	serial := r.Serial
	if serial == nil {
		if serial, err = newSerial(); err != nil {
			return fail(err)
		}
	}
	id := mesh.KeyIDOf(r.Identity)
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{string(root.Network.Name)}, CommonName: string(r.Name)},
		NotBefore:             valid.from,
		NotAfter:              valid.to,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          id[:],
		AuthorityKeyId:        i.KeyID[:],
		DNSNames:              []string{DNSName(r.Name, root.Network)},
		IPAddresses:           []net.IP{mesh.NodeAddr(root.Network.ID, mesh.NodeIDOf(r.Identity)).AsSlice()},
		ExtraExtensions:       []pkix.Extension{ext},
	}
	if r.IPv4.IsValid() {
		t.IPAddresses = append(t.IPAddresses, r.IPv4.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, t, i.Cert, r.Identity, key)
	if err != nil {
		return fail(err)
	}
	if len(der) > MaxCertificate {
		return fail(fmt.Errorf("it would have %d bytes, the limit is %d: use fewer tags or routes", len(der), MaxCertificate))
	}
	return der, nil
}

// maySign checks that the issuer holds its key and is valid now, in this network.
func (i *Issuer) maySign(key Key, root *Root, now time.Time) error {
	if err := checkKey(key, publicKey(i.Cert), "issuer's"); err != nil {
		return err
	}
	if i.root != root.KeyID() {
		return fmt.Errorf("issuer %s: %w than %s", i.Name, ErrWrongNetwork, root.Network.Name)
	}
	return windowOf(i.Cert, root.Cert).check("certificate of issuer "+string(i.Name), "appoint the issuer again with the root key", now)
}

func (r *LeafRequest) check(i *Issuer, n mesh.Network) error {
	if err := checkIdentity(r.Identity); err != nil {
		return err
	}
	if r.WireGuard.IsZero() {
		return errors.New("the WireGuard key is all zeros")
	}
	if err := checkName(string(r.Name)); err != nil {
		return err
	}
	if r.IPv4.IsValid() {
		if err := i.checkIPv4(r.IPv4); err != nil {
			return err
		}
	}
	if err := CheckTags(r.Tags); err != nil {
		return err
	}
	if err := CheckRoutes(r.Routes, n); err != nil {
		return err
	}
	if r.Lifetime < 0 {
		return fmt.Errorf("a lifetime of %v is negative", r.Lifetime)
	}
	if r.Serial != nil {
		return checkSerial(r.Serial)
	}
	return nil
}

// checkIPv4 says whether the issuer may give this address.
func (i *Issuer) checkIPv4(a netip.Addr) error {
	if !i.IPv4.IsValid() {
		return fmt.Errorf("address %v: the network has no IPv4", a)
	}
	if !i.IPv4.Contains(a) {
		return fmt.Errorf("address %v is outside %v, the IPv4 part of issuer %s", a, i.IPv4, i.Name)
	}
	return nil
}

func (r *LeafRequest) extension(now time.Time) memberExtension {
	e := memberExtension{Version: extensionVersion, WireGuard: r.WireGuard[:], Tags: unique(r.Tags), Issued: now.Unix()}
	if !r.Admitted.IsZero() {
		e.Admitted = r.Admitted.Unix()
	}
	for _, p := range unique(r.Routes) {
		e.Routes = append(e.Routes, prefixBytes(p))
	}
	return e
}

// unique returns the distinct elements of s in their order.
func unique[T comparable](s []T) []T {
	seen := make(map[T]bool, len(s))
	var out []T
	for _, v := range s {
		if !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// DNSName returns the name of a member in the DNS, without the final dot.
func DNSName(name mesh.Name, n mesh.Network) string { return string(name) + "." + n.Domain }

// CheckTags says whether a certificate may carry these tags: at most MaxTags, each of 1 to MaxTagLength characters, letters, digits
// and any of - _ . : / = (such as "site:berlin").
func CheckTags(tags []string) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("%d tags, the limit is %d", len(tags), MaxTags)
	}
	for _, t := range tags {
		if len(t) == 0 || len(t) > MaxTagLength {
			return fmt.Errorf("tag %q has %d characters, want 1 to %d", t, len(t), MaxTagLength)
		}
		for _, c := range []byte(t) {
			if !tagCharacter(c) {
				return fmt.Errorf("tag %q: a tag is made of letters, digits and - _ . : / =", t)
			}
		}
	}
	return nil
}

func tagCharacter(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	switch c {
	case '-', '_', '.', ':', '/', '=':
		return true
	}
	return false
}

// CheckRoutes says whether a member may be authorised for these prefixes: at most MaxRoutes, canonical, unicast, and none that
// overlaps the network's own prefixes: such a route would take over other members' addresses. A default route is one of those.
func CheckRoutes(routes []netip.Prefix, n mesh.Network) error {
	if len(routes) > MaxRoutes {
		return fmt.Errorf("%d routes, the limit is %d", len(routes), MaxRoutes)
	}
	for _, p := range routes {
		a := p.Addr()
		switch {
		case !p.IsValid() || a.Is4In6():
			return fmt.Errorf("route %v is not an IPv4 or IPv6 prefix", p)
		case p != p.Masked():
			return fmt.Errorf("route %v has bits behind its length, did you mean %v?", p, p.Masked())
		case p.Bits() == 0:
			return fmt.Errorf("route %v: a default route cannot be routed to a member, it contains the overlay", p)
		case a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a.IsUnspecified():
			return fmt.Errorf("route %v is loopback, multicast, link-local or unspecified: it belongs to no member", p)
		case p.Overlaps(n.IPv6) || n.IPv4.IsValid() && p.Overlaps(n.IPv4):
			return fmt.Errorf("route %v overlaps the overlay (%v %v), whose addresses belong to members", p, n.IPv6, n.IPv4)
		}
	}
	return nil
}

// RenewAt returns when the certificate should be renewed: at two thirds of its life, counted from when it was signed. (Not from
// NotBefore: that would be in the past for a certificate that lives shorter than it is backdated.)
func (l *Leaf) RenewAt() time.Time {
	life := l.NotAfter.Sub(l.Issued)
	return l.Issued.Add(life / 3 * 2)
}

// CheckTime returns nil if the whole chain is valid now, otherwise an error that wraps ErrNotYetValid or ErrExpired.
func (l *Leaf) CheckTime(now time.Time) error {
	return window{l.NotBefore, l.NotAfter}.check("certificate of "+string(l.Name), "renew it at an issuer, or join the network again", now)
}
