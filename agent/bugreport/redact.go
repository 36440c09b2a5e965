package bugreport

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// minSecret is the length from which bytes can be told from chance. Every key is 32 bytes long.
const minSecret = 16

// Redactor takes secrets out of text: those that it was given, in every spelling that programs use, and whatever looks like one. It is not
// safe for concurrent use.
type Redactor struct {
	spelled   [][]byte // longest first, so that none leaves a rest of a longer one
	addresses bool
	names     map[string]string // of addresses that were replaced
}

// NewRedactor knows these secrets. With addresses it replaces IP and hardware addresses, too, each by a name of its own.
func NewRedactor(secrets [][]byte, addresses bool) *Redactor {
	r := &Redactor{addresses: addresses, names: map[string]string{}}
	for _, s := range secrets {
		if len(s) < minSecret {
			continue
		}
		r.spelled = append(r.spelled, spellings(s)...)
	}
	slices.SortFunc(r.spelled, func(a, b []byte) int { return len(b) - len(a) })
	r.spelled = slices.CompactFunc(r.spelled, bytes.Equal)
	return r
}

// spellings returns the ways in which programs write bytes.
func spellings(s []byte) [][]byte {
	out := [][]byte{s}
	add := func(text string) {
		if t := strings.TrimRight(text, "="); len(t) >= minSecret {
			out = append(out, []byte(t))
		}
	}
	h := hex.EncodeToString(s)
	add(h)
	add(strings.ToUpper(h))
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		add(e.EncodeToString(s))
	}
	for _, e := range []*base32.Encoding{base32.StdEncoding, base32.HexEncoding} {
		text := e.EncodeToString(s)
		add(text)
		add(strings.ToLower(text))
	}
	add(strings.Trim(fmt.Sprint(s), "[]")) // as %v prints it
	return out
}

// looks are texts that are secrets whoever they belong to.
var looks = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`gw1[A-Za-z0-9_-]{12,}`), "[token removed]"},
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)`), "[private key removed]"},
	// wg-quick's files, wg's dumps and UAPI: private_key=..., PresharedKey = ..., preshared key: ...
	{regexp.MustCompile(`(?i)((?:private|preshared|psk|secret|seal)[ _-]?(?:key)?"?\s*[=:]\s*"?)[A-Za-z0-9+/_=-]{20,}`), "${1}[removed]"},
	// ICE passwords (of sessions that are over) in debug lines: Pwd:..., pwd:"..."
	{regexp.MustCompile(`(?i)\b(\w*(?:ufrag|pwd|password|passwd)\\?"?\s*[=:]\s*\\?"?)[^\s"\\,}]+`), "${1}[removed]"},
}

// Clean returns text without secrets.
func (r *Redactor) Clean(text []byte) []byte {
	out := bytes.Clone(text)
	for _, s := range r.spelled {
		out = bytes.ReplaceAll(out, s, []byte("[key removed]"))
	}
	for _, l := range looks {
		out = l.what.ReplaceAll(out, []byte(l.with))
	}
	if r.addresses {
		out = hardware.ReplaceAllFunc(out, func(b []byte) []byte { return []byte(r.name("mac", string(bytes.ToLower(b)))) })
		out = maybeAddress.ReplaceAllFunc(out, r.address)
	}
	return out
}

var (
	hardware     = regexp.MustCompile(`\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b`)
	maybeAddress = regexp.MustCompile(`(?:[0-9A-Fa-f]*:){2,}[0-9A-Fa-f:]*(?:\d+\.\d+\.\d+\.\d+)?|\d{1,3}(?:\.\d{1,3}){3}`)
)

// address replaces one address, the same by the same name everywhere. Those that say nothing stay.
func (r *Redactor) address(b []byte) []byte {
	a, err := netip.ParseAddr(string(b))
	if err != nil || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() {
		return b
	}
	kind := "ipv6"
	if a.Is4() {
		kind = "ipv4"
		if a.IsPrivate() {
			kind = "private-ipv4"
		}
	}
	return []byte(r.name(kind, a.String()))
}

func (r *Redactor) name(kind, of string) string {
	n, ok := r.names[of]
	if !ok {
		n = fmt.Sprintf("%s-%d", kind, len(r.names)+1)
		r.names[of] = n
	}
	return n
}
