package bugreport

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// public are the files of a state folder that hold nothing secret: certificates, what members tell each other, what an
// issuer remembers (invitations' secrets follow from its key), caches. Every other file is
// searched, so that a file that is added later is taken for secret until somebody says otherwise here.
var public = []string{
	"chain.pem", "root.pem", "records", "revocations", "issuer", "issuers", "devices", "start.items", "endpoints", "device-endpoints", "boot", "port", "lock",
	"workloads", "sysctl",
}

// caches are public too; their names go on with a time.
var caches = []string{"history", "ledger"}

func isPublic(name string) bool {
	name = strings.TrimSuffix(name, ".prev")
	return slices.Contains(public, name) || slices.ContainsFunc(caches, func(c string) bool {
		return name == c || strings.HasPrefix(name, c+".") || strings.HasPrefix(name, c+"-")
	})
}

// maxSecretFile bounds what is read of one file; keys are small.
const maxSecretFile = 4 << 20

// Secrets reads every key and secret in a state folder: private keys as they stand in PEM, as bytes and without their wrapping, and whatever is a
// word of base64 long enough to be a key. A folder that is not there has none.
func Secrets(state string) ([][]byte, error) {
	entries, err := os.ReadDir(state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for secrets, so that none is in the report: %w", err)
	}
	var out [][]byte
	for _, e := range entries {
		if !e.Type().IsRegular() || isPublic(e.Name()) {
			continue
		}
		info, err := e.Info()
		if err != nil || info.Size() > maxSecretFile {
			continue
		}
		b, err := os.ReadFile(filepath.Join(state, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("look for secrets, so that none is in the report: %w", err)
		}
		out = append(out, secretsIn(b)...)
	}
	return out, nil
}

var base64Word = regexp.MustCompile(`[A-Za-z0-9+/_-]{22,}={0,2}`)

func secretsIn(b []byte) [][]byte {
	var out [][]byte
	text := b
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			out = append(out, block.Bytes)
			out = append(out, bare(block.Bytes)...)
		case block.Type != "CERTIFICATE": // files packed into one (mesh/enrol)
			out = append(out, secretsIn(block.Bytes)...)
		}
	}
	for _, w := range base64Word.FindAll(b, -1) {
		word := strings.TrimRight(string(w), "=")
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			// 16 to 64 bytes: keys, seeds, secrets. The header's checksum is one, too, by its letters; removing it harms nobody.
			if raw, err := e.DecodeString(word); err == nil && len(raw) >= minSecret && len(raw) <= 64 {
				out = append(out, raw)
				break
			}
		}
	}
	return out
}

// bare takes the wrapping off a PKCS #8 key.
func bare(der []byte) [][]byte {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil
	}
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return [][]byte{k.Seed(), k} // k is the seed and the public key
	case *ecdh.PrivateKey:
		return [][]byte{k.Bytes()}
	}
	return nil
}
