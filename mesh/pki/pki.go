// Package pki makes and judges a network's X.509 certificates (RFC 5280): the root, its issuers, the members' leaves, the requests
// for them and the revocation lists.
//
//	root    self-signed, 20 years; its extension names the network, its domain and its IPv4 pool
//	issuer  signed by the root, 5 years, path length 0; name constraints: the domain, the IPv6 /48 and the issuer's part of the IPv4
//	        pool. Its key is a member's identity key, so that a member can be appointed while it is offline
//	leaf    signed by an issuer, 30 days; SANs: NAME.DOMAIN, the IPv6 address that follows from its key, perhaps an IPv4 address;
//	        its extension carries the WireGuard key, tags and routes
//	device  signed by an issuer, a year; of something that cannot run an agent. Its subject's key is its WireGuard key (X25519); SANs:
//	        NAME.DOMAIN and the addresses that follow from the key; its extension carries the gateways that it is bound to
//
// All other keys are Ed25519 (both: RFC 8410). Key identifiers are mesh.KeyIDOf (RFC 7093, section 2 (1)). The extensions are described in oid.go.
// Whatever is read here may come from a stranger: sizes are limited before anything is parsed.
//
// The package owns nothing: no state, clock, file or goroutine. The time is always passed in, and nothing is cached between calls but
// what a parsed Root or Issuer holds. It never decides who is revoked (mesh/directory) nor who is let in (mesh/enrol).
package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// Key is a private key: the root's, or a node's identity.
type Key = ed25519.PrivateKey

// Limits of what is read and made.
const (
	MaxCertificate    = 8 << 10   // bytes of a certificate or a request
	MaxRevocationList = 512 << 10 // bytes of a list: half a control frame, so that a list travels beside other items
	MaxRevoked        = 4096      // entries of a list
	MaxTags           = 64
	MaxTagLength      = 64 // characters
	MaxRoutes         = 64
	// MaxDevice is the largest certificate of a device, in bytes: with the longest name in the longest domain and MaxGateways gateways it
	// has about 1,100.
	MaxDevice = 2 << 10
)

const (
	rootYears   = 20
	issuerYears = 5
	// DefaultLifetime is how long a leaf is valid if the request does not say.
	DefaultLifetime = 30 * 24 * time.Hour
	// DeviceLifetime is how long a device's certificate is valid if the request does not say: nobody renews it but a person.
	DeviceLifetime = 365 * 24 * time.Hour
	// Backdate is how long before its making a certificate becomes valid, for machines whose clock is behind.
	Backdate = 24 * time.Hour
)

// Sentinels that callers branch on; errors of this package wrap them.
var (
	ErrExpired       = errors.New("the certificate has expired")
	ErrNotYetValid   = errors.New("the certificate is not valid yet")
	ErrWrongNetwork  = errors.New("it belongs to another network")
	ErrUnknownSigner = errors.New("its signer is not a known issuer")
)

// parseCertificate parses what every certificate of ours has in common. what names it in errors: "root", "issuer's", "member's".
func parseCertificate(der []byte, what string) (*x509.Certificate, error) {
	c, err := parseSigned(der, what, MaxCertificate)
	if err != nil {
		return nil, err
	}
	if _, ok := c.PublicKey.(ed25519.PublicKey); !ok {
		return nil, fmt.Errorf("%s certificate has a %v key, want Ed25519", what, c.PublicKeyAlgorithm)
	}
	return c, nil
}

// parseSigned is parseCertificate for certificates whose subject may have another kind of key than ours.
func parseSigned(der []byte, what string, limit int) (*x509.Certificate, error) {
	if len(der) > limit {
		return nil, fmt.Errorf("%s certificate of %d bytes is too large, the limit is %d", what, len(der), limit)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s certificate is damaged: %w", what, err)
	}
	if c.SignatureAlgorithm != x509.PureEd25519 {
		return nil, fmt.Errorf("%s certificate has a %v signature, want Ed25519", what, c.SignatureAlgorithm)
	}
	if !onlyEncoding(der, c.RawTBSCertificate, c.Signature) {
		return nil, fmt.Errorf("%s certificate has bytes that are not signed", what)
	}
	if len(c.UnhandledCriticalExtensions) > 0 {
		return nil, fmt.Errorf("%s certificate has the critical extension %v, which this version does not know: update gridwire", what,
			c.UnhandledCriticalExtensions[0])
	}
	if err := checkSerial(c.SerialNumber); err != nil {
		return nil, fmt.Errorf("%s certificate: %w", what, err)
	}
	return c, nil
}

// onlyEncoding reports whether der is the one encoding of something signed by Ed25519: the signed part, the algorithm, the signature.
// crypto/x509 skips bytes that follow the signature (and, of a list, bytes that follow it all), so that whoever passes a certificate or
// a list on could change it without breaking the signature, and the two would spread as different ones.
func onlyEncoding(der, signed, signature []byte) bool {
	want, err := encodeSigned(signed, signature)
	return err == nil && bytes.Equal(der, want)
}

// encodeSigned puts what was signed by Ed25519 and the signature together (RFC 5280, 4.1).
func encodeSigned(signed, signature []byte) ([]byte, error) {
	return asn1.Marshal(struct {
		Signed    asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		asn1.RawValue{FullBytes: signed},
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 3, 101, 112}}, // RFC 8410, section 3
		asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)},
	})
}

// parseAuthority checks what root and issuers have in common.
func parseAuthority(der []byte, what string) (*x509.Certificate, mesh.KeyID, error) {
	c, err := parseCertificate(der, what)
	if err != nil {
		return nil, mesh.KeyID{}, err
	}
	if !c.BasicConstraintsValid || !c.IsCA {
		return nil, mesh.KeyID{}, fmt.Errorf("%s certificate is not one of an authority (CA flag)", what)
	}
	if want := x509.KeyUsageCertSign | x509.KeyUsageCRLSign; c.KeyUsage&want != want {
		return nil, mesh.KeyID{}, fmt.Errorf("%s certificate's key usage lacks certificate signing or CRL signing", what)
	}
	id := mesh.KeyIDOf(publicKey(c))
	if !bytes.Equal(c.SubjectKeyId, id[:]) {
		return nil, mesh.KeyID{}, fmt.Errorf("%s certificate's subject key identifier %x does not follow from its key, want %v", what,
			c.SubjectKeyId, id)
	}
	return c, id, nil
}

// publicKey returns the key of a certificate that parseCertificate let through.
func publicKey(c *x509.Certificate) ed25519.PublicKey { return c.PublicKey.(ed25519.PublicKey) }

// checkKey reports whether key is the private key of want.
func checkKey(key Key, want ed25519.PublicKey, whose string) error {
	if len(key) != ed25519.PrivateKeySize {
		return fmt.Errorf("%s key of %d bytes, want %d", whose, len(key), ed25519.PrivateKeySize)
	}
	if want != nil && !want.Equal(key.Public()) {
		return fmt.Errorf("%s key is not the key of its certificate", whose)
	}
	return nil
}

// checkSerial applies RFC 5280, 4.1.2.2: positive, at most 20 octets.
func checkSerial(n *big.Int) error {
	if n == nil || n.Sign() <= 0 || n.BitLen() > 159 {
		return errors.New("the serial number is not between 1 and 2^159")
	}
	return nil
}

// newSerial returns 127 random bits, enough that serials of different issuers do not meet.
func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // never zero, always the same length
	return new(big.Int).SetBytes(b[:]), nil
}

// serialText returns the form in which serials are compared and shown: hexadecimal, lower case, no leading zeros.
func serialText(n *big.Int) string { return n.Text(16) }

func parseSerial(s string) (*big.Int, error) {
	n, ok := new(big.Int).SetString(s, 16)
	if !ok || checkSerial(n) != nil || serialText(n) != s {
		return nil, fmt.Errorf("serial number %q is not hexadecimal, lower case, between 1 and 2^159", s)
	}
	return n, nil
}

// window is when a certificate, or all of a chain, is valid.
type window struct{ from, to time.Time }

func windowOf(certs ...*x509.Certificate) window {
	w := window{certs[0].NotBefore, certs[0].NotAfter}
	for _, c := range certs[1:] {
		if c.NotBefore.After(w.from) {
			w.from = c.NotBefore
		}
		if c.NotAfter.Before(w.to) {
			w.to = c.NotAfter
		}
	}
	return w
}

// validity is that of a certificate which i signs now for a lifetime: backdated, and within what the chain above is valid for.
func (i *Issuer) validity(root *Root, lifetime time.Duration, now time.Time) (window, error) {
	limits := windowOf(i.Cert, root.Cert)
	v := window{now.Add(-Backdate).UTC().Truncate(time.Second), earlier(now.Add(lifetime).UTC().Truncate(time.Second), limits.to)}
	if v.from.Before(limits.from) {
		v.from = limits.from
	}
	if !v.to.After(now) {
		return window{}, fmt.Errorf("a lifetime of %v ends before it begins", lifetime)
	}
	return v, nil
}

// check returns an error that wraps ErrNotYetValid or ErrExpired; both ends belong to the window (RFC 5280, 4.1.2.5). remedy says what
// to do once it has expired.
func (w window) check(whose, remedy string, now time.Time) error {
	if now.Before(w.from) {
		return fmt.Errorf("%s: %w: it is valid from %s, and here it is %s; check this machine's clock", whose, ErrNotYetValid,
			w.from.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if now.After(w.to) {
		return fmt.Errorf("%s: %w: it was valid until %s, and here it is %s; %s", whose, ErrExpired,
			w.to.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), remedy)
	}
	return nil
}
