package sock

import (
	"encoding/binary"
	"testing"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"
)

var testTag = [4]byte{'g', 'w', 's', '1'}

func build(t testing.TB, setters ...stun.Setter) []byte {
	t.Helper()
	m, err := stun.Build(setters...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

func transaction(start [4]byte) stun.Setter {
	var id [12]byte
	copy(id[:], start[:])
	return stun.NewTransactionIDSetter(id)
}

func samples(t testing.TB) map[string]struct {
	b    []byte
	want Class
} {
	type sample = struct {
		b    []byte
		want Class
	}
	check := build(t, stun.BindingRequest, stun.TransactionID, stun.NewUsername("aaaa:bbbb"), ice.AttrControlling(7),
		ice.PriorityAttr(1), stun.NewShortTermIntegrity("0123456789012345678901"), stun.Fingerprint)
	member := build(t, stun.BindingRequest, transaction(testTag), stun.NewShortTermIntegrity("member key"))
	padded := append(append([]byte(nil), check...), 0, 0, 0, 0)
	inner := func(size int) []byte { // a WireGuard packet whose receiver index is the STUN cookie
		b := make([]byte, size)
		b[0] = 4
		binary.BigEndian.PutUint32(b[4:], stunCookie)
		return b
	}
	other := [4]byte{'x', 'w', 's', '1'}
	return map[string]sample{
		"initiation":         {append([]byte{1, 0, 0, 0}, make([]byte, 144)...), WireGuard},
		"transport":          {append([]byte{4, 0, 0, 0}, make([]byte, 28)...), WireGuard},
		"index is cookie":    {inner(96), WireGuard},
		"type 5":             {append([]byte{5, 0, 0, 0}, make([]byte, 28)...), Unknown},
		"reserved not zero":  {append([]byte{1, 0, 0, 1}, make([]byte, 28)...), Unknown},
		"check":              {check, ICE},
		"check, trailing":    {padded, Unknown},
		"check, cut":         {check[:len(check)-4], Unknown},
		"plain request":      {build(t, stun.BindingRequest, stun.TransactionID), STUN},
		"member's request":   {member, STUN},
		"our answer":         {build(t, stun.BindingSuccess, transaction(testTag)), STUN},
		"our error":          {build(t, stun.BindingError, transaction(testTag)), STUN},
		"pion's answer":      {build(t, stun.BindingSuccess, transaction(other)), ICE},
		"indication":         {build(t, stun.NewType(stun.MethodBinding, stun.ClassIndication), transaction(other)), STUN},
		"TURN":               {build(t, stun.NewType(stun.MethodAllocate, stun.ClassRequest), stun.TransactionID), Unknown},
		"QUIC long header":   {[]byte{0xc3, 0, 0, 0, 1, 8}, QUIC},
		"QUIC short header":  {[]byte{0x41, 9}, QUIC},
		"TURN channel data":  {[]byte{0x40, 0, 0, 4, 1, 2, 3, 4}, QUIC},
		"QUIC with a cookie": {[]byte{0xc0, 0, 0, 0, 0x21, 0x12, 0xa4, 0x42}, QUIC},
		"DNS":                {[]byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, Unknown},
		"short":              {[]byte{1, 0, 0}, Unknown},
		"empty":              {nil, Unknown},
	}
}

func TestClassify(t *testing.T) {
	for name, s := range samples(t) {
		if got := Classify(s.b, testTag); got != s.want {
			t.Errorf("%s: %v, want %v", name, got, s.want)
		}
	}
}

// FuzzClassify compares with a slow oracle: pion's full decoder and the order that DESIGN gives.
func FuzzClassify(f *testing.F) {
	for _, s := range samples(f) {
		f.Add(s.b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := Classify(b, testTag)
		if oracle := slowClass(b); got != oracle {
			t.Fatalf("%x: %v, the oracle says %v", b, got, oracle)
		}
		if (got == WireGuard) != isWireGuard(b) {
			t.Fatalf("%x: %v, but the data path's test says %v", b, got, isWireGuard(b))
		}
	})
}

func slowClass(b []byte) Class {
	if len(b) >= 4 && b[0] >= 1 && b[0] <= 4 && b[1] == 0 && b[2] == 0 && b[3] == 0 {
		return WireGuard
	}
	if len(b) >= 8 && b[0] < 0x40 && string(b[4:8]) == "\x21\x12\xa4\x42" {
		m := &stun.Message{Raw: append([]byte(nil), b...)}
		err := m.Decode()
		fits := len(b) >= 20 && len(b)%4 == 0 && int(b[2])<<8+int(b[3]) == len(b)-20
		switch {
		case !fits || m.Type.Method != stun.MethodBinding:
			return Unknown
		case m.Type.Class == stun.ClassIndication:
			return STUN
		case m.Type.Class != stun.ClassRequest && string(m.TransactionID[:4]) == string(testTag[:]):
			return STUN
		case m.Type.Class != stun.ClassRequest:
			return ICE
		case err != nil: // damaged attributes: which of the two facades drops it is decided by the part that can be read
			if hasAttribute(b[20:], attrPriority) {
				return ICE
			}
			return STUN
		case m.Contains(stun.AttrPriority):
			return ICE
		}
		return STUN
	}
	if len(b) > 0 && b[0]&0x40 != 0 {
		return QUIC
	}
	return Unknown
}
