package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// testNow is when everything in the tests happens.
var testNow = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func testKey(seed string) Key {
	var b [ed25519.SeedSize]byte
	copy(b[:], seed)
	return ed25519.NewKeyFromSeed(b[:])
}

func pub(k Key) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func testWG(seed byte) (k mesh.WGKey) {
	for i := range k {
		k[i] = seed + byte(i)
	}
	return k
}

// authority is a network with its root and two issuers, alice (index 0) and zoe (index 5).
type authority struct {
	rootKey, aliceKey, zoeKey Key
	root                      *Root
	alice, zoe                *Issuer
}

func newAuthority(tb testing.TB, seed string, pool netip.Prefix) *authority {
	tb.Helper()
	a := &authority{rootKey: testKey(seed + " root"), aliceKey: testKey(seed + " alice"), zoeKey: testKey(seed + " zoe")}
	root := pin(must(NewRoot("farm", "", pool, a.rootKey, testNow)), 1)
	a.root = must(ParseRoot(forge(root, root, pub(a.rootKey), a.rootKey)))
	a.alice = a.issuer(a.aliceKey, "alice", 0)
	a.zoe = a.issuer(a.zoeKey, "zoe", 5)
	return a
}

func (a *authority) issuer(k Key, name mesh.Name, index int) *Issuer {
	c := pin(must(NewIssuer(a.root, a.rootKey, pub(k), name, index, testNow)), int64(index+2))
	return must(ParseIssuer(forge(c, a.root.Cert, pub(k), a.rootKey), a.root))
}

func (a *authority) issuers(id mesh.KeyID) *Issuer {
	for _, i := range []*Issuer{a.alice, a.zoe} {
		if i.KeyID == id {
			return i
		}
	}
	return nil
}

func (a *authority) request(seed string, name mesh.Name) LeafRequest {
	r := LeafRequest{
		Identity: pub(testKey(seed)), WireGuard: testWG(7), Name: name, Tags: []string{"site:berlin", "gpu"},
		Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("2001:db8:7::/48")},
	}
	if a.alice.IPv4.IsValid() {
		r.IPv4 = a.alice.IPv4.Addr().Next()
	}
	return r
}

// pin makes a certificate the same in every process, as fuzzing demands: its workers must know the seeds of their coordinator.
func pin(der []byte, serial int64) *x509.Certificate {
	c := template(der)
	c.SerialNumber = big.NewInt(serial)
	return c
}

// chain is bob's, signed by alice.
func (a *authority) chain(tb testing.TB) [][]byte {
	tb.Helper()
	r := a.request("bob", "bob")
	r.Serial = big.NewInt(0xb0b)
	leaf, err := a.alice.Sign(a.aliceKey, a.root, r, testNow)
	if err != nil {
		tb.Fatal(err)
	}
	return [][]byte{leaf, a.alice.Cert.Raw}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// template returns a template for x509.CreateCertificate that repeats the certificate der, extensions of ours included.
func template(der []byte) *x509.Certificate {
	t := must(x509.ParseCertificate(der))
	for _, e := range t.Extensions {
		if e.Id[0] == 2 && e.Id[1] == 25 {
			t.ExtraExtensions = append(t.ExtraExtensions, e)
		}
	}
	return t
}

func setExtension(t *x509.Certificate, value []byte) { t.ExtraExtensions[0].Value = value }

func member(e memberExtension) []byte { return must(asn1.Marshal(e)) }

// forge signs t with whatever key, as a careless or hostile authority could.
func forge(t, parent *x509.Certificate, key ed25519.PublicKey, signer Key) []byte {
	unchecked := *parent
	unchecked.PublicKey = nil // else CreateCertificate insists that the signer is the parent
	return must(x509.CreateCertificate(rand.Reader, t, &unchecked, key, signer))
}

func wantError(t *testing.T, err error, is error, part string) {
	t.Helper()
	switch {
	case err == nil:
		t.Fatalf("no error, want one with %q", part)
	case is != nil && !errors.Is(err, is):
		t.Fatalf("error %q does not wrap %q", err, is)
	case !strings.Contains(err.Error(), part):
		t.Fatalf("error %q, want one with %q", err, part)
	}
}

func TestRootRoundTrip(t *testing.T) {
	key := testKey("root")
	id := mesh.NetworkIDOf(pub(key))
	for _, c := range []struct {
		domain     string
		pool, want netip.Prefix
		wantDomain string
	}{
		{"", netip.Prefix{}, mesh.DefaultIPv4Pool(id), "farm.internal"},
		{"mesh.example.org", NoIPv4(), netip.Prefix{}, "mesh.example.org"},
		{"x", netip.MustParsePrefix("192.168.64.0/18"), netip.MustParsePrefix("192.168.64.0/18"), "x"},
	} {
		r, err := ParseRoot(must(NewRoot("farm", c.domain, c.pool, key, testNow)))
		if err != nil {
			t.Fatal(err)
		}
		want := mesh.Network{ID: id, Name: "farm", Domain: c.wantDomain, IPv6: mesh.IPv6Prefix(id), IPv4: c.want}
		if r.Network != want {
			t.Errorf("network %+v, want %+v", r.Network, want)
		}
		if r.KeyID() != mesh.KeyIDOf(pub(key)) || !r.Cert.NotAfter.Equal(testNow.AddDate(20, 0, 0)) {
			t.Errorf("key ID %v, expires %v", r.KeyID(), r.Cert.NotAfter)
		}
	}
}

func TestNewRootRefuses(t *testing.T) {
	for _, c := range []struct {
		name         mesh.Name
		domain, pool string
		part         string
	}{
		{"Farm", "", "10.1.0.0/16", "lower case"},
		{"", "x", "10.1.0.0/16", "1 to 63"},
		{"farm", "Farm.internal", "10.1.0.0/16", "lower case"},
		{"farm", "farm..internal", "10.1.0.0/16", "0 characters"},
		{"farm", "", "8.8.0.0/16", "not private"},
		{"farm", "", "172.0.0.0/8", "not private"},
		{"farm", "", "10.1.2.0/16", "did you mean 10.1.0.0/16"},
		{"farm", "", "10.0.0.0/27", "between /8 and /26"},
		{"farm", "", "10.0.0.0/4", "between /8 and /26"},
		{"farm", "", "fd00::/16", "want an IPv4 prefix"},
		{"farm", "", "::ffff:10.0.0.0/112", "want an IPv4 prefix"},
	} {
		_, err := NewRoot(c.name, c.domain, netip.MustParsePrefix(c.pool), testKey("root"), testNow)
		wantError(t, err, nil, c.part)
	}
	_, err := NewRoot("farm", "", netip.Prefix{}, Key("short"), testNow)
	wantError(t, err, nil, "5 bytes")
}

func TestParseRootRefuses(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	key, der := a.rootKey, a.root.Cert.Raw
	self := func(change func(*x509.Certificate)) []byte {
		c := template(der)
		change(c)
		return forge(c, c, pub(key), key)
	}
	other := template(der)
	for _, c := range []struct {
		part string
		der  []byte
	}{
		{"too large", make([]byte, MaxCertificate+1)},
		{"damaged", der[:len(der)-1]},
		{"damaged", append(bytes.Clone(der), 0)},
		{"not signed", appendInside(der)},
		{"CA flag", a.chain(t)[0]},
		{"not one of a gridwire network", a.alice.Cert.Raw},
		{"not one of a gridwire network", self(func(c *x509.Certificate) { c.ExtraExtensions = nil })},
		{"key usage", self(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })},
		{"does not follow from its key", self(func(c *x509.Certificate) { c.SubjectKeyId = []byte{1, 2, 3} })},
		{"not private", self(func(c *x509.Certificate) {
			setExtension(c, must(asn1.Marshal(rootExtension{1, "farm", "farm.internal", []byte{9, 0, 0, 0, 8}})))
		})},
		{"is not a prefix", self(func(c *x509.Certificate) {
			setExtension(c, must(asn1.Marshal(rootExtension{1, "farm", "farm.internal", []byte{10, 0, 0, 0, 40}})))
		})},
		{"critical extension", self(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 25, 1}, Critical: true, Value: []byte{5, 0}})
		})},
		{"not signed by its own key", forge(other, other, pub(key), a.aliceKey)},
	} {
		_, err := ParseRoot(c.der)
		wantError(t, err, nil, c.part)
	}
}

func TestIssuerRoundTrip(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	i := a.zoe
	if i.Name != "zoe" || i.Index != 5 || i.NodeID != mesh.NodeIDOf(pub(a.zoeKey)) || i.KeyID != mesh.KeyIDOf(pub(a.zoeKey)) {
		t.Errorf("issuer %+v", i)
	}
	if i.IPv4 != mesh.IssuerIPv4(a.root.Network.IPv4, 5) || i.IPv4.Overlaps(a.alice.IPv4) {
		t.Errorf("IPv4 %v", i.IPv4)
	}
	if !i.Cert.NotAfter.Equal(testNow.AddDate(5, 0, 0)) {
		t.Errorf("expires %v", i.Cert.NotAfter)
	}
	none := newAuthority(t, "a", NoIPv4())
	if i := none.issuer(none.zoeKey, "zoe", 20); i.IPv4.IsValid() {
		t.Errorf("IPv4 %v in a network without", i.IPv4)
	}
	late := must(NewIssuer(a.root, a.rootKey, pub(a.zoeKey), "zoe", 1, testNow.AddDate(18, 0, 0)))
	if c := must(ParseIssuer(late, a.root)).Cert; !c.NotAfter.Equal(a.root.Cert.NotAfter) {
		t.Errorf("outlives the root: %v", c.NotAfter)
	}
}

func TestNewIssuerRefuses(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	id := pub(a.zoeKey)
	for _, c := range []struct {
		part string
		err  error
		do   func() ([]byte, error)
	}{
		{"not the key", nil, func() ([]byte, error) { return NewIssuer(a.root, a.aliceKey, id, "zoe", 1, testNow) }},
		{"root key of 0 bytes", nil, func() ([]byte, error) { return NewIssuer(a.root, nil, id, "zoe", 1, testNow) }},
		{"identity key of 3", nil, func() ([]byte, error) { return NewIssuer(a.root, a.rootKey, id[:3], "zoe", 1, testNow) }},
		{"DNS label", nil, func() ([]byte, error) { return NewIssuer(a.root, a.rootKey, id, "z.oe", 1, testNow) }},
		{"16 issuers", nil, func() ([]byte, error) { return NewIssuer(a.root, a.rootKey, id, "zoe", 16, testNow) }},
		{"16 issuers", nil, func() ([]byte, error) { return NewIssuer(a.root, a.rootKey, id, "zoe", -1, testNow) }},
		{"expired", ErrExpired, func() ([]byte, error) {
			return NewIssuer(a.root, a.rootKey, id, "zoe", 1, testNow.AddDate(21, 0, 0))
		}},
		{"clock", ErrNotYetValid, func() ([]byte, error) {
			return NewIssuer(a.root, a.rootKey, id, "zoe", 1, testNow.AddDate(-6, 0, 0))
		}},
	} {
		_, err := c.do()
		wantError(t, err, c.err, c.part)
	}
}

func TestParseIssuerRefuses(t *testing.T) {
	a, b := newAuthority(t, "a", netip.Prefix{}), newAuthority(t, "b", netip.Prefix{})
	by := func(change func(*x509.Certificate)) []byte {
		c := template(a.alice.Cert.Raw)
		change(c)
		return forge(c, a.root.Cert, pub(a.aliceKey), a.rootKey)
	}
	sub := template(a.alice.Cert.Raw)
	sub.AuthorityKeyId = nil
	sibling := *a.root.Cert
	sibling.RawSubject = must(asn1.Marshal(pkix.Name{CommonName: "other"}.ToRDNSequence()))
	for _, c := range []struct {
		part string
		err  error
		der  []byte
	}{
		{"too large", nil, make([]byte, MaxCertificate+1)},
		{"another network", ErrWrongNetwork, b.alice.Cert.Raw},
		{"another network", ErrWrongNetwork, forge(sub, a.zoe.Cert, pub(a.aliceKey), a.zoeKey)},
		{"names another signer", nil, forge(template(a.alice.Cert.Raw), &sibling, pub(a.aliceKey), a.rootKey)},
		{"not signed by the root", nil, forgedSignature(a.alice.Cert.Raw)},
		{"not one of an issuer", nil, a.root.Cert.Raw},
		{"path length is -1", nil, by(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = -1, false })},
		{"path length is 1", nil, by(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false })},
		{"domains", nil, by(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"internal"} })},
		{"domains", nil, by(func(c *x509.Certificate) { c.PermittedDNSDomains = append(c.PermittedDNSDomains, "com") })},
		{"critical", nil, by(func(c *x509.Certificate) { c.PermittedDNSDomainsCritical = false })},
		{"permit the addresses", nil, by(func(c *x509.Certificate) { c.PermittedIPRanges = a.zoe.Cert.PermittedIPRanges })},
		{"permit the addresses", nil, by(func(c *x509.Certificate) { c.PermittedIPRanges = nil })},
		{"16 issuers", nil, by(func(c *x509.Certificate) {
			setExtension(c, must(asn1.Marshal(issuerExtension{1, "alice", 99})))
		})},
		{"permit the addresses", nil, by(func(c *x509.Certificate) {
			setExtension(c, must(asn1.Marshal(issuerExtension{1, "alice", 3})))
		})},
		{"lower case", nil, by(func(c *x509.Certificate) {
			setExtension(c, must(asn1.Marshal(issuerExtension{1, "Alice", 0})))
		})},
	} {
		_, err := ParseIssuer(c.der, a.root)
		wantError(t, err, c.err, c.part)
	}
}

// forgedSignature turns a bit of the signature over, which ends every certificate and list.
func forgedSignature(der []byte) []byte {
	der = bytes.Clone(der)
	der[len(der)-40] ^= 1
	return der
}

// appendInside puts a NULL behind the signature, inside the outermost SEQUENCE.
func appendInside(der []byte) []byte {
	var v asn1.RawValue
	must(asn1.Unmarshal(der, &v))
	return must(asn1.Marshal(asn1.RawValue{Tag: v.Tag, IsCompound: true, Bytes: append(v.Bytes, 5, 0)}))
}

func TestSerials(t *testing.T) {
	for _, bad := range []string{"", "0", "-1", "0x1", "00ff", "FF", "1g", "+1", "1_0", strings.Repeat("f", 40)} {
		if _, err := parseSerial(bad); err == nil {
			t.Errorf("serial %q accepted", bad)
		}
	}
	for range 50 {
		n := must(newSerial())
		if got := must(parseSerial(serialText(n))); got.Cmp(n) != 0 || n.BitLen() != 127 {
			t.Errorf("serial %v came back as %v", n, got)
		}
	}
	if checkSerial(new(big.Int)) == nil || checkSerial(nil) == nil {
		t.Error("serial 0 accepted")
	}
}
