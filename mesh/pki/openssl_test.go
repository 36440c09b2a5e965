package pki

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// openssl runs the program on files in one folder.
type openssl struct {
	t   *testing.T
	dir string
}

func newOpenssl(t *testing.T) *openssl {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	return &openssl{t, t.TempDir()}
}

func (o *openssl) write(name, kind string, der []byte) {
	o.t.Helper()
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(filepath.Join(o.dir, name), b, 0o600); err != nil {
		o.t.Fatal(err)
	}
}

func (o *openssl) run(args ...string) (string, error) {
	o.t.Helper()
	cmd := exec.CommandContext(o.t.Context(), "openssl", args...)
	cmd.Dir = o.dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// prints demands that the command succeeds and prints all parts.
func (o *openssl) prints(args string, parts ...string) {
	o.t.Helper()
	out, err := o.run(strings.Fields(args)...)
	if err != nil {
		o.t.Errorf("openssl %s: %v\n%s", args, err, out)
	}
	for _, p := range parts {
		if !strings.Contains(out, p) {
			o.t.Errorf("openssl %s does not print %q:\n%s", args, p, out)
		}
	}
}

func TestOpensslReads(t *testing.T) {
	o, a := newOpenssl(t), newAuthority(t, "a", netip.Prefix{})
	bob, zoe := a.revokes(t)
	chain := a.chain(t)
	own := a.request("", "alice")
	own.Identity = pub(a.aliceKey)
	foreign := template(chain[0])
	foreign.IPAddresses[1] = a.zoe.IPv4.Addr().Next().AsSlice()
	o.write("root.pem", "CERTIFICATE", a.root.Cert.Raw)
	o.write("alice.pem", "CERTIFICATE", a.alice.Cert.Raw)
	o.write("bob.pem", "CERTIFICATE", chain[0])
	o.write("own.pem", "CERTIFICATE", must(a.alice.Sign(a.aliceKey, a.root, own, testNow)))
	o.write("foreign.pem", "CERTIFICATE", forge(foreign, a.alice.Cert, pub(testKey("bob")), a.aliceKey))
	o.write("bob.csr", "CERTIFICATE REQUEST", must(MakeCSR(testKey("bob"), testWG(1), "bob")))
	o.write("alice.crl", "X509 CRL", must(NewRevocationList(a.alice.Cert, a.aliceKey, 3, []Revoked{bob}, testNow)))
	o.write("root.crl", "X509 CRL", must(NewRevocationList(a.root.Cert, a.rootKey, 4, []Revoked{zoe}, testNow)))

	o.prints("x509 -text -noout -in root.pem", "CN = farm root", "CA:TRUE", "ED25519", oidRoot.String())
	o.prints("x509 -text -noout -in alice.pem", "CN = alice issuer", "CA:TRUE, pathlen:0", "Permitted:", "DNS:farm.internal",
		"IP:"+a.alice.IPv4.Addr().String()+"/255.255.240.0", oidIssuer.String())
	o.prints("x509 -text -noout -in bob.pem", "O = farm, CN = bob", "DNS:bob.farm.internal", "IP Address:"+a.request("bob", "bob").IPv4.String(),
		"CA:FALSE", oidMember.String())
	o.prints("req -text -noout -verify -in bob.csr", "CN = bob", oidMember.String(), "verify OK")
	o.prints("crl -text -noout -CAfile alice.pem -in alice.crl", "verify OK", "X509v3 CRL Number", strings.ToUpper(bob.Serial), oidRevoked.String())
	o.prints("crl -text -noout -CAfile root.pem -in root.crl", "verify OK", strings.ToUpper(zoe.Serial))

	verify := "verify -x509_strict -attime " + strconv.FormatInt(testNow.Unix(), 10) + " -CAfile root.pem -untrusted alice.pem "
	o.prints(verify+"bob.pem", "bob.pem: OK")
	o.prints(verify+"own.pem", "own.pem: OK")
	if out, err := o.run(strings.Fields(verify + "foreign.pem")...); err == nil || !strings.Contains(out, "permitted subtree violation") {
		t.Errorf("openssl on an address outside the issuer's part: %v\n%s", err, out)
	}
	if out, err := o.run(strings.Fields(verify + "-crl_check -CRLfile alice.crl bob.pem")...); err == nil || !strings.Contains(out, "certificate revoked") {
		t.Errorf("openssl on a revoked member: %v\n%s", err, out)
	}
}

// An outside program can admit members with an issuer's key: what the member brings is its request.
func TestOpensslIssues(t *testing.T) {
	o, a := newOpenssl(t), newAuthority(t, "a", netip.Prefix{})
	r := a.request("bob", "bob")
	ours := template(a.chain(t)[0])
	o.write("alice.pem", "CERTIFICATE", a.alice.Cert.Raw)
	o.write("alice.key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(a.aliceKey)))
	o.write("bob.csr", "CERTIFICATE REQUEST", must(MakeCSR(testKey("bob"), r.WireGuard, "bob")))
	ext := "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nauthorityKeyIdentifier=keyid\n" +
		"subjectAltName=DNS:bob.farm.internal,IP:" + ours.IPAddresses[0].String() + ",IP:" + r.IPv4.String() + "\n" +
		oidMember.String() + "=DER:" + hex.EncodeToString(ours.ExtraExtensions[0].Value) + "\n"
	if err := os.WriteFile(filepath.Join(o.dir, "ext.cnf"), []byte(ext), 0o600); err != nil {
		t.Fatal(err)
	}
	o.prints("x509 -req -in bob.csr -CA alice.pem -CAkey alice.key -set_serial 0xbeef -days 30 -extfile ext.cnf -out bob.pem")
	b, err := os.ReadFile(filepath.Join(o.dir, "bob.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	l, _, err := VerifyAtAnyTime([][]byte{block.Bytes, a.alice.Cert.Raw}, a.root) // openssl dates it by this machine's clock
	if err != nil || l.Name != "bob" || l.Serial != "beef" || l.WireGuard != r.WireGuard || len(l.Addrs) != 2 {
		t.Fatalf("leaf %+v, error %v", l, err)
	}
}
