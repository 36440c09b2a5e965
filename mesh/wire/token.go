package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
)

const (
	tokenPrefix   = "gw1"
	tokenContext  = "gridwire token v1\n"
	tokenHead     = len(tokenPrefix) + 4 // the prefix, three digits of length, one of check bits
	tokenChecksum = 4
	// maxTokenText bounds the work on a wrong file given as a token: the longest token with a line break after each character.
	maxTokenText = 256 << 10

	base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
)

// What can be wrong with a token's text; DecodeToken's errors wrap one of these. They are all that a token itself shows: whether it
// is spent or expired is said by its expiry and its issuer.
var (
	ErrTokenTruncated = errors.New("the token is incomplete")
	ErrTokenDamaged   = errors.New("the token is damaged")
	ErrTokenNotOurs   = errors.New("this is not a gridwire token")
	ErrTokenVersion   = errors.New("the token is of a newer version than this program")
)

var tokenEncoding = base64.RawURLEncoding.Strict()

// EncodeToken returns t as text: letters, digits, - and _, in need of no quoting in a shell. t is not changed. A t that CheckToken
// refuses gives text that DecodeToken refuses.
func EncodeToken(t *Token) string {
	t = proto.CloneOf(t)
	if t.GetVersion() == Version {
		t.Version = 0
	}
	for _, m := range t.GetMembers() {
		if bytes.Equal(m.GetNodeId(), t.GetIssuer()) {
			m.NodeId = nil
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(t)
	if err != nil || len(b) > MaxToken { // not UTF-8, or too large: CheckToken says which
		return ""
	}
	sum := tokenSum(b)
	return tokenHeader(len(b)) + tokenEncoding.EncodeToString(append(b, sum[:]...))
}

// tokenHeader returns everything before the base64 text of a token of n bytes.
func tokenHeader(n int) string {
	digits := []byte{base64Digits[n>>12&63], base64Digits[n>>6&63], base64Digits[n&63]}
	sum := sha256.Sum256(append([]byte(tokenContext), digits...))
	return tokenPrefix + string(digits) + string(base64Digits[sum[0]&63])
}

func tokenSum(b []byte) [tokenChecksum]byte {
	sum := sha256.Sum256(append([]byte(tokenContext), b...))
	return [tokenChecksum]byte(sum[:])
}

// DecodeToken reads what EncodeToken wrote, after what copying through mail, chat and terminals adds to it: white space and line breaks
// anywhere, quotation marks, mail's > marks. It checks the checksum and every field's length. Its errors are sentences for the person
// who pasted the token, and wrap ErrTokenTruncated, ErrTokenDamaged, ErrTokenNotOurs or ErrTokenVersion. They never contain the token.
func DecodeToken(text string) (*Token, error) {
	b, err := tokenBytes(text)
	if err != nil {
		return nil, err
	}
	t := new(Token)
	if err := proto.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("%w: its checksum fits but its content does not (%w); ask for a new one", ErrTokenDamaged, err)
	}
	if t.GetVersion() > Version {
		return nil, fmt.Errorf("%w: it has version %d, we know %d; update gridwire", ErrTokenVersion, t.GetVersion(), Version)
	}
	t.Version = Version
	for _, m := range t.GetMembers() {
		if len(m.GetNodeId()) == 0 {
			m.NodeId = bytes.Clone(t.GetIssuer())
		}
	}
	if err := CheckToken(t); err != nil {
		return nil, fmt.Errorf("%w: its checksum fits but its content does not (%w); ask for a new one", ErrTokenDamaged, err)
	}
	return t, nil
}

// tokenBytes undoes the text form and verifies its checksum.
func tokenBytes(text string) ([]byte, error) {
	if len(text) > maxTokenText {
		return nil, fmt.Errorf("%w: it has %d characters, no token is as long", ErrTokenNotOurs, len(text))
	}
	s := cleanToken(text)
	if err := checkTokenPrefix(s); err != nil {
		return nil, err
	}
	if len(s) < tokenHead {
		return nil, fmt.Errorf("%w: only its first %d characters are here; copy all of it", ErrTokenTruncated, len(s))
	}
	size := 0
	for _, c := range []byte(s[len(tokenPrefix) : len(tokenPrefix)+3]) {
		size = size<<6 | max(strings.IndexByte(base64Digits, c), 0)
	}
	if s[:tokenHead] != tokenHeader(size) || size > MaxToken {
		return nil, fmt.Errorf("%w: characters %d to %d were altered; copy it again", ErrTokenDamaged, len(tokenPrefix)+1, tokenHead)
	}
	want := tokenHead + tokenEncoding.EncodedLen(size+tokenChecksum)
	switch {
	case len(s) < want:
		return nil, fmt.Errorf("%w: %d of its %d characters are here; copy all of it", ErrTokenTruncated, len(s), want)
	case len(s) > want:
		return nil, fmt.Errorf("%w: it should have %d characters and has %d; copy it alone, and once", ErrTokenDamaged, want, len(s))
	}
	b, err := tokenEncoding.DecodeString(s[tokenHead:])
	if err != nil {
		return nil, fmt.Errorf("%w: it has a character that no token has; copy it again", ErrTokenDamaged)
	}
	body := b[:size]
	if sum := tokenSum(body); !bytes.Equal(sum[:], b[size:]) {
		return nil, fmt.Errorf("%w: a character was altered, or two were swapped; copy it again", ErrTokenDamaged)
	}
	return body, nil
}

func checkTokenPrefix(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: it is empty", ErrTokenTruncated)
	case strings.HasPrefix(s, tokenPrefix):
		return nil
	case strings.HasPrefix(tokenPrefix, s):
		return fmt.Errorf("%w: only its first %d characters are here; copy all of it", ErrTokenTruncated, len(s))
	case len(s) >= 3 && strings.EqualFold(s[:3], tokenPrefix):
		return fmt.Errorf("%w: capital and small letters were changed; copy it again", ErrTokenDamaged)
	case len(s) >= 3 && s[:2] == "gw" && s[2] >= '0' && s[2] <= '9':
		return fmt.Errorf("%w: it begins with %s, we know %s; update gridwire", ErrTokenVersion, s[:3], tokenPrefix)
	}
	return fmt.Errorf("%w: a token begins with %s; `gridwire invite` prints one as its last line", ErrTokenNotOurs, tokenPrefix)
}

// cleanToken drops what no token contains and copying adds: space of any kind, quotation marks (typographic ones too), mail's > and a
// shell's \ at the ends of lines, zero-width characters, soft hyphens; and a full stop or comma after it.
func cleanToken(text string) string {
	s := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Cc, r):
			return -1
		case unicode.Is(unicode.Quotation_Mark, r), strings.ContainsRune("`>\\", r):
			return -1
		}
		return r
	}, text)
	return strings.TrimRight(s, ".,;")
}

// CheckToken checks every field's presence and length. The invitation and its secret may be absent in an offline bundle.
func CheckToken(t *Token) error {
	if err := checkVersion(t.GetVersion()); err != nil {
		return err
	}
	if err := checkText("network name", t.GetNetworkName(), 63); err != nil {
		return err
	}
	name, err := mesh.ParseName(t.GetNetworkName())
	if err != nil {
		return fmt.Errorf("network name: %w", err)
	}
	if string(name) != t.GetNetworkName() {
		return fmt.Errorf("network name %q is not in lower case", t.GetNetworkName())
	}
	if err := first(
		checkLen("network ID", t.GetNetwork(), sha256.Size),
		checkLen("issuer's node ID", t.GetIssuer(), ed25519.PublicKeySize),
		checkLen("issuer's seal key", t.GetIssuerSealKey(), 32),
		checkTime(t.GetExpires()),
		checkMax("members", len(t.GetMembers()), MaxTokenMembers),
	); err != nil {
		return err
	}
	for i, m := range t.GetMembers() {
		if err := checkLen(fmt.Sprintf("member %d: node ID", i), m.GetNodeId(), ed25519.PublicKeySize); err != nil {
			return err
		}
		if err := checkAddrs(fmt.Sprintf("member %d: addresses", i), m.GetAddresses(), MaxTokenMembers); err != nil {
			return err
		}
	}
	if t.GetOffline() == nil || len(t.GetInvitation()) > 0 || len(t.GetSecret()) > 0 {
		if err := first(checkLen("invitation", t.GetInvitation(), 8), checkLen("secret", t.GetSecret(), 16)); err != nil {
			return err
		}
	}
	if t.GetOffline() != nil {
		if err := checkBundle(t.GetOffline()); err != nil {
			return fmt.Errorf("offline bundle: %w", err)
		}
	}
	return checkMax("bytes", proto.Size(t), MaxToken)
}

func checkBundle(o *OfflineBundle) error {
	if n := len(o.GetNetworkSecret()); n == 0 || n > maxSecret {
		return fmt.Errorf("network secret of %d bytes, want 1 to %d", n, maxSecret)
	}
	if err := first(
		checkLen("identity seed", o.GetIdentitySeed(), ed25519.SeedSize),
		checkLen("WireGuard key", o.GetWireguardKey(), 32),
		checkChain(o.GetChain()),
		checkCertificate("root", o.GetRoot()),
		checkMax("items", len(o.GetItems()), MaxTokenItems),
	); err != nil {
		return err
	}
	for i, it := range o.GetItems() {
		// What a newer issuer put in beside the rest is no reason to refuse the rest.
		if err := CheckItem(it); err != nil && !errors.Is(err, ErrVersion) {
			return fmt.Errorf("item %d: %w", i, err)
		}
	}
	return nil
}
