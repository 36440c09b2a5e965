package wire

import (
	"crypto/ecdh"
	"crypto/hpke"
	"errors"
	"fmt"
)

// SealOverhead is how many bytes longer SealTo's result is than its plaintext: an X25519 key and a Poly1305 tag.
const SealOverhead = 32 + 16

// SealTo encrypts plaintext to the X25519 public key pub with HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
// ChaCha20-Poly1305. The result is the encapsulated key and the ciphertext. info binds it to its purpose; OpenWith needs the same.
// It fails for keys that are no X25519 point of full order.
func SealTo(pub [32]byte, info string, plaintext []byte) ([]byte, error) {
	point, err := ecdh.X25519().NewPublicKey(pub[:])
	if err != nil {
		return nil, fmt.Errorf("sealing: the receiver's key: %w", err)
	}
	key, err := hpke.NewDHKEMPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("sealing: the receiver's key: %w", err)
	}
	sealed, err := hpke.Seal(key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(info), plaintext)
	if err != nil {
		return nil, fmt.Errorf("sealing %d bytes: %w", len(plaintext), err)
	}
	return sealed, nil
}

// OpenWith decrypts what SealTo made for k's public key and info. It fails if it was made for another key or info, or was altered.
func OpenWith(k *ecdh.PrivateKey, info string, ct []byte) ([]byte, error) {
	if k == nil {
		return nil, errors.New("opening a sealed message: no private key")
	}
	if len(ct) < SealOverhead {
		return nil, fmt.Errorf("opening a sealed message: it has %d bytes, at least %d are needed", len(ct), SealOverhead)
	}
	key, err := hpke.NewDHKEMPrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("opening a sealed message: our key: %w", err)
	}
	plaintext, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(info), ct)
	if err != nil {
		return nil, fmt.Errorf("opening a sealed message: altered, or sealed to another key or for another purpose: %w", err)
	}
	return plaintext, nil
}
