package wire

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
)

const recordContext = "gridwire record v1\n"

// SignRecord checks r's limits, encodes it and signs it with the identity key, which must be the key of the leaf r.Chain[0]. A zero
// version becomes Version. r is not changed.
func SignRecord(r *Record, key ed25519.PrivateKey) (*SignedRecord, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("signing our record: identity key of %d bytes, want %d", len(key), ed25519.PrivateKeySize)
	}
	if r.GetVersion() == 0 {
		r = proto.CloneOf(r)
		r.Version = Version
	}
	if err := checkRecord(r); err != nil {
		return nil, fmt.Errorf("signing our record: %w", err)
	}
	leaf, err := leafKey(r.GetChain()[0])
	if err != nil {
		return nil, fmt.Errorf("signing our record: %w", err)
	}
	if !leaf.Equal(key.Public()) {
		return nil, errors.New("signing our record: the certificate is for another key than the identity key")
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("signing our record: %w", err)
	}
	if len(b) > MaxRecord {
		return nil, fmt.Errorf("signing our record: it has %d bytes, at most %d are allowed", len(b), MaxRecord)
	}
	return &SignedRecord{Record: b, Signature: ed25519.Sign(key, signedText(recordContext, b))}, nil
}

// OpenRecord checks size, every field's limit and the signature, which must be by the key of the leaf chain[0]; that key is returned.
// The certificates are not judged: anybody can make a chain that passes here. Pass s on, never an encoding of the Record. A record of
// an incompatible newer version gives ErrVersion.
func OpenRecord(s *SignedRecord) (*Record, ed25519.PublicKey, error) {
	b := s.GetRecord()
	if len(b) == 0 || len(b) > MaxRecord {
		return nil, nil, fmt.Errorf("record of %d bytes, want 1 to %d", len(b), MaxRecord)
	}
	if err := checkLen("signature", s.GetSignature(), ed25519.SignatureSize); err != nil {
		return nil, nil, fmt.Errorf("record: %w", err)
	}
	r := new(Record)
	if err := proto.Unmarshal(b, r); err != nil {
		return nil, nil, fmt.Errorf("record of %d bytes: %w", len(b), err)
	}
	if err := checkRecord(r); err != nil {
		return nil, nil, fmt.Errorf("record: %w", err)
	}
	key, err := leafKey(r.GetChain()[0])
	if err != nil {
		return nil, nil, fmt.Errorf("record: %w", err)
	}
	if !ed25519.Verify(key, signedText(recordContext, b), s.GetSignature()) {
		return nil, nil, errors.New("record: the signature is not by the key of its certificate: altered or forged")
	}
	return r, key, nil
}

func checkRecord(r *Record) error {
	if err := checkVersion(r.GetVersion()); err != nil {
		return err
	}
	if err := checkChain(r.GetChain()); err != nil {
		return err
	}
	if r.GetSequence() == 0 {
		return errors.New("no sequence number")
	}
	if err := checkMax("via", len(r.GetVia()), MaxVia); err != nil {
		return err
	}
	for i, id := range r.GetVia() {
		if err := checkLen(fmt.Sprintf("via %d: node ID", i), id, ed25519.PublicKeySize); err != nil {
			return err
		}
	}
	// A member that has left needs no key to seal to.
	if !r.GetTombstone() || len(r.GetSealKey()) > 0 {
		if err := checkLen("seal key", r.GetSealKey(), 32); err != nil {
			return err
		}
	}
	return first(
		checkTime(r.GetTime()),
		checkAddrs("endpoints", r.GetEndpoints(), MaxEndpoints),
		checkAddrs("lan", r.GetLan(), MaxLAN),
		checkWorkloads(r.GetWorkloads()),
		checkConnected(r.GetDevices()),
		checkText("nat", r.GetNat(), maxNAT),
		checkText("software", r.GetSoftware(), maxSoftware),
	)
}

func leafKey(der []byte) (ed25519.PublicKey, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("leaf certificate: %w", err)
	}
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("leaf certificate: key of type %v, want Ed25519", cert.PublicKeyAlgorithm)
	}
	return key, nil
}

// signedText keeps a signature for one purpose from being one for another.
func signedText(context string, b []byte) []byte {
	return append(append(make([]byte, 0, len(context)+len(b)), context...), b...)
}
