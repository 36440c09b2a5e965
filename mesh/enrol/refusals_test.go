package enrol

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

func TestRefusalsByInvitation(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	join := func(tok *wire.Token, name mesh.Name) error {
		_, err := w.join(i, tok, newKeys(t), name)
		return err
	}
	t.Run("spent", func(t *testing.T) {
		tok := w.invite(i, InviteRequest{})
		w.joined(i, tok, "spender")
		wantRefusal(t, join(tok, "late"), wire.EnrolError_ENROL_SPENT, "spent", "spender", "gridwire invite")
	})
	t.Run("expired", func(t *testing.T) {
		tok := w.invite(i, InviteRequest{Expires: time.Hour})
		w.clock.advance(time.Hour + time.Second)
		wantRefusal(t, join(tok, "late"), wire.EnrolError_ENROL_EXPIRED, "expired on 2026-03-01T13:00:00Z", "gridwire invite")
		w.clock.advance(30 * 24 * time.Hour)
		w.invite(i, InviteRequest{}) // the old one is forgotten
		wantRefusal(t, join(tok, "late"), wire.EnrolError_ENROL_EXPIRED, "does not know it any more")
	})
	t.Run("forged", func(t *testing.T) {
		tok := w.invite(i, InviteRequest{})
		tok.Secret[3] ^= 1
		wantRefusal(t, join(tok, "mallory"), wire.EnrolError_ENROL_FORGED, "forged", "copy the token again")
		tok.Secret[3] ^= 1
		tok.Invitation[0] ^= 1
		wantRefusal(t, join(tok, "mallory"), wire.EnrolError_ENROL_FORGED, "forged")
	})
	t.Run("truncated", func(t *testing.T) {
		text, _, err := i.Invite(InviteRequest{})
		w.must(err)
		_, err = wire.DecodeToken(text[:len(text)-5])
		if !errors.Is(err, wire.ErrTokenTruncated) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("taken by a member", func(t *testing.T) {
		err := join(w.invite(i, InviteRequest{}), "alice")
		wantRefusal(t, err, wire.EnrolError_ENROL_NAME_TAKEN, "the name alice is taken", "--name", "gridwire revoke alice")
	})
	t.Run("taken by a pending certificate", func(t *testing.T) {
		tok := w.invite(i, InviteRequest{Uses: 3})
		m := w.joined(i, tok, "pending")
		wantRefusal(t, join(tok, "pending"), wire.EnrolError_ENROL_NAME_TAKEN, "taken by node "+m.ID().Short())
		w.must(w.revoke(pki.Revoked{ID: m.ID()}))
		w.joined(i, tok, "pending") // a revoked member's name is free
	})
	t.Run("taken by an expired certificate", func(t *testing.T) {
		w.taken["old"] = true
		wantRefusal(t, join(w.invite(i, InviteRequest{}), "old"), wire.EnrolError_ENROL_NAME_TAKEN, "expired less than 7 days ago")
		wantRefusal(t, join(w.invite(i, InviteRequest{Name: "old"}), "free"), wire.EnrolError_ENROL_NAME_TAKEN, "the name old")
	})
	t.Run("no name", func(t *testing.T) {
		wantRefusal(t, join(w.invite(i, InviteRequest{}), ""), wire.EnrolError_ENROL_BAD_REQUEST, "--name")
	})
	t.Run("a refusal takes no use", func(t *testing.T) {
		tok := w.invite(i, InviteRequest{})
		_ = join(tok, "alice")
		w.joined(i, tok, "noone")
	})
	t.Run("revoked identity", func(t *testing.T) {
		keys := newKeys(t)
		w.must(w.revoke(pki.Revoked{ID: keys.ID()}))
		_, err := w.join(i, w.invite(i, InviteRequest{}), keys, "back")
		wantRefusal(t, err, wire.EnrolError_ENROL_REVOKED, "revoked", "empty the state folder")
	})
	t.Run("another's WireGuard key", func(t *testing.T) {
		keys := newKeys(t)
		keys.WireGuard = w.alice.WireGuard
		_, err := w.join(i, w.invite(i, InviteRequest{}), keys, "thief")
		wantRefusal(t, err, wire.EnrolError_ENROL_BAD_REQUEST, "belongs to alice")
	})
}

func TestRefusalsOnTheWay(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	frame := func(tok *wire.Token) *wire.EnrolFrame {
		x, err := newExchange(mesh.NetworkID(tok.Network), mesh.NodeID(tok.Issuer), [32]byte(tok.IssuerSealKey), newKeys(t), "carol",
			func(*wire.EnrolRequest) {})
		w.must(err)
		return x.frame
	}
	bob := w.joined(i, w.invite(i, InviteRequest{Name: "bob"}), "")
	w.enter(bob, false)
	sends := 0
	h, err := NewHandler(HandlerConfig{
		Network: w.root.Network, Self: bob.ID(), View: w.view.Load, Now: w.clock.now,
		Send: func(context.Context, mesh.NodeID, *wire.EnrolFrame) (*wire.EnrolResponse, error) {
			sends++
			return nil, errors.New("timeout: no recent network activity")
		},
	})
	w.must(err)
	n := 0
	ask := func(f *wire.EnrolFrame) *wire.EnrolResponse {
		n++
		return h.Handle(context.Background(), netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}), 9), false, f)
	}
	check := func(resp *wire.EnrolResponse, code wire.EnrolError, says ...string) {
		t.Helper()
		wantRefusal(t, &Error{Code: resp.GetCode(), Text: resp.GetError()}, code, says...)
	}
	tok := w.invite(i, InviteRequest{})
	check(ask(frame(tok)), wire.EnrolError_ENROL_UNREACHABLE, "the issuer alice cannot be reached", "no recent network activity")
	if sends != 1 {
		t.Errorf("sent %d times", sends)
	}
	foreign := newNamedWorld(t, "other")
	check(ask(frame(foreign.invite(foreign.issuer(&disk{}), InviteRequest{}))), wire.EnrolError_ENROL_FOREIGN, "another network", "farm")
	hopped := frame(tok)
	hopped.Hops = 1
	check(ask(hopped), wire.EnrolError_ENROL_UNREACHABLE, "already")
	toBob := frame(tok)
	id := bob.ID()
	toBob.Issuer = id[:]
	check(ask(toBob), wire.EnrolError_ENROL_UNREACHABLE, "no more")
	unknown := frame(tok)
	id = newKeys(t).ID()
	unknown.Issuer = id[:]
	check(ask(unknown), wire.EnrolError_ENROL_UNREACHABLE, "no member of network farm any more")
	large := frame(tok)
	large.SealedRequest = make([]byte, wire.MaxSealedRequest+1)
	check(ask(large), wire.EnrolError_ENROL_BAD_REQUEST, "malformed")
	check(ask(&wire.EnrolFrame{}), wire.EnrolError_ENROL_BAD_REQUEST, "malformed")
	newer := frame(tok)
	newer.Version = 99
	check(ask(newer), wire.EnrolError_ENROL_BAD_REQUEST, "update")
	if sends != 1 {
		t.Errorf("sent %d times, want no more than the first", sends)
	}

	from := netip.MustParseAddrPort("192.0.2.77:1")
	var last *wire.EnrolResponse
	for range strangerBurst + 1 {
		last = h.Handle(context.Background(), from, false, frame(tok))
	}
	check(last, wire.EnrolError_ENROL_RATE_LIMITED, "too many", "192.0.2.77", "try again")
	if r := h.Handle(context.Background(), netip.AddrPort{}, true, frame(tok)); r.GetCode() == wire.EnrolError_ENROL_RATE_LIMITED {
		t.Error("this node itself is rate limited")
	}
	w.clock.advance(time.Minute)
	if r := h.Handle(context.Background(), from, false, frame(tok)); r.GetCode() == wire.EnrolError_ENROL_RATE_LIMITED {
		t.Error("still rate limited after a minute")
	}
}

// A flood from many addresses does not get past the budget of all strangers, and members are not hurt by it.
func TestFloodOfStrangers(t *testing.T) {
	r := newRates()
	let := 0
	for n := range 5000 {
		if r.allow(netip.AddrFrom4([4]byte{byte(n >> 8), byte(n), 1, 1}), false, day0) {
			let++
		}
	}
	if let > allBurst {
		t.Errorf("%d requests let through at one moment, want at most %d", let, allBurst)
	}
	if !r.allow(netip.MustParseAddr("198.51.100.1"), true, day0) {
		t.Error("a member is refused")
	}
}

func TestNobodyAnswers(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	tok := w.invite(i, InviteRequest{Expires: time.Hour})
	open := func(context.Context, mesh.NodeID, []netip.AddrPort) (io.ReadWriteCloser, error) {
		return nil, errors.New("no answer to 5 datagrams")
	}
	_, err := Join(context.Background(), tok, newKeys(t), "carol", open, w.clock.now)
	wantRefusal(t, err, wire.EnrolError_ENROL_UNREACHABLE, "joining network farm", "198.51.100.1:51820", "no answer to 5 datagrams", "UDP")
	w.clock.advance(2 * time.Hour)
	_, err = Join(context.Background(), tok, newKeys(t), "carol", open, w.clock.now)
	wantRefusal(t, err, wire.EnrolError_ENROL_EXPIRED, "by this machine's clock")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Join(ctx, tok, newKeys(t), "carol", open, func() time.Time { return day0 })
	wantRefusal(t, err, wire.EnrolError_ENROL_UNREACHABLE, "interrupted")
	if err := strings.Count(err.Error(), "\n"); err > 0 {
		t.Error("an error of several lines")
	}
}

// The answer of an issuer that is not the one in the token is refused, also if it opens.
func TestJoinerChecksTheAnswer(t *testing.T) {
	w, other := newWorld(t), newNamedWorld(t, "farm")
	i := w.issuer(&disk{})
	tok := w.invite(i, InviteRequest{})
	m := w.joined(i, tok, "carol")
	for name, alter := range map[string]func(m *Membership){
		"root of another network": func(m *Membership) { m.Root = other.alice.Root },
		"another's certificate":   func(m *Membership) { m.Chain = w.alice.Chain },
		"another WireGuard key":   func(m *Membership) { m.WireGuard = newKeys(t).WireGuard },
		"no secret":               func(m *Membership) { m.Secret = nil },
		"no chain":                func(m *Membership) { m.Chain = nil },
		"another issuer":          func(*Membership) { id := newKeys(t).ID(); tok.Issuer = id[:] },
	} {
		c := *m
		alter(&c)
		if err := c.accept(tok, w.clock.now()); err == nil {
			t.Errorf("%s: accepted", name)
		}
		tok.Issuer = i.self[:]
	}
	if err := m.accept(tok, w.clock.now().AddDate(-6, 0, 0)); err != nil {
		t.Errorf("a machine whose clock is in 2020 cannot join: %v", err)
	}
	if err := m.accept(tok, w.clock.now().AddDate(1, 0, 0)); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("a machine whose clock is a year ahead: %v", err)
	}
}
