package directory

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
)

// Sentinels of Judge and Revoked, beside those of mesh/pki.
var (
	ErrRevoked = errors.New("the certificate is revoked")
	ErrLeft    = errors.New("the member has left the network for good")
)

// Judge says whether a chain proves membership at the time now, which should be d.Now(): pki.Verify, and not revoked, nor its issuer,
// nor gone for good. Errors wrap ErrRevoked, ErrLeft or pki's sentinels.
//
// A chain that begins after now is judged at its beginning. That a signed certificate exists shows that our clock is behind its
// issuer's; a box that boots in the past must not lose the mesh for it, and NotBefore keeps nobody out: an issuer's word lets members
// in, and revocation and expiry put them out.
func (d *Directory) Judge(chain [][]byte, now time.Time) (*pki.Leaf, error) {
	s := d.snapshot.Load()
	o := d.opener(s)
	if len(chain) == 3 { // the root may follow
		chain = chain[:2:2]
	}
	leaf, iss, err := o.verify(chain)
	if err != nil {
		return nil, err
	}
	if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore
	}
	if err := leaf.CheckTime(now); err != nil {
		return nil, err
	}
	if err := s.refuses(leaf.ID, string(leaf.Name), iss.Issuer, leaf.Serial); err != nil {
		return nil, err
	}
	return leaf, nil
}

// Revoked returns nil, or an error that wraps ErrRevoked or ErrLeft and says why the chain no longer proves membership. It asks neither
// about time nor about signatures: it is for chains that Judge has let through before, again after each change of the lists. A chain
// that cannot be read is an error too.
func (d *Directory) Revoked(chain [][]byte) error {
	if len(chain) < 2 {
		return fmt.Errorf("chain of %d certificates, want the member's and its issuer's", len(chain))
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("member's certificate is damaged: %w", err)
	}
	id, err := nodeOf(leaf)
	if err != nil {
		return err
	}
	s := d.snapshot.Load()
	iss, ok := s.issuer(sha256.Sum256(chain[1]))
	if !ok {
		parsed, err := pki.ParseIssuer(chain[1], d.cfg.Root)
		if err != nil {
			return err
		}
		iss = newIssuer(parsed)
	}
	return s.refuses(id, leaf.Subject.CommonName, iss.Issuer, leaf.SerialNumber.Text(16))
}

func nodeOf(c *x509.Certificate) (mesh.NodeID, error) {
	key, ok := c.PublicKey.(ed25519.PublicKey)
	if !ok {
		return mesh.NodeID{}, fmt.Errorf("member's certificate has a key of type %v, want Ed25519", c.PublicKeyAlgorithm)
	}
	return mesh.NodeIDFromBytes(key)
}

// refuses says why a certificate whose signatures are good does not count.
func (s *snapshot) refuses(id mesh.NodeID, name string, iss *pki.Issuer, serial string) error {
	if v, ok := s.revoked.member(id, iss, serial); ok {
		err := fmt.Errorf("%s (node %s): %w, since %s", name, id.Short(), ErrRevoked, v.at.UTC().Format(time.RFC3339))
		if v.why != whyRevoked {
			err = fmt.Errorf("%w: %s", err, v.why)
		}
		return err
	}
	if e, ok := s.entries.Get(id); ok && e.tombstone {
		return fmt.Errorf("%s (node %s): %w, since %s", name, id.Short(), ErrLeft, e.time.UTC().Format(time.RFC3339))
	}
	return nil
}

// WhyDuplicate is why somebody with a valid certificate is no member: an older certificate has its WireGuard key or address block.
const WhyDuplicate Why = "duplicate"

// Gone is somebody who is no member any more.
type Gone struct {
	ID     mesh.NodeID
	Name   mesh.Name // as certified; empty if only the revocation is known
	Why    Why
	Detail string // Why in words
	When   time.Time
	Device bool // it was a device, and ID is its mesh.DeviceID
}

// Gone returns who was a member and is none, as far as it is remembered: the expired for KeepExpired, the others until then too, the
// revoked by ID as long as they are in a list. Devices are among them. Newest first. It costs O(n).
func (d *Directory) Gone() []Gone {
	s := d.snapshot.Load()
	var out []Gone
	for it := s.entries.Iterator(); !it.Done(); {
		id, e, _ := it.Next()
		if g := (Gone{ID: id, Name: e.cert.name, Why: e.why, Detail: e.detail, When: e.when}); e.why != "" {
			out = append(out, g)
		} else if _, ok := s.view.Member(id); !ok {
			g.Why, g.When = WhyDuplicate, e.cert.notBefore
			g.Detail = "another member's older certificate has its WireGuard key or addresses: let it join again with new keys"
			out = append(out, g)
		}
	}
	for it := s.devices.Iterator(); !it.Done(); {
		id, e, _ := it.Next()
		if _, ok := s.view.Device(id); !ok {
			g := Gone{ID: id, Name: e.cert.name, Why: e.why, Detail: e.detail, When: e.when, Device: true}
			if e.why == "" {
				g.Why, g.When, g.Detail = WhyDuplicate, e.cert.notBefore, "an older certificate has its WireGuard key: export it again"
			}
			out = append(out, g)
		}
	}
	for id, e := range s.revoked.members {
		_, device := s.devices.Get(id)
		if _, ok := s.entries.Get(id); !ok && !device {
			out = append(out, Gone{ID: id, Why: WhyRevoked, Detail: "revoked", When: e.At})
		}
	}
	slices.SortFunc(out, func(a, b Gone) int {
		if c := b.When.Compare(a.When); c != 0 {
			return c
		}
		return a.ID.Compare(b.ID)
	})
	return out
}
