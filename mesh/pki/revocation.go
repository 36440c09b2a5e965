package pki

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// RevokedKind says what an entry takes away.
type RevokedKind int

// The kinds of entries. Their numbers are in the lists.
const (
	Member     RevokedKind = 1 // membership: the certificate, and every other one of the same identity key
	IssuerCert RevokedKind = 2 // the right to admit, renew and revoke; only the root's list may say so
	// Kept takes nothing away: it names a certificate that goes on counting although the same list ends its issuer's right. Without it the
	// members that an issuer admitted would be out with it; whatever that issuer signs later is not named, and so is worth nothing.
	Kept RevokedKind = 3
)

// String returns the kind as it is shown to people.
func (k RevokedKind) String() string {
	switch k {
	case Member:
		return "member"
	case IssuerCert:
		return "issuer"
	case Kept:
		return "kept"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Revoked is an entry of a revocation list: a certificate, and the node it belongs to, so that a certificate renewed elsewhere at
// the same time is revoked too.
type Revoked struct {
	Issuer mesh.KeyID // who signed the certificate: for IssuerCert, the root
	Serial string     // hexadecimal
	ID     mesh.NodeID
	Kind   RevokedKind
	At     time.Time // whole seconds
}

// Covers reports whether the entry revokes this member.
func (r Revoked) Covers(l *Leaf) bool {
	return r.Kind == Member && (r.ID == l.ID || r.Issuer == l.Issuer && r.Serial == l.Serial)
}

// CoversIssuer reports whether the entry ends this issuer's right: by the root's word, or because the issuer's node is no member any
// more. Otherwise it would admit itself again, under another key.
func (r Revoked) CoversIssuer(i *Issuer) bool {
	switch r.Kind {
	case Member:
		return r.ID == i.NodeID
	case IssuerCert:
		return r.ID == i.NodeID || r.Issuer == i.root && r.Serial == i.Serial
	}
	return false
}

// Keeps reports whether the entry lets this certificate count although its list ends its issuer's right.
func (r Revoked) Keeps(l *Leaf) bool {
	return r.Kind == Kept && r.ID == l.ID && r.Issuer == l.Issuer && r.Serial == l.Serial
}

// RevocationList is a list by the root or by one issuer, checked. It is immutable. Of the lists by one signer the one with the highest
// number counts; lists do not expire.
type RevocationList struct {
	Signer  mesh.KeyID
	ByRoot  bool
	Number  uint64 // 1 or higher
	Entries []Revoked
	Time    time.Time // when it was made
	DER     []byte
}

// NewRevocationList makes a list (RFC 5280, section 5) with the given number. signer is the certificate of the root or of an issuer
// and key its key; number must be higher than that of every earlier list by this key. entries are all that the signer revokes: a list
// replaces its predecessors. Equal entries are put in once; one without a time gets now. NextUpdate, which the RFC demands and nobody
// here judges, is when the signer's certificate expires.
func NewRevocationList(signer *x509.Certificate, key Key, number uint64, entries []Revoked, now time.Time) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("making revocation list %d: %w", number, err) }
	if _, _, err := parseAuthority(signer.Raw, "signer's"); err != nil {
		return fail(err)
	}
	if err := checkKey(key, publicKey(signer), "signer's"); err != nil {
		return fail(err)
	}
	if number == 0 {
		return fail(errors.New("numbers start at 1"))
	}
	if err := windowOf(signer).check("signer's certificate", "appoint the issuer again with the root key", now); err != nil {
		return fail(err)
	}
	byRoot := slices.ContainsFunc(signer.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidRoot) })
	list, err := encodeRevoked(entries, mesh.KeyIDOf(publicKey(signer)), byRoot, now)
	if err != nil {
		return fail(err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		RevokedCertificateEntries: list,
		Number:                    new(big.Int).SetUint64(number),
		ThisUpdate:                now.UTC().Truncate(time.Second),
		NextUpdate:                signer.NotAfter,
	}, signer, key)
	if err != nil {
		return fail(err)
	}
	if len(der) > MaxRevocationList {
		return fail(fmt.Errorf("it would have %d bytes, the limit is %d", len(der), MaxRevocationList))
	}
	return der, nil
}

// encodeRevoked orders the entries, so that the same set gives the same list.
func encodeRevoked(entries []Revoked, signer mesh.KeyID, byRoot bool, now time.Time) ([]x509.RevocationListEntry, error) {
	sorted := slices.Clone(entries)
	for k := range sorted {
		if sorted[k].At.IsZero() {
			sorted[k].At = now
		}
		sorted[k].At = sorted[k].At.UTC().Truncate(time.Second)
	}
	slices.SortFunc(sorted, compareRevoked)
	sorted = slices.CompactFunc(sorted, func(a, b Revoked) bool {
		a.At = b.At // the first, which is the earliest, stays
		return a == b
	})
	if len(sorted) > MaxRevoked {
		return nil, fmt.Errorf("%d entries, the limit is %d: drop those whose certificates have all expired", len(sorted), MaxRevoked)
	}
	list := make([]x509.RevocationListEntry, 0, len(sorted))
	for _, r := range sorted {
		if err := r.check(signer, byRoot); err != nil {
			return nil, err
		}
		serial, err := parseSerial(r.Serial)
		if err != nil {
			return nil, err
		}
		ext, err := marshalExtension(oidRevoked, revokedExtension{
			Version: extensionVersion, Kind: int(r.Kind), Issuer: r.Issuer[:], Node: r.ID[:],
		})
		if err != nil {
			return nil, err
		}
		list = append(list, x509.RevocationListEntry{
			SerialNumber: serial, RevocationTime: r.At, ExtraExtensions: []pkix.Extension{ext},
		})
	}
	return list, nil
}

func compareRevoked(a, b Revoked) int {
	return cmp.Or(
		cmp.Compare(a.Kind, b.Kind), bytes.Compare(a.Issuer[:], b.Issuer[:]), strings.Compare(a.Serial, b.Serial),
		a.ID.Compare(b.ID), a.At.Compare(b.At),
	)
}

// check says whether an entry may stand in a list by this signer.
func (r Revoked) check(signer mesh.KeyID, byRoot bool) error {
	if r.ID.IsZero() {
		return fmt.Errorf("the entry for %s certificate %s names no node", r.Kind, r.Serial)
	}
	switch {
	case r.Kind == Member, r.Kind == Kept:
	case r.Kind != IssuerCert:
		return fmt.Errorf("the entry for certificate %s has the unknown %s", r.Serial, r.Kind)
	case !byRoot:
		return fmt.Errorf("an issuer's list revokes the issuer %s, which only the root may", r.ID)
	case r.Issuer != signer:
		return fmt.Errorf("the root's list revokes the issuer certificate %s, which the key %v signed, not the root", r.Serial, r.Issuer)
	}
	return nil
}

// ParseRevocationList checks a list and its signature. issuers finds an issuer by its key identifier, or returns nil: the list of an
// unknown one gives ErrUnknownSigner (its certificate may arrive later). Entries of kinds that later versions may add are skipped.
func ParseRevocationList(der []byte, root *Root, issuers func(mesh.KeyID) *Issuer) (*RevocationList, error) {
	if len(der) > MaxRevocationList {
		return nil, fmt.Errorf("revocation list of %d bytes is too large, the limit is %d", len(der), MaxRevocationList)
	}
	rl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("revocation list is damaged: %w", err)
	}
	if !onlyEncoding(der, rl.RawTBSRevocationList, rl.Signature) {
		return nil, errors.New("revocation list has bytes that are not signed, or a signature that is not Ed25519")
	}
	l := &RevocationList{Time: rl.ThisUpdate, DER: bytes.Clone(der)}
	if len(rl.AuthorityKeyId) != len(l.Signer) {
		return nil, fmt.Errorf("revocation list names its signer by %d bytes, want a key identifier of %d", len(rl.AuthorityKeyId), len(l.Signer))
	}
	l.Signer = mesh.KeyID(rl.AuthorityKeyId)
	l.ByRoot = l.Signer == root.KeyID()
	signer := root.Cert
	if !l.ByRoot {
		i := issuers(l.Signer)
		if i == nil {
			return nil, fmt.Errorf("revocation list by the key %v: %w of network %s", l.Signer, ErrUnknownSigner, root.Network.Name)
		}
		if i.KeyID != l.Signer || i.root != root.KeyID() {
			return nil, fmt.Errorf("revocation list by the key %v: issuer %s: %w", l.Signer, i.Name, ErrWrongNetwork)
		}
		signer = i.Cert
	}
	if err := rl.CheckSignatureFrom(signer); err != nil {
		return nil, fmt.Errorf("revocation list is not signed by the key %v that it names: %w", l.Signer, err)
	}
	if err := l.read(rl); err != nil {
		return nil, fmt.Errorf("revocation list by the key %v: %w", l.Signer, err)
	}
	return l, nil
}

// read takes the meaning out of a list whose signature has been checked.
func (l *RevocationList) read(rl *x509.RevocationList) error {
	if err := refuseCritical(rl.Extensions); err != nil {
		return err
	}
	if rl.Number == nil || !rl.Number.IsUint64() || rl.Number.Sign() == 0 {
		return fmt.Errorf("its number %v is not between 1 and 2^64", rl.Number)
	}
	l.Number = rl.Number.Uint64()
	if len(rl.RevokedCertificateEntries) > MaxRevoked {
		return fmt.Errorf("%d entries, the limit is %d", len(rl.RevokedCertificateEntries), MaxRevoked)
	}
	for k := range rl.RevokedCertificateEntries {
		r, known, err := readRevoked(&rl.RevokedCertificateEntries[k])
		if err != nil {
			return fmt.Errorf("entry %d: %w", k+1, err)
		}
		if !known {
			continue
		}
		if err := r.check(l.Signer, l.ByRoot); err != nil {
			return err
		}
		l.Entries = append(l.Entries, r)
	}
	return nil
}

func readRevoked(e *x509.RevocationListEntry) (r Revoked, known bool, err error) {
	if err := checkSerial(e.SerialNumber); err != nil {
		return r, false, err
	}
	if err := refuseCritical(e.Extensions); err != nil {
		return r, false, err
	}
	var ext revokedExtension
	if err := readExtension(e.Extensions, oidRevoked, &ext); err != nil {
		return r, false, err
	}
	r = Revoked{Serial: serialText(e.SerialNumber), Kind: RevokedKind(ext.Kind), At: e.RevocationTime}
	if r.Kind != Member && r.Kind != IssuerCert && r.Kind != Kept {
		return r, false, nil
	}
	if len(ext.Issuer) != len(r.Issuer) {
		return r, false, fmt.Errorf("issuer's key identifier of %d bytes, want %d", len(ext.Issuer), len(r.Issuer))
	}
	r.Issuer = mesh.KeyID(ext.Issuer)
	r.ID, err = mesh.NodeIDFromBytes(ext.Node)
	return r, true, err
}

// refuseCritical: none of the critical extensions of lists (delta lists, issuing distribution points) is understood here, and RFC 5280,
// 5.2 demands that a list with one that is not understood is not used.
func refuseCritical(exts []pkix.Extension) error {
	for _, e := range exts {
		if e.Critical {
			return fmt.Errorf("it has the critical extension %v, which this version does not know", asn1.ObjectIdentifier(e.Id))
		}
	}
	return nil
}
