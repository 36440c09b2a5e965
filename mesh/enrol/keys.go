package enrol

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"

	"github.com/gridwire/gridwire/mesh"
)

// Keys are a node's private keys.
type Keys struct {
	Identity  ed25519.PrivateKey // signs records and envelopes, is the libp2p host key
	WireGuard [32]byte           // X25519, clamped
	Seal      *ecdh.PrivateKey   // X25519: opens envelopes and, at an issuer, enrolment requests
}

// NewKeys draws three fresh keys.
func NewKeys() (Keys, error) {
	var k Keys
	var err error
	if _, k.Identity, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return Keys{}, fmt.Errorf("drawing an identity key: %w", err)
	}
	if _, err = rand.Read(k.WireGuard[:]); err != nil {
		return Keys{}, fmt.Errorf("drawing a WireGuard key: %w", err)
	}
	k.WireGuard[0] &= 248 // RFC 7748, section 5, as `wg genkey` does it
	k.WireGuard[31] = k.WireGuard[31]&127 | 64
	if k.Seal, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
		return Keys{}, fmt.Errorf("drawing a seal key: %w", err)
	}
	return k, nil
}

// ID returns the node ID of the identity key.
func (k Keys) ID() mesh.NodeID { return mesh.NodeIDOf(k.Identity.Public().(ed25519.PublicKey)) }

// Public returns the WireGuard public key.
func (k Keys) Public() mesh.WGKey {
	p, err := ecdh.X25519().NewPrivateKey(k.WireGuard[:])
	if err != nil { // 32 bytes are always a key
		return mesh.WGKey{}
	}
	return mesh.WGKey(p.PublicKey().Bytes())
}

// SealPublic returns the public half of the seal key, as records and tokens carry it.
func (k Keys) SealPublic() [32]byte { return [32]byte(k.Seal.PublicKey().Bytes()) }

func (k Keys) check() error {
	switch {
	case len(k.Identity) != ed25519.PrivateKeySize:
		return fmt.Errorf("identity key of %d bytes, want %d", len(k.Identity), ed25519.PrivateKeySize)
	case k.WireGuard == [32]byte{}:
		return fmt.Errorf("the WireGuard key is all zeros")
	case k.Seal == nil || k.Seal.Curve() != ecdh.X25519():
		return fmt.Errorf("the seal key is missing or not X25519")
	}
	return nil
}
