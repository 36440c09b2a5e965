package enrol

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

// pipeTo is an Open whose streams are answered by serve: a member at the other end of a net.Pipe.
func pipeTo(serve func(*wire.EnrolFrame) *wire.EnrolResponse) Open {
	return func(context.Context, mesh.NodeID, []netip.AddrPort) (io.ReadWriteCloser, error) {
		near, far := net.Pipe()
		go serveStream(far, serve) // ends when either end is closed
		return near, nil
	}
}

func serveStream(c net.Conn, serve func(*wire.EnrolFrame) *wire.EnrolResponse) {
	defer c.Close()
	f := new(wire.EnrolFrame)
	if wire.ReadFrame(c, f, wire.MaxSealedRequest+1024) != nil {
		return
	}
	_ = wire.WriteFrame(c, serve(f))
}

// overPipe is a Handler's Send: one frame to handler and its answer, as bytes over a pipe; what passes goes through tap.
func overPipe(to *Handler, from netip.AddrPort, tap func([]byte)) Send {
	return func(ctx context.Context, _ mesh.NodeID, f *wire.EnrolFrame) (*wire.EnrolResponse, error) {
		near, far := net.Pipe()
		defer near.Close()
		go serveStream(far, func(f *wire.EnrolFrame) *wire.EnrolResponse { return to.Handle(ctx, from, true, f) })
		b, _ := proto.Marshal(f)
		tap(b)
		if err := wire.WriteFrame(near, f); err != nil {
			return nil, err
		}
		resp := new(wire.EnrolResponse)
		if err := wire.ReadFrame(near, resp, maxAnswer+1024); err != nil {
			return nil, err
		}
		b, _ = proto.Marshal(resp)
		tap(b)
		return resp, nil
	}
}

// chain is issuer, forwarder and the stream a joiner gets to the forwarder.
type chain struct {
	w         *world
	issuer    *Issuer
	forwarder *Handler
	atIssuer  *Handler
	bob       *Membership
	overheard []byte
}

func newChain(t *testing.T) *chain {
	c := &chain{w: newWorld(t)}
	c.issuer = c.w.issuer(&disk{})
	c.bob = c.w.joined(c.issuer, c.w.invite(c.issuer, InviteRequest{Name: "bob"}), "")
	c.w.enter(c.bob, false)
	var err error
	c.atIssuer, err = NewHandler(HandlerConfig{
		Network: c.w.root.Network, Self: c.w.alice.ID(), Issuer: func() *Issuer { return c.issuer }, View: c.w.view.Load, Now: c.w.clock.now,
		Send: func(context.Context, mesh.NodeID, *wire.EnrolFrame) (*wire.EnrolResponse, error) {
			return nil, errors.New("not here")
		},
	})
	c.w.must(err)
	c.forwarder, err = NewHandler(HandlerConfig{
		Network: c.w.root.Network, Self: c.bob.ID(), View: c.w.view.Load, Now: c.w.clock.now,
		Send: overPipe(c.atIssuer, netip.MustParseAddrPort("198.51.100.2:51820"), func(b []byte) { c.overheard = append(c.overheard, b...) }),
	})
	c.w.must(err)
	return c
}

func (c *chain) token(t *testing.T, r InviteRequest) *wire.Token {
	id := c.bob.ID()
	r.Members = []*wire.TokenMember{{NodeId: id[:], Addresses: [][]byte{wire.AddrPortBytes(netip.MustParseAddrPort("198.51.100.2:51820"))}}}
	return c.w.invite(c.issuer, r)
}

func (c *chain) join(tok *wire.Token, keys Keys, name mesh.Name, alter func(*wire.EnrolFrame), answer func(*wire.EnrolResponse)) (*Membership, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return Join(ctx, tok, keys, name, pipeTo(func(f *wire.EnrolFrame) *wire.EnrolResponse {
		if alter != nil {
			alter(f)
		}
		resp := c.forwarder.Handle(ctx, netip.MustParseAddrPort("203.0.113.9:4444"), false, f)
		if answer != nil {
			answer(resp)
		}
		return resp
	}), c.w.clock.now)
}

// A joiner that reaches only a member who is not the issuer joins through it; that member sees neither key nor name nor secret.
func TestJoinByWayOfAMember(t *testing.T) {
	c := newChain(t)
	tok := c.token(t, InviteRequest{Tags: []string{"site:barn"}, Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}})
	keys := newKeys(t)
	m, err := c.join(tok, keys, "carol", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, leaf, issuer, err := m.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Name != "carol" || leaf.ID != keys.ID() || leaf.WireGuard != keys.Public() || issuer.NodeID != c.w.alice.ID() {
		t.Errorf("certificate for %s, %v, by %s", leaf.Name, leaf.ID, issuer.Name)
	}
	if len(leaf.Tags) != 1 || len(leaf.Routes) != 1 || len(leaf.Addrs) != 2 {
		t.Errorf("tags %v, routes %v, addresses %v", leaf.Tags, leaf.Routes, leaf.Addrs)
	}
	if !bytes.Equal(m.Secret, c.w.alice.Secret) || len(m.Items) != 1 {
		t.Errorf("network secret of %d bytes, %d items to start with", len(m.Secret), len(m.Items))
	}
	if len(c.overheard) == 0 {
		t.Fatal("nothing passed the forwarder")
	}
	id, wg := keys.ID(), keys.Public()
	for what, secret := range map[string][]byte{
		"identity key": id[:], "WireGuard key": wg[:], "name": []byte("carol"), "invitation's secret": tok.GetSecret(),
		"invitation": tok.GetInvitation(), "network secret": m.Secret, "certificate": m.Chain[0], "tag": []byte("site:barn"),
	} {
		if bytes.Contains(c.overheard, secret) {
			t.Errorf("the forwarder saw the %s", what)
		}
	}
}

func TestForwarderCannotAlter(t *testing.T) {
	c := newChain(t)
	tok := c.token(t, InviteRequest{Uses: 100})
	before := c.issuer.Invitations()
	// One joiner's answer, to be given to another.
	var others []byte
	if _, err := c.join(tok, newKeys(t), "dave", nil, func(r *wire.EnrolResponse) { others = r.GetSealedResult() }); err != nil {
		t.Fatal(err)
	}
	for name, alter := range map[string]func(*wire.EnrolFrame){
		"first byte":      func(f *wire.EnrolFrame) { f.SealedRequest[0] ^= 1 },
		"middle":          func(f *wire.EnrolFrame) { f.SealedRequest[len(f.SealedRequest)/2] ^= 1 },
		"last byte":       func(f *wire.EnrolFrame) { f.SealedRequest[len(f.SealedRequest)-1] ^= 1 },
		"truncated":       func(f *wire.EnrolFrame) { f.SealedRequest = f.SealedRequest[:len(f.SealedRequest)-1] },
		"longer":          func(f *wire.EnrolFrame) { f.SealedRequest = append(f.SealedRequest, 0) },
		"another issuer":  func(f *wire.EnrolFrame) { id := c.bob.ID(); f.Issuer = id[:] },
		"another network": func(f *wire.EnrolFrame) { f.Network = make([]byte, 32) },
	} {
		t.Run("request "+name, func(t *testing.T) {
			c.w.clock.advance(time.Minute) // for the rate limit
			m, err := c.join(tok, newKeys(t), "eve", alter, nil)
			if err == nil {
				t.Fatalf("admitted as %s", nameOfMembership(t, m))
			}
		})
	}
	for name, answer := range map[string]func(*wire.EnrolResponse){
		"altered":   func(r *wire.EnrolResponse) { r.SealedResult[40] ^= 1 },
		"another's": func(r *wire.EnrolResponse) { r.SealedResult = others },
		"made up":   func(r *wire.EnrolResponse) { r.SealedResult, r.Error, r.Code = nil, "", wire.EnrolError_ENROL_OK },
		"false refusal": func(r *wire.EnrolResponse) {
			r.SealedResult, r.Error, r.Code = nil, "go away", wire.EnrolError_ENROL_SPENT
		},
	} {
		t.Run("answer "+name, func(t *testing.T) {
			c.w.clock.advance(time.Minute)
			keys := newKeys(t)
			wish := mesh.Name("n-" + strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "'", ""))
			_, err := c.join(tok, keys, wish, nil, answer)
			var e *Error
			if !errors.As(err, &e) || !e.Hearsay {
				t.Fatalf("got %v, want a refusal by hearsay", err)
			}
			// The same CSR by an honest way gets the certificate, and no further use is taken.
			used := c.issuer.Invitations()
			if _, err := c.join(tok, keys, wish, nil, nil); err != nil {
				t.Fatal(err)
			}
			if now := c.issuer.Invitations(); now[len(now)-1].Used != used[len(used)-1].Used {
				t.Error("the retry took another use")
			}
		})
	}
	if n := len(c.issuer.Invitations()); n != len(before) {
		t.Errorf("%d invitations, had %d", n, len(before))
	}
}

// One member lies and one is honest: the joiner gets in.
func TestJoinAsksAllMembers(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newChain(t)
	tok := c.token(t, InviteRequest{})
	liar, dead := newKeys(t).ID(), newKeys(t).ID()
	honest := tok.Members[0]
	tok.Members = []*wire.TokenMember{{NodeId: liar[:], Addresses: honest.Addresses}, {NodeId: dead[:], Addresses: honest.Addresses}, honest}
	honestOpen := pipeTo(func(f *wire.EnrolFrame) *wire.EnrolResponse {
		return c.forwarder.Handle(context.Background(), addrAlice, false, f)
	})
	lyingOpen := pipeTo(func(*wire.EnrolFrame) *wire.EnrolResponse {
		return &wire.EnrolResponse{Code: wire.EnrolError_ENROL_SPENT, Error: "the invitation is \x1b[31mspent"}
	})
	open := func(ctx context.Context, id mesh.NodeID, addrs []netip.AddrPort) (io.ReadWriteCloser, error) {
		switch id {
		case liar:
			return lyingOpen(ctx, id, addrs)
		case dead:
			<-ctx.Done() // a black hole
			return nil, ctx.Err()
		}
		return honestOpen(ctx, id, addrs)
	}
	m, err := Join(context.Background(), tok, newKeys(t), "carol", open, c.w.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	if n := nameOfMembership(t, m); n != "carol" {
		t.Errorf("joined as %s", n)
	}
	tok.Members = tok.Members[:1]
	_, err = Join(context.Background(), tok, newKeys(t), "dave", open, c.w.clock.now)
	wantRefusal(t, err, wire.EnrolError_ENROL_SPENT, "spent")
	if strings.Contains(err.Error(), "\x1b") {
		t.Error("a stranger's text reaches the terminal with its escapes")
	}
}

// A member whose certificate expired is a stranger to the others: it renews by the streams that strangers may open, here by way of a
// member, since the issuer's address does not answer.
func TestRenewAsStranger(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newChain(t)
	carol, err := c.join(c.token(t, InviteRequest{}), newKeys(t), "carol", nil, nil)
	c.w.must(err)
	_, leaf, _, err := carol.Leaf()
	c.w.must(err)
	c.w.clock.ns.Store(leaf.NotAfter.Add(24 * time.Hour).UnixNano())
	alice, bob := *c.w.member(c.w.alice), *c.w.member(c.bob)
	alice.Endpoints, bob.Endpoints, bob.Reachable = []netip.AddrPort{addrAlice}, []netip.AddrPort{addrAlice}, true
	toBob := pipeTo(func(f *wire.EnrolFrame) *wire.EnrolResponse {
		return c.forwarder.Handle(t.Context(), addrAlice, false, f)
	})
	open := func(ctx context.Context, id mesh.NodeID, addrs []netip.AddrPort) (io.ReadWriteCloser, error) {
		if id == alice.ID {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return toBob(ctx, id, addrs)
	}
	send := SendAsStranger(open, func() []*mesh.Member { return []*mesh.Member{&bob, &alice} })
	got, err := Renew(t.Context(), carol, []*mesh.Member{&alice}, send, c.w.clock.now)
	c.w.must(err)
	if bytes.Equal(got[0], carol.Chain[0]) {
		t.Error("the old certificate came back")
	}
	_, err = Renew(t.Context(), carol, []*mesh.Member{&alice}, SendAsStranger(open, func() []*mesh.Member { return nil }), c.w.clock.now)
	wantRefusal(t, err, wire.EnrolError_ENROL_UNREACHABLE, "no address")
}

// An answer opens for the CSR that it was made for, and for the reply key.
func TestAnswerIsBoundToTheRequest(t *testing.T) {
	w := newWorld(t)
	var req *wire.EnrolRequest
	x, err := newExchange(w.root.Network.ID, w.alice.ID(), w.alice.SealPublic(), newKeys(t), "carol", func(r *wire.EnrolRequest) { req = r })
	w.must(err)
	resp := seal(req, &wire.EnrolResult{NetworkSecret: []byte("secret")})
	if _, err := x.open(resp); err != nil {
		t.Fatal(err)
	}
	other, err := newExchange(w.root.Network.ID, w.alice.ID(), w.alice.SealPublic(), newKeys(t), "carol", func(*wire.EnrolRequest) {})
	w.must(err)
	if _, err := other.open(resp); err == nil {
		t.Error("it opens with another reply key")
	}
	other.reply = x.reply
	if _, err := other.open(resp); err == nil {
		t.Error("it opens for another CSR")
	}
}
