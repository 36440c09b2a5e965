package enrol

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// The issuer's decisions: plain functions of the state, the request, what else is known, and the time.

// facts are what a decision needs to know besides the state: snapshots, taken before the decision begins.
type facts struct {
	view   *mesh.View
	taken  bool                 // the directory says that the name in question is in use, or was until less than 7 days ago
	gone   map[mesh.NodeID]bool // revoked, or left
	prefix netip.Prefix         // the issuer's part of the IPv4 pool; invalid: none
}

// grant is a decision to certify.
type grant struct {
	again      []byte // the certificate given before to the same request: nothing changes
	name       mesh.Name
	ipv4       netip.Addr // invalid: none
	cursor     uint32
	tags       []string
	routes     []netip.Prefix
	invitation *invitation // with the use counted; nil: none is used
	replaces   *pki.Leaf   // the identity that this one replaces
	admitted   time.Time   // of the certificate that is renewed; zero: none is
}

// redeem decides about a request by invitation. authentic says whether its HMAC fits.
func (s *state) redeem(a *ask, authentic bool, f facts, now time.Time) (*grant, *Error) {
	if !authentic {
		return nil, refuse(wire.EnrolError_ENROL_FORGED,
			"the token is forged: its secret does not belong to invitation %v of this issuer; copy the token again, or %s", a.inv, askAgain)
	}
	inv := s.invitations[a.inv]
	switch {
	case inv == nil:
		return nil, refuse(wire.EnrolError_ENROL_EXPIRED, "the issuer made invitation %v but does not know it any more: it expired more than "+
			"7 days ago, or the issuer lost part of its state; %s", a.inv, askAgain)
	case inv.Void:
		return nil, refuse(wire.EnrolError_ENROL_EXPIRED, "the invitation is void: the issuer lost part of its state after it was made on %s, "+
			"so nobody can say whether it was used; %s", stamp(inv.Created), askAgain)
	}
	if e := s.issued[a.id]; e.answers(a) && e.Invitation == a.inv && !f.gone[a.id] {
		return &grant{again: e.DER}, nil
	}
	switch {
	case now.After(inv.Expires):
		return nil, refuse(wire.EnrolError_ENROL_EXPIRED, "the invitation expired on %s, and for the issuer it is %s; %s",
			stamp(inv.Expires), stamp(now), askAgain)
	case inv.Used >= inv.Uses:
		return nil, refuse(wire.EnrolError_ENROL_SPENT, "the invitation is spent: %s; %s", inv.spentBy(), askAgain)
	}
	g := &grant{name: inv.Name, tags: inv.Tags, routes: inv.Routes, invitation: inv.use()}
	if g.name == "" {
		g.name = a.wish
	}
	if err := s.admissible(a.id, a.wg, g.name, f, now); err != nil {
		return nil, err
	}
	g.invitation.By = append(g.invitation.By, g.name)
	g.ipv4, g.cursor = s.ipv4For(a.id, netip.Addr{}, f, now)
	return g, nil
}

// renew decides about a request that the holder of leaf signed; leaf has been verified, is not revoked, and expired at most
// keepExpired ago. Another identity key than leaf's replaces it under the same name.
func (s *state) renew(a *ask, leaf *pki.Leaf, f facts, now time.Time) (*grant, *Error) {
	if rk := s.rekeyed[leaf.ID]; rk != nil {
		if e := s.issued[a.id]; a.id == rk.New && e.answers(a) {
			return &grant{again: e.DER}, nil
		}
		return nil, refuse(wire.EnrolError_ENROL_REVOKED, "the key of %s was replaced by another one on %s, and its certificate is being "+
			"revoked: if that was not this machine, somebody else has used the same bundle: revoke %s and %s", leaf.Name, stamp(rk.At), rk.Name, askAgain)
	}
	if err := s.wireGuardFree(a.id, a.wg, leaf.ID, f, now); err != nil {
		return nil, err
	}
	g := &grant{name: leaf.Name, tags: leaf.Tags, routes: leaf.Routes, admitted: leaf.Admitted}
	if a.id != leaf.ID {
		if err := s.idFree(a.id, f); err != nil {
			return nil, err
		}
		g.replaces = leaf
		g.ipv4, g.cursor = s.ipv4For(a.id, netip.Addr{}, f, now)
		return g, nil
	}
	if e := s.issued[a.id]; e != nil && e.DER != nil && string(e.WireGuard) == string(a.wg[:]) && e.Name == leaf.Name {
		if now.Before(e.At.Add(min(renewAgain, e.NotAfter.Sub(e.At)/2))) {
			return &grant{again: e.DER}, nil
		}
	}
	var had netip.Addr
	for _, addr := range leaf.Addrs {
		if addr.Is4() {
			had = addr
		}
	}
	g.ipv4, g.cursor = s.ipv4For(a.id, had, f, now)
	return g, nil
}

// admissible says whether a new certificate for this node, WireGuard key and name may be made.
func (s *state) admissible(id mesh.NodeID, wg mesh.WGKey, name mesh.Name, f facts, now time.Time) *Error {
	if name == "" {
		return refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the invitation names nobody and the joining machine gave no name; join with --name")
	}
	if holder, ok := s.holder(id, name, f, now); ok {
		return refuse(wire.EnrolError_ENROL_NAME_TAKEN,
			"the name %s is taken by node %s; choose another one with --name, or, if that machine is gone, put it out first (`gridwire revoke %s` on an issuer)",
			name, holder, name)
	}
	if len(s.issued) >= maxIssued {
		return refuse(wire.EnrolError_ENROL_RATE_LIMITED, "the issuer holds %d certificates, which is its limit; use another issuer", len(s.issued))
	}
	return s.wireGuardFree(id, wg, id, f, now)
}

// holder returns who holds name, if it is somebody else than id: a member, somebody whose certificate is on its way to its first
// record, or (nobody here knows its ID) somebody whose certificate expired less than keepExpired ago.
func (s *state) holder(id mesh.NodeID, name mesh.Name, f facts, now time.Time) (string, bool) {
	own := false
	for m := range f.view.All() {
		if m.CertName != name && m.Name != name {
			continue
		}
		if m.ID != id {
			return m.ID.Short(), true
		}
		own = true
	}
	for d := range f.view.Devices() {
		if d.CertName != name && d.Name != name {
			continue
		}
		if d.ID != id {
			return d.ID.Short() + " (a device)", true
		}
		own = true
	}
	for _, e := range s.issued {
		if e.Name != name || f.gone[e.ID] || now.After(e.NotAfter.Add(keepExpired)) {
			continue
		}
		if e.ID != id {
			return e.ID.Short(), true
		}
		own = true
	}
	if f.taken && !own {
		return "whose certificate expired less than 7 days ago", true
	}
	return "", false
}

// wireGuardFree refuses a WireGuard key that belongs to another node: two peers with one key would take each other's packets.
// Whoever asks under such a key does not hold its private half, or has copied a whole state folder.
func (s *state) wireGuardFree(id mesh.NodeID, wg mesh.WGKey, replaces mesh.NodeID, f facts, now time.Time) *Error {
	other, found := mesh.Name(""), false
	if m, ok := f.view.ByWireGuard(wg); ok && m.ID != id && m.ID != replaces {
		other, found = m.Name, true
	}
	if d, ok := f.view.Device(mesh.DeviceID(wg)); ok && d.ID != id {
		other, found = d.Name, true
	}
	for _, e := range s.issued {
		live := !f.gone[e.ID] && now.Before(e.NotAfter)
		if live && e.ID != id && e.ID != replaces && string(e.WireGuard) == string(wg[:]) {
			other, found = e.Name, true
		}
	}
	if found {
		return refuse(wire.EnrolError_ENROL_BAD_REQUEST,
			"the WireGuard key belongs to %s already; if this machine's state folder is a copy of that one's, empty it and join again", other)
	}
	return nil
}

// idFree refuses, for a fresh identity, a key that some certificate has already.
func (s *state) idFree(id mesh.NodeID, f facts) *Error {
	_, member := f.view.Member(id)
	if member || s.issued[id] != nil || s.rekeyed[id] != nil {
		return refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the new identity key is not new: node %s has a certificate already", id.Short())
	}
	return nil
}

// ipv4For returns the address for id and where the next search begins: had (what the certificate to renew carries) or what this issuer
// gave it last, if they are in the issuer's prefix and nobody else's; else the next free one. Never .0 or .255, which too much
// software takes for a network or a broadcast. Invalid if there is none: a member without IPv4 is still a member.
func (s *state) ipv4For(id mesh.NodeID, had netip.Addr, f facts, now time.Time) (netip.Addr, uint32) {
	if !f.prefix.IsValid() {
		return netip.Addr{}, s.cursor
	}
	used := s.usedIPv4(id, f, now)
	keep := []netip.Addr{had}
	if e := s.issued[id]; e != nil {
		keep = append(keep, e.IPv4)
	}
	for _, a := range keep {
		if a.IsValid() && f.prefix.Contains(a) && !used[a] {
			return a, s.cursor
		}
	}
	return nextIPv4(f.prefix, used, s.cursor)
}

// usedIPv4 returns the addresses that somebody else than id has, or may have again.
func (s *state) usedIPv4(id mesh.NodeID, f facts, now time.Time) map[netip.Addr]bool {
	used := map[netip.Addr]bool{}
	add := func(owner mesh.NodeID, addrs []netip.Addr) {
		for _, a := range addrs {
			if owner != id && a.Is4() {
				used[a] = true
			}
		}
	}
	for m := range f.view.All() {
		add(m.ID, m.Addrs)
	}
	for d := range f.view.Devices() {
		add(d.ID, d.Addrs())
	}
	for _, e := range s.issued {
		if !f.gone[e.ID] && now.Before(e.NotAfter.Add(keepExpired)) {
			add(e.ID, e.addrs())
		}
	}
	return used
}

// nextIPv4 returns the first free address of prefix from cursor on, and where the next search begins.
func nextIPv4(prefix netip.Prefix, used map[netip.Addr]bool, cursor uint32) (netip.Addr, uint32) {
	base := prefix.Masked().Addr().As4()
	size := uint32(1) << (32 - prefix.Bits())
	for k := range size {
		offset := (cursor%size + k) % size
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+offset)
		a := netip.AddrFrom4(b)
		if b[3] != 0 && b[3] != 255 && !used[a] {
			return a, offset + 1
		}
	}
	return netip.Addr{}, cursor
}

// commit returns the state after g was carried out for a: leaf, with these bytes, is the new certificate.
func (s *state) commit(g *grant, a *ask, leaf *pki.Leaf, der []byte, now time.Time) *state {
	n := s.next(now)
	e := &issued{
		ID: leaf.ID, Name: leaf.Name, IPv4: g.ipv4, WireGuard: leaf.WireGuard[:], Serial: leaf.Serial,
		At: now, NotAfter: leaf.NotAfter, DER: der,
	}
	if a != nil {
		e.CSR, e.Invitation = a.csr[:], a.inv
	}
	n.issued[e.ID] = e
	if g.cursor != 0 {
		n.cursor = g.cursor
	}
	if g.invitation != nil {
		n.invitations[g.invitation.ID] = g.invitation
	}
	if old := g.replaces; old != nil {
		n.rekeyed[old.ID] = &rekeyed{
			Old: old.ID, New: leaf.ID, Name: leaf.Name, Issuer: old.Issuer.String(), Serial: old.Serial, At: now, NotAfter: old.NotAfter,
		}
	}
	return n
}

// answers reports whether e is the certificate that this very request was given before. e may be nil.
func (e *issued) answers(a *ask) bool {
	return e != nil && e.DER != nil && string(e.CSR) == string(a.csr[:])
}

// use returns a copy with one more use taken and room for the name of who took it.
func (v *invitation) use() *invitation {
	const remembered = 16
	c := *v
	c.Used++
	c.By = slices.Clone(v.By)
	if len(c.By) >= remembered {
		c.By = c.By[len(c.By)-remembered+1:]
	}
	return &c
}

func (v *invitation) spentBy() string {
	text := "its only use was taken"
	if v.Uses > 1 {
		text = "all its uses were taken"
	}
	if len(v.By) > 0 {
		text += ", last by " + string(v.By[len(v.By)-1])
	}
	return text
}
