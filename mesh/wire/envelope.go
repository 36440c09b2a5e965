package wire

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
)

const (
	envelopeContext = "gridwire envelope v1\n"
	signalContext   = "gridwire signal v1\n"
	envelopeIDSize  = 16
	// signatureField is Envelope.signature's field number; its two bytes of tag and length stand before the 64 of the signature.
	signatureField   = 7
	signatureTrailer = 2 + ed25519.SignatureSize
)

var signatureHead = []byte{signatureField<<3 | byte(protowire.BytesType), ed25519.SignatureSize}

// SealEnvelope checks s's limits, seals it to sealKey (the receiver's record has it) and signs the whole with the sender's identity
// key. id must be random: receivers and forwarders drop an ID that they have seen. The result is a SignalFrame's envelope, at most
// MaxEnvelope bytes; a signal that does not fit is an error.
func SealEnvelope(from ed25519.PrivateKey, to mesh.NodeID, sealKey [32]byte, s *Signal, id [16]byte, now time.Time) ([]byte, error) {
	if len(from) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("sealing a signal to %s: identity key of %d bytes, want %d", to.Short(), len(from), ed25519.PrivateKeySize)
	}
	if err := CheckSignal(s); err != nil {
		return nil, fmt.Errorf("sealing a signal to %s: %w", to.Short(), err)
	}
	plaintext, err := proto.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("sealing a signal to %s: %w", to.Short(), err)
	}
	sender := from.Public().(ed25519.PublicKey)
	e := &Envelope{Version: Version, Id: id[:], From: sender, To: to[:], Time: now.UnixMilli()}
	if e.Sealed, err = SealTo(sealKey, signalInfo(e), plaintext); err != nil {
		return nil, fmt.Errorf("sealing a signal to %s: %w", to.Short(), err)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("sealing a signal to %s: %w", to.Short(), err)
	}
	signature := ed25519.Sign(from, signedText(envelopeContext, b))
	b = append(append(b, signatureHead...), signature...)
	if len(b) > MaxEnvelope {
		return nil, fmt.Errorf("sealing a signal to %s: the envelope has %d bytes, at most %d are carried: send fewer candidates",
			to.Short(), len(b), MaxEnvelope)
	}
	return b, nil
}

// ParseEnvelope checks b's size, layout, field limits and signature, and returns who it is from and for. It needs no key, so that
// forwarders can refuse forgeries. Pass b on, never an encoding of the Envelope.
func ParseEnvelope(b []byte) (e *Envelope, from, to mesh.NodeID, err error) {
	refuse := func(err error) (*Envelope, mesh.NodeID, mesh.NodeID, error) {
		return nil, mesh.NodeID{}, mesh.NodeID{}, fmt.Errorf("envelope: %w", err)
	}
	if len(b) > MaxEnvelope {
		return refuse(fmt.Errorf("it has %d bytes, at most %d are carried", len(b), MaxEnvelope))
	}
	cut := len(b) - signatureTrailer
	if cut < 0 || !bytes.Equal(b[cut:cut+len(signatureHead)], signatureHead) {
		return refuse(errors.New("it does not end with a signature"))
	}
	signed, signature := b[:cut], b[cut+len(signatureHead):]
	e = new(Envelope)
	if err := proto.Unmarshal(signed, e); err != nil {
		return refuse(err)
	}
	if e.Signature != nil {
		return refuse(errors.New("it has two signatures"))
	}
	if err := checkEnvelope(e); err != nil {
		return refuse(err)
	}
	e.Signature = bytes.Clone(signature)
	from, to = mesh.NodeID(e.From), mesh.NodeID(e.To)
	if !ed25519.Verify(from.PublicKey(), signedText(envelopeContext, signed), signature) {
		return refuse(fmt.Errorf("the signature is not by %s, which it says it is from: altered or forged", from.Short()))
	}
	return e, from, to, nil
}

// OpenEnvelope decrypts the signal in e, which ParseEnvelope returned, for the node to that holds sealKey, and checks its limits. A
// signal of a kind that a newer version added gives ErrVersion.
func OpenEnvelope(e *Envelope, to mesh.NodeID, sealKey *ecdh.PrivateKey) (*Signal, error) {
	if !bytes.Equal(e.GetTo(), to[:]) {
		return nil, fmt.Errorf("envelope: it is not for this node, %s", to.Short())
	}
	plaintext, err := OpenWith(sealKey, signalInfo(e), e.GetSealed())
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	s := new(Signal)
	if err := proto.Unmarshal(plaintext, s); err != nil {
		return nil, fmt.Errorf("envelope: the signal in it: %w", err)
	}
	if err := CheckSignal(s); err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	return s, nil
}

// signalInfo ties the sealed part to its sender and receiver: nobody can put another's sealed part into an envelope of his own.
func signalInfo(e *Envelope) string {
	return signalContext + string(e.GetFrom()) + string(e.GetTo()) + string(e.GetId())
}

func checkEnvelope(e *Envelope) error {
	if err := checkVersion(e.GetVersion()); err != nil {
		return err
	}
	if n := len(e.GetSealed()); n < SealOverhead {
		return fmt.Errorf("sealed part of %d bytes, want at least %d", n, SealOverhead)
	}
	return first(
		checkLen("id", e.GetId(), envelopeIDSize),
		checkLen("from", e.GetFrom(), ed25519.PublicKeySize),
		checkLen("to", e.GetTo(), ed25519.PublicKeySize),
		checkTime(e.GetTime()),
	)
}

// CheckSignal checks a signal's field limits.
func CheckSignal(s *Signal) error {
	var err error
	switch body := s.GetBody().(type) {
	case *Signal_Offer:
		err = checkDescription("offer", body.Offer)
	case *Signal_Answer:
		err = checkDescription("answer", body.Answer)
	case *Signal_Nudge:
		err = checkText("nudge: reason", body.Nudge.GetReason(), maxReason)
	case *Signal_ReachRequest:
		err = checkReach("reach request", body.ReachRequest.GetAddress(), body.ReachRequest.GetNonce())
	case *Signal_ReachProbe:
		err = checkReach("reach probe", body.ReachProbe.GetAddress(), body.ReachProbe.GetNonce())
		if err == nil {
			err = checkLen("reach probe: node ID", body.ReachProbe.GetFor(), ed25519.PublicKeySize)
		}
	case *Signal_PortRequest:
		err = checkLen("port request: nonce", body.PortRequest.GetNonce(), reachNonce)
	case *Signal_PortOffer:
		err = checkLen("port offer: nonce", body.PortOffer.GetNonce(), reachNonce)
		if port := body.PortOffer.GetPort(); err == nil && (port == 0 || port > 65535) {
			err = fmt.Errorf("port offer: port %d is not 1 to 65535", port)
		}
	case *Signal_Usage:
		_, err = ParseUsage(body.Usage)
	default:
		err = fmt.Errorf("of a kind that is not known here: %w", ErrVersion)
	}
	if err != nil {
		return fmt.Errorf("signal: %w", err)
	}
	return nil
}

// reachNonce is the size of a STUN transaction ID (RFC 8489, 5), which the nonces become.
const reachNonce = 12

func checkReach(what string, addr, nonce []byte) error {
	if _, err := ParseAddrPort(addr); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return checkLen(what+": nonce", nonce, reachNonce)
}

// checkDescription applies RFC 8839, 5.4: 4 to 256 characters of user name fragment, 22 to 256 of password. Candidate types are not
// listed here: a newer version may offer relay candidates, which the receiver skips.
func checkDescription(what string, d *Description) error {
	if err := first(
		checkICEChars("user name fragment", d.GetUfrag(), 4),
		checkICEChars("password", d.GetPwd(), 22),
		checkText("nat", d.GetNat(), maxNAT),
		checkMax("candidates", len(d.GetCandidates()), MaxCandidates),
	); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for i, c := range d.GetCandidates() {
		if err := checkText("type", c.GetType(), 16); err != nil {
			return fmt.Errorf("%s: candidate %d: %w", what, i, err)
		}
		if _, err := ParseAddrPort(c.GetAddress()); err != nil {
			return fmt.Errorf("%s: candidate %d: %w", what, i, err)
		}
	}
	return nil
}

func checkICEChars(what, s string, least int) error {
	if len(s) < least || len(s) > 256 {
		return fmt.Errorf("%s of %d characters, want %d to 256", what, len(s), least)
	}
	for _, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '+' && c != '/' {
			return fmt.Errorf("%s: byte %#x is not one of ICE's letters, digits, + and /", what, c)
		}
	}
	return nil
}
