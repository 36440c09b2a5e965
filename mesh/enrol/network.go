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

// Appoint makes a member an issuer, with the first part of the IPv4 pool that none of existing has. existing must hold every issuer whose
// certificate has not expired, revoked ones too: addresses that those gave are in use.
func Appoint(root *pki.Root, rootKey pki.Key, m *mesh.Member, existing []*pki.Issuer, now time.Time) ([]byte, error) {
	index := 0
	for slices.ContainsFunc(existing, func(i *pki.Issuer) bool { return i.Index == index }) {
		index++
	}
	for _, i := range existing {
		if i.NodeID == m.ID && now.Before(i.Cert.NotAfter.AddDate(-1, 0, 0)) {
			return nil, fmt.Errorf("appointing %s an issuer: it is one until %s", m.Name, stamp(i.Cert.NotAfter))
		}
		if i.NodeID == m.ID {
			index = i.Index // appointed again before its time is up: it keeps its part of the pool
		}
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
