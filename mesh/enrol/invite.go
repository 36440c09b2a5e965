package enrol

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	defaultExpires = 24 * time.Hour
	maxStartItems  = 512

	// rekeyGrace is how long after a rekeying the old certificate is revoked: the answer must reach the joiner first, and the
	// revocation closes its connections within 2 s.
	rekeyGrace = 5 * time.Second
	// revokeRetry is the wait after a revocation that failed.
	revokeRetry = 30 * time.Second
)

// InviteRequest says what an invitation is to grant.
type InviteRequest struct {
	Name    mesh.Name           // binds the joiner's name; empty: the joiner's wish
	Tags    []string            // see pki.CheckTags
	Routes  []netip.Prefix      // see pki.CheckRoutes
	Uses    int                 // 0: 1; with a Name only 1
	Expires time.Duration       // 0: 24 h; of an offline bundle: its certificate's life, at most the issuer's Lifetime
	Members []*wire.TokenMember // where the joiner may ask, the first ones first; at most wire.MaxTokenMembers are taken
	Offline bool                // make a bundle that needs no issuer online: it is a private key
}

// Invitation is what Invitations shows.
type Invitation struct {
	ID      string
	Name    mesh.Name
	Tags    []string
	Routes  []netip.Prefix
	Uses    int
	Used    int
	By      []mesh.Name // who took the last uses
	Created time.Time
	Expires time.Time
	Void    bool // made before this issuer lost part of its state
}

// Invite makes an invitation, or an offline bundle, and returns its token's text once it is on disk. expires is when the token stops
// working.
func (i *Issuer) Invite(r InviteRequest) (token string, expires time.Time, err error) {
	now := i.cfg.Now().UTC()
	if err := r.check(i.cfg.Root.Network); err != nil {
		return "", time.Time{}, fmt.Errorf("inviting: %w", err)
	}
	if end := i.cfg.Issuer.Cert.NotAfter; now.After(end) {
		return "", time.Time{}, fmt.Errorf("inviting: this issuer's certificate expired on %s; the keeper of the root key can appoint it again "+
			"(gridwire issuer add %s)", stamp(end), i.cfg.Issuer.Name)
	}
	t := &wire.Token{
		Version:       wire.Version,
		Network:       i.cfg.Root.Network.ID[:],
		NetworkName:   string(i.cfg.Root.Network.Name),
		Issuer:        i.self[:],
		IssuerSealKey: i.cfg.Seal.PublicKey().Bytes(),
		Members:       r.Members[:min(len(r.Members), wire.MaxTokenMembers)],
	}
	if r.Offline {
		err = i.bundle(t, r, now)
	} else {
		err = i.invitation(t, r, now)
	}
	if err == nil {
		err = wire.CheckToken(t)
	}
	if err != nil {
		return "", time.Time{}, fmt.Errorf("inviting: %w", err)
	}
	return wire.EncodeToken(t), time.UnixMilli(t.GetExpires()), nil
}

func (r *InviteRequest) check(n mesh.Network) error {
	r.Uses = cmp.Or(r.Uses, 1)
	r.Expires = cmp.Or(r.Expires, defaultExpires)
	switch {
	case r.Uses < 1 || r.Uses > maxUses:
		return fmt.Errorf("%d uses, want 1 to %d", r.Uses, maxUses)
	case r.Name != "" && r.Uses > 1:
		return fmt.Errorf("%d uses for the one name %s: leave the name out, or make one invitation for each machine", r.Uses, r.Name)
	case r.Expires < time.Second || r.Expires > maxExpires:
		return fmt.Errorf("it would expire in %v, want 1s to %v", r.Expires, maxExpires)
	case r.Offline && r.Name == "":
		return errors.New("an offline bundle needs a name, since its certificate is made now: add --name")
	}
	if r.Name != "" {
		if err := checkName(r.Name); err != nil {
			return err
		}
	}
	if err := pki.CheckTags(r.Tags); err != nil {
		return err
	}
	return pki.CheckRoutes(r.Routes, n)
}

// invitation adds an invitation to the state and to t. A name that is taken is no error here: its holder may be gone when it is used.
func (i *Issuer) invitation(t *wire.Token, r InviteRequest, now time.Time) error {
	v := &invitation{
		Name: r.Name, Tags: r.Tags, Routes: r.Routes, Uses: r.Uses,
		Created: now.UTC().Truncate(time.Millisecond), Expires: now.Add(r.Expires).UTC().Truncate(time.Millisecond),
	}
	if _, err := rand.Read(v.ID[:]); err != nil {
		return fmt.Errorf("drawing its number: %w", err)
	}
	t.Invitation, t.Secret, t.Expires = v.ID[:], invitationSecret(i.secret, v.ID), v.Expires.UnixMilli()

	i.mu.Lock()
	defer i.mu.Unlock()
	n := i.current.Load().next(now)
	open := 0
	for _, w := range n.invitations {
		if w.Used < w.Uses && !w.Void && now.Before(w.Expires) {
			open++
		}
	}
	if open >= maxInvitations || len(n.invitations) >= maxRemembered {
		return fmt.Errorf("%d invitations are open and %d are remembered, at most %d and %d can be: wait until some expire, or make fewer with "+
			"more uses each", open, len(n.invitations), maxInvitations, maxRemembered)
	}
	n.invitations[v.ID] = v
	return i.store(n)
}

// bundle makes the keys and the certificate of an offline bundle.
func (i *Issuer) bundle(t *wire.Token, r InviteRequest, now time.Time) error {
	keys, err := NewKeys()
	if err != nil {
		return err
	}
	life := min(r.Expires, cmp.Or(i.cfg.Lifetime, pki.DefaultLifetime))
	f := i.facts(r.Name)
	leaf, der, err := func() (*pki.Leaf, []byte, error) {
		i.mu.Lock()
		defer i.mu.Unlock()
		s := i.current.Load()
		if refusal := s.admissible(keys.ID(), keys.Public(), r.Name, f, now); refusal != nil {
			return nil, nil, refusal
		}
		g := &grant{name: r.Name}
		g.ipv4, g.cursor = s.ipv4For(keys.ID(), netip.Addr{}, f, now)
		der, leaf, refusal := i.sign(pki.LeafRequest{
			Identity: keys.ID().PublicKey(), WireGuard: keys.Public(), Name: r.Name, IPv4: g.ipv4, Tags: r.Tags, Routes: r.Routes, Lifetime: life,
		}, now)
		if refusal != nil {
			return nil, nil, refusal
		}
		return leaf, der, i.store(s.commit(g, nil, leaf, der, now))
	}()
	if err != nil {
		return err
	}
	items, netSecret := i.cfg.Start()
	wg := keys.WireGuard
	t.Expires = leaf.NotAfter.UnixMilli()
	t.Offline = &wire.OfflineBundle{
		IdentitySeed:  keys.Identity.Seed(),
		WireguardKey:  wg[:],
		Chain:         [][]byte{der, i.cfg.Issuer.Cert.Raw},
		Root:          i.cfg.Root.Cert.Raw,
		NetworkSecret: netSecret,
	}
	room := wire.MaxToken - proto.Size(t) - 16
	t.Offline.Items = clipItems(items, room, wire.MaxTokenItems)
	return nil
}

// clipItems returns the first items that fit: what is left out arrives by anti-entropy at the first connection.
func clipItems(items []*wire.Item, room, most int) []*wire.Item {
	var out []*wire.Item
	for _, it := range items {
		size := proto.Size(it) + 8 // and its tag and length
		if len(out) == most {
			break
		}
		if size <= room && wire.CheckItem(it) == nil {
			room -= size
			out = append(out, it)
		}
	}
	return out
}

// Invitations returns what was made and is not long expired, oldest first.
func (i *Issuer) Invitations() []Invitation {
	var out []Invitation
	for _, v := range i.current.Load().invitations {
		out = append(out, Invitation{
			ID: v.ID.String(), Name: v.Name, Tags: slices.Clone(v.Tags), Routes: slices.Clone(v.Routes), Uses: v.Uses, Used: v.Used,
			By: slices.Clone(v.By), Created: v.Created, Expires: v.Expires, Void: v.Void,
		})
	}
	slices.SortFunc(out, func(a, b Invitation) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return out
}

// Certified names the newest certificate that this issuer gave under a name and that has not ended, for a revocation: its holder may
// never have shown itself to the network, because a bundle was lost on its way.
func (i *Issuer) Certified(name mesh.Name) (pki.Revoked, bool) {
	now, gone := i.cfg.Now(), i.cfg.Gone()
	var newest *issued
	for _, e := range i.current.Load().issued {
		if e.Name == name && !gone[e.ID] && now.Before(e.NotAfter) && (newest == nil || e.At.After(newest.At)) {
			newest = e
		}
	}
	if newest == nil {
		return pki.Revoked{}, false
	}
	return pki.Revoked{Issuer: i.cfg.Issuer.KeyID, Serial: newest.Serial, ID: newest.ID, Kind: pki.Member, At: now.UTC().Truncate(time.Second)}, true
}

// Run revokes the certificates that rekeying replaced, each rekeyGrace after it, also those left over from before a restart. It returns
// nil when ctx ends. Without Revoke in the configuration it does nothing else.
func (i *Issuer) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-i.wake:
		case <-timer.C:
		}
		if i.cfg.Revoke == nil {
			continue
		}
		wait, err := i.revokeDue(i.cfg.Now())
		if err != nil {
			wait = revokeRetry
			if !failing {
				i.cfg.Log.Error("a replaced certificate is still valid: its revocation failed and is tried again", "err", err)
			}
		}
		failing = err != nil
		if wait > 0 {
			timer.Reset(wait)
		}
	}
}

// revokeDue revokes what is due and returns how long to wait for the next, 0 if there is none.
func (i *Issuer) revokeDue(now time.Time) (time.Duration, error) {
	var wait time.Duration
	for _, rk := range i.current.Load().rekeyed {
		left := rk.At.Add(rekeyGrace).Sub(now)
		switch {
		case rk.Revoked || now.After(rk.NotAfter):
			continue
		case left > 0 && left <= rekeyGrace: // more than that: the clock went back
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		if err := i.revoke(rk, now); err != nil {
			return 0, fmt.Errorf("revoking the replaced certificate %s of %s: %w", rk.Serial, rk.Name, err)
		}
	}
	return wait, nil
}

func (i *Issuer) revoke(rk *rekeyed, now time.Time) error {
	keyID, err := parseKeyID(rk.Issuer)
	if err != nil {
		return err
	}
	entry := pki.Revoked{Issuer: keyID, Serial: rk.Serial, ID: rk.Old, Kind: pki.Member, At: now.UTC().Truncate(time.Second)}
	if err := i.cfg.Revoke(entry); err != nil {
		return err
	}
	i.cfg.Log.Info("revoked the replaced key of a member", "name", rk.Name, "was", rk.Old.Short(), "is", rk.New.Short())
	i.mu.Lock()
	defer i.mu.Unlock()
	n := i.current.Load().next(now)
	c := *rk
	c.Revoked = true
	n.rekeyed[rk.Old] = &c
	return i.store(n)
}
