package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// stockVerify is crypto/x509 alone, from the root down: whatever Verify accepts it must accept.
func stockVerify(chain [][]byte, root *Root, now time.Time) error {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.Cert)
	between.AddCert(must(x509.ParseCertificate(chain[1])))
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

func TestLeafRoundTrip(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	r := a.request("bob", "bob")
	r.Serial = big.NewInt(0xbeef)
	r.Tags, r.Routes = append(r.Tags, "gpu"), append(r.Routes, r.Routes[0])
	chain := [][]byte{must(a.alice.Sign(a.aliceKey, a.root, r, testNow)), a.alice.Cert.Raw}
	l, i, err := Verify(chain, a.root, testNow)
	if err != nil {
		t.Fatal(err)
	}
	if err := stockVerify(chain, a.root, testNow); err != nil {
		t.Fatal(err)
	}
	id := mesh.NodeIDOf(r.Identity)
	if l.ID != id || l.Name != "bob" || l.WireGuard != r.WireGuard || l.Serial != "beef" || l.Issuer != a.alice.KeyID || i.KeyID != a.alice.KeyID {
		t.Errorf("leaf %+v", l)
	}
	if want := []netip.Addr{mesh.NodeAddr(a.root.Network.ID, id), r.IPv4}; !slices.Equal(l.Addrs, want) {
		t.Errorf("addresses %v, want %v", l.Addrs, want)
	}
	if !slices.Equal(l.Tags, r.Tags[:2]) || !slices.Equal(l.Routes, r.Routes[:2]) {
		t.Errorf("tags %v, routes %v", l.Tags, l.Routes)
	}
	if !l.Issued.Equal(testNow) || !l.NotBefore.Equal(testNow.Add(-Backdate)) || !l.NotAfter.Equal(testNow.Add(DefaultLifetime)) {
		t.Errorf("issued %v, valid %v to %v", l.Issued, l.NotBefore, l.NotAfter)
	}
	if want := testNow.Add(20 * 24 * time.Hour); !l.RenewAt().Equal(want) {
		t.Errorf("renew at %v, want %v", l.RenewAt(), want)
	}
	if _, _, err := Verify(append(chain, a.root.Cert.Raw), a.root, testNow); err != nil {
		t.Errorf("with the root: %v", err)
	}
	if other, err := a.alice.Verify(chain[0], a.root, testNow); err != nil || other.ID != l.ID {
		t.Errorf("by the issuer: %v, %v", other, err)
	}
}

// An issuer's own leaf has the same key as the certificate above it, which must not be taken for a loop.
func TestIssuersOwnLeaf(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	r := a.request("", "alice")
	r.Identity = pub(a.aliceKey)
	chain := [][]byte{must(a.alice.Sign(a.aliceKey, a.root, r, testNow)), a.alice.Cert.Raw}
	l, i, err := Verify(chain, a.root, testNow)
	if err != nil || l.ID != i.NodeID {
		t.Fatalf("leaf %v, error %v", l, err)
	}
	if err := stockVerify(chain, a.root, testNow); err != nil {
		t.Fatal(err)
	}
}

// A parsed issuer is shared by everybody who judges certificates.
func TestVerifyConcurrently(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	leaf := a.chain(t)[0]
	var all sync.WaitGroup // waited for below
	for range 4 {
		all.Go(func() {
			if _, err := a.alice.Verify(leaf, a.root, testNow); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestShortLife(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	r := a.request("bob", "bob")
	r.Lifetime = 90 * time.Second
	l, err := a.alice.Verify(must(a.alice.Sign(a.aliceKey, a.root, r, testNow)), a.root, testNow)
	if err != nil {
		t.Fatal(err)
	}
	if want := testNow.Add(time.Minute); !l.RenewAt().Equal(want) {
		t.Errorf("renew at %v, want %v", l.RenewAt(), want)
	}
}

func TestLeafEndsWithItsIssuer(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	now := a.alice.Cert.NotAfter.Add(-time.Hour)
	l, err := a.alice.Verify(must(a.alice.Sign(a.aliceKey, a.root, a.request("bob", "bob"), now)), a.root, now)
	if err != nil || !l.Cert.NotAfter.Equal(a.alice.Cert.NotAfter) {
		t.Fatalf("leaf %v, error %v", l, err)
	}
}

func TestVerifyTime(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	chain := a.chain(t)
	for _, c := range []struct {
		at   time.Duration
		want error
	}{
		{-Backdate - time.Second, ErrNotYetValid}, {-Backdate, nil}, {0, nil},
		{DefaultLifetime, nil}, {DefaultLifetime + time.Second, ErrExpired}, {100 * 365 * 24 * time.Hour, ErrExpired},
	} {
		l, i, err := Verify(chain, a.root, testNow.Add(c.at))
		if !errors.Is(err, c.want) || (err == nil) != (l != nil && i != nil) {
			t.Errorf("at %v: %v, want %v", c.at, err, c.want)
		}
		if stock := stockVerify(chain, a.root, testNow.Add(c.at)); (stock == nil) != (err == nil) {
			t.Errorf("at %v: %v, crypto/x509 says %v", c.at, err, stock)
		}
	}
	_, _, err := Verify([][]byte{forgedSignature(chain[0]), chain[1]}, a.root, testNow.AddDate(1, 0, 0))
	if err == nil || errors.Is(err, ErrExpired) {
		t.Errorf("forged and expired: %v, want the forgery", err)
	}
	if l, _, err := VerifyAtAnyTime(chain, a.root); err != nil || l.CheckTime(testNow.AddDate(1, 0, 0)) == nil {
		t.Errorf("at any time: %v", err)
	}
	// A leaf that outlives its issuer is worth nothing after the issuer.
	long := template(chain[0])
	long.NotAfter = a.alice.Cert.NotAfter.AddDate(1, 0, 0)
	_, _, err = Verify([][]byte{forge(long, a.alice.Cert, pub(testKey("bob")), a.aliceKey), chain[1]}, a.root, long.NotAfter.Add(-time.Hour))
	wantError(t, err, ErrExpired, "bob")
	long.NotBefore = a.alice.Cert.NotAfter.Add(time.Hour)
	_, _, err = Verify([][]byte{forge(long, a.alice.Cert, pub(testKey("bob")), a.aliceKey), chain[1]}, a.root, long.NotBefore)
	wantError(t, err, nil, "never valid at the same time")
}

func TestSignRefuses(t *testing.T) {
	a, b := newAuthority(t, "a", netip.Prefix{}), newAuthority(t, "b", netip.Prefix{})
	for _, c := range []struct {
		part   string
		change func(*LeafRequest)
	}{
		{"identity key", func(r *LeafRequest) { r.Identity = nil }},
		{"WireGuard", func(r *LeafRequest) { r.WireGuard = mesh.WGKey{} }},
		{"DNS label", func(r *LeafRequest) { r.Name = "bob.evil.example" }},
		{"DNS label", func(r *LeafRequest) { r.Name = "*" }},
		{"lower case", func(r *LeafRequest) { r.Name = "Bob" }},
		{"1 to 63", func(r *LeafRequest) { r.Name = "" }},
		{"outside", func(r *LeafRequest) { r.IPv4 = a.zoe.IPv4.Addr().Next() }},
		{"outside", func(r *LeafRequest) { r.IPv4 = netip.MustParseAddr("8.8.8.8") }},
		{"outside", func(r *LeafRequest) { r.IPv4 = netip.AddrFrom16(r.IPv4.As16()) }},
		{"outside", func(r *LeafRequest) { r.IPv4 = mesh.NodeAddr(a.root.Network.ID, mesh.NodeID{1}) }},
		{"65 tags", func(r *LeafRequest) { r.Tags = make([]string, MaxTags+1) }},
		{"0 characters", func(r *LeafRequest) { r.Tags = []string{""} }},
		{"65 characters", func(r *LeafRequest) { r.Tags = []string{strings.Repeat("x", MaxTagLength+1)} }},
		{"a tag is made of", func(r *LeafRequest) { r.Tags = []string{"two words"} }},
		{"a tag is made of", func(r *LeafRequest) { r.Tags = []string{"x\n"} }},
		{"65 routes", func(r *LeafRequest) { r.Routes = make([]netip.Prefix, MaxRoutes+1) }},
		{"not an IPv4 or IPv6", func(r *LeafRequest) { r.Routes = make([]netip.Prefix, 1) }},
		{"overlaps the overlay", func(r *LeafRequest) { r.Routes[0] = mesh.Block(a.root.Network.ID, mesh.NodeID{1}) }},
		{"overlaps the overlay", func(r *LeafRequest) { r.Routes[0] = a.zoe.IPv4 }},
		{"overlaps the overlay", func(r *LeafRequest) { r.Routes[0] = netip.MustParsePrefix("10.0.0.0/8") }},
		{"overlaps the overlay", func(r *LeafRequest) { r.Routes[0] = netip.MustParsePrefix("fc00::/7") }},
		{"default route", func(r *LeafRequest) { r.Routes[0] = netip.MustParsePrefix("0.0.0.0/0") }},
		{"default route", func(r *LeafRequest) { r.Routes[0] = netip.MustParsePrefix("::/0") }},
		{"did you mean", func(r *LeafRequest) { r.Routes[0] = netip.MustParsePrefix("192.168.7.1/24") }},
		{"loopback", func(r *LeafRequest) { r.Routes[0] = netip.MustParsePrefix("127.0.0.0/8") }},
		{"loopback", func(r *LeafRequest) { r.Routes[0] = netip.MustParsePrefix("fe80::/64") }},
		{"loopback", func(r *LeafRequest) { r.Routes[0] = netip.MustParsePrefix("224.0.0.0/4") }},
		{"not an IPv4 or IPv6", func(r *LeafRequest) { r.Routes[0] = netip.MustParsePrefix("::ffff:192.168.7.0/120") }},
		{"negative", func(r *LeafRequest) { r.Lifetime = -time.Second }},
		{"ends before", func(r *LeafRequest) { r.Lifetime = time.Millisecond }},
		{"serial", func(r *LeafRequest) { r.Serial = big.NewInt(-4) }},
	} {
		r := a.request("bob", "bob")
		c.change(&r)
		_, err := a.alice.Sign(a.aliceKey, a.root, r, testNow)
		wantError(t, err, nil, c.part)
	}
	r := a.request("bob", "bob")
	_, err := a.alice.Sign(a.zoeKey, a.root, r, testNow)
	wantError(t, err, nil, "not the key")
	_, err = a.alice.Sign(a.aliceKey, b.root, r, testNow)
	wantError(t, err, ErrWrongNetwork, "another network")
	_, err = a.alice.Sign(a.aliceKey, a.root, r, testNow.AddDate(6, 0, 0))
	wantError(t, err, ErrExpired, "alice")
	_, err = a.alice.Sign(a.aliceKey, a.root, r, testNow.AddDate(-1, 0, 0))
	wantError(t, err, ErrNotYetValid, "clock")
	none := newAuthority(t, "a", NoIPv4())
	r = none.request("bob", "bob")
	r.IPv4 = netip.MustParseAddr("10.1.2.3")
	_, err = none.alice.Sign(none.aliceKey, none.root, r, testNow)
	wantError(t, err, nil, "no IPv4")
}

func TestLargestLeaf(t *testing.T) {
	a := &authority{rootKey: testKey("root"), aliceKey: testKey("alice"), zoeKey: testKey("zoe")}
	long := mesh.Name(strings.Repeat("n", 63))
	domain := strings.Repeat(strings.Repeat("d", 59)+".", 3) + "d"
	domain = domain[len(domain)-180:]
	a.root = must(ParseRoot(must(NewRoot(long, strings.Trim(domain, "."), netip.Prefix{}, a.rootKey, testNow))))
	a.alice = a.issuer(a.aliceKey, long, 15)
	r := a.request("bob", long)
	r.Tags, r.Routes = nil, nil
	for k := range MaxTags {
		r.Tags = append(r.Tags, fmt.Sprintf("%064d", k))
		r.Routes = append(r.Routes, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(k), 15: 1}), 128))
	}
	leaf := must(a.alice.Sign(a.aliceKey, a.root, r, testNow))
	l, _, err := Verify([][]byte{leaf, a.alice.Cert.Raw}, a.root, testNow)
	t.Logf("the largest leaf has %d bytes", len(leaf))
	if err != nil || len(l.Tags) != MaxTags || len(l.Routes) != MaxRoutes {
		t.Fatalf("leaf of %d bytes: %v", len(leaf), err)
	}
}

// violations are certificates that a careless or hostile holder of alice's key could sign.
var violations = []struct {
	part   string
	change func(a *authority, c *x509.Certificate)
}{
	{"not permitted", func(a *authority, c *x509.Certificate) { c.DNSNames = []string{"bob.evil.example"} }},
	{"not permitted", func(a *authority, c *x509.Certificate) { c.DNSNames = []string{"bob.farm.internal", "www.example.org"} }},
	{"DNS label", func(a *authority, c *x509.Certificate) { c.DNSNames = []string{"a.b.farm.internal"} }},
	{"DNS label", func(a *authority, c *x509.Certificate) { c.DNSNames = []string{"*.farm.internal"} }},
	{"not below", func(a *authority, c *x509.Certificate) { c.DNSNames = []string{"farm.internal"} }},
	{"", func(a *authority, c *x509.Certificate) { c.DNSNames = []string{"Bob.farm.internal"} }},
	{"", func(a *authority, c *x509.Certificate) { c.DNSNames = []string{"bob.FARM.internal"} }},
	{"0 DNS names", func(a *authority, c *x509.Certificate) { c.DNSNames = nil }},
	{"2 DNS names", func(a *authority, c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "eve.farm.internal") }},
	{"1 e-mail", func(a *authority, c *x509.Certificate) { c.EmailAddresses = []string{"bob@example.org"} }},
	{"1 URIs", func(a *authority, c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }},
	{"not permitted", func(a *authority, c *x509.Certificate) { c.IPAddresses[1] = a.zoe.IPv4.Addr().Next().AsSlice() }},
	{"not permitted", func(a *authority, c *x509.Certificate) { c.IPAddresses[1] = net.IPv4(8, 8, 8, 8) }},
	{"not permitted", func(a *authority, c *x509.Certificate) { c.IPAddresses[0] = net.ParseIP("2001:db8::1") }},
	{"does not follow", func(a *authority, c *x509.Certificate) {
		c.IPAddresses[0] = mesh.NodeAddr(a.root.Network.ID, a.zoe.NodeID).AsSlice()
	}},
	{"does not follow", func(a *authority, c *x509.Certificate) {
		c.IPAddresses[0] = mesh.Block(a.root.Network.ID, mesh.NodeIDOf(pub(testKey("bob")))).Addr().Next().Next().AsSlice()
	}},
	{"does not follow", func(a *authority, c *x509.Certificate) { c.IPAddresses = c.IPAddresses[1:] }},
	{"want one IPv6", func(a *authority, c *x509.Certificate) {
		c.IPAddresses = append(c.IPAddresses, a.alice.IPv4.Addr().Next().Next().AsSlice())
	}},
	{"want one IPv6", func(a *authority, c *x509.Certificate) {
		c.IPAddresses = append(c.IPAddresses, mesh.NodeAddr(a.root.Network.ID, a.zoe.NodeID).AsSlice())
	}},
	{"lacks the extension", func(a *authority, c *x509.Certificate) { c.ExtraExtensions = nil }},
	{"damaged", func(a *authority, c *x509.Certificate) { setExtension(c, []byte{0x30, 5, 1}) }},
	{"behind its end", func(a *authority, c *x509.Certificate) {
		c.ExtraExtensions[0].Value = append(bytes.Clone(c.ExtraExtensions[0].Value), 5, 0)
	}},
	{"version 0", func(a *authority, c *x509.Certificate) { setExtension(c, member(memberExtension{})) }},
	{"key of 3 bytes", func(a *authority, c *x509.Certificate) {
		setExtension(c, member(memberExtension{Version: 1, WireGuard: []byte{1, 2, 3}}))
	}},
	{"all zeros", func(a *authority, c *x509.Certificate) {
		setExtension(c, member(memberExtension{Version: 1, WireGuard: make([]byte, 32)}))
	}},
	{"a tag is made of", func(a *authority, c *x509.Certificate) {
		setExtension(c, member(memberExtension{Version: 1, WireGuard: bytes.Repeat([]byte{1}, 32), Tags: []string{"a b"}}))
	}},
	{"overlaps the overlay", func(a *authority, c *x509.Certificate) {
		setExtension(c, member(memberExtension{Version: 1, WireGuard: bytes.Repeat([]byte{1}, 32), Routes: [][]byte{prefixBytes(a.zoe.IPv4)}}))
	}},
	{"is not a prefix", func(a *authority, c *x509.Certificate) {
		setExtension(c, member(memberExtension{Version: 1, WireGuard: bytes.Repeat([]byte{1}, 32), Routes: [][]byte{{1, 2}}}))
	}},
	{"65 routes", func(a *authority, c *x509.Certificate) {
		setExtension(c, member(memberExtension{Version: 1, WireGuard: bytes.Repeat([]byte{1}, 32), Routes: make([][]byte, 65)}))
	}},
	{"CA flag", func(a *authority, c *x509.Certificate) { c.IsCA = true }},
	{"CA flag", func(a *authority, c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }},
	{"digital signatures", func(a *authority, c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }},
	{"critical extension", func(a *authority, c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 25, 1}, Critical: true, Value: []byte{5, 0}})
	}},
	{"too large", func(a *authority, c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 25, 1}, Value: make([]byte, MaxCertificate)})
	}},
}

func TestViolations(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	for k, v := range violations {
		c := template(a.chain(t)[0])
		v.change(a, c)
		leaf := forge(c, a.alice.Cert, pub(testKey("bob")), a.aliceKey)
		_, _, err := Verify([][]byte{leaf, a.alice.Cert.Raw}, a.root, testNow)
		if err == nil || !strings.Contains(err.Error(), v.part) {
			t.Errorf("violation %d: %v, want an error with %q", k, err, v.part)
		}
	}
}

func TestVerifyRefusesChains(t *testing.T) {
	a, b := newAuthority(t, "a", netip.Prefix{}), newAuthority(t, "b", netip.Prefix{})
	chain, foreign := a.chain(t), b.chain(t)
	// A certificate below a leaf, and one below an issuer that an issuer appointed: path length.
	below := template(chain[0])
	leafCert := must(x509.ParseCertificate(chain[0]))
	grandchild := forge(below, leafCert, pub(testKey("eve")), testKey("bob"))
	evil := template(a.zoe.Cert.Raw)
	subIssuer := forge(evil, a.alice.Cert, pub(a.zoeKey), a.aliceKey)
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ecLeaf := must(x509.CreateCertificate(rand.Reader, template(chain[0]), a.alice.Cert, &ec.PublicKey, a.aliceKey))
	for _, c := range []struct {
		part  string
		err   error
		chain [][]byte
	}{
		{"0 certificates", nil, nil},
		{"1 certificates", nil, chain[:1]},
		{"3 certificates", nil, [][]byte{chain[0], chain[1], b.root.Cert.Raw}},
		{"another network", ErrWrongNetwork, foreign},
		{"another network", ErrWrongNetwork, [][]byte{chain[0], foreign[1]}},
		{"not by issuer zoe", nil, [][]byte{chain[0], a.zoe.Cert.Raw}},
		{"not by issuer alice", nil, [][]byte{foreign[0], chain[1]}},
		{"not validly signed", nil, [][]byte{forgedSignature(chain[0]), chain[1]}},
		{"not signed by the root", nil, [][]byte{chain[0], forgedSignature(chain[1])}},
		{"CA flag", nil, [][]byte{grandchild, chain[0]}},
		{"another network", ErrWrongNetwork, [][]byte{chain[0], subIssuer}},
		{"not by issuer alice", nil, [][]byte{a.alice.Cert.Raw, chain[1]}},
		{"ECDSA key", nil, [][]byte{ecLeaf, chain[1]}},
		{"not signed", nil, [][]byte{appendInside(chain[0]), chain[1]}},
		{"damaged", nil, [][]byte{nil, chain[1]}},
		{"damaged", nil, [][]byte{chain[0], nil}},
	} {
		_, _, err := Verify(c.chain, a.root, testNow)
		wantError(t, err, c.err, c.part)
	}
	_, err := a.alice.Verify(chain[0], b.root, testNow)
	wantError(t, err, ErrWrongNetwork, "another network")
	_, err = (&Issuer{}).Verify(chain[0], a.root, testNow)
	wantError(t, err, nil, "ParseIssuer")
}

// A later version may append fields and raise the version number.
func TestLaterVersionOfExtension(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	later := must(asn1.Marshal(struct {
		Version   int
		WireGuard []byte
		Tags      []string
		Routes    [][]byte
		Issued    int64
		Admitted  int64
		Workloads []string
		Colour    struct{ Red, Green int }
	}{Version: 9, WireGuard: bytes.Repeat([]byte{3}, 32), Tags: []string{"gpu"}, Issued: testNow.Unix(), Admitted: 7, Workloads: []string{"web"}}))
	c := template(a.chain(t)[0])
	setExtension(c, later)
	l, err := a.alice.Verify(forge(c, a.alice.Cert, pub(testKey("bob")), a.aliceKey), a.root, testNow)
	if err != nil || !slices.Equal(l.Tags, []string{"gpu"}) || !l.Issued.Equal(testNow) || l.Admitted.Unix() != 7 {
		t.Fatalf("leaf %+v, error %v", l, err)
	}
	// Another program need not say when it issued a certificate.
	setExtension(c, must(asn1.Marshal(struct {
		Version   int
		WireGuard []byte
		Tags      []string
		Routes    [][]byte
	}{Version: 1, WireGuard: bytes.Repeat([]byte{3}, 32)})))
	l, err = a.alice.Verify(forge(c, a.alice.Cert, pub(testKey("bob")), a.aliceKey), a.root, testNow)
	if err != nil || !l.Issued.Equal(l.NotBefore) || !l.Admitted.Equal(l.NotBefore) {
		t.Fatalf("leaf %+v, error %v", l, err)
	}
}

func TestCSR(t *testing.T) {
	key := testKey("bob")
	for _, name := range []mesh.Name{"bob", ""} {
		der := must(MakeCSR(key, testWG(1), name))
		c, err := ParseCSR(der)
		if err != nil || !c.Identity.Equal(key.Public()) || c.WireGuard != testWG(1) || c.Name != name {
			t.Fatalf("request %+v, error %v", c, err)
		}
		if !bytes.Equal(der, must(MakeCSR(key, testWG(1), name))) {
			t.Error("the same request twice gives different bytes")
		}
	}
	_, err := MakeCSR(key[:9], testWG(1), "bob")
	wantError(t, err, nil, "9 bytes")
	_, err = MakeCSR(key, mesh.WGKey{}, "bob")
	wantError(t, err, nil, "zeros")
	_, err = MakeCSR(key, testWG(1), "b b")
	wantError(t, err, nil, "DNS label")

	request := func(change func(*x509.CertificateRequest)) []byte {
		r := &x509.CertificateRequest{
			Subject:         pkix.Name{CommonName: "bob"},
			ExtraExtensions: []pkix.Extension{must(marshalExtension(oidMember, memberExtension{Version: 1, WireGuard: bytes.Repeat([]byte{1}, 32)}))},
		}
		change(r)
		return must(x509.CreateCertificateRequest(rand.Reader, r, key))
	}
	good := request(func(*x509.CertificateRequest) {})
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for _, c := range []struct {
		part string
		der  []byte
	}{
		{"too large", make([]byte, MaxCertificate+1)},
		{"damaged", nil},
		{"damaged", append(bytes.Clone(good), 1)},
		{"not signed", appendInside(good)},
		{"not signed by its own key", forgedSignature(good)},
		{"lower case", request(func(r *x509.CertificateRequest) { r.Subject.CommonName = "BOB" })},
		{"lacks the extension", request(func(r *x509.CertificateRequest) { r.ExtraExtensions = nil })},
		{"key of 31 bytes", request(func(r *x509.CertificateRequest) {
			r.ExtraExtensions[0] = must(marshalExtension(oidMember, memberExtension{Version: 1, WireGuard: make([]byte, 31)}))
		})},
		{"want Ed25519", must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, ec))},
	} {
		_, err := ParseCSR(c.der)
		wantError(t, err, nil, c.part)
	}
}

func BenchmarkVerify(b *testing.B) {
	a := newAuthority(b, "a", netip.Prefix{})
	chain := a.chain(b)
	b.Run("chain", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := Verify(chain, a.root, testNow); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("known issuer", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := a.alice.Verify(chain[0], a.root, testNow); err != nil {
				b.Fatal(err)
			}
		}
	})
}
