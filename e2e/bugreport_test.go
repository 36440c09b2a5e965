//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// keys reads the secrets of a state folder by its own means: this must not find less because the program's way of looking finds less.
func keys(t *testing.T, h *lab.Host) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	entries, err := os.ReadDir(h.State())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(h.State(), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		_, body, _ := bytes.Cut(b, []byte("\n"))
		name := h.Label() + "'s " + e.Name()
		switch {
		case strings.HasPrefix(e.Name(), "wireguard.key"), strings.HasPrefix(e.Name(), "network.secret"):
			if out[name], err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(body))); err != nil {
				t.Fatal(err)
			}
		case strings.Contains(e.Name(), ".key"):
			block, _ := pem.Decode(body)
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			switch k := key.(type) {
			case ed25519.PrivateKey:
				out[name] = k.Seed()
			case *ecdh.PrivateKey:
				out[name] = k.Bytes()
			}
		}
	}
	return out
}

func unpack(t *testing.T, file string) map[string][]byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[filepath.Base(h.Name)], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBugreport: the report holds what a helper needs and no secret, though secrets lie where the report looks.
func TestBugreport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	w.found(alice, "--log-level", "debug")
	token := w.token("bob")
	w.start(bob, "--join", token, "--log-level", "debug")
	w.linked(alice, bob, 10*time.Second)
	secrets := keys(t, alice)
	for name, key := range keys(t, bob) {
		secrets[name] = key
	}
	if len(secrets) < 9 { // two identities, seal keys and WireGuard keys, the network's secret twice, the root key
		t.Fatalf("%d secrets", len(secrets))
	}
	// Somebody has put secrets where others look.
	must(bob.Exec(w.ctx(5*time.Second), "ip", "link", "set", "dev", bob.Interface(), "alias", base64.StdEncoding.EncodeToString(secrets["bob's wireguard.key"])))(t)
	must(bob.Exec(w.ctx(5*time.Second), "nft", `add table ip notes { comment "`+token[:100]+`"; }`))(t)
	for _, h := range []*lab.Host{alice, bob} {
		file := filepath.Join(t.TempDir(), "report.tar.gz")
		out := w.run(h, "bugreport", "-o", file)
		if !strings.HasSuffix(strings.TrimSpace(out), file) || !strings.Contains(out, "explain.txt") {
			t.Errorf("bugreport on %s said:\n%s", h.Label(), out)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		got := unpack(t, file)
		for name, want := range map[string]string{
			"CONTENTS.txt": "firewall.txt", "status.json": "wireguard_public_key", "members.json": "alice", "netcheck.json": "meaning", "explain.txt": "path", "doctor.txt": "firewall:",
			"metrics.txt": "gridwire_build_info", "config.txt": "Interface:" + h.Interface(), "log.txt": "link up", "addresses.txt": h.Interface(), "routes.txt": "default",
			"firewall.txt": "table", "version.txt": "gridwire ", "state.txt": "identity.key", "wireguard.txt": h.Interface(),
		} {
			if !strings.Contains(string(got[name]), want) {
				t.Errorf("%s's %s lacks %q:\n%.500s", h.Label(), name, want, got[name])
			}
		}
		for name, data := range got {
			searchSecrets(t, h.Label()+"'s "+name, data, secrets)
			if i := bytes.Index(data, []byte(token[:20])); i >= 0 {
				t.Errorf("%s's %s holds a token", h.Label(), name)
			}
		}
		if h == bob && (!bytes.Contains(got["addresses.txt"], []byte("alias [key removed]")) || !bytes.Contains(got["firewall.txt"], []byte("[token removed]"))) {
			t.Errorf("what lay where the report looks is not there, so nothing was tested:\n%s\n%s", got["addresses.txt"], got["firewall.txt"])
		}
		if !bytes.Contains(got["status.json"], []byte(w.status(bob).Self.WireGuardPublicKey)) {
			t.Errorf("%s's report lacks a public key: too much is removed", h.Label())
		}
	}
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	w.run(bob, "bugreport", "--redact-addresses", "-o", file)
	for name, data := range unpack(t, file) {
		for _, a := range []string{alice.Addr().String(), bob.Addr().String(), w.status(alice).Self.Addresses[0].Addr().String()} {
			if bytes.Contains(data, []byte(a)) {
				t.Errorf("%s holds the address %s", name, a)
			}
		}
	}
	if _, err := bob.Gridwire(w.ctx(20*time.Second), "bugreport", "-o", "/nowhere/report.tar.gz"); codeOf(err) != 1 {
		t.Errorf("into a folder that is not there: %v", err)
	}
}

func searchSecrets(t *testing.T, where string, data []byte, secrets map[string][]byte) {
	t.Helper()
	lower := bytes.ToLower(data)
	for name, key := range secrets {
		for spelling, text := range map[string][]byte{
			"bytes": key, "base64": []byte(base64.RawStdEncoding.EncodeToString(key)), "base64url": []byte(base64.RawURLEncoding.EncodeToString(key)),
		} {
			if bytes.Contains(data, text) {
				t.Errorf("%s holds %s as %s", where, name, spelling)
			}
		}
		for spelling, text := range map[string]string{
			"hexadecimal": hex.EncodeToString(key), "base32": strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(key)),
		} {
			if bytes.Contains(lower, []byte(text)) {
				t.Errorf("%s holds %s as %s", where, name, spelling)
			}
		}
	}
}
