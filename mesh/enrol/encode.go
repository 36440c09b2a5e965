package enrol

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// How the files of a membership are written: PEM and base64, which ordinary tools read.

func encodePKCS8(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func decodePKCS8[K any](name string, b []byte) (K, error) {
	var none K
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return none, fmt.Errorf("%s holds no PEM block PRIVATE KEY: restore it from a copy", name)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return none, fmt.Errorf("%s: %w: restore it from a copy", name, err)
	}
	key, ok := k.(K)
	if !ok {
		return none, fmt.Errorf("%s holds a %T, want a %T", name, k, none)
	}
	return key, nil
}

func encodeCertificates(chain [][]byte) []byte {
	var b []byte
	for _, der := range chain {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return b
}

func decodeCertificates(name string, b []byte, want int) ([][]byte, error) {
	var out [][]byte
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			out = append(out, block.Bytes)
		}
		b = rest
	}
	if len(out) != want {
		return nil, fmt.Errorf("%s holds %d certificates, want %d: restore it from a copy", name, len(out), want)
	}
	return out, nil
}

func base64Line(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b) + "\n") }

func parseBase64Line(name string, b []byte) ([]byte, error) {
	out, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(out) == 0 {
		return nil, fmt.Errorf("%s is not one line of base64: restore it from a copy", name)
	}
	return out, nil
}

// packFiles puts files into one, as PEM blocks with their names, in the order of membershipFiles.
func packFiles(files map[string][]byte) []byte {
	var b []byte
	for _, name := range membershipFiles {
		if data, ok := files[name]; ok {
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: "GRIDWIRE FILE", Headers: map[string]string{"Name": name}, Bytes: data})...)
		}
	}
	return b
}

func unpackFiles(b []byte) (map[string][]byte, error) {
	files := map[string][]byte{}
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		files[block.Headers["Name"]] = block.Bytes
		b = rest
	}
	if len(files) == 0 || len(bytes.TrimSpace(b)) > 0 {
		return nil, errors.New("it is damaged")
	}
	return files, nil
}
