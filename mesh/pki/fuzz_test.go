package pki

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gridwire/gridwire/mesh"
)

// The first five targets mutate whole certificates, requests and lists. Nobody but the holder of a key can make another one that is
// accepted, so what is accepted must be a seed, byte for byte. The last three put arbitrary content behind a valid signature, as a
// hostile issuer or a later version could, which the first five cannot reach.

// seeds adds what the parser under test must accept, and fails if there is nothing or if it does not.
func seeds(f *testing.F, accepted func([]byte) error, good ...[]byte) {
	f.Helper()
	if len(good) == 0 {
		f.Fatal("the corpus is empty")
	}
	for _, der := range good {
		if err := accepted(der); err != nil {
			f.Fatalf("seed refused: %v", err)
		}
		f.Add(der)
		f.Add(der[:len(der)/2])
		f.Add(forgedSignature(der))
		f.Add(appendInside(der))
	}
}

// fuzzForgery demands that nothing but the seeds is accepted.
func fuzzForgery(f *testing.F, accepted func([]byte) error, good ...[]byte) {
	f.Helper()
	seeds(f, accepted, good...)
	f.Fuzz(func(t *testing.T, der []byte) {
		if accepted(der) == nil && !slices.ContainsFunc(good, func(g []byte) bool { return bytes.Equal(g, der) }) {
			t.Fatalf("forged: %x", der)
		}
	})
}

func FuzzParseRoot(f *testing.F) {
	a, none := newAuthority(f, "a", netip.Prefix{}), newAuthority(f, "b", NoIPv4())
	fuzzForgery(f, func(der []byte) error {
		_, err := ParseRoot(der)
		return err
	}, a.root.Cert.Raw, none.root.Cert.Raw)
}

func FuzzParseIssuer(f *testing.F) {
	a := newAuthority(f, "a", netip.Prefix{})
	fuzzForgery(f, func(der []byte) error {
		_, err := ParseIssuer(der, a.root)
		return err
	}, a.alice.Cert.Raw, a.zoe.Cert.Raw)
}

func FuzzVerifyLeaf(f *testing.F) {
	a := newAuthority(f, "a", netip.Prefix{})
	plain := a.request("carol", "carol")
	plain.IPv4, plain.Tags, plain.Routes, plain.Serial = netip.Addr{}, nil, nil, big.NewInt(7)
	fuzzForgery(f, func(der []byte) error {
		_, _, err := Verify([][]byte{der, a.alice.Cert.Raw}, a.root, testNow)
		return err
	}, a.chain(f)[0], must(a.alice.Sign(a.aliceKey, a.root, plain, testNow)))
}

func FuzzParseCSR(f *testing.F) {
	fuzzForgery(f, func(der []byte) error {
		_, err := ParseCSR(der)
		return err
	}, must(MakeCSR(testKey("bob"), testWG(1), "bob")), must(MakeCSR(testKey("eve"), testWG(2), "")))
}

func FuzzParseRevocationList(f *testing.F) {
	a := newAuthority(f, "a", netip.Prefix{})
	bob, zoe := a.revokes(f)
	fuzzForgery(f, func(der []byte) error {
		_, err := ParseRevocationList(der, a.root, a.issuers)
		return err
	}, must(NewRevocationList(a.alice.Cert, a.aliceKey, 1, []Revoked{bob}, testNow)),
		must(NewRevocationList(a.root.Cert, a.rootKey, 2, []Revoked{bob, zoe}, testNow)))
}

func FuzzSignedLeaf(f *testing.F) {
	a := newAuthority(f, "a", netip.Prefix{})
	good := a.chain(f)[0]
	base := template(good)
	ext := base.ExtraExtensions[0].Value
	judge := func(ext []byte, name string, v6, v4 []byte, usage int, ca bool) ([][]byte, *Leaf, error) {
		c := template(good)
		setExtension(c, ext)
		c.DNSNames, c.IPAddresses, c.KeyUsage, c.IsCA = []string{name}, nil, x509.KeyUsage(usage&0x1ff), ca
		for _, ip := range [][]byte{v6, v4} {
			if len(ip) > 0 {
				c.IPAddresses = append(c.IPAddresses, net.IP(ip))
			}
		}
		der, err := x509.CreateCertificate(nil, c, a.alice.Cert, pub(testKey("bob")), a.aliceKey)
		if err != nil {
			return nil, nil, err
		}
		chain := [][]byte{der, a.alice.Cert.Raw}
		l, _, err := Verify(chain, a.root, testNow)
		return chain, l, err
	}
	v6, v4 := []byte(base.IPAddresses[0]), []byte(base.IPAddresses[1])
	if _, _, err := judge(ext, "bob.farm.internal", v6, v4, int(base.KeyUsage), false); err != nil {
		f.Fatalf("seed refused: %v", err)
	}
	f.Add(ext, "bob.farm.internal", v6, v4, int(base.KeyUsage), false)
	f.Add(ext, "a.b.farm.internal", v6, []byte{}, 0, true)
	f.Add(member(memberExtension{Version: 2, WireGuard: bytes.Repeat([]byte{1}, 32)}), "x.farm.internal", v6, []byte{8, 8, 8, 8}, 1, false)
	f.Fuzz(func(t *testing.T, ext []byte, name string, v6, v4 []byte, usage int, ca bool) {
		chain, l, err := judge(ext, name, v6, v4, usage, ca)
		if err != nil {
			return
		}
		if err := stockVerify(chain, a.root, testNow); err != nil {
			t.Fatalf("accepted what crypto/x509 refuses: %v", err)
		}
		if ca || name != DNSName(l.Name, a.root.Network) || l.Addrs[0] != mesh.NodeAddr(a.root.Network.ID, l.ID) || len(l.Addrs) > 2 {
			t.Fatalf("accepted %+v", l)
		}
		if len(l.Addrs) == 2 && !a.alice.IPv4.Contains(l.Addrs[1]) {
			t.Fatalf("accepted %v outside %v", l.Addrs, a.alice.IPv4)
		}
		// What was accepted can be signed again, and says the same then.
		r := LeafRequest{Identity: l.ID.PublicKey(), WireGuard: l.WireGuard, Name: l.Name, Tags: l.Tags, Routes: l.Routes}
		der, err := a.alice.Sign(a.aliceKey, a.root, r, testNow)
		if err != nil {
			t.Fatalf("accepted what Sign refuses: %v", err)
		}
		again, err := a.alice.Verify(der, a.root, testNow)
		if err != nil || again.WireGuard != l.WireGuard || !slices.Equal(again.Tags, unique(l.Tags)) || !slices.Equal(again.Routes, unique(l.Routes)) {
			t.Fatalf("%+v became %+v: %v", l, again, err)
		}
		if at := l.RenewAt(); at.Before(l.NotBefore) || at.After(l.NotAfter) {
			t.Fatalf("renews at %v, valid %v to %v", at, l.NotBefore, l.NotAfter)
		}
	})
}

func FuzzSignedRoot(f *testing.F) {
	a := newAuthority(f, "a", netip.Prefix{})
	ext := template(a.root.Cert.Raw).ExtraExtensions[0].Value
	judge := func(ext []byte) (*Root, error) {
		c := template(a.root.Cert.Raw)
		setExtension(c, ext)
		return ParseRoot(forge(c, c, pub(a.rootKey), a.rootKey))
	}
	if _, err := judge(ext); err != nil {
		f.Fatalf("seed refused: %v", err)
	}
	f.Add(ext)
	f.Add(ext[:len(ext)-7])
	f.Fuzz(func(t *testing.T, ext []byte) {
		r, err := judge(ext)
		if err != nil {
			return
		}
		pool := r.Network.IPv4
		if !pool.IsValid() {
			pool = NoIPv4()
		}
		again, err := NewRoot(r.Network.Name, r.Network.Domain, pool, a.rootKey, testNow)
		if err != nil {
			t.Fatalf("accepted what NewRoot refuses: %v", err)
		}
		if got := must(ParseRoot(again)).Network; got != r.Network {
			t.Fatalf("%+v became %+v", r.Network, got)
		}
	})
}

func FuzzSignedRevocationList(f *testing.F) {
	a := newAuthority(f, "a", netip.Prefix{})
	bob, zoe := a.revokes(f)
	entry := func(r Revoked) []byte {
		return must(marshalExtension(oidRevoked, revokedExtension{1, int(r.Kind), r.Issuer[:], r.ID[:]})).Value
	}
	if _, err := ParseRevocationList(a.signList([][]byte{entry(bob)}, nil), a.root, a.issuers); err != nil {
		f.Fatalf("seed refused: %v", err)
	}
	f.Add(entry(bob), []byte{1}, uint64(1))
	f.Add(entry(zoe), []byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, ext, serial []byte, number uint64) {
		der := a.signList([][]byte{ext}, func(rl *x509.RevocationList) {
			rl.Number.SetUint64(number)
			rl.RevokedCertificateEntries[0].SerialNumber = new(big.Int).SetBytes(serial)
		})
		l, err := ParseRevocationList(der, a.root, a.issuers)
		if err != nil {
			return
		}
		for _, r := range l.Entries {
			if r.Kind == IssuerCert || r.ID.IsZero() {
				t.Fatalf("accepted %+v of an issuer", r)
			}
		}
		again, err := NewRevocationList(a.alice.Cert, a.aliceKey, l.Number, l.Entries, l.Time)
		if err != nil {
			t.Fatalf("accepted what NewRevocationList refuses: %v", err)
		}
		if got := must(ParseRevocationList(again, a.root, a.issuers)); !slices.Equal(got.Entries, l.Entries) || got.Number != l.Number {
			t.Fatalf("%+v became %+v", l, got)
		}
	})
}
