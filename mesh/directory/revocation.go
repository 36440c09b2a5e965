package directory

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
)

// list is a verified revocation list. Immutable.
type list struct {
	*pki.RevocationList
	hash [sha256.Size]byte
}

// maxTwins bounds how many different lists with one number by one signer are kept. There is more than one only where an issuer's own
// state went back; its union is applied, because a revocation once seen must not be lost to the accident.
const maxTwins = 4

// lists holds, for each signer, the lists with its highest number: nearly always one. Lists by signers whose own certificate has
// expired or was revoked go on counting: removing an issuer must not let in whom it had put out.
type lists map[mesh.KeyID][]*list

// add returns whether l is news.
func (ls lists) add(l *list) bool {
	held := ls[l.Signer]
	if len(held) == 0 || held[0].Number < l.Number {
		ls[l.Signer] = []*list{l}
		return true
	}
	if held[0].Number > l.Number {
		return false
	}
	i, found := slices.BinarySearchFunc(held, l, func(a, b *list) int { return bytes.Compare(a.hash[:], b.hash[:]) })
	if found || i >= maxTwins {
		return false
	}
	held = slices.Insert(slices.Clone(held), i, l) // cloned: snapshots share the old one
	ls[l.Signer] = held[:min(len(held), maxTwins)]
	return true
}

// sorted returns all lists, by signer.
func (ls lists) sorted() []*list {
	var out []*list
	for _, held := range ls {
		out = append(out, held...)
	}
	slices.SortFunc(out, func(a, b *list) int {
		return cmp.Or(bytes.Compare(a.Signer[:], b.Signer[:]), bytes.Compare(a.hash[:], b.hash[:]))
	})
	return out
}

// certKey names a certificate as RFC 5280 does: by its signer and its serial number.
type certKey struct {
	signer mesh.KeyID
	serial string
}

// revocations is the union of all lists, for lookup. Immutable.
type revocations struct {
	root           mesh.KeyID
	members        map[mesh.NodeID]pki.Revoked
	memberCerts    map[certKey]pki.Revoked
	dismissed      map[mesh.NodeID][]dismissal // nodes that may not issue: by the root's word, or because they are no members
	dismissedCerts map[certKey][]dismissal     // issuers' certificates by serial number
}

// dismissal is one list's word that an issuer's right has ended, with the certificates that it names as kept. Of two lists with a word
// about one issuer both must keep a certificate: an issuer cannot undo with its own list what another one says of it.
type dismissal struct {
	at   time.Time
	kept map[keptCert]bool
}

type keptCert struct {
	certKey
	id mesh.NodeID
}

func newRevocations(root mesh.KeyID, all []*list) *revocations {
	r := &revocations{
		root: root, members: make(map[mesh.NodeID]pki.Revoked), memberCerts: make(map[certKey]pki.Revoked),
		dismissed: make(map[mesh.NodeID][]dismissal), dismissedCerts: make(map[certKey][]dismissal),
	}
	for _, l := range all {
		kept := make(map[keptCert]bool)
		for _, e := range l.Entries {
			if e.Kind == pki.Kept {
				kept[keptCert{certKey{e.Issuer, e.Serial}, e.ID}] = true
			}
		}
		for _, e := range l.Entries {
			cert, d := certKey{e.Issuer, e.Serial}, dismissal{e.At, kept}
			switch e.Kind {
			case pki.Member:
				keepEarliest(r.members, e.ID, e)
				keepEarliest(r.memberCerts, cert, e)
				r.dismissed[e.ID] = append(r.dismissed[e.ID], d)
			case pki.IssuerCert:
				r.dismissed[e.ID] = append(r.dismissed[e.ID], d)
				r.dismissedCerts[cert] = append(r.dismissedCerts[cert], d)
			}
		}
	}
	return r
}

// keepEarliest makes the moment that is shown independent of the order of the lists.
func keepEarliest[K comparable](m map[K]pki.Revoked, k K, e pki.Revoked) {
	if held, ok := m[k]; !ok || e.At.Before(held.At) {
		m[k] = e
	}
}

const whyRevoked = "revoked" // it itself, not its issuer

// verdict is why a certificate does not count.
type verdict struct {
	why string
	at  time.Time
}

// member says whether a member's certificate, or any other of the same key, is revoked, or its issuer.
func (r *revocations) member(id mesh.NodeID, iss *pki.Issuer, serial string) (verdict, bool) {
	e, ok := r.members[id]
	if !ok {
		e, ok = r.memberCerts[certKey{iss.KeyID, serial}]
	}
	if ok {
		return verdict{whyRevoked, e.At}, true
	}
	lets := func(d dismissal) bool { return d.kept[keptCert{certKey{iss.KeyID, serial}, id}] }
	if at, ok := r.dismissal(iss, lets); ok {
		return verdict{fmt.Sprintf("its issuer %s was removed", iss.Name), at}, true
	}
	return verdict{}, false
}

// issuer says whether an issuer's right has ended, and since when.
func (r *revocations) issuer(i *pki.Issuer) (time.Time, bool) {
	return r.dismissal(i, func(dismissal) bool { return false })
}

// dismissal returns the earliest of an issuer's dismissals but those that are harmless.
func (r *revocations) dismissal(i *pki.Issuer, harmless func(dismissal) bool) (at time.Time, found bool) {
	for _, ds := range [][]dismissal{r.dismissed[i.NodeID], r.dismissedCerts[certKey{r.root, i.Serial}]} {
		for _, d := range ds {
			if !harmless(d) && (!found || d.at.Before(at)) {
				at, found = d.at, true
			}
		}
	}
	return at, found
}

// heldList is a list whose signer is not known yet. Nobody has checked its signature.
type heldList struct {
	signer mesh.KeyID
	der    []byte
	stored bool // it comes from our own state, where it had been checked: it is saved again
}

// Limits of lists that wait: strangers can send them, in the membership proof.
const (
	maxHeldPerSigner = 8
	maxHeldLists     = 64
	maxHeldBytes     = 2 << 20
)

// waiting is a bounded queue of lists that wait for the certificate of their signer. The oldest makes room; never one from our own
// state, of which there are no more than signers.
type waiting struct{ lists []heldList }

func (w *waiting) add(h heldList) {
	same, bytesHeld := 0, 0
	for _, o := range w.lists {
		if bytes.Equal(o.der, h.der) {
			return
		}
		if o.signer == h.signer {
			same++
		}
		bytesHeld += len(o.der)
	}
	if same >= maxHeldPerSigner {
		w.drop(func(o heldList) bool { return !o.stored && o.signer == h.signer })
	}
	for !h.stored && (len(w.lists) >= maxHeldLists || bytesHeld+len(h.der) > maxHeldBytes) {
		freed, ok := w.drop(func(o heldList) bool { return !o.stored })
		if !ok {
			return
		}
		bytesHeld -= freed
	}
	w.lists = append(w.lists, h)
}

// drop removes the first list that may go and returns its size.
func (w *waiting) drop(which func(heldList) bool) (freed int, ok bool) {
	i := slices.IndexFunc(w.lists, which)
	if i < 0 {
		return 0, false
	}
	freed = len(w.lists[i].der)
	w.lists = slices.Delete(w.lists, i, i+1)
	return freed, true
}

// take removes and returns the lists by this signer.
func (w *waiting) take(signer mesh.KeyID) []heldList {
	var out []heldList
	w.lists = slices.DeleteFunc(w.lists, func(h heldList) bool {
		if h.signer == signer {
			out = append(out, h)
		}
		return h.signer == signer
	})
	return out
}

// stored returns the lists that have to be saved again.
func (w *waiting) stored() [][]byte {
	var out [][]byte
	for _, h := range w.lists {
		if h.stored {
			out = append(out, h.der)
		}
	}
	return out
}
