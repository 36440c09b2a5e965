package directory

import (
	"container/heap"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
)

func (c *core) applyIssuer(iss *issuer, a *actions) {
	if _, known := c.issuers[iss.sum]; known {
		return
	}
	if !c.learn(iss, a) {
		a.verdict, a.err = Invalid, fmt.Errorf("certificate of issuer %s: the directory is full, it holds %d issuer certificates",
			iss.Name, maxIssuers)
		return
	}
	a.verdict = Accepted
}

// learn adds an issuer's certificate, from wherever it came, and applies the lists that waited for it. It returns false when there is
// no room.
func (c *core) learn(iss *issuer, a *actions) bool {
	if _, known := c.issuers[iss.sum]; known {
		return true
	}
	if len(c.issuers) >= maxIssuers {
		return false
	}
	c.issuers[iss.sum] = iss
	a.dirty.issuers = true
	a.note("issuer known", "name", iss.Name, "id", iss.NodeID.Short(), "expires", iss.Cert.NotAfter)
	heap.Push(&c.schedule, appointment{iss.Cert.NotAfter.Add(1), iss.NodeID})
	c.place(iss.NodeID)
	deviceRules{c}.reopen(iss.KeyID, a)
	for _, h := range c.waiting.take(iss.KeyID) {
		var sub actions // its verdict is not that of the event which brought the issuer
		c.hold(h, &sub)
		a.dirty, a.notes = a.dirty.or(sub.dirty), append(a.notes, sub.notes...)
	}
	return true
}

// issuer finds a certificate by its key, for checking signatures: revoked and expired ones too.
func (c *core) issuer(key mesh.KeyID) *pki.Issuer {
	for _, iss := range c.issuers {
		if iss.KeyID == key {
			return iss.Issuer
		}
	}
	return nil
}

// hold checks a list again with the issuers known now; it waits if its signer still is not among them.
func (c *core) hold(h heldList, a *actions) {
	parsed, err := pki.ParseRevocationList(h.der, c.root, c.issuer)
	switch {
	case err == nil:
		c.applyList(newList(parsed), a)
	case errors.Is(err, pki.ErrUnknownSigner):
		c.waiting.add(h)
	case h.stored:
		a.warn("a stored revocation list is not valid and was dropped", "error", err)
	default:
		a.verdict, a.err = Invalid, err
	}
}

func newList(l *pki.RevocationList) *list {
	return &list{RevocationList: l, hash: sha256.Sum256(l.DER)}
}

func (c *core) applyList(l *list, a *actions) {
	affected := make(touched)
	for _, old := range c.lists[l.Signer] {
		c.affected(old, affected)
	}
	if !c.lists.add(l) {
		return
	}
	c.affected(l, affected)
	c.revoked = newRevocations(c.root.KeyID(), c.lists.sorted())
	for id := range affected {
		c.rejudge(id, a)
		c.place(id) // its right to issue may have changed
	}
	a.verdict, a.dirty.revocations = Accepted, true
	a.note("revocation list", "signer", c.signerName(l.RevocationList), "number", l.Number, "entries", len(l.Entries))
}

// affected collects whom a list is about, as far as they are known.
func (c *core) affected(l *list, t touched) {
	merge := func(from touched) {
		for id := range from {
			t[id] = struct{}{}
		}
	}
	for _, e := range l.Entries {
		t[e.ID] = struct{}{}
		switch e.Kind {
		case pki.Member:
			merge(c.bySerial[certKey{e.Issuer, e.Serial}])
			merge(c.byIssuer[mesh.KeyIDOf(e.ID.PublicKey())]) // where it is an issuer
		case pki.IssuerCert:
			merge(c.byIssuer[mesh.KeyIDOf(e.ID.PublicKey())])
			for _, iss := range c.issuers {
				if e.CoversIssuer(iss.Issuer) {
					t[iss.NodeID] = struct{}{}
					merge(c.byIssuer[iss.KeyID])
				}
			}
		}
	}
}

func (c *core) signerName(l *pki.RevocationList) string {
	if l.ByRoot {
		return "root"
	}
	if iss := c.issuer(l.Signer); iss != nil {
		return string(iss.Name)
	}
	return l.Signer.String()
}

// appointment is a moment at which time alone changes what a node is.
type appointment struct {
	at time.Time
	id mesh.NodeID
}

// schedule is a heap of appointments. What is no longer true is not removed: looking at a node once too often does no harm.
type schedule []appointment

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].at.Before(s[j].at) }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)        { *s = append(*s, x.(appointment)) }
func (s *schedule) Pop() any {
	last := len(*s) - 1
	x := (*s)[last]
	*s = (*s)[:last]
	return x
}

// sweep brings the state to the trusted time, forward or, when the system clock was set back or whoever had moved it on took that
// back, backward.
func (c *core) sweep(sys time.Time, a *actions) {
	// Dropping records can change what the others' times say; a few rounds settle it, and the next step goes on if they do not.
	for range 4 {
		now := c.trust.now(sys)
		back := now.Before(c.past)
		c.swept = now
		if back {
			c.judgeAll(a)
		}
		for len(c.schedule) > 0 && !c.schedule[0].at.After(now) {
			due := heap.Pop(&c.schedule).(appointment)
			if due.at.After(c.past) {
				c.past = due.at
			}
			c.rejudge(due.id, a)
			c.place(due.id)
		}
		if c.trust.now(sys).Equal(now) {
			return
		}
	}
}

// judgeAll starts the schedule anew.
func (c *core) judgeAll(a *actions) {
	c.schedule, c.past = nil, time.Time{}
	for _, iss := range c.issuers {
		heap.Push(&c.schedule, appointment{iss.Cert.NotAfter.Add(1), iss.NodeID})
		c.place(iss.NodeID)
	}
	for _, all := range []*entries{c.entries, c.devices.entries} {
		for it := all.Iterator(); !it.Done(); {
			id, _, _ := it.Next()
			c.rejudge(id, a)
			if e, ok := c.known(id); ok {
				heap.Push(&c.schedule, appointment{e.due, id})
			}
		}
	}
}

// next returns the trusted time of the next appointment, or zero.
func (c *core) next() time.Time {
	if len(c.schedule) == 0 {
		return time.Time{}
	}
	return c.schedule[0].at
}
