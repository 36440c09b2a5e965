package enrol

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// Appoint makes a member an issuer, with the first part of the IPv4 pool that is free: none of existing has it, and nobody in view has an
// address from it, as those of a dismissed issuer have until they are renewed elsewhere. An issuer can be appointed again in the last
// year of its certificate, and keeps its part.
func Appoint(root *pki.Root, rootKey pki.Key, m *mesh.Member, existing []*pki.Issuer, view *mesh.View, now time.Time) ([]byte, error) {
	used := map[int]bool{}
	for i := range mesh.IssuerIPv4Count(root.Network.IPv4) {
		part := mesh.IssuerIPv4(root.Network.IPv4, i)
		for other := range view.All() {
			used[i] = used[i] || slices.ContainsFunc(other.Addrs, part.Contains)
		}
	}
	own := -1
	for _, i := range existing {
		used[i.Index] = true
		if i.NodeID != m.ID {
			continue
		}
		if now.Before(i.Cert.NotAfter.AddDate(-1, 0, 0)) {
			return nil, fmt.Errorf("%s is an issuer already, until %s", m.Name, stamp(i.Cert.NotAfter))
		}
		own = i.Index
	}
	index := 0
	for used[index] {
		index++
	}
	if own >= 0 {
		index = own
	}
	return pki.NewIssuer(root, rootKey, m.ID.PublicKey(), m.CertName, index, now)
}

// NewNetwork founds a network: a root, and node as its first member and issuer (index 0, the first part of the IPv4 pool). domain and pool
// may be left empty, see pki.NewRoot. The root key is needed to appoint issuers only: keep it safe, and not on this machine for ever.
func NewNetwork(name, node mesh.Name, domain string, pool netip.Prefix, now time.Time) (m *Membership, rootKey pki.Key, issuerCert []byte, err error) {
	fail := func(err error) (*Membership, pki.Key, []byte, error) {
		return nil, nil, nil, fmt.Errorf("founding network %s: %w", name, err)
	}
	_, rootKey, err = ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	keys, err := NewKeys()
	if err != nil {
		return fail(err)
	}
	rootDER, err := pki.NewRoot(name, domain, pool, rootKey, now)
	if err != nil {
		return fail(err)
	}
	root, err := pki.ParseRoot(rootDER)
	if err != nil {
		return fail(err)
	}
	issuerCert, err = pki.NewIssuer(root, rootKey, keys.ID().PublicKey(), node, 0, now)
	if err != nil {
		return fail(err)
	}
	issuer, err := pki.ParseIssuer(issuerCert, root)
	if err != nil {
		return fail(err)
	}
	ipv4, _ := newState().ipv4For(keys.ID(), netip.Addr{}, facts{view: mesh.NewView(root.Network, keys.ID()), prefix: issuer.IPv4}, now)
	leaf, err := issuer.Sign(keys.Identity, root, pki.LeafRequest{
		Identity: keys.ID().PublicKey(), WireGuard: keys.Public(), Name: node, IPv4: ipv4,
	}, now)
	if err != nil {
		return fail(err)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return fail(fmt.Errorf("drawing the network secret: %w", err))
	}
	m = &Membership{
		Keys: keys, Chain: [][]byte{leaf, issuerCert}, Root: rootDER, Secret: secret,
		Items: []*wire.Item{{Item: &wire.Item_Issuer{Issuer: issuerCert}}},
	}
	if _, _, _, err := m.check(); err != nil {
		return fail(err)
	}
	return m, rootKey, issuerCert, nil
}
