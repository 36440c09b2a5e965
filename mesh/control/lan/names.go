package lan

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// nonceSize is that of AES-GCM, in bytes. An instance's name is its nonce.
const nonceSize = 12

// serviceName returns the name of the service on the UTC day of now, or so many days later: 72 bits of an HMAC as one label of 15
// letters, which is what RFC 6763, 7.2 allows.
func serviceName(secret []byte, now time.Time, days int) string {
	day := now.UTC().AddDate(0, 0, days).Format(time.DateOnly)
	label := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(derive(secret, "mdns service v1\n"+day)[:9])
	return "_" + strings.ToLower(label) + "._udp"
}

func derive(secret []byte, what string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("gridwire " + what))
	return h.Sum(nil)
}

// identity is what this node shows of itself, new for each start: nobody but members can tell that two belong together.
type identity struct {
	instance string // hexadecimal
	host     string
	text     string // base64 of the sealed node ID
}

func newIdentity(secret []byte, self mesh.NodeID) (identity, error) {
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // never fails: it would end the program
	host := make([]byte, nonceSize)
	rand.Read(host)
	text, err := sealText(secret, nonce, self)
	if err != nil {
		return identity{}, err
	}
	return identity{instance: hex.EncodeToString(nonce), host: hex.EncodeToString(host), text: text}, nil
}

func sealText(secret, nonce []byte, self mesh.NodeID) (string, error) {
	aead, err := sealer(secret)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nonce, self[:], nil)), nil
}

// openText returns the node that announced an instance with this text. Only members can make one, or repeat what one made.
func openText(secret []byte, instance, text string) (mesh.NodeID, error) {
	nonce, err := hex.DecodeString(instance)
	if err != nil || len(nonce) != nonceSize {
		return mesh.NodeID{}, errors.New("the instance's name is not one of ours")
	}
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return mesh.NodeID{}, fmt.Errorf("the text is no base64: %w", err)
	}
	aead, err := sealer(secret)
	if err != nil {
		return mesh.NodeID{}, err
	}
	b, err := aead.Open(nil, nonce, sealed, nil)
	if err != nil {
		return mesh.NodeID{}, errors.New("the text was not sealed by a member of this network")
	}
	return mesh.NodeIDFromBytes(b)
}

func sealer(secret []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(derive(secret, "mdns member v1\n"))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
