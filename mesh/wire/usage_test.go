package wire

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
)

func testUsage(by, about byte) *UsageStatement {
	id := func(c byte) []byte {
		n := mesh.NodeIDOf(testKey(c).Public().(ed25519.PublicKey))
		return n[:]
	}
	from := time.Date(2026, 5, 1, 13, 0, 0, 0, time.UTC)
	return &UsageStatement{
		Version: 1, Network: make([]byte, 32), By: id(by), About: id(about), From: from.UnixMilli(), To: from.Add(time.Hour).UnixMilli(),
		SentBytes: 5 << 30, ReceivedBytes: 7, SentPackets: 4 << 20, ReceivedPackets: 1, LossPpm: 1200, Gap: true, Skew: -3,
	}
}

func mustSignUsage(t testing.TB, s *UsageStatement, by byte) *SignedUsage {
	t.Helper()
	u, err := SignUsage(s, testKey(by))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUsageIsSignedAndRead(t *testing.T) {
	s := testUsage('a', 'b')
	u := mustSignUsage(t, s, 'a')
	got, err := VerifyUsage(u)
	if err != nil || !proto.Equal(got, s) {
		t.Fatalf("got %v, %v", got, err)
	}
	if err := CheckSignal(&Signal{Body: &Signal_Usage{Usage: u}}); err != nil {
		t.Errorf("as a signal: %v", err)
	}
	for i := range u.Statement {
		forged := proto.CloneOf(u)
		forged.Statement[i] ^= 1
		if _, err := VerifyUsage(forged); err == nil {
			t.Fatalf("byte %d was altered, and nobody minded", i)
		}
	}
	other := mustSignUsage(t, testUsage('b', 'a'), 'b')
	if _, err := VerifyUsage(&SignedUsage{Statement: u.Statement, Signature: other.Signature}); err == nil {
		t.Error("another's signature was taken")
	}
}

func TestBadUsageIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*UsageStatement)
		want   string
	}{
		"future version":  {func(s *UsageStatement) { s.Version = Version + 1 }, "too old"},
		"network":         {func(s *UsageStatement) { s.Network = s.Network[1:] }, "network ID of 31 bytes"},
		"about itself":    {func(s *UsageStatement) { s.About = s.By }, "itself"},
		"about nobody":    {func(s *UsageStatement) { s.About = nil }, "about: node ID of 0 bytes"},
		"no period":       {func(s *UsageStatement) { s.To = s.From }, "period"},
		"backwards":       {func(s *UsageStatement) { s.To, s.From = s.From, s.To }, "period"},
		"endless period":  {func(s *UsageStatement) { s.To += 25 * 3600_000 }, "period"},
		"no time":         {func(s *UsageStatement) { s.From, s.To = 0, 1 }, "time 0"},
		"loss of the lot": {func(s *UsageStatement) { s.LossPpm = 1_000_001 }, "loss"},
		"skew":            {func(s *UsageStatement) { s.Skew = -1 << 62 }, "skew"},
		"another's":       {func(s *UsageStatement) { s.By[3] ^= 1 }, "the key is"},
	} {
		s := testUsage('a', 'b')
		c.change(s)
		if _, err := SignUsage(s, testKey('a')); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: signing gave %v, want %q", name, err, c.want)
		}
		if name == "another's" {
			continue
		}
		b, err := proto.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		u := &SignedUsage{Statement: b, Signature: ed25519.Sign(testKey('a'), signedText(usageContext, b))}
		_, err = VerifyUsage(u)
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrVersion) != (name == "future version") {
			t.Errorf("%s: reading gave %v, want %q", name, err, c.want)
		}
	}
	if _, err := SignUsage(testUsage('a', 'b'), nil); err == nil {
		t.Error("signed without a key")
	}
	for _, u := range []*SignedUsage{nil, {}, {Statement: make([]byte, MaxUsage+1)}, {Statement: []byte{1}, Signature: []byte{2}}} {
		if _, err := ParseUsage(u); err == nil {
			t.Errorf("%v was taken", u)
		}
	}
}

func FuzzVerifyUsage(f *testing.F) {
	u := mustSignUsage(f, testUsage('a', 'b'), 'a')
	f.Add(u.Statement, uint16(9))
	f.Add(future(bytes.Clone(u.Statement)), uint16(77))
	f.Add([]byte{8, 1}, uint16(0))
	f.Add([]byte{}, uint16(0))
	var accepted counter
	f.Fuzz(func(t *testing.T, raw []byte, flip uint16) {
		signed := &SignedUsage{Statement: raw, Signature: ed25519.Sign(testKey('a'), signedText(usageContext, raw))}
		s, err := VerifyUsage(signed)
		if err != nil {
			return
		}
		accepted++
		if len(raw) > MaxUsage || s.To-s.From > maxUsagePeriod.Milliseconds() || s.LossPpm > 1e6 || bytes.Equal(s.By, s.About) {
			t.Fatalf("a statement that breaks the limits came out: %v", s)
		}
		forged := proto.CloneOf(signed)
		forged.Statement[int(flip)%len(raw)] ^= 1 << (flip >> 12 & 7)
		if _, err := VerifyUsage(forged); err == nil {
			t.Fatal("one bit was altered, and nobody minded")
		}
	})
	accepted.done(f)
}
