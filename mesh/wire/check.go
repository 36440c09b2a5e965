package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Version is the version that every message of this program carries. New fields do not raise it, because readers keep and pass on
// what they do not know; it rises only when a reader that does not know the change would do wrong.
const Version = 1

// Limits, in bytes unless they count something.
const (
	MaxRecord      = 32 << 10 // a Record, encoded
	MaxEnvelope    = 4096     // an Envelope, encoded and signed
	MaxCertificate = 8 << 10  // one certificate, DER
	MaxChain       = 2        // certificates: leaf, issuer
	MaxDevice      = 2 << 10  // the certificate of a device, DER
	// MaxRevocationList bounds one issuer's list, DER. An entry takes about 100 bytes.
	MaxRevocationList = 512 << 10
	MaxEndpoints      = 16       // Record.endpoints
	MaxLAN            = 16       // Record.lan
	MaxVia            = 8        // Record.via
	MaxCandidates     = 32       // Description.candidates
	MaxToken          = 64 << 10 // a Token, encoded: as text it still fits into one argument of a Linux command (128 KiB)
	MaxTokenMembers   = 16       // Token.members, and the addresses of each
	MaxTokenItems     = 256      // OfflineBundle.items
	MaxSealedRequest  = 32 << 10 // EnrolFrame.sealed_request

	maxNAT      = 32
	maxSoftware = 64
	maxReason   = 256
	maxSecret   = 64

	// maxTime is the end of the year 9999 in Unix milliseconds: later times have no RFC 3339 form.
	maxTime = 253402300799999
)

// ErrVersion says that a message needs a newer program. It is no proof of ill will: ignore the message, do not punish the sender.
var ErrVersion = errors.New("this version of gridwire is too old for the message: update it")

func checkVersion(v uint32) error {
	switch {
	case v == 0:
		return errors.New("no version")
	case v > Version:
		return fmt.Errorf("version %d, we know %d: %w", v, Version, ErrVersion)
	}
	return nil
}

// first returns the first error of errs: one sentence for a person, where errors.Join would give several lines.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkLen(what string, b []byte, want int) error {
	if len(b) != want {
		return fmt.Errorf("%s of %d bytes, want %d", what, len(b), want)
	}
	return nil
}

func checkMax(what string, have, limit int) error {
	if have > limit {
		return fmt.Errorf("%s: %d, at most %d are allowed", what, have, limit)
	}
	return nil
}

func checkTime(ms int64) error {
	if ms <= 0 || ms > maxTime {
		return fmt.Errorf("time %d is no Unix time in milliseconds between 1970 and 9999", ms)
	}
	return nil
}

// checkText keeps out what would move the cursor of the terminal that prints it.
func checkText(what, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s of %d bytes, at most %d are allowed", what, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s is not UTF-8", what)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%s has the unprintable character %U", what, r)
		}
	}
	return nil
}

func checkAddrs(what string, bs [][]byte, limit int) error {
	if err := checkMax(what, len(bs), limit); err != nil {
		return err
	}
	if _, err := ParseAddrPorts(bs); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func checkCertificate(what string, der []byte) error {
	if len(der) == 0 || len(der) > MaxCertificate {
		return fmt.Errorf("%s of %d bytes, want 1 to %d", what, len(der), MaxCertificate)
	}
	return nil
}

func checkChain(chain [][]byte) error {
	if len(chain) == 0 || len(chain) > MaxChain {
		return fmt.Errorf("chain of %d certificates, want 1 to %d, the leaf first", len(chain), MaxChain)
	}
	for i, der := range chain {
		if err := checkCertificate(fmt.Sprintf("certificate %d", i), der); err != nil {
			return err
		}
	}
	return nil
}

// CheckItem checks sizes and that it says which kind it is. It opens nothing: neither signature nor certificate is judged. An item
// of a kind that a newer version added gives ErrVersion.
func CheckItem(it *Item) error {
	switch kind := it.GetItem().(type) {
	case *Item_Record:
		if n := len(kind.Record.GetRecord()); n == 0 || n > MaxRecord {
			return fmt.Errorf("item: record of %d bytes, want 1 to %d", n, MaxRecord)
		}
		if err := checkLen("signature", kind.Record.GetSignature(), ed25519.SignatureSize); err != nil {
			return fmt.Errorf("item: %w", err)
		}
	case *Item_RevocationList:
		if n := len(kind.RevocationList); n == 0 || n > MaxRevocationList {
			return fmt.Errorf("item: revocation list of %d bytes, want 1 to %d", n, MaxRevocationList)
		}
	case *Item_Issuer:
		if err := checkCertificate("issuer certificate", kind.Issuer); err != nil {
			return fmt.Errorf("item: %w", err)
		}
	case *Item_Device:
		if n := len(kind.Device); n == 0 || n > MaxDevice {
			return fmt.Errorf("item: device's certificate of %d bytes, want 1 to %d", n, MaxDevice)
		}
	default:
		return fmt.Errorf("item of a kind that is not known here: %w", ErrVersion)
	}
	return nil
}

// CheckHello checks a membership proof's version and field limits; it judges neither chain nor record.
func CheckHello(h *Hello) error {
	if err := first(
		checkVersion(h.GetVersion()),
		checkLen("network ID", h.GetNetwork(), sha256.Size),
		checkChain(h.GetChain()),
		checkTime(h.GetTime()),
	); err != nil {
		return fmt.Errorf("membership proof: %w", err)
	}
	total := 0
	for _, der := range h.GetRevocationLists() {
		total += len(der)
	}
	if err := checkMax("bytes of revocation lists", total, MaxRevocationList); err != nil {
		return fmt.Errorf("membership proof: %w", err)
	}
	if h.GetRecord() == nil {
		return nil
	}
	if err := CheckItem(&Item{Item: &Item_Record{Record: h.GetRecord()}}); err != nil {
		return fmt.Errorf("membership proof: %w", err)
	}
	return nil
}

// CheckEnrolFrame checks a stranger's request before anybody forwards or opens it.
func CheckEnrolFrame(f *EnrolFrame) error {
	if err := first(
		checkVersion(f.GetVersion()),
		checkLen("network ID", f.GetNetwork(), sha256.Size),
		checkLen("issuer's node ID", f.GetIssuer(), ed25519.PublicKeySize),
	); err != nil {
		return fmt.Errorf("enrolment request: %w", err)
	}
	if n := len(f.GetSealedRequest()); n <= SealOverhead || n > MaxSealedRequest {
		return fmt.Errorf("enrolment request: sealed part of %d bytes, want %d to %d", n, SealOverhead+1, MaxSealedRequest)
	}
	return nil
}
