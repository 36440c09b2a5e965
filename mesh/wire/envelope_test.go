package wire

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
)

var testEnvelopeID = [16]byte([]byte("sixteen bytes id"))

func mustSeal(t testing.TB, s *Signal) []byte {
	t.Helper()
	_, pub := testSealKey(t, 'b')
	b, err := SealEnvelope(testKey('a'), mesh.NodeID(testID('b')), pub, s, testEnvelopeID, now)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// resign replaces b's signature by one of the key of letter.
func resign(b []byte, letter byte) []byte {
	signed := b[:len(b)-signatureTrailer]
	return append(append(bytes.Clone(signed), signatureHead...), ed25519.Sign(testKey(letter), signedText(envelopeContext, signed))...)
}

func TestEnvelope(t *testing.T) {
	key, _ := testSealKey(t, 'b')
	to := mesh.NodeID(testID('b'))
	for _, want := range []*Signal{
		testOffer(),
		{Session: 1, Body: &Signal_Answer{Answer: testOffer().GetOffer()}},
		{Session: 1, Body: &Signal_Nudge{Nudge: &Nudge{Reason: "the path is dead"}}},
		{Body: &Signal_ReachRequest{ReachRequest: &ReachRequest{Address: addrs("192.0.2.1:1")[0], Nonce: make([]byte, 12)}}},
		{Body: &Signal_ReachProbe{ReachProbe: &ReachProbe{Address: addrs("192.0.2.1:1")[0], Nonce: make([]byte, 12), For: testID('c')}}},
		{Body: &Signal_PortRequest{PortRequest: &PortRequest{Nonce: make([]byte, 12)}}},
		{Body: &Signal_PortOffer{PortOffer: &PortOffer{Nonce: make([]byte, 12), Port: 40000}}},
	} {
		b := mustSeal(t, want)
		e, from, gotTo, err := ParseEnvelope(b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(from[:], testID('a')) || gotTo != to || e.GetTime() != now.UnixMilli() || !bytes.Equal(e.GetId(), testEnvelopeID[:]) {
			t.Errorf("from %v to %v at %d", from, gotTo, e.GetTime())
		}
		got, err := OpenEnvelope(e, to, key)
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("came back as %v (%v)", got, err)
		}
		// The trailer is a field as any other: plain Protocol Buffers read the same.
		plain := new(Envelope)
		if err := proto.Unmarshal(b, plain); err != nil || !proto.Equal(plain, e) {
			t.Errorf("another decoder sees %v (%v)", plain, err)
		}
	}
}

func TestEnvelopeAlteredAnywhereIsRefused(t *testing.T) {
	b := mustSeal(t, testOffer())
	for i := range b {
		for bit := range 8 {
			forged := bytes.Clone(b)
			forged[i] ^= 1 << bit
			if _, _, _, err := ParseEnvelope(forged); err == nil {
				t.Fatalf("bit %d of byte %d was altered, and nobody minded", bit, i)
			}
		}
	}
	for n := range b {
		if _, _, _, err := ParseEnvelope(b[:n]); err == nil {
			t.Fatalf("the first %d bytes were accepted", n)
		}
	}
}

func TestEnvelopeOfTheFuture(t *testing.T) {
	b := mustSeal(t, testOffer())
	signed := future(bytes.Clone(b[:len(b)-signatureTrailer]))
	newer := resign(append(signed, make([]byte, signatureTrailer)...), 'a')
	e, _, to, err := ParseEnvelope(newer)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := testSealKey(t, 'b')
	if _, err := OpenEnvelope(e, to, key); err != nil {
		t.Fatal(err)
	}
}

func TestEnvelopeRefused(t *testing.T) {
	b := mustSeal(t, testOffer())
	parse := func(b []byte) error { _, _, _, err := ParseEnvelope(b); return err }
	wantError(t, parse(resign(b, 'x')), nil, "altered or forged")
	wantError(t, parse(append(bytes.Clone(b), b[len(b)-signatureTrailer:]...)), nil, "two signatures")
	wantError(t, parse(append(bytes.Clone(b), 0)), nil, "does not end with a signature")
	wantError(t, parse(make([]byte, MaxEnvelope+1)), nil, "at most 4096")
	wantError(t, parse(nil), nil, "does not end with a signature")
	for words, change := range map[string]func(*Envelope){
		"no version":  func(e *Envelope) { e.Version = 0 },
		"version 2":   func(e *Envelope) { e.Version = 2 },
		"id of 15":    func(e *Envelope) { e.Id = e.Id[:15] },
		"from of 0":   func(e *Envelope) { e.From = nil },
		"to of 31":    func(e *Envelope) { e.To = e.To[:31] },
		"time":        func(e *Envelope) { e.Time = 0 },
		"sealed part": func(e *Envelope) { e.Sealed = e.Sealed[:20] },
	} {
		e, _, _, err := ParseEnvelope(b)
		if err != nil {
			t.Fatal(err)
		}
		change(e)
		e.Signature = make([]byte, ed25519.SignatureSize)
		wantError(t, parse(resign(mustMarshal(t, e), 'a')), nil, words)
	}
}

func TestEnvelopeOpensForItsReceiverOnly(t *testing.T) {
	b := mustSeal(t, testOffer())
	e, _, to, err := ParseEnvelope(b)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := testSealKey(t, 'b')
	other, _ := testSealKey(t, 'c')
	_, err = OpenEnvelope(e, mesh.NodeID(testID('c')), key)
	wantError(t, err, nil, "not for this node")
	_, err = OpenEnvelope(e, to, other)
	wantError(t, err, nil, "another key")
	// Somebody puts the sealed part into an envelope of his own: his signature is good, but it is not his signal.
	stolen := proto.CloneOf(e)
	stolen.From = testID('x')
	e2, _, _, err := ParseEnvelope(resign(mustMarshal(t, stolen), 'x'))
	if err != nil {
		t.Fatal(err)
	}
	_, err = OpenEnvelope(e2, to, key)
	wantError(t, err, nil, "altered")
}

func TestSignalRefused(t *testing.T) {
	offer := func(change func(*Description)) *Signal {
		s := testOffer()
		change(s.GetOffer())
		return s
	}
	probe := &ReachProbe{Address: addrs("192.0.2.1:1")[0], Nonce: make([]byte, 12), For: testID('c')}
	shortFor := proto.CloneOf(probe)
	shortFor.For = nil
	many := make([]*Candidate, MaxCandidates+1)
	_, pub := testSealKey(t, 'b')
	for words, s := range map[string]*Signal{
		"not known here":            {Session: 1},
		"fragment of 3":             offer(func(d *Description) { d.Ufrag = "abc" }),
		"password of 21":            offer(func(d *Description) { d.Pwd = d.Pwd[:21] }),
		"not one of ICE's":          offer(func(d *Description) { d.Ufrag = "abc d" }),
		"nat of 33":                 offer(func(d *Description) { d.Nat = string(make([]byte, 33)) }),
		"candidates: 33":            offer(func(d *Description) { d.Candidates = many }),
		"candidate 0: address":      offer(func(d *Description) { d.Candidates[0].Address = nil }),
		"candidate 1: type of 17":   offer(func(d *Description) { d.Candidates[1].Type = "12345678901234567" }),
		"answer: user name":         {Body: &Signal_Answer{Answer: &Description{}}},
		"reason of 257":             {Body: &Signal_Nudge{Nudge: &Nudge{Reason: string(make([]byte, 257))}}},
		"reach request: address":    {Body: &Signal_ReachRequest{ReachRequest: &ReachRequest{Nonce: make([]byte, 12)}}},
		"reach request: nonce":      {Body: &Signal_ReachRequest{ReachRequest: &ReachRequest{Address: probe.Address}}},
		"port request: nonce":       {Body: &Signal_PortRequest{PortRequest: &PortRequest{}}},
		"port offer: nonce":         {Body: &Signal_PortOffer{PortOffer: &PortOffer{Port: 1}}},
		"port offer: port 0":        {Body: &Signal_PortOffer{PortOffer: &PortOffer{Nonce: make([]byte, 12)}}},
		"reach probe: node ID of 0": {Body: &Signal_ReachProbe{ReachProbe: shortFor}},
	} {
		_, err := SealEnvelope(testKey('a'), mesh.NodeID(testID('b')), pub, s, testEnvelopeID, now)
		wantError(t, err, nil, words)
	}
	large := offer(func(d *Description) {
		d.Ufrag = string(bytes.Repeat([]byte("u"), 256))
		for range MaxCandidates - 2 {
			d.Candidates = append(d.Candidates, &Candidate{Type: "1234567890123456", Address: addrs("[2001:db8::1]:1")[0], Priority: 1})
		}
		d.ProtoReflect().SetUnknown(future(make([]byte, 0)))
		for range 140 {
			d.ProtoReflect().SetUnknown(future(d.ProtoReflect().GetUnknown()))
		}
	})
	_, err := SealEnvelope(testKey('a'), mesh.NodeID(testID('b')), pub, large, testEnvelopeID, now)
	wantError(t, err, nil, "send fewer candidates")
	_, err = SealEnvelope(nil, mesh.NodeID(testID('b')), pub, testOffer(), testEnvelopeID, now)
	wantError(t, err, nil, "identity key of 0")
}

// The largest signal that the limits allow must fit into an envelope.
func TestLargestOfferFits(t *testing.T) {
	s := testOffer()
	d := s.GetOffer()
	d.Candidates = nil
	for range MaxCandidates {
		d.Candidates = append(d.Candidates, &Candidate{Type: "srflx", Address: addrs("[2001:db8::1]:65535")[0], Priority: 1<<32 - 1})
	}
	if b := mustSeal(t, s); len(b) > MaxEnvelope {
		t.Fatalf("%d bytes", len(b))
	}
}

// FuzzParseEnvelope feeds raw bytes, and the same with a good signature under them.
func FuzzParseEnvelope(f *testing.F) {
	b := mustSeal(f, testOffer())
	f.Add(b, uint16(3))
	f.Add(b[:len(b)-signatureTrailer], uint16(100))
	f.Add(future(bytes.Clone(b[:len(b)-signatureTrailer])), uint16(200))
	f.Add(b[:40], uint16(0))
	f.Add([]byte{}, uint16(0))
	var accepted counter
	f.Fuzz(func(t *testing.T, raw []byte, flip uint16) {
		signed := append(append(bytes.Clone(raw), signatureHead...), ed25519.Sign(testKey('a'), signedText(envelopeContext, raw))...)
		for _, b := range [][]byte{raw, signed} {
			e, from, to, err := ParseEnvelope(b)
			if err != nil {
				continue
			}
			accepted++
			if len(b) > MaxEnvelope || !bytes.Equal(e.From, from[:]) || !bytes.Equal(e.To, to[:]) || len(e.Id) != 16 {
				t.Fatal("a limit was exceeded, or the result contradicts itself")
			}
			forged := bytes.Clone(b)
			forged[int(flip)%len(b)] ^= 1 << (flip >> 12 & 7)
			if _, _, _, err := ParseEnvelope(forged); err == nil {
				t.Fatal("one bit was altered, and nobody minded")
			}
		}
	})
	accepted.done(f)
}

// FuzzOpenEnvelope seals what the fuzzer makes up: a member may send anything under a good seal.
func FuzzOpenEnvelope(f *testing.F) {
	f.Add(mustMarshal(f, testOffer()))
	f.Add(mustMarshal(f, &Signal{Body: &Signal_Nudge{Nudge: &Nudge{Reason: "x"}}}))
	f.Add(future(nil))
	f.Add([]byte{})
	key, pub := testSealKey(f, 'b')
	e, _, to, err := ParseEnvelope(mustSeal(f, testOffer()))
	if err != nil {
		f.Fatal(err)
	}
	var accepted counter
	f.Fuzz(func(t *testing.T, plaintext []byte) {
		sealed, err := SealTo(pub, signalInfo(e), plaintext)
		if err != nil {
			t.Fatal(err)
		}
		mine := proto.CloneOf(e)
		mine.Sealed = sealed
		s, err := OpenEnvelope(mine, to, key)
		if err != nil {
			return
		}
		accepted++
		if err := CheckSignal(s); err != nil || s.GetBody() == nil {
			t.Fatalf("a signal that breaks the limits came out: %v", err)
		}
		for _, d := range []*Description{s.GetOffer(), s.GetAnswer()} {
			if len(d.GetCandidates()) > MaxCandidates || len(d.GetUfrag()) > 256 || len(d.GetPwd()) > 256 {
				t.Fatal("a limit was exceeded")
			}
		}
		_, err = SealEnvelope(testKey('a'), to, pub, s, testEnvelopeID, now)
		if err != nil && !errors.Is(err, ErrVersion) && len(plaintext) < 3000 {
			t.Fatalf("what came out cannot be sent: %v", err)
		}
	})
	accepted.done(f)
}
