package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

func (a *authority) revokes(tb testing.TB) (bob, zoe Revoked) {
	tb.Helper()
	l, _, err := Verify(a.chain(tb), a.root, testNow)
	if err != nil {
		tb.Fatal(err)
	}
	bob = Revoked{Issuer: l.Issuer, Serial: l.Serial, ID: l.ID, Kind: Member, At: testNow}
	zoe = Revoked{Issuer: a.root.KeyID(), Serial: a.zoe.Serial, ID: a.zoe.NodeID, Kind: IssuerCert, At: testNow.Add(-time.Hour)}
	return bob, zoe
}

func TestRevocationListRoundTrip(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	bob, zoe := a.revokes(t)
	// An issuer revokes a member that another admitted: that is what the issuer's key ID in an entry is for.
	kept := bob
	kept.Kind = Kept
	both := must(ParseRevocationList(must(NewRevocationList(a.zoe.Cert, a.zoeKey, 6, []Revoked{kept, bob}, testNow)), a.root, a.issuers))
	if !slices.Equal(both.Entries, []Revoked{bob, kept}) {
		t.Errorf("entries %v, want %v and %v", both.Entries, bob, kept)
	}
	der := must(NewRevocationList(a.zoe.Cert, a.zoeKey, 7, []Revoked{bob}, testNow))
	l, err := ParseRevocationList(der, a.root, a.issuers)
	if err != nil {
		t.Fatal(err)
	}
	if l.Signer != a.zoe.KeyID || l.ByRoot || l.Number != 7 || !l.Time.Equal(testNow) || !bytes.Equal(l.DER, der) {
		t.Errorf("list %+v", l)
	}
	if !slices.Equal(l.Entries, []Revoked{bob}) {
		t.Errorf("entries %v, want %v", l.Entries, bob)
	}
	der = must(NewRevocationList(a.root.Cert, a.rootKey, 1<<64-1, []Revoked{zoe, bob}, testNow))
	l, err = ParseRevocationList(der, a.root, func(mesh.KeyID) *Issuer { return nil })
	if err != nil || !l.ByRoot || l.Number != 1<<64-1 || !slices.Equal(l.Entries, []Revoked{bob, zoe}) {
		t.Errorf("list %+v, error %v", l, err)
	}
	l, err = ParseRevocationList(must(NewRevocationList(a.zoe.Cert, a.zoeKey, 8, nil, testNow)), a.root, a.issuers)
	if err != nil || len(l.Entries) != 0 {
		t.Errorf("empty list %+v, error %v", l, err)
	}
	// Ed25519 signs alike each time, and entries are ordered: the same set is the same list.
	twice := []Revoked{zoe, bob, zoe, {Issuer: bob.Issuer, Serial: bob.Serial, ID: bob.ID, Kind: Member, At: testNow.Add(time.Hour)}}
	if !bytes.Equal(der, must(NewRevocationList(a.root.Cert, a.rootKey, 1<<64-1, twice, testNow))) {
		t.Error("the same entries in another order, twice, give another list")
	}
}

func TestCovers(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	bob, zoe := a.revokes(t)
	l, i, _ := Verify(a.chain(t), a.root, testNow)
	renewed := must(a.alice.Verify(must(a.alice.Sign(a.aliceKey, a.root, a.request("bob", "bob"), testNow)), a.root, testNow))
	carol := must(a.alice.Verify(must(a.alice.Sign(a.aliceKey, a.root, a.request("carol", "carol"), testNow)), a.root, testNow))
	bySerial := bob
	bySerial.ID = mesh.NodeID{9}
	byID := bob
	byID.Serial = "1"
	for _, c := range []struct {
		r    Revoked
		l    *Leaf
		want bool
	}{
		{bob, renewed, true}, {byID, renewed, true}, {bySerial, renewed, false}, {bob, carol, false},
		{Revoked{Issuer: l.Issuer, Serial: renewed.Serial, ID: mesh.NodeID{9}, Kind: Member}, renewed, true},
		{Revoked{Issuer: a.zoe.KeyID, Serial: renewed.Serial, ID: mesh.NodeID{9}, Kind: Member}, renewed, false},
		{Revoked{Issuer: l.Issuer, Serial: l.Serial, ID: l.ID, Kind: IssuerCert}, renewed, false},
	} {
		if got := c.r.Covers(c.l); got != c.want {
			t.Errorf("%+v covers %s: %v", c.r, c.l.Name, got)
		}
	}
	again := a.issuer(a.zoeKey, "zoe", 6)
	if !zoe.CoversIssuer(a.zoe) || !zoe.CoversIssuer(again) || zoe.CoversIssuer(i) || bob.CoversIssuer(i) {
		t.Error("CoversIssuer is wrong")
	}
	if out := (Revoked{Issuer: bob.Issuer, Serial: "1", ID: a.zoe.NodeID, Kind: Member}); !out.CoversIssuer(a.zoe) || out.CoversIssuer(a.alice) {
		t.Error("a member that is out may still issue")
	}
	kept := Revoked{Issuer: l.Issuer, Serial: l.Serial, ID: l.ID, Kind: Kept}
	if !kept.Keeps(l) || kept.Keeps(renewed) || kept.Covers(l) || kept.CoversIssuer(i) || bob.Keeps(l) {
		t.Error("Keeps is wrong")
	}
	zoe.ID = mesh.NodeID{9}
	if !zoe.CoversIssuer(a.zoe) || zoe.CoversIssuer(again) {
		t.Error("CoversIssuer by serial is wrong")
	}
}

func TestNewRevocationListRefuses(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	bob, zoe := a.revokes(t)
	with := func(r Revoked, change func(*Revoked)) []Revoked {
		change(&r)
		return []Revoked{r}
	}
	leaf := must(x509.ParseCertificate(a.chain(t)[0]))
	many := make([]Revoked, MaxRevoked+1)
	for k := range many {
		many[k] = Revoked{Issuer: bob.Issuer, Serial: serialText(big.NewInt(int64(k + 1))), ID: bob.ID, Kind: Member}
	}
	for _, c := range []struct {
		part    string
		err     error
		signer  *x509.Certificate
		key     Key
		number  uint64
		entries []Revoked
		at      time.Time
	}{
		{"only the root may", nil, a.alice.Cert, a.aliceKey, 1, []Revoked{zoe}, testNow},
		{"not the key", nil, a.alice.Cert, a.zoeKey, 1, nil, testNow},
		{"CA flag", nil, leaf, testKey("bob"), 1, nil, testNow},
		{"start at 1", nil, a.alice.Cert, a.aliceKey, 0, nil, testNow},
		{"signer's", ErrExpired, a.alice.Cert, a.aliceKey, 1, nil, testNow.AddDate(6, 0, 0)},
		{"names no node", nil, a.alice.Cert, a.aliceKey, 1, with(bob, func(r *Revoked) { r.ID = mesh.NodeID{} }), testNow},
		{"serial", nil, a.alice.Cert, a.aliceKey, 1, with(bob, func(r *Revoked) { r.Serial = "" }), testNow},
		{"unknown kind 0", nil, a.alice.Cert, a.aliceKey, 1, with(bob, func(r *Revoked) { r.Kind = 0 }), testNow},
		{"not the root", nil, a.root.Cert, a.rootKey, 1, with(zoe, func(r *Revoked) { r.Issuer = bob.Issuer }), testNow},
		{"4097 entries", nil, a.alice.Cert, a.aliceKey, 1, many, testNow},
	} {
		_, err := NewRevocationList(c.signer, c.key, c.number, c.entries, c.at)
		wantError(t, err, c.err, c.part)
	}
}

func TestLongestRevocationList(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	entries := make([]Revoked, MaxRevoked)
	for k := range entries {
		entries[k] = Revoked{Issuer: a.alice.KeyID, Serial: serialText(must(newSerial())), ID: mesh.NodeID{byte(k), byte(k >> 8), 1}, Kind: Member}
	}
	der, err := NewRevocationList(a.alice.Cert, a.aliceKey, 1, entries, testNow)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the longest list has %d bytes", len(der))
	l, err := ParseRevocationList(der, a.root, a.issuers)
	if err != nil || len(l.Entries) != MaxRevoked {
		t.Fatalf("list of %d bytes: %v", len(der), err)
	}
}

// signList makes a list by alice's key with entries that NewRevocationList would refuse.
func (a *authority) signList(exts [][]byte, change func(*x509.RevocationList)) []byte {
	rl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour)}
	for k, e := range exts {
		rl.RevokedCertificateEntries = append(rl.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: big.NewInt(int64(k + 1)), RevocationTime: testNow, ExtraExtensions: []pkix.Extension{{Id: oidRevoked, Value: e}},
		})
	}
	if change != nil {
		change(rl)
	}
	return must(x509.CreateRevocationList(rand.Reader, rl, a.alice.Cert, a.aliceKey))
}

func TestParseRevocationListRefuses(t *testing.T) {
	a, b := newAuthority(t, "a", netip.Prefix{}), newAuthority(t, "b", netip.Prefix{})
	bob, zoe := a.revokes(t)
	good := must(NewRevocationList(a.alice.Cert, a.aliceKey, 1, []Revoked{bob}, testNow))
	entry := func(kind int, issuer, node []byte) []byte {
		return must(asn1.Marshal(revokedExtension{1, kind, issuer, node}))
	}
	ok := entry(int(Member), bob.Issuer[:], bob.ID[:])
	for _, c := range []struct {
		part string
		err  error
		der  []byte
	}{
		{"too large", nil, make([]byte, MaxRevocationList+1)},
		{"damaged", nil, good[:20]},
		{"not signed", nil, append(bytes.Clone(good), 0)},
		{"not signed", nil, appendInside(good)},
		{"not signed by the key", nil, forgedSignature(good)},
		{"not a known issuer", ErrUnknownSigner, must(NewRevocationList(b.alice.Cert, b.aliceKey, 1, nil, testNow))},
		{"not a known issuer", ErrUnknownSigner, must(NewRevocationList(b.root.Cert, b.rootKey, 1, nil, testNow))},
		{"only the root may", nil, a.signList([][]byte{entry(int(IssuerCert), zoe.Issuer[:], zoe.ID[:])}, nil)},
		{"identifier of 3 bytes", nil, a.signList([][]byte{entry(1, []byte{1, 2, 3}, bob.ID[:])}, nil)},
		{"node ID of 0 bytes", nil, a.signList([][]byte{entry(1, bob.Issuer[:], nil)}, nil)},
		{"names no node", nil, a.signList([][]byte{entry(1, bob.Issuer[:], make([]byte, 32))}, nil)},
		{"entry 2: extension", nil, a.signList([][]byte{ok, {1, 2}}, nil)},
		{"lacks the extension", nil, a.signList([][]byte{ok}, func(rl *x509.RevocationList) {
			rl.RevokedCertificateEntries[0].ExtraExtensions = nil
		})},
		{"there twice", nil, a.signList([][]byte{ok}, func(rl *x509.RevocationList) {
			e := &rl.RevokedCertificateEntries[0]
			e.ExtraExtensions = append(e.ExtraExtensions, e.ExtraExtensions[0])
		})},
		{"critical extension", nil, a.signList([][]byte{ok}, func(rl *x509.RevocationList) {
			rl.RevokedCertificateEntries[0].ExtraExtensions[0].Critical = true
		})},
		{"critical extension", nil, a.signList(nil, func(rl *x509.RevocationList) {
			rl.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
		})},
		{"serial", nil, a.signList([][]byte{ok}, func(rl *x509.RevocationList) {
			rl.RevokedCertificateEntries[0].SerialNumber = new(big.Int)
		})},
		{"number", nil, a.signList(nil, func(rl *x509.RevocationList) { rl.Number = new(big.Int).Lsh(big.NewInt(1), 64) })},
		{"number", nil, a.signList(nil, func(rl *x509.RevocationList) { rl.Number = new(big.Int) })},
		{"4097 entries", nil, a.signList(slices.Repeat([][]byte{ok}, MaxRevoked+1), nil)},
	} {
		l, err := ParseRevocationList(c.der, a.root, a.issuers)
		wantError(t, err, c.err, c.part)
		if l != nil {
			t.Errorf("a list beside the error %q", err)
		}
	}
	_, err := ParseRevocationList(good, a.root, func(mesh.KeyID) *Issuer { return a.zoe })
	wantError(t, err, ErrWrongNetwork, "zoe")
}

// Entries of kinds that a later version adds must not make a list useless to this one.
func TestLaterKindOfEntry(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	bob, _ := a.revokes(t)
	later := must(asn1.Marshal(struct {
		Version, Kind int
		Issuer, Node  []byte
		Whatever      string
	}{Version: 2, Kind: 9, Whatever: "x"}))
	longer := must(asn1.Marshal(struct {
		Version, Kind int
		Issuer, Node  []byte
		Reason        string
	}{2, 1, bob.Issuer[:], bob.ID[:], "sold"}))
	l, err := ParseRevocationList(a.signList([][]byte{later, longer}, nil), a.root, a.issuers)
	if err != nil || len(l.Entries) != 1 || l.Entries[0].ID != bob.ID || l.Entries[0].Serial != "2" {
		t.Fatalf("list %+v, error %v", l, err)
	}
}
