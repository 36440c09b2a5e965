package wire

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

func TestToken(t *testing.T) {
	for _, want := range []*Token{testToken(t), testOffline(t)} {
		before := proto.CloneOf(want)
		text := EncodeToken(want)
		if !proto.Equal(want, before) {
			t.Error("EncodeToken changed its argument")
		}
		if i := strings.IndexFunc(text, func(r rune) bool { return r > 127 || !strings.ContainsRune(base64Digits, r) }); i >= 0 {
			t.Errorf("character %d, %q, needs quoting in a shell", i, text[i])
		}
		got, err := DecodeToken(text)
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, want) {
			t.Errorf("came back as %v", got)
		}
	}
}

func TestTokenIsShort(t *testing.T) {
	text := EncodeToken(testToken(t))
	t.Logf("3 members: %d characters: %s", len(text), text)
	if len(text) > 340 {
		t.Errorf("a token with 3 members has %d characters", len(text))
	}
	text = EncodeToken(testOffline(t))
	t.Logf("offline bundle with one record: %d characters", len(text))
	if len(text) > 128<<10-1 {
		t.Errorf("an offline bundle of %d characters does not fit into an argument of a command", len(text))
	}
}

func TestTokenSurvivesCopyAndPaste(t *testing.T) {
	want := testToken(t)
	text := EncodeToken(want)
	wrap := func(every int, with string) string {
		var b strings.Builder
		for i, c := range text {
			if i > 0 && i%every == 0 {
				b.WriteString(with)
			}
			b.WriteRune(c)
		}
		return b.String()
	}
	for what, pasted := range map[string]string{
		"spaces around":       "  \t" + text + " \r\n\n",
		"double quotes":       `"` + text + `"`,
		"single quotes":       `'` + text + `'`,
		"backquotes":          "```\n" + text + "\n```",
		"typographic quotes":  "\u201e" + text + "\u201c",
		"guillemets":          "\u00ab\u00a0" + text + "\u00a0\u00bb",
		"wrapped":             wrap(64, "\n"),
		"wrapped by Windows":  wrap(72, "\r\n"),
		"quoted in a mail":    "> " + wrap(70, "\n> "),
		"continued in shell":  wrap(70, " \\\n  "),
		"every character":     wrap(1, "\u00a0"),
		"zero-width spaces":   wrap(40, "\u200b"),
		"soft hyphens":        wrap(40, "\u00ad"),
		"a byte order mark":   "\ufeff" + text,
		"the end of sentence": text + ".",
		"terminal's NUL":      text + "\x00",
	} {
		got, err := DecodeToken(pasted)
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestTokenCutAnywhereIsTruncated(t *testing.T) {
	for _, tok := range []*Token{testToken(t), testOffline(t)} {
		text := EncodeToken(tok)
		for n := range text {
			_, err := DecodeToken(text[:n])
			if !errors.Is(err, ErrTokenTruncated) {
				t.Fatalf("the first %d of %d characters: %v", n, len(text), err)
			}
		}
	}
}

func TestTokenAlteredAnywhereIsDamaged(t *testing.T) {
	text := EncodeToken(testToken(t))
	truncated := 0
	for i := len(tokenPrefix); i < len(text); i++ {
		for _, c := range []byte(base64Digits + "#") {
			if c == text[i] {
				continue
			}
			_, err := DecodeToken(text[:i] + string(c) + text[i+1:])
			switch {
			case err == nil:
				t.Fatalf("character %d was altered to %c, and nobody minded", i, c)
			case errors.Is(err, ErrTokenTruncated) && i < tokenHead:
				truncated++ // 1 of 64 alterations of the length goes unnoticed there; the token is refused all the same
			case !errors.Is(err, ErrTokenDamaged):
				t.Fatalf("character %d was altered to %c: %v", i, c, err)
			}
		}
	}
	if truncated > 12 {
		t.Errorf("%d of 256 alterations of the length look like missing text", truncated)
	}
	for i := tokenHead; i+1 < len(text); i++ {
		if text[i] == text[i+1] {
			continue
		}
		_, err := DecodeToken(text[:i] + text[i+1:i+2] + text[i:i+1] + text[i+2:])
		wantError(t, err, ErrTokenDamaged, "copy it again")
	}
}

func TestTokenOtherwiseWrong(t *testing.T) {
	text := EncodeToken(testToken(t))
	for _, c := range []struct {
		text  string
		is    error
		words string
	}{
		{"", ErrTokenTruncated, "it is empty"},
		{" \n\"\"", ErrTokenTruncated, "it is empty"},
		{"x", ErrTokenNotOurs, "gridwire invite"},
		{"gx", ErrTokenNotOurs, "gridwire invite"},
		{"hunter2", ErrTokenNotOurs, "begins with gw1"},
		{"http://192.0.2.1/token", ErrTokenNotOurs, "begins with gw1"},
		{strings.Repeat("gw1", 100_000), ErrTokenNotOurs, "no token is as long"},
		{"gw2" + text[3:], ErrTokenVersion, "update gridwire"},
		{strings.ToUpper(text), ErrTokenDamaged, "capital"},
		{strings.ToLower(text), ErrTokenDamaged, "copy it again"},
		{text + text, ErrTokenDamaged, "once"},
		{text + "A", ErrTokenDamaged, "copy it alone"},
		{text[:100] + "\u00e9" + text[101:], ErrTokenDamaged, "copy it"},
	} {
		_, err := DecodeToken(c.text)
		wantError(t, err, c.is, c.words)
		if strings.Contains(err.Error(), text[20:40]) {
			t.Errorf("the error gives away a part of the token: %v", err)
		}
	}
}

func TestTokenRefused(t *testing.T) {
	for words, change := range map[string]func(*Token){
		"network name":                   func(k *Token) { k.NetworkName = "" },
		"not in lower case":              func(k *Token) { k.NetworkName = "Farm" },
		"network name of 64":             func(k *Token) { k.NetworkName = strings.Repeat("a", 64) },
		"network ID of 31":               func(k *Token) { k.Network = k.Network[:31] },
		"issuer's node ID of 0":          func(k *Token) { k.Issuer = nil },
		"seal key of 33":                 func(k *Token) { k.IssuerSealKey = append(k.IssuerSealKey, 0) },
		"time 0":                         func(k *Token) { k.Expires = 0 },
		"members: 17":                    func(k *Token) { k.Members = make([]*TokenMember, 17) },
		"member 1: node ID of 5":         func(k *Token) { k.Members[1].NodeId = []byte("short") },
		"member 2: addresses: 17":        func(k *Token) { k.Members[2].Addresses = make([][]byte, 17) },
		"member 0: addresses: element 0": func(k *Token) { k.Members[0].Addresses = addrs("0.0.0.0:1") },
		"invitation of 0":                func(k *Token) { k.Invitation = nil },
		"secret of 15":                   func(k *Token) { k.Secret = k.Secret[:15] },
		"offline bundle: network secret": func(k *Token) { k.Offline = &OfflineBundle{} },
		"offline bundle: identity seed":  func(k *Token) { k.Offline = testOffline(t).Offline; k.Offline.IdentitySeed = nil },
		"offline bundle: WireGuard key":  func(k *Token) { k.Offline = testOffline(t).Offline; k.Offline.WireguardKey = nil },
		"offline bundle: chain of 0":     func(k *Token) { k.Offline = testOffline(t).Offline; k.Offline.Chain = nil },
		"offline bundle: root of 0":      func(k *Token) { k.Offline = testOffline(t).Offline; k.Offline.Root = nil },
		"offline bundle: items: 257":     func(k *Token) { k.Offline = testOffline(t).Offline; k.Offline.Items = make([]*Item, 257) },
		"offline bundle: item 0: item: record of 0": func(k *Token) {
			k.Offline = testOffline(t).Offline
			k.Offline.Items[0] = &Item{Item: &Item_Record{}}
		},
	} {
		k := testToken(t)
		change(k)
		wantError(t, CheckToken(k), nil, words)
		_, err := DecodeToken(EncodeToken(k))
		if err == nil {
			t.Errorf("%s: encoded and decoded without an error", words)
		}
	}
	newer := testToken(t)
	newer.Version = 2
	_, err := DecodeToken(EncodeToken(newer))
	wantError(t, err, ErrTokenVersion, "version 2")
	large := testOffline(t)
	for len(large.Offline.Items) < 200 {
		large.Offline.Items = append(large.Offline.Items, large.Offline.Items[0])
	}
	wantError(t, CheckToken(large), nil, "at most 65536")
	if EncodeToken(large) != "" {
		t.Error("a token over the limit was encoded")
	}
}

func TestTokenOfTheFuture(t *testing.T) {
	want := testOffline(t)
	want.ProtoReflect().SetUnknown(future(nil))
	want.Offline.Items[1] = &Item{} // of a kind that we do not know
	got, err := DecodeToken(EncodeToken(want))
	if err != nil || !proto.Equal(got, want) {
		t.Fatalf("came back as %v (%v)", got, err)
	}
}

// The check bits and the checksum together must not let random damage of any size through.
func TestTokenRandomDamage(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	text := EncodeToken(testToken(t))
	for range 5_000 {
		b := []byte(text)
		for range 1 + rnd.IntN(8) {
			b[rnd.IntN(len(b))] = base64Digits[rnd.IntN(64)]
		}
		if string(b) == text {
			continue
		}
		if _, err := DecodeToken(string(b)); err == nil {
			t.Fatalf("%s was accepted", b)
		}
	}
}

var tokenErrors = []error{ErrTokenTruncated, ErrTokenDamaged, ErrTokenNotOurs, ErrTokenVersion}

func checkDecodedToken(t *testing.T, text string) bool {
	tok, err := DecodeToken(text)
	if err != nil {
		for _, e := range tokenErrors {
			if errors.Is(err, e) {
				return false
			}
		}
		t.Fatalf("an error of no kind: %v", err)
	}
	if err := CheckToken(tok); err != nil {
		t.Fatalf("accepted, but %v", err)
	}
	again, err := DecodeToken(EncodeToken(tok))
	if err != nil || !proto.Equal(tok, again) {
		t.Fatalf("encoded and decoded it is another token: %v", err)
	}
	return true
}

func FuzzDecodeToken(f *testing.F) {
	for _, tok := range []*Token{testToken(f), testOffline(f)} {
		text := EncodeToken(tok)
		f.Add(text)
		f.Add("\"" + text[:100] + "\n" + text[100:] + "\"")
		f.Add(text[:50])
	}
	f.Add("gw2")
	f.Add("")
	var accepted counter
	f.Fuzz(func(t *testing.T, text string) {
		if checkDecodedToken(t, text) {
			accepted++
		}
	})
	accepted.done(f)
}

// FuzzTokenBody puts what the fuzzer makes up behind a good header and in front of a good checksum.
func FuzzTokenBody(f *testing.F) {
	for _, tok := range []*Token{testToken(f), testOffline(f)} {
		f.Add(mustMarshal(f, tok))
		f.Add(future(mustMarshal(f, tok)))
	}
	f.Add([]byte{})
	var accepted counter
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > MaxToken {
			return
		}
		sum := tokenSum(body)
		if checkDecodedToken(t, tokenHeader(len(body))+tokenEncoding.EncodeToString(append(body, sum[:]...))) {
			accepted++
		}
	})
	accepted.done(f)
}
