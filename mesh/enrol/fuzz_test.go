package enrol

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// seeds adds them and fails where there is none: a target that begins with nothing finds nothing.
func seeds(f *testing.F, all ...[]byte) {
	f.Helper()
	if len(all) == 0 {
		f.Fatal("the corpus is empty")
	}
	for _, b := range all {
		f.Add(b)
	}
}

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// request returns a request whose CSR is right, with a proof or without.
func request(t testing.TB, keys Keys, name mesh.Name) *wire.EnrolRequest {
	t.Helper()
	csr, err := pki.MakeCSR(keys.Identity, keys.Public(), name)
	if err != nil {
		t.Fatal(err)
	}
	wg := keys.Public()
	return &wire.EnrolRequest{
		Csr: csr, Nonce: bytes.Repeat([]byte{7}, nonceSize), Name: string(name), WireguardKey: wg[:], ReplyKey: keys.Seal.PublicKey().Bytes(),
	}
}

// Whatever is sealed to the issuer: it changes nothing and certifies nothing, unless the proof is right. The proof is made right in
// half of the tries, so that what comes behind it is reached.
func FuzzEnrolRequest(f *testing.F) {
	w := newWorld(f)
	d := &disk{}
	i := w.issuer(d)
	tok := w.invite(i, InviteRequest{Uses: maxUses, Expires: maxExpires})
	good := request(f, newKeys(f), "seed")
	renewal := request(f, newKeys(f), "seed")
	renewal.RenewChain, renewal.RenewSignature = w.alice.Chain, make([]byte, ed25519.SignatureSize)
	odd := request(f, newKeys(f), "")
	odd.Name, odd.Nonce = "..", nil
	for _, r := range []*wire.EnrolRequest{good, renewal, odd, {}} {
		for _, proven := range []bool{false, true} {
			f.Add(mustMarshal(f, r), proven)
		}
	}
	f.Add([]byte{}, false)
	admitted := func(t testing.TB, b []byte, proven bool) bool {
		req := new(wire.EnrolRequest)
		if proto.Unmarshal(b, req) == nil && proven && len(req.GetRenewChain()) == 0 {
			req.Invitation = tok.GetInvitation()
			req.Hmac = enrolMAC(tok.GetSecret(), req.GetCsr(), req.GetNonce())
			if m, err := proto.Marshal(req); err == nil {
				b = m
			}
		}
		sealed, err := wire.SealTo(w.alice.SealPublic(), requestInfo(w.root.Network.ID, w.alice.ID()), b)
		if err != nil {
			t.Fatal(err)
		}
		before := len(d.gens)
		resp := i.Handle(sealed)
		if len(resp.GetSealedResult()) == 0 && (resp.GetError() == "" || resp.GetCode() == wire.EnrolError_ENROL_OK) {
			t.Fatalf("an answer that says nothing: %v", resp)
		}
		grew := len(d.gens) > before
		right := hmac.Equal(req.GetHmac(), enrolMAC(tok.GetSecret(), req.GetCsr(), req.GetNonce())) && bytes.Equal(req.GetInvitation(), tok.GetInvitation())
		if grew && !right {
			t.Fatalf("the state changed without a proof: %v", req)
		}
		if _, err := decodeState([]byte(d.newest())); err != nil {
			t.Fatalf("the stored state cannot be read back: %v", err)
		}
		if raw := i.Handle(b); raw.GetCode() == wire.EnrolError_ENROL_OK { // and not sealed at all
			t.Fatal("bytes that were not sealed are accepted")
		}
		return grew
	}
	if !admitted(f, mustMarshal(f, good), true) {
		f.Fatal("the good seed is not admitted")
	}
	f.Fuzz(func(t *testing.T, b []byte, proven bool) { admitted(t, b, proven) })
}

// Whatever frame a stranger sends to a member: it passes on nothing but the same sealed bytes, once, to an issuer that is a member of
// its own network, and always answers.
func FuzzForward(f *testing.F) {
	w := newWorld(f)
	id, network := w.alice.ID(), w.root.Network.ID
	// Keys differ from one fuzzing process to the next: a first byte of 1 stands for "the right network and issuer".
	frame := &wire.EnrolFrame{Version: 1, Network: bytes.Repeat([]byte{1}, 32), Issuer: bytes.Repeat([]byte{1}, 32), SealedRequest: make([]byte, 60)}
	hopped := proto.CloneOf(frame)
	hopped.Hops = 1
	foreign := proto.CloneOf(frame)
	foreign.Network[0] = 2
	seeds(f, mustMarshal(f, frame), mustMarshal(f, hopped), mustMarshal(f, foreign), nil, []byte{0xff})
	var sent *wire.EnrolFrame
	now := day0
	h, err := NewHandler(HandlerConfig{
		Network: w.root.Network, Self: newKeys(f).ID(), View: w.view.Load, Now: func() time.Time { now = now.Add(time.Minute); return now },
		Send: func(_ context.Context, to mesh.NodeID, g *wire.EnrolFrame) (*wire.EnrolResponse, error) {
			if to != id {
				panic("to somebody else")
			}
			sent = proto.CloneOf(g)
			return &wire.EnrolResponse{SealedResult: []byte("opaque")}, nil
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	check := func(t testing.TB, b []byte) bool {
		g := new(wire.EnrolFrame)
		if proto.Unmarshal(b, g) != nil {
			return false
		}
		if n := g.GetNetwork(); len(n) == 32 && n[0] == 1 {
			g.Network = network[:]
		}
		if n := g.GetIssuer(); len(n) == 32 && n[0] == 1 {
			g.Issuer = id[:]
		}
		sent = nil
		resp := h.Handle(context.Background(), netip.MustParseAddrPort("203.0.113.9:1"), false, g)
		switch {
		case sent == nil:
			if resp.GetCode() == wire.EnrolError_ENROL_OK || resp.GetError() == "" {
				t.Fatalf("no refusal: %v", resp)
			}
			return false
		case g.GetHops() != 0 || sent.GetHops() != 1:
			t.Fatalf("forwarded with hops %d after %d", sent.GetHops(), g.GetHops())
		case !bytes.Equal(sent.GetSealedRequest(), g.GetSealedRequest()) || len(sent.GetSealedRequest()) > wire.MaxSealedRequest:
			t.Fatal("forwarded other bytes, or too many")
		case !bytes.Equal(sent.GetNetwork(), network[:]):
			t.Fatal("forwarded into another network")
		case string(resp.GetSealedResult()) != "opaque":
			t.Fatal("the answer was not passed back")
		}
		return true
	}
	if !check(f, mustMarshal(f, frame)) {
		f.Fatal("the good seed is not forwarded")
	}
	f.Fuzz(func(t *testing.T, b []byte) { check(t, b) })
}

// A state that is accepted comes back the same, admits within its limits, and can be voided.
func FuzzState(f *testing.F) {
	w := newWorld(f)
	d := &disk{}
	i := w.issuer(d)
	w.joined(i, w.invite(i, InviteRequest{Uses: 2, Tags: []string{"a"}}), "bob")
	bundle, err := JoinOffline(w.invite(i, InviteRequest{Name: "laptop", Offline: true}), w.clock.now())
	w.must(err)
	_, err = Rekey(context.Background(), bundle, newKeys(f), []*mesh.Member{w.member(w.alice)}, sendTo(i), w.clock.now)
	w.must(err)
	seeds(f, append(d.gens, []byte(`{"version":1}`), []byte(`{"version":1,"invitations":[null]}`), nil)...)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		once, err := s.encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := decodeState(once)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, once)
		}
		twice, _ := again.encode()
		if !bytes.Equal(once, twice) {
			t.Fatalf("changed by writing:\n%s\n%s", once, twice)
		}
		for id, v := range s.void(day0).invitations {
			if !v.Void || v.ID != id || v.Used > v.Uses {
				t.Fatalf("%+v", v)
			}
		}
	})
}

// Every truncation and every damaged byte of a real state is refused or leaves no more uses than there were.
func TestStateDamagedAnywhere(t *testing.T) {
	w := newWorld(t)
	d := &disk{}
	i := w.issuer(d)
	w.joined(i, w.invite(i, InviteRequest{}), "bob")
	whole := d.gens[len(d.gens)-1]
	for n := range len(whole) - 1 {
		if _, err := decodeState(whole[:n]); err == nil {
			t.Fatalf("accepted when cut off at byte %d", n)
		}
		zeroed := bytes.Clone(whole)
		zeroed[n] = 0
		if _, err := decodeState(zeroed); err == nil && whole[n] != '\n' && whole[n] != ' ' {
			t.Fatalf("accepted with byte %d zeroed", n)
		}
	}
}

// A joiner takes no certificate but one for its own keys by the issuer in the token, whatever comes back, sealed rightly or not.
func FuzzAnswer(f *testing.F) {
	w := newWorld(f)
	i := w.issuer(&disk{})
	tok := w.invite(i, InviteRequest{Uses: 10})
	m := w.joined(i, tok, "carol")
	good := mustMarshal(f, &wire.EnrolResult{Chain: m.Chain, Root: m.Root, NetworkSecret: m.Secret, Items: m.Items})
	refused := mustMarshal(f, &wire.EnrolResult{Code: wire.EnrolError_ENROL_SPENT, Error: "spent"})
	seeds(f, good, refused, mustMarshal(f, &wire.EnrolResponse{Error: "go away"}), nil)
	x, err := newExchange(w.root.Network.ID, w.alice.ID(), w.alice.SealPublic(), m.Keys, "carol", func(*wire.EnrolRequest) {})
	w.must(err)
	f.Fuzz(func(t *testing.T, b []byte) {
		resp := new(wire.EnrolResponse)
		if proto.Unmarshal(b, resp) == nil {
			if _, err := x.open(resp); err == nil {
				t.Fatal("an answer that was not sealed is believed")
			}
		}
		sealed, err := wire.SealTo([32]byte(x.reply.PublicKey().Bytes()), resultInfo(x.csr), b)
		if err != nil {
			t.Fatal(err)
		}
		res, err := x.open(&wire.EnrolResponse{SealedResult: sealed})
		if err != nil {
			return
		}
		got := &Membership{Keys: m.Keys, Chain: res.GetChain(), Root: res.GetRoot(), Secret: res.GetNetworkSecret(), Items: goodItems(res.GetItems())}
		if got.accept(tok, w.clock.now()) == nil && !bytes.Equal(got.Chain[0], m.Chain[0]) {
			t.Fatal("another certificate is accepted")
		}
	})
}
