package wire

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
)

// now is the time of every test.
var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// testKey returns the same identity key for the same letter.
func testKey(letter byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{letter}, ed25519.SeedSize))
}

func testID(letter byte) []byte { return testKey(letter).Public().(ed25519.PublicKey) }

func testSealKey(t testing.TB, letter byte) (*ecdh.PrivateKey, [32]byte) {
	t.Helper()
	k, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{letter}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k, [32]byte(k.PublicKey().Bytes())
}

// testLeaf returns a certificate for the key of letter. Certificates are not judged here, so it signs itself.
func testLeaf(t testing.TB, letter byte) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(letter)),
		Subject:      pkix.Name{CommonName: "leaf"},
		NotBefore:    now,
		NotAfter:     now.Add(time.Hour),
	}
	key := testKey(letter)
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func addrs(s ...string) [][]byte {
	var out [][]byte
	for _, a := range s {
		out = append(out, AddrPortBytes(netip.MustParseAddrPort(a)))
	}
	return out
}

func testRecord(t testing.TB, letter byte) *Record {
	_, seal := testSealKey(t, letter)
	return &Record{
		Version: Version, Chain: [][]byte{testLeaf(t, letter), testLeaf(t, 'i')}, Sequence: 7, Boot: 3, Time: now.UnixMilli(),
		Endpoints: addrs("198.51.100.7:51820", "[2001:db8::7]:51820"), Reachable: true, Via: [][]byte{testID('v')},
		SealKey: seal[:], Nat: "open", Software: "gridwire 0.1", Lan: addrs("192.168.1.7:51820"),
		Workloads: Workloads([]mesh.Workload{{
			Name: "web", Addrs: []netip.Addr{netip.MustParseAddr("fd00::2")}, Ports: []mesh.Port{{Name: "http", Number: 8080, Protocol: "tcp"}},
		}}),
	}
}

func testToken(t testing.TB) *Token {
	_, seal := testSealKey(t, 'i')
	return &Token{
		Version: Version, Network: bytes.Repeat([]byte{0xd1}, 32), NetworkName: "farm", Issuer: testID('i'), IssuerSealKey: seal[:],
		Members: []*TokenMember{
			{NodeId: testID('i'), Addresses: addrs("198.51.100.7:51820")},
			{NodeId: testID('b'), Addresses: addrs("198.51.100.8:51820")},
			{NodeId: testID('c'), Addresses: addrs("198.51.100.9:40000")},
		},
		Invitation: []byte("12345678"), Secret: []byte("sixteen bytes ok"), Expires: now.Add(24 * time.Hour).UnixMilli(),
	}
}

func testOffline(t testing.TB) *Token {
	tok := testToken(t)
	record, err := SignRecord(testRecord(t, 'b'), testKey('b'))
	if err != nil {
		t.Fatal(err)
	}
	tok.Invitation, tok.Secret = nil, nil
	tok.Offline = &OfflineBundle{
		IdentitySeed: bytes.Repeat([]byte{1}, 32), WireguardKey: bytes.Repeat([]byte{2}, 32),
		Chain: [][]byte{testLeaf(t, 'l'), testLeaf(t, 'i')}, Root: testLeaf(t, 'r'), NetworkSecret: bytes.Repeat([]byte{3}, 32),
		Items: []*Item{{Item: &Item_Record{Record: record}}, {Item: &Item_Issuer{Issuer: testLeaf(t, 'i')}}},
	}
	return tok
}

func testOffer() *Signal {
	return &Signal{Session: 9, Boot: 3, Body: &Signal_Offer{Offer: &Description{
		Ufrag: "abcdEFGH", Pwd: "0123456789abcdefghij+/", Nat: "endpoint-independent",
		Candidates: []*Candidate{
			{Type: "host", Address: addrs("192.168.1.7:51820")[0], Priority: 2130706431},
			{Type: "srflx", Address: addrs("198.51.100.7:51820")[0], Priority: 1694498815},
		},
	}}}
}

// future appends a field that this version does not know.
func future(b []byte) []byte {
	b = protowire.AppendTag(b, 100, protowire.BytesType)
	return protowire.AppendBytes(b, []byte("from the future"))
}

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wantError checks that err is target (if not nil) and a sentence with the words.
func wantError(t testing.TB, err, target error, words string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Fatalf("error %v, want one about %q", err, words)
	}
	if target != nil && !errors.Is(err, target) {
		t.Fatalf("error %v is not %v", err, target)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Fatalf("error %q has more than one line", err)
	}
}

// counter makes a fuzz target fail whose seeds never get past the parser: it would test nothing. Call done after f.Fuzz.
type counter int

func (c *counter) done(f *testing.F) {
	f.Helper()
	if flag.Lookup("test.fuzz").Value.String() == "" && *c == 0 {
		f.Fatal("no input of the corpus was accepted: add seeds")
	}
}
