package wire

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
)

const (
	usageContext = "gridwire usage v1\n"
	// MaxUsage bounds a UsageStatement, encoded: its fields take about 150 bytes.
	MaxUsage = 512
	// maxUsagePeriod bounds what one statement is about.
	maxUsagePeriod = 24 * time.Hour
	lossUnits      = 1_000_000
)

// SignUsage checks s's limits and signs it with the identity key of the node that it is by. A zero version becomes Version. s is not
// changed.
func SignUsage(s *UsageStatement, key ed25519.PrivateKey) (*SignedUsage, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("signing usage: identity key of %d bytes, want %d", len(key), ed25519.PrivateKeySize)
	}
	s = proto.CloneOf(s)
	if s.GetVersion() == 0 {
		s.Version = Version
	}
	if err := checkUsage(s); err != nil {
		return nil, fmt.Errorf("signing usage: %w", err)
	}
	if by := mesh.NodeIDOf(key.Public().(ed25519.PublicKey)); mesh.NodeID(s.GetBy()) != by {
		return nil, fmt.Errorf("signing usage: it is by %s, the key is %s's", mesh.NodeID(s.GetBy()).Short(), by.Short())
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("signing usage: %w", err)
	}
	return &SignedUsage{Statement: b, Signature: ed25519.Sign(key, signedText(usageContext, b))}, nil
}

// ParseUsage checks sizes and every field's limit, and not the signature, which VerifyUsage does.
func ParseUsage(u *SignedUsage) (*UsageStatement, error) {
	b := u.GetStatement()
	if len(b) == 0 || len(b) > MaxUsage {
		return nil, fmt.Errorf("usage: statement of %d bytes, want 1 to %d", len(b), MaxUsage)
	}
	if err := checkLen("signature", u.GetSignature(), ed25519.SignatureSize); err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	s := new(UsageStatement)
	if err := proto.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("usage: statement of %d bytes: %w", len(b), err)
	}
	if err := checkUsage(s); err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	return s, nil
}

// VerifyUsage is ParseUsage and checks that the statement is signed by the node that it says it is by. Whether that node is or was a member
// is not judged.
func VerifyUsage(u *SignedUsage) (*UsageStatement, error) {
	s, err := ParseUsage(u)
	if err != nil {
		return nil, err
	}
	by := mesh.NodeID(s.GetBy())
	if !ed25519.Verify(by.PublicKey(), signedText(usageContext, u.GetStatement()), u.GetSignature()) {
		return nil, fmt.Errorf("usage: the signature is not by %s, which it says it is by: altered or forged", by.Short())
	}
	return s, nil
}

func checkUsage(s *UsageStatement) error {
	if err := first(
		checkVersion(s.GetVersion()),
		checkLen("network ID", s.GetNetwork(), len(mesh.NetworkID{})),
		checkLen("by: node ID", s.GetBy(), ed25519.PublicKeySize),
		checkLen("about: node ID", s.GetAbout(), ed25519.PublicKeySize),
		checkTime(s.GetFrom()),
		checkTime(s.GetTo()),
	); err != nil {
		return err
	}
	switch d := s.GetTo() - s.GetFrom(); {
	case d <= 0 || d > maxUsagePeriod.Milliseconds():
		return fmt.Errorf("a period of %d ms, want up to %v", d, maxUsagePeriod)
	case string(s.GetBy()) == string(s.GetAbout()):
		return errors.New("it is about its signer's link to itself")
	case s.GetLossPpm() > lossUnits:
		return fmt.Errorf("loss of %d in a million", s.GetLossPpm())
	case s.GetSkew() > maxTime || s.GetSkew() < -maxTime:
		return fmt.Errorf("skew of %d ms", s.GetSkew())
	}
	return nil
}
