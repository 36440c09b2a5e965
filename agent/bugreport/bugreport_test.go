package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/store"
)

// founder makes the state folder of a machine that has founded a network, with the files of a running agent's kind.
func founder(t *testing.T) (dir string, m *enrol.Membership, root ed25519.PrivateKey) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "state")
	st, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	m, key, _, err := enrol.NewNetwork("farm", "alice", "farm.internal", mesh.Network{}.IPv4, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(enrol.Save(st, m), enrol.SaveRootKey(st, key)); err != nil {
		t.Fatal(err)
	}
	if _, err := enrol.NextKeys(st); err != nil { // packed into one file
		t.Fatal(err)
	}
	return dir, m, ed25519.PrivateKey(key)
}

func TestEveryKeyOfTheStateFolderIsRemovedInEverySpelling(t *testing.T) {
	dir, m, root := founder(t)
	secrets, err := Secrets(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRedactor(secrets, false)
	st, err := store.OpenShared(dir)
	if err != nil {
		t.Fatal(err)
	}
	next, err := enrol.NextKeys(st)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string][]byte{
		"identity": m.Identity, "identity seed": m.Identity.Seed(), "WireGuard": m.WireGuard[:], "seal": m.Seal.Bytes(), "network secret": m.Secret,
		"root": root, "root seed": root.Seed(), "next identity": next.Identity.Seed(), "next WireGuard": next.WireGuard[:], "next seal": next.Seal.Bytes(),
	} {
		for spelling, text := range map[string]string{
			"raw": string(key), "hex": hex.EncodeToString(key), "HEX": strings.ToUpper(hex.EncodeToString(key)), "base64": base64.StdEncoding.EncodeToString(key),
			"base64, raw, URL": base64.RawURLEncoding.EncodeToString(key), "base32": base32.StdEncoding.EncodeToString(key),
			"base32, lower": strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(key)), "%v": fmt.Sprint(key),
		} {
			if got := string(r.Clean([]byte("before " + text + " after"))); strings.Contains(got, strings.Trim(text, "[]=")) || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
				t.Errorf("%s in %s is left: %q", name, spelling, got)
			}
		}
	}
	public := m.Public().String() + " " + m.ID().String()
	if got := string(r.Clean([]byte(public))); got != public {
		t.Errorf("public keys are gone, too: %q", got)
	}
}

func TestWhatLooksLikeASecretIsRemoved(t *testing.T) {
	r := NewRedactor(nil, false)
	for text, want := range map[string]string{
		"join = \"gw1ADFwEiAAJcmpzKRghbGaN\"":                                            "join = \"[token removed]\"",
		"a -----BEGIN PRIVATE KEY-----\nMC4\n-----END PRIVATE KEY----- b":                "a [private key removed] b",
		"cut off -----BEGIN PRIVATE KEY-----\nMC4":                                       "cut off [private key removed]",
		"PrivateKey = " + strings.Repeat("A", 43) + "=":                                  "PrivateKey = [removed]",
		"private_key=" + strings.Repeat("ab", 32):                                        "private_key=[removed]",
		"preshared key: " + strings.Repeat("A", 43) + "=":                                "preshared key: [removed]",
		`Remote:{Ufrag:abcd Pwd:secretsecret Candidates:[]}`:                             `Remote:{Ufrag:[removed] Pwd:[removed] Candidates:[]}`,
		`offer:{ufrag:"abcd" pwd:"secretsecret"}`:                                        `offer:{ufrag:"[removed]" pwd:"[removed]"}`,
		`msg="isControlling? false, remoteUfrag: \"abcd\", remotePwd: \"secretsecret\""`: `msg="isControlling? false, remoteUfrag: \"[removed]\", remotePwd: \"[removed]\""`,
		`action="{ufrag:\"abcd\" pwd:\"secretsecret\"}"`:                                 `action="{ufrag:\"[removed]\" pwd:\"[removed]\"}"`,
		"gw1 is a prefix, gw10 an interface":                                             "gw1 is a prefix, gw10 an interface",
		"public key: " + strings.Repeat("A", 43) + "=":                                   "public key: " + strings.Repeat("A", 43) + "=",
	} {
		if got := string(r.Clean([]byte(text))); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestAddressesStayUnlessAsked(t *testing.T) {
	text := "198.51.100.7:51820 [2001:db8::7]:51820 192.168.1.5/24 fd00::1/128 127.0.0.1 ::1 0.0.0.0 /ip6/2001:db8::7/udp 02:00:00:AA:00:01 12:34:56 198.51.100.7 ff02::1 v1.2.3 10:00"
	if got := string(NewRedactor(nil, false).Clean([]byte(text))); got != text {
		t.Errorf("changed: %q", got)
	}
	want := "ipv4-2:51820 [ipv6-3]:51820 private-ipv4-4/24 ipv6-5/128 127.0.0.1 ::1 0.0.0.0 /ip6/ipv6-3/udp mac-1 12:34:56 ipv4-2 ff02::1 v1.2.3 10:00"
	if got := string(NewRedactor(nil, true).Clean([]byte(text))); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestTheArchiveListsWhatItContains(t *testing.T) {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	r := NewRedactor([][]byte{key}, false)
	says := func(b []byte, err error) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return b, err }
	}
	var out bytes.Buffer
	list, err := Write(t.Context(), &out, "report", []Entry{
		{"a.txt", "one thing", says(append([]byte("x "), key...), nil)},
		{"b.txt", "another", says([]byte("half"), fmt.Errorf("the key %x is bad", key))},
		{"again.txt", "the same", says(nil, fmt.Errorf("the key %x is bad", key))},
		{"c.txt", "a long one", says(bytes.Repeat([]byte("0123456789"), maxEntry/9), nil)},
	}, r, time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	got := unpack(t, out.Bytes())
	if got["report/"+Contents] != list || got["report/a.txt"] != "x [key removed]" || !strings.HasPrefix(got["report/b.txt"], "half\ncould not be read: the key [key removed]") {
		t.Errorf("%q", got)
	}
	if n := len(got["report/c.txt"]); n > maxEntry+100 || !strings.HasPrefix(got["report/c.txt"], "[the beginning") {
		t.Errorf("a long file became %d bytes", n)
	}
	for _, want := range []string{"a.txt  ", "one thing", "another (incomplete: the key [key removed] is bad)", "the same (incomplete: as above)"} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in the list:\n%s", want, list)
		}
	}
}

func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(data)
	}
}

func TestNoStateFolder(t *testing.T) {
	if s, err := Secrets(t.TempDir() + "/none"); err != nil || s != nil {
		t.Errorf("%v, %v", s, err)
	}
}
