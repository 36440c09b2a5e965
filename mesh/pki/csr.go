package pki

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"

	"github.com/gridwire/gridwire/mesh"
)

// CSR is a request for a member's certificate, checked: whoever made it holds the identity key.
type CSR struct {
	Identity  ed25519.PublicKey
	WireGuard mesh.WGKey
	Name      mesh.Name // empty: whatever the issuer chooses
}

// MakeCSR makes a PKCS #10 request (RFC 2986). The same arguments give the same bytes. The name may be empty.
func MakeCSR(identity Key, wg mesh.WGKey, name mesh.Name) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("requesting a certificate for %q: %w", name, err)
	}
	if err := checkKey(identity, nil, "identity"); err != nil {
		return fail(err)
	}
	if wg.IsZero() {
		return fail(errors.New("the WireGuard key is all zeros"))
	}
	t := &x509.CertificateRequest{}
	if name != "" {
		if err := checkName(string(name)); err != nil {
			return fail(err)
		}
		t.Subject.CommonName = string(name)
	}
	ext, err := marshalExtension(oidMember, memberExtension{Version: extensionVersion, WireGuard: wg[:]})
	if err != nil {
		return fail(err)
	}
	t.ExtraExtensions = []pkix.Extension{ext}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, identity)
	if err != nil {
		return fail(err)
	}
	return der, nil
}

// ParseCSR checks a request and its signature. Tags and routes in it are ignored: the invitation says what a member gets.
func ParseCSR(der []byte) (*CSR, error) {
	if len(der) > MaxCertificate {
		return nil, fmt.Errorf("certificate request of %d bytes is too large, the limit is %d", len(der), MaxCertificate)
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request is damaged: %w", err)
	}
	pub, ok := r.PublicKey.(ed25519.PublicKey)
	if !ok || r.SignatureAlgorithm != x509.PureEd25519 {
		return nil, fmt.Errorf("certificate request has a %v key, want Ed25519", r.PublicKeyAlgorithm)
	}
	if !onlyEncoding(der, r.RawTBSCertificateRequest, r.Signature) {
		return nil, errors.New("certificate request has bytes that are not signed")
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request is not signed by its own key: %w", err)
	}
	c := &CSR{Identity: pub, Name: mesh.Name(r.Subject.CommonName)}
	if c.Name != "" {
		if err := checkName(string(c.Name)); err != nil {
			return nil, fmt.Errorf("certificate request: %w", err)
		}
	}
	var ext memberExtension
	if err := readExtension(r.Extensions, oidMember, &ext); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if c.WireGuard, err = parseWireGuard(ext.WireGuard); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return c, nil
}
