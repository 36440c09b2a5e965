package enrol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

func TestInvitedNameBinds(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	if n := nameOfMembership(t, w.joined(i, w.invite(i, InviteRequest{Name: "bob"}), "carol")); n != "bob" {
		t.Errorf("invited as bob, wished for carol: got %s", n)
	}
	if n := nameOfMembership(t, w.joined(i, w.invite(i, InviteRequest{}), "carol")); n != "carol" {
		t.Errorf("wished for carol: got %s", n)
	}
}

func TestInviteRefuses(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	for says, r := range map[string]InviteRequest{
		"uses for the one name":       {Name: "bob", Uses: 2},
		"want 1 to":                   {Uses: maxUses + 1},
		"it would expire in":          {Expires: -time.Second},
		"needs a name":                {Offline: true},
		"a name is a DNS label":       {Name: "b_b"},
		"overlaps the overlay":        {Routes: []netip.Prefix{w.root.Network.IPv6}},
		"tag":                         {Tags: []string{"no spaces"}},
		"the name alice is taken":     {Name: "alice", Offline: true},
		"did you mean 192.168.0.0/16": {Routes: []netip.Prefix{netip.MustParsePrefix("192.168.1.1/16")}},
	} {
		if _, _, err := i.Invite(r); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", r, err, says)
		}
	}
	if n := len(i.Invitations()); n != 0 {
		t.Errorf("%d invitations were made", n)
	}
	w.clock.advance(6 * 365 * 24 * time.Hour)
	if _, _, err := i.Invite(InviteRequest{}); err == nil || !strings.Contains(err.Error(), "gridwire issuer add alice") {
		t.Errorf("an issuer whose certificate expired invites: %v", err)
	}
}

func TestSameRequestSameCertificate(t *testing.T) {
	w := newWorld(t)
	d := &disk{}
	i := w.issuer(d)
	tok := w.invite(i, InviteRequest{Expires: time.Hour})
	keys := newKeys(t)
	first, err := w.join(i, tok, keys, "carol")
	w.must(err)
	w.clock.advance(2 * time.Hour) // spent and expired by now
	i = w.issuer(d)                // and the issuer has restarted
	again, err := w.join(i, tok, keys, "carol")
	w.must(err)
	if !bytes.Equal(first.Chain[0], again.Chain[0]) {
		t.Error("another certificate for the same CSR")
	}
	_, err = w.join(i, tok, keys, "other-name") // another CSR
	wantRefusal(t, err, wire.EnrolError_ENROL_EXPIRED)
	tok.Secret[0] ^= 1
	_, err = w.join(i, tok, keys, "carol")
	wantRefusal(t, err, wire.EnrolError_ENROL_FORGED)
}

func TestRace(t *testing.T) {
	for _, uses := range []int{1, 5} {
		t.Run(fmt.Sprint(uses, " uses"), func(t *testing.T) {
			w := newWorld(t)
			i := w.issuer(&disk{slow: true})
			tok := w.invite(i, InviteRequest{Uses: uses})
			var won, spent atomic.Int32
			var wg sync.WaitGroup
			for n := range 24 {
				keys := newKeys(t)
				wg.Go(func() {
					m, err := w.join(i, tok, keys, mesh.Name(fmt.Sprint("racer-", n)))
					switch {
					case err == nil:
						won.Add(1)
						_ = m
					case Code(err) == wire.EnrolError_ENROL_SPENT:
						spent.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if int(won.Load()) != uses || int(spent.Load()) != 24-uses {
				t.Errorf("%d got in and %d were told that it is spent, for %d uses", won.Load(), spent.Load(), uses)
			}
		})
	}
}

// Racing for one name under an invitation of many uses: one gets it.
func TestRaceForAName(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{slow: true})
	tok := w.invite(i, InviteRequest{Uses: 50})
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 12 {
		keys := newKeys(t)
		wg.Go(func() {
			if _, err := w.join(i, tok, keys, "same"); err == nil {
				won.Add(1)
			} else if Code(err) != wire.EnrolError_ENROL_NAME_TAKEN {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d machines got the name", won.Load())
	}
}

// The answer is there only after the use is on disk: whatever state a crash leaves, it has the use of everybody who was answered.
func TestUseIsDurableBeforeTheAnswer(t *testing.T) {
	w := newWorld(t)
	d := &disk{}
	i := w.issuer(d)
	tok := w.invite(i, InviteRequest{})
	d.fail = errors.New("no space left on device")
	keys := newKeys(t)
	_, err := w.join(i, tok, keys, "carol")
	wantRefusal(t, err, wire.EnrolError_ENROL_UNREACHABLE, "no space left on device", "nothing was used up")
	if i.Invitations()[0].Used != 0 {
		t.Error("a use was counted for nobody")
	}
	if _, _, err := i.Invite(InviteRequest{}); err == nil {
		t.Error("an invitation that is not on disk was given out")
	}
	d.fail = nil
	m, err := w.join(i, tok, keys, "carol")
	w.must(err)
	_, leaf, _, err := m.Leaf()
	w.must(err)
	if !strings.Contains(d.newest(), leaf.Serial) || !strings.Contains(d.newest(), `"used": 1`) {
		t.Error("answered before it was saved")
	}
	i = w.issuer(d)
	_, err = w.join(i, tok, newKeys(t), "dave")
	wantRefusal(t, err, wire.EnrolError_ENROL_SPENT)
}

func TestRollbackAdmitsNobody(t *testing.T) {
	w := newWorld(t)
	d := &disk{}
	i := w.issuer(d)
	kept := w.invite(i, InviteRequest{Uses: 10})
	first := w.joined(i, kept, "first")
	spent := w.invite(i, InviteRequest{})
	lost := w.joined(i, spent, "lost") // this use is in the lost generation
	_, lostLeaf, _, err := lost.Leaf()
	w.must(err)

	d.gens = d.gens[:len(d.gens)-1]
	cfg := w.config(d)
	cfg.RolledBack = true
	i, err = NewIssuer(cfg)
	w.must(err)
	check := func(i *Issuer) {
		t.Helper()
		for _, tok := range []*wire.Token{kept, spent} {
			_, err := w.join(i, tok, newKeys(t), "mallory")
			wantRefusal(t, err, wire.EnrolError_ENROL_EXPIRED, "lost part of its state", "gridwire invite")
		}
		if _, err := w.join(i, kept, first.Keys, "first"); err == nil {
			t.Error("an invitation from before the loss gave a certificate again")
		}
	}
	check(i)
	check(w.issuer(d)) // also after the next, ordinary start
	fresh := w.joined(i, w.invite(i, InviteRequest{}), "fresh")
	_, leaf, _, err := fresh.Leaf()
	w.must(err)
	if leaf.Addrs[1] == lostLeaf.Addrs[1] {
		t.Errorf("%v was assigned again, its holder's record had not arrived yet", leaf.Addrs[1])
	}

	// Two generations back: the invitation itself is gone.
	d.gens = d.gens[:1]
	cfg.RolledBack = true
	i, err = NewIssuer(cfg)
	w.must(err)
	_, err = w.join(i, spent, newKeys(t), "mallory")
	wantRefusal(t, err, wire.EnrolError_ENROL_EXPIRED, "does not know it any more")

	d.fail = errors.New("read-only file system")
	if _, err := NewIssuer(cfg); err == nil {
		t.Error("an issuer that cannot void its invitations starts")
	}
}

func TestNewIssuerRefuses(t *testing.T) {
	w := newWorld(t)
	for name, alter := range map[string]func(*IssuerConfig){
		"another key":   func(c *IssuerConfig) { c.Key = newKeys(t).Identity },
		"no seal key":   func(c *IssuerConfig) { c.Seal = nil },
		"no root":       func(c *IssuerConfig) { c.Root = nil },
		"no view":       func(c *IssuerConfig) { c.View = nil },
		"damaged state": func(c *IssuerConfig) { c.Load = func() ([]byte, error) { return []byte("{"), nil } },
		"unreadable":    func(c *IssuerConfig) { c.Load = func() ([]byte, error) { return nil, errors.New("I/O error") } },
	} {
		cfg := w.config(&disk{})
		alter(&cfg)
		if _, err := NewIssuer(cfg); err == nil {
			t.Errorf("%s: started", name)
		}
	}
}

func TestIPv4(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	prefix := mesh.IssuerIPv4(w.root.Network.IPv4, 0)
	_, self, _, err := w.alice.Leaf()
	w.must(err)
	_, leaf, _, err := w.joined(i, w.invite(i, InviteRequest{}), "bob").Leaf()
	w.must(err)
	if leaf.Addrs[1] == self.Addrs[1] || !prefix.Contains(leaf.Addrs[1]) {
		t.Errorf("alice has %v, bob got %v", self.Addrs[1], leaf.Addrs[1])
	}
	// All of a /22: nobody gets .0 or .255, nobody gets another's, the last ones get none.
	s, f := newState(), facts{view: w.view.Load(), prefix: netip.PrefixFrom(prefix.Addr(), 22)}
	seen := map[netip.Addr]bool{self.Addrs[1]: true}
	for n := range 4*254 + 1 {
		id := mesh.NodeID{1, byte(n >> 8), byte(n)}
		a, cursor := s.ipv4For(id, netip.Addr{}, f, day0)
		if n >= 4*254-1 {
			if a.IsValid() {
				t.Fatalf("%v was assigned when all were", a)
			}
			continue
		}
		if b := a.As4(); b[3] == 0 || b[3] == 255 || !prefix.Contains(a) || seen[a] {
			t.Fatalf("member %d got %v", n, a)
		}
		seen[a] = true
		if n%16 == 0 { // some are known from the state, the others from the view
			s.issued[id] = &issued{ID: id, IPv4: a, NotAfter: day0}
		} else {
			f.view = f.view.With(&mesh.Member{ID: id, Name: mesh.Name(fmt.Sprint("n", n)), Addrs: []netip.Addr{a}})
		}
		s.cursor = cursor
	}
}

// ipv4For against an oracle that tries all addresses, in a prefix small enough to run out.
func TestIPv4Oracle(t *testing.T) {
	prefix := netip.MustParsePrefix("10.70.3.240/28")
	network := mesh.Network{IPv6: netip.MustParsePrefix("fd00::/48")}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		s, f := newState(), facts{view: mesh.NewView(network, mesh.NodeID{}), gone: map[mesh.NodeID]bool{}, prefix: prefix}
		s.cursor = rnd.Uint32N(40)
		free := map[netip.Addr]bool{}
		for a := prefix.Addr(); prefix.Contains(a); a = a.Next() {
			free[a] = a.As4()[3] != 255 && a.As4()[3] != 0
		}
		for n := range rnd.IntN(20) {
			id := mesh.NodeID{byte(n + 1)}
			a := prefix.Addr()
			for range rnd.IntN(16) {
				a = a.Next()
			}
			switch rnd.IntN(3) {
			case 0:
				f.view = f.view.With(&mesh.Member{ID: id, Name: mesh.Name(fmt.Sprint("m", n)), Addrs: []netip.Addr{a}})
				free[a] = false
			case 1:
				s.issued[id] = &issued{ID: id, IPv4: a, NotAfter: day0}
				free[a] = false
			case 2: // gone, or long expired: holds nothing
				s.issued[id] = &issued{ID: id, IPv4: a, NotAfter: day0.AddDate(0, -1, 0)}
			}
		}
		any := false
		for _, ok := range free {
			any = any || ok
		}
		got, _ := s.ipv4For(mesh.NodeID{99}, netip.Addr{}, f, day0)
		if got.IsValid() != any || any && !free[got] {
			t.Fatalf("got %v, free %v", got, free)
		}
	}
}

// Random invitations, joins, waits, crashes and losses against a model that knows only what must hold.
func TestIssuerAgainstModel(t *testing.T) {
	type model struct {
		tok        *wire.Token
		left       int
		expires    time.Time
		beforeLoss bool
		done       map[mesh.NodeID][]byte
	}
	rnd := rand.New(rand.NewPCG(7, 7))
	w := newWorld(t)
	d := &disk{}
	i := w.issuer(d)
	var all []*model
	var pool []Keys
	for range 6 {
		pool = append(pool, newKeys(t))
	}
	for step := range 200 {
		switch op := rnd.IntN(20); {
		case op < 3 || len(all) == 0:
			uses := 1 + rnd.IntN(3)
			tok := w.invite(i, InviteRequest{Uses: uses, Expires: time.Hour})
			all = append(all, &model{tok, uses, w.clock.now().Add(time.Hour), false, map[mesh.NodeID][]byte{}})
		case op == 3:
			w.clock.advance(time.Duration(rnd.IntN(40)) * time.Minute)
		case op == 4:
			i = w.issuer(d) // a crash and a restart
		case op == 5 && len(d.gens) > 1:
			d.gens = d.gens[:len(d.gens)-1]
			cfg := w.config(d)
			cfg.RolledBack = true
			var err error
			i, err = NewIssuer(cfg)
			w.must(err)
			for _, m := range all {
				m.beforeLoss = true
			}
		default:
			m := all[max(0, len(all)-1-rnd.IntN(4))]
			k := rnd.IntN(len(pool))
			keys := pool[k]
			got, err := w.join(i, m.tok, keys, mesh.Name(fmt.Sprint("k", k)))
			now := w.clock.now()
			prior := m.done[keys.ID()]
			switch {
			case m.beforeLoss:
				if err == nil {
					t.Fatalf("step %d: admitted by an invitation from before a loss", step)
				}
			case err == nil && prior != nil && bytes.Equal(prior, got.Chain[0]):
			case err == nil:
				if m.left == 0 || now.After(m.expires) {
					t.Fatalf("step %d: admitted with %d uses left, expiry %v, at %v", step, m.left, m.expires, now)
				}
				m.left--
				m.done[keys.ID()] = got.Chain[0]
				for _, other := range all { // a newer certificate for this key: the older answers are not repeated
					if other != m {
						delete(other.done, keys.ID())
					}
				}
			case prior == nil && m.left > 0 && !now.After(m.expires):
				t.Fatalf("step %d: refused: %v", step, err)
			}
		}
	}
}

func TestRenew(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	bob := w.joined(i, w.invite(i, InviteRequest{Name: "bob", Tags: []string{"a", "b"}}), "")
	w.enter(bob, false)
	zoe := w.joined(i, w.invite(i, InviteRequest{Name: "zoe"}), "")
	iz := w.appoint(zoe, 1, &disk{})
	alices, zoes := w.member(w.alice), w.member(zoe)
	_, old, _, err := bob.Leaf()
	w.must(err)

	w.clock.advance(20 * 24 * time.Hour)
	chain, err := Renew(context.Background(), bob, []*mesh.Member{alices, zoes}, sendTo(i, iz), w.clock.now)
	w.must(err)
	renewed := &Membership{Keys: bob.Keys, Chain: chain, Root: bob.Root, Secret: bob.Secret}
	_, leaf, _, err := renewed.Leaf()
	w.must(err)
	if leaf.Name != "bob" || leaf.WireGuard != old.WireGuard || fmt.Sprint(leaf.Tags) != "[a b]" || fmt.Sprint(leaf.Addrs) != fmt.Sprint(old.Addrs) {
		t.Errorf("renewed to %+v", leaf)
	}
	if !leaf.NotAfter.After(old.NotAfter) {
		t.Error("renewed for no longer")
	}
	if !leaf.Admitted.Equal(old.NotBefore) || !leaf.NotBefore.After(old.NotBefore) {
		t.Errorf("renewed from %v, admitted %v, want the date of the first certificate, %v", leaf.NotBefore, leaf.Admitted, old.NotBefore)
	}
	again, err := Renew(context.Background(), bob, []*mesh.Member{alices}, sendTo(i, iz), w.clock.now)
	w.must(err)
	if !bytes.Equal(again[0], chain[0]) {
		t.Error("a renewal tried again at once got another certificate")
	}

	// alice is off: zoe renews, with an address of her own part of the pool, and bob keeps that at his next renewal by her.
	w.clock.advance(20 * 24 * time.Hour)
	for range 2 {
		chain, err = Renew(context.Background(), renewed, []*mesh.Member{alices, zoes}, sendTo(iz), w.clock.now)
		w.must(err)
		m := &Membership{Keys: bob.Keys, Chain: chain, Root: bob.Root}
		_, leaf, by, err := m.Leaf()
		w.must(err)
		if by.NodeID != zoe.ID() || !mesh.IssuerIPv4(w.root.Network.IPv4, 1).Contains(leaf.Addrs[1]) || leaf.Addrs[0] != old.Addrs[0] {
			t.Errorf("renewed by %s with %v", by.Name, leaf.Addrs)
		}
		renewed.Chain = chain
		w.clock.advance(time.Hour)
	}
	_, err = Renew(context.Background(), renewed, []*mesh.Member{alices, zoes}, sendTo(), w.clock.now)
	wantRefusal(t, err, wire.EnrolError_ENROL_UNREACHABLE, "no issuer gave one", "valid until", "alice: no route to host", "zoe: no route")
	_, err = Renew(context.Background(), renewed, nil, sendTo(), w.clock.now)
	wantRefusal(t, err, wire.EnrolError_ENROL_UNREACHABLE, "no issuer is known")
}

func TestRenewalRefused(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	bob := w.joined(i, w.invite(i, InviteRequest{Name: "bob"}), "")
	w.enter(bob, false)
	issuers := []*mesh.Member{w.member(w.alice)}
	renew := func(m *Membership) error {
		_, err := Renew(context.Background(), m, issuers, sendTo(i), w.clock.now)
		return err
	}
	_, leaf, _, err := bob.Leaf()
	w.must(err)

	thief := *bob // has the certificate, not the key
	thief.Identity = newKeys(t).Identity
	if err := renew(&thief); err == nil {
		t.Error("renewed without the key")
	}
	x, err := newExchange(w.root.Network.ID, w.alice.ID(), w.alice.SealPublic(), thief.Keys, "bob", func(r *wire.EnrolRequest) {
		r.RenewChain, r.RenewSignature = bob.Chain, make([]byte, 64)
	})
	w.must(err)
	_, err = x.open(i.Handle(x.frame.SealedRequest))
	wantRefusal(t, err, wire.EnrolError_ENROL_FORGED, "not signed by the key of bob")

	other := newNamedWorld(t, "other")
	x, err = newExchange(w.root.Network.ID, w.alice.ID(), w.alice.SealPublic(), other.alice.Keys, "alice", func(r *wire.EnrolRequest) {
		r.RenewChain, r.RenewSignature = other.alice.Chain, make([]byte, 64)
	})
	w.must(err)
	_, err = x.open(i.Handle(x.frame.SealedRequest))
	wantRefusal(t, err, wire.EnrolError_ENROL_FOREIGN, "not of network farm")

	w.clock.ns.Store(leaf.NotAfter.Add(keepExpired - time.Minute).UnixNano())
	w.view.Store(w.view.Load().Without(bob.ID()))
	w.must(renew(bob))
	w.clock.advance(2 * time.Minute)
	wantRefusal(t, renew(bob), wire.EnrolError_ENROL_EXPIRED, "more than 7 days ago", "join again")

	w.clock.ns.Store(leaf.NotAfter.UnixNano())
	w.revoked[bob.ID()] = true
	wantRefusal(t, renew(bob), wire.EnrolError_ENROL_REVOKED, "revoked", "by alice, today")
}

// An issuer renews its own certificate by its own handler.
func TestIssuerRenewsItself(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	h, err := NewHandler(HandlerConfig{
		Network: w.root.Network, Self: w.alice.ID(), Issuer: func() *Issuer { return i }, View: w.view.Load, Now: w.clock.now,
		Send: func(context.Context, mesh.NodeID, *wire.EnrolFrame) (*wire.EnrolResponse, error) {
			return nil, errors.New("to whom?")
		},
	})
	w.must(err)
	w.clock.advance(20 * 24 * time.Hour)
	send := func(ctx context.Context, _ mesh.NodeID, f *wire.EnrolFrame) (*wire.EnrolResponse, error) {
		return h.Handle(ctx, netip.AddrPort{}, true, f), nil
	}
	chain, err := Renew(context.Background(), w.alice, []*mesh.Member{w.member(w.alice)}, send, w.clock.now)
	w.must(err)
	_, old, _, _ := w.alice.Leaf()
	_, leaf, _, err := (&Membership{Keys: w.alice.Keys, Chain: chain, Root: w.alice.Root}).check()
	w.must(err)
	if leaf.Addrs[1] != old.Addrs[1] {
		t.Errorf("its address changed from %v to %v", old.Addrs[1], leaf.Addrs[1])
	}
}
