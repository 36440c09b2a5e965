package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/directory"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// revoke puts a member out by this issuer's list. An issuer that is put out issues no more: every member sees to that (mesh/directory).
// Where the root key is here, the root says so too.
func (n admin) revoke(ctx context.Context, r api.NameRequest) error {
	if n.myIssuer() == nil {
		return refusef("this node is no issuer, so it cannot revoke; run this on %s", n.issuerNames())
	}
	m, err := n.revocable(r.Name)
	if err != nil {
		return err
	}
	if m.ID == n.membership.Load().ID() {
		return refusef("a node does not revoke itself; say `gridwire leave`")
	}
	if m.Issuer {
		if err := n.dismiss(ctx, m); err != nil && !errors.Is(err, errNoRootKey) {
			return fmt.Errorf("%s is an issuer, and could not be dismissed as one: %w", m.Name, err)
		}
	}
	entry := pki.Revoked{Issuer: m.IssuerID, Serial: m.Serial, ID: m.ID, Kind: pki.Member, At: n.dir.Now().Truncate(time.Second)}
	if err := n.addRevocation(ctx, entry); err != nil {
		return err
	}
	n.log.Info("revoked", "name", m.Name, "id", m.ID.Short())
	return nil
}

// revocable finds a member, or somebody whose certificate has expired: its name is free only once it is revoked, and it could renew.
func (n admin) revocable(name string) (*mesh.Member, error) {
	m, missing := n.find(name)
	if missing == nil {
		return m, nil
	}
	if d, ok := n.findDevice(name); ok {
		return certificateOf(d), nil
	}
	var out error
	if d, why, ok := n.dir.GoneDevice(mesh.Name(strings.ToLower(name))); ok {
		if why == directory.WhyExpired {
			return certificateOf(d), nil
		}
		out = refusef("%s is no device any more: it is %s", name, why)
	}
	for _, g := range n.dir.Gone() {
		if string(g.Name) != strings.ToLower(name) || g.Device {
			continue
		}
		if g.Why != directory.WhyExpired {
			out = refusef("%s is no member any more: %s since %s", name, g.Detail, g.When.UTC().Format(time.RFC3339))
			continue
		}
		signed, ok := n.dir.Record(g.ID)
		if !ok {
			continue
		}
		rec, _, err := wire.OpenRecord(signed)
		if err != nil {
			return nil, fmt.Errorf("the last record of %s: %w", name, err)
		}
		leaf, _, err := pki.VerifyAtAnyTime(rec.GetChain(), n.root)
		if err != nil {
			return nil, fmt.Errorf("the last certificate of %s: %w", name, err)
		}
		issuer := slices.ContainsFunc(n.dir.Issuers(), func(i *pki.Issuer) bool { return i.NodeID == g.ID })
		return &mesh.Member{ID: g.ID, Name: g.Name, CertName: leaf.Name, IssuerID: leaf.Issuer, Serial: leaf.Serial, Issuer: issuer}, nil
	}
	if iss := n.issuer.current(); iss != nil {
		if e, ok := iss.Certified(mesh.Name(strings.ToLower(name))); ok { // a bundle that nobody has used yet
			return &mesh.Member{ID: e.ID, Name: mesh.Name(name), IssuerID: e.Issuer, Serial: e.Serial}, nil
		}
	}
	return nil, cmp.Or(out, missing)
}

// addRevocation adds an entry to this issuer's list, and spreads it.
func (n admin) addRevocation(ctx context.Context, entry pki.Revoked) error {
	iss := n.myIssuer()
	if iss == nil {
		return refusef("this node is no issuer any more")
	}
	n.issuer.lists.Lock()
	defer n.issuer.lists.Unlock()
	key := n.membership.Load().Identity
	der, err := n.nextList(iss.KeyID, entry, func(number uint64, entries []pki.Revoked) ([]byte, error) {
		return pki.NewRevocationList(iss.Cert, key, number, entries, n.dir.Now())
	})
	if err != nil {
		return err
	}
	return n.control.Publish(ctx, &wire.Item{Item: &wire.Item_RevocationList{RevocationList: der}})
}

// nextList extends the newest list of a signer by an entry, and by what keeps those whom the entry's node admitted, if it is or was
// an issuer. The number is the clock's, where that is higher: should our own list have been lost, a new one still counts.
func (n admin) nextList(signer mesh.KeyID, entry pki.Revoked, sign func(uint64, []pki.Revoked) ([]byte, error)) ([]byte, error) {
	number := uint64(n.dir.Now().UnixMilli())
	entries := append(n.kept(entry.ID), entry)
	for _, l := range n.dir.Revocations() {
		if l.Signer == signer {
			number = max(number, l.Number+1)
			entries = append(entries, l.Entries...)
		}
	}
	entries = slices.DeleteFunc(entries, n.renewedElsewhere)
	return sign(number, entries) // which drops what is there twice
}

// kept names the certificates that a node has given to members, as an issuer. They count on when its right ends.
func (n admin) kept(id mesh.NodeID) []pki.Revoked {
	key := mesh.KeyIDOf(id.PublicKey())
	var out []pki.Revoked
	for m := range n.dir.View().All() {
		if m.IssuerID == key {
			out = append(out, pki.Revoked{Issuer: key, Serial: m.Serial, ID: m.ID, Kind: pki.Kept, At: n.dir.Now().Truncate(time.Second)})
		}
	}
	for d := range n.dir.View().Devices() {
		if d.IssuerID == key {
			out = append(out, pki.Revoked{Issuer: key, Serial: d.Serial, ID: d.ID, Kind: pki.Kept, At: n.dir.Now().Truncate(time.Second)})
		}
	}
	return out
}

// renewedElsewhere reports whether an entry keeps a certificate that its member has no more.
func (n admin) renewedElsewhere(e pki.Revoked) bool {
	if e.Kind != pki.Kept {
		return false
	}
	if d, ok := n.dir.View().Device(e.ID); ok {
		return d.IssuerID != e.Issuer || d.Serial != e.Serial
	}
	m, ok := n.dir.View().Member(e.ID)
	return !ok || m.IssuerID != e.Issuer || m.Serial != e.Serial
}

func (n admin) removeIssuer(ctx context.Context, r api.NameRequest) error {
	m, err := n.find(r.Name)
	if err != nil {
		return err
	}
	if !m.Issuer {
		return refusef("%s is no issuer", m.Name)
	}
	live := 0
	for other := range n.dir.View().All() {
		if other.Issuer && other.ID != m.ID {
			live++
		}
	}
	if live == 0 {
		return refusef("%s is the only issuer: without one the network ends when its certificates do. Appoint another first: gridwire issuer add NAME", m.Name)
	}
	if err := n.dismiss(ctx, m); errors.Is(err, errNoRootKey) {
		return refusef("%v", err)
	} else if err != nil {
		return err
	}
	return nil
}

// dismiss takes every issuer certificate of a member away, by the root's list.
func (n admin) dismiss(ctx context.Context, m *mesh.Member) error {
	key, err := readRootKey(n.store, n.root)
	if err != nil {
		return err
	}
	n.issuer.lists.Lock()
	defer n.issuer.lists.Unlock()
	for _, i := range n.dir.Issuers() {
		if i.NodeID != m.ID {
			continue
		}
		entry := pki.Revoked{Issuer: n.root.KeyID(), Serial: i.Serial, ID: m.ID, Kind: pki.IssuerCert, At: n.dir.Now().Truncate(time.Second)}
		der, err := n.nextList(n.root.KeyID(), entry, func(number uint64, entries []pki.Revoked) ([]byte, error) {
			return pki.NewRevocationList(n.root.Cert, key, number, entries, n.dir.Now())
		})
		if err != nil {
			return err
		}
		if err := n.control.Publish(ctx, &wire.Item{Item: &wire.Item_RevocationList{RevocationList: der}}); err != nil {
			return err
		}
		n.log.Info("dismissed an issuer", "name", m.Name, "id", m.ID.Short())
	}
	return nil
}

// dismissed reports whether the root has ended a node's right to issue.
func (n admin) dismissed(id mesh.NodeID) bool {
	return slices.ContainsFunc(n.dir.Revocations(), func(l *pki.RevocationList) bool {
		return slices.ContainsFunc(l.Entries, func(e pki.Revoked) bool { return e.Kind == pki.IssuerCert && e.ID == id })
	})
}
