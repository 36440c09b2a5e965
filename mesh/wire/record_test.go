package wire

import (
	"bytes"
	"crypto/ed25519"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
)

func mustSign(t testing.TB, letter byte) *SignedRecord {
	t.Helper()
	s, err := SignRecord(testRecord(t, letter), testKey(letter))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRecord(t *testing.T) {
	want := testRecord(t, 'a')
	want.Version = 0
	s, err := SignRecord(want, testKey('a'))
	if err != nil {
		t.Fatal(err)
	}
	if want.Version != 0 {
		t.Error("SignRecord changed its argument")
	}
	got, key, err := OpenRecord(s)
	if err != nil {
		t.Fatal(err)
	}
	want.Version = Version
	if !proto.Equal(got, want) {
		t.Errorf("came back as %v", got)
	}
	if !bytes.Equal(key, testID('a')) {
		t.Error("another key came back")
	}
}

func TestRecordOfTheFutureIsPassedOnAsSigned(t *testing.T) {
	b := future(mustMarshal(t, testRecord(t, 'a')))
	b = append(b, 0x18, 8) // sequence once more, 8: an order that no encoder of ours would choose
	s := &SignedRecord{Record: b, Signature: ed25519.Sign(testKey('a'), append([]byte("gridwire record v1\n"), b...))}
	hop := new(Item)
	if err := proto.Unmarshal(mustMarshal(t, &Item{Item: &Item_Record{Record: s}}), hop); err != nil {
		t.Fatal(err)
	}
	if err := CheckItem(hop); err != nil {
		t.Fatal(err)
	}
	r, _, err := OpenRecord(hop.GetRecord())
	if err != nil {
		t.Fatal(err)
	}
	if r.GetSequence() != 8 || len(r.ProtoReflect().GetUnknown()) == 0 {
		t.Errorf("sequence %d, %d unknown bytes", r.GetSequence(), len(r.ProtoReflect().GetUnknown()))
	}
}

func TestRecordAlteredAnywhereIsRefused(t *testing.T) {
	s := mustSign(t, 'a')
	for i := range s.Record {
		forged := proto.CloneOf(s)
		forged.Record[i] ^= 1
		if _, _, err := OpenRecord(forged); err == nil {
			t.Fatalf("byte %d of the record was altered, and nobody minded", i)
		}
	}
	for i := range s.Signature {
		forged := proto.CloneOf(s)
		forged.Signature[i] ^= 1
		_, _, err := OpenRecord(forged)
		wantError(t, err, nil, "altered or forged")
	}
}

func TestRecordRefused(t *testing.T) {
	many := func(n int, b []byte) (out [][]byte) {
		for range n {
			out = append(out, b)
		}
		return out
	}
	addr := addrs("192.0.2.1:1")[0]
	for words, change := range map[string]func(*Record){
		"version 2":                      func(r *Record) { r.Version = 2 },
		"chain of 0":                     func(r *Record) { r.Chain = nil },
		"chain of 3":                     func(r *Record) { r.Chain = many(3, r.Chain[0]) },
		"certificate 1 of 0 bytes":       func(r *Record) { r.Chain[1] = nil },
		"certificate 0 of 8193":          func(r *Record) { r.Chain[0] = make([]byte, 8193) },
		"leaf certificate":               func(r *Record) { r.Chain[0] = []byte("no DER") },
		"no sequence":                    func(r *Record) { r.Sequence = 0 },
		"no Unix time":                   func(r *Record) { r.Time = 0 },
		"time 253402300800000":           func(r *Record) { r.Time = maxTime + 1 },
		"endpoints: 17":                  func(r *Record) { r.Endpoints = many(17, addr) },
		"endpoints: element 0: address":  func(r *Record) { r.Endpoints = addrs("192.0.2.1:0") },
		"lan: 17":                        func(r *Record) { r.Lan = many(17, addr) },
		"lan: element 1":                 func(r *Record) { r.Lan = append(r.Lan, []byte{1}) },
		"via: 9":                         func(r *Record) { r.Via = many(9, testID('v')) },
		"via 0: node ID of 3":            func(r *Record) { r.Via = [][]byte{{1, 2, 3}} },
		"seal key of 0":                  func(r *Record) { r.SealKey = nil },
		"seal key of 31":                 func(r *Record) { r.Tombstone = true; r.SealKey = r.SealKey[:31] },
		"nat of 33":                      func(r *Record) { r.Nat = string(make([]byte, 33)) },
		"nat has the unprintable":        func(r *Record) { r.Nat = "\x1b[2J" },
		"software of 65":                 func(r *Record) { r.Software = string(make([]byte, 65)) },
		"software is not UTF-8":          func(r *Record) { r.Software = "\xff" },
		"another key":                    func(r *Record) { r.Chain[0] = testLeaf(t, 'x') },
		"at most 32768":                  pad,
		"workloads: 10000, at most 256":  func(r *Record) { r.Workloads = make([]*Workload, 10000) },
		"workload web is there twice":    func(r *Record) { r.Workloads = append(r.Workloads, r.Workloads[0]) },
		"workload 0: addresses: 5":       func(r *Record) { r.Workloads[0].Addresses = many(5, make([]byte, 16)) },
		"workload 0: address of 3 bytes": func(r *Record) { r.Workloads[0].Addresses[0] = []byte{1, 2, 3} },
		"workload 0: ports: 17":          func(r *Record) { r.Workloads[0].Ports = make([]*Port, 17) },
		"workload 0: port 65536":         func(r *Record) { r.Workloads[0].Ports[0].Number = 65536 },
		"letters, digits and inner":      func(r *Record) { r.Workloads[0].Name = "no_label" },
		"not in lower case":              func(r *Record) { r.Workloads[0].Name = "Web" },
		"workload web: it has no addr":   func(r *Record) { r.Workloads[0].Addresses = nil },
		"connected devices: 257":         func(r *Record) { r.Devices = many(257, testID('d')) },
		"device 1: WireGuard key of 31":  func(r *Record) { r.Devices = [][]byte{testID('d'), make([]byte, 31)} },
	} {
		r := testRecord(t, 'a')
		change(r)
		_, err := SignRecord(r, testKey('a'))
		wantError(t, err, nil, words)
		// The same record, signed by somebody who does not check.
		b, err := proto.MarshalOptions{}.Marshal(r)
		if err != nil {
			continue // not UTF-8: no encoder writes it
		}
		s := &SignedRecord{Record: b, Signature: ed25519.Sign(testKey('a'), signedText(recordContext, b))}
		if _, _, err := OpenRecord(s); err == nil {
			t.Errorf("%s: a signature was enough", words)
		}
	}
	newer := testRecord(t, 'a')
	newer.Version = 2
	_, err := SignRecord(newer, testKey('a'))
	wantError(t, err, ErrVersion, "update")
	_, err = SignRecord(testRecord(t, 'a'), nil)
	wantError(t, err, nil, "identity key of 0")
	_, _, err = OpenRecord(nil)
	wantError(t, err, nil, "record of 0 bytes")
	_, _, err = OpenRecord(&SignedRecord{Record: []byte{1}, Signature: []byte{1}})
	wantError(t, err, nil, "signature of 1")
}

// pad makes r larger than MaxRecord by a field of the future.
func pad(r *Record) {
	var unknown []byte
	for len(unknown) <= MaxRecord {
		unknown = future(unknown)
	}
	r.ProtoReflect().SetUnknown(unknown)
}

func TestTombstoneNeedsNoSealKey(t *testing.T) {
	r := testRecord(t, 'a')
	r.Tombstone, r.SealKey = true, nil
	s, err := SignRecord(r, testKey('a'))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenRecord(s); err != nil {
		t.Fatal(err)
	}
}

func TestCheckItem(t *testing.T) {
	s := mustSign(t, 'a')
	for _, it := range []*Item{
		{Item: &Item_Record{Record: s}},
		{Item: &Item_RevocationList{RevocationList: []byte("DER")}},
		{Item: &Item_Issuer{Issuer: testLeaf(t, 'i')}},
	} {
		if err := CheckItem(it); err != nil {
			t.Error(err)
		}
	}
	wantError(t, CheckItem(nil), ErrVersion, "not known")
	wantError(t, CheckItem(&Item{}), ErrVersion, "not known")
	wantError(t, CheckItem(&Item{Item: &Item_Record{}}), nil, "record of 0")
	wantError(t, CheckItem(&Item{Item: &Item_Record{Record: &SignedRecord{Record: s.Record}}}), nil, "signature of 0")
	wantError(t, CheckItem(&Item{Item: &Item_RevocationList{RevocationList: make([]byte, MaxRevocationList+1)}}), nil, "revocation list")
	wantError(t, CheckItem(&Item{Item: &Item_Issuer{}}), nil, "issuer certificate of 0")
	wantError(t, CheckItem(&Item{Item: &Item_Device{}}), nil, "device's certificate of 0")
	wantError(t, CheckItem(&Item{Item: &Item_Device{Device: make([]byte, MaxDevice+1)}}), nil, "want 1 to 2048")
}

func TestCheckHello(t *testing.T) {
	hello := func() *Hello {
		return &Hello{Version: Version, Network: make([]byte, 32), Chain: [][]byte{testLeaf(t, 'a')}, Time: now.UnixMilli(),
			RevocationLists: [][]byte{[]byte("DER")}, Record: mustSign(t, 'a')}
	}
	if err := CheckHello(hello()); err != nil {
		t.Fatal(err)
	}
	for words, change := range map[string]func(*Hello){
		"no version":      func(h *Hello) { h.Version = 0 },
		"network ID of 0": func(h *Hello) { h.Network = nil },
		"chain of 0":      func(h *Hello) { h.Chain = nil },
		"no Unix time":    func(h *Hello) { h.Time = -1 },
		"bytes of revocation lists": func(h *Hello) {
			half := make([]byte, MaxRevocationList/2+1)
			h.RevocationLists = [][]byte{half, half}
		},
		"signature of 0": func(h *Hello) { h.Record.Signature = nil },
	} {
		h := hello()
		change(h)
		wantError(t, CheckHello(h), nil, words)
	}
}

func TestCheckEnrolFrame(t *testing.T) {
	frame := func() *EnrolFrame {
		return &EnrolFrame{Version: Version, Network: make([]byte, 32), Issuer: testID('i'), SealedRequest: make([]byte, 100)}
	}
	if err := CheckEnrolFrame(frame()); err != nil {
		t.Fatal(err)
	}
	for words, change := range map[string]func(*EnrolFrame){
		"version 2":           func(f *EnrolFrame) { f.Version = 2 },
		"network ID of 3":     func(f *EnrolFrame) { f.Network = []byte("abc") },
		"node ID of 0":        func(f *EnrolFrame) { f.Issuer = nil },
		"part of 48 bytes":    func(f *EnrolFrame) { f.SealedRequest = make([]byte, SealOverhead) },
		"part of 32769 bytes": func(f *EnrolFrame) { f.SealedRequest = make([]byte, MaxSealedRequest+1) },
	} {
		f := frame()
		change(f)
		wantError(t, CheckEnrolFrame(f), nil, words)
	}
}

// FuzzOpenRecord signs what the fuzzer makes up: a member may send anything under a good signature.
func FuzzOpenRecord(f *testing.F) {
	s := mustSign(f, 'a')
	f.Add(s.Record, []byte(nil))
	f.Add(future(s.Record), []byte(nil))
	f.Add(s.Record, s.Signature)
	f.Add(s.Record[:len(s.Record)/2], s.Signature)
	f.Add([]byte{}, []byte{})
	var accepted counter
	f.Fuzz(func(t *testing.T, b, signature []byte) {
		if len(signature) == 0 {
			signature = ed25519.Sign(testKey('a'), signedText(recordContext, b))
		}
		r, key, err := OpenRecord(&SignedRecord{Record: b, Signature: signature})
		if err != nil {
			return
		}
		accepted++
		if len(b) > MaxRecord || len(r.Endpoints) > MaxEndpoints || len(r.Lan) > MaxLAN || len(r.Via) > MaxVia || len(r.Chain) > MaxChain ||
			len(r.Workloads) > mesh.MaxWorkloads {
			t.Fatal("a limit was exceeded")
		}
		if !ed25519.Verify(key, append([]byte("gridwire record v1\n"), b...), signature) {
			t.Fatal("the signature is not by the key")
		}
		for _, w := range r.Workloads {
			if _, err := mesh.ParseName(w.Name); err != nil || len(w.Addresses) > mesh.MaxWorkloadAddrs || len(w.Ports) > mesh.MaxWorkloadPorts {
				t.Fatalf("workload %q of %d addresses and %d ports: %v", w.Name, len(w.Addresses), len(w.Ports), err)
			}
		}
		again := new(Record)
		if err := proto.Unmarshal(mustMarshal(t, r), again); err != nil || !proto.Equal(r, again) {
			t.Fatalf("encoded and decoded it is another record: %v", err)
		}
	})
	accepted.done(f)
}
