package directory

import (
	"fmt"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// maxConflicts bounds what is remembered: only who holds a member's identity key can cause one.
const maxConflicts = 1024

// Conflict says that two machines use one identity: a copied state folder, or an offline bundle used twice. A machine whose state was
// restored from a copy looks the same once.
type Conflict struct {
	ID    mesh.NodeID
	Name  mesh.Name // as certified
	When  time.Time // when it was noticed last, trusted time
	Count int       // how often, in this run
}

// String says it in a sentence.
func (c Conflict) String() string {
	return fmt.Sprintf("two machines use the identity of %s (node %s), or its state was restored from a copy: "+
		"run `gridwire leave` on one of them and let it join again", c.Name, c.ID.Short())
}

func (c *core) conflict(r, held *record, now time.Time, a *actions) {
	known, again := c.conflicts[r.cert.id]
	if !again && len(c.conflicts) >= maxConflicts {
		return
	}
	known.ID, known.Name, known.When = r.cert.id, held.cert.name, c.trust.now(now)
	known.Count++
	c.conflicts[r.cert.id] = known
	a.changed = true
	if !again {
		a.warn(known.String(), "sequence", r.sequence, "other_sequence", held.sequence, "boot", r.boot, "other_boot", held.boot)
	}
}

// tell notes who came and who went.
func (c *core) tell(held, next *entry, a *actions) {
	was, is := held.live() != nil, next.live() != nil
	what := "member"
	if held != nil && held.device != nil || next != nil && next.device != nil {
		what = "device"
	}
	switch {
	case is && !was:
		a.note(what, "name", next.cert.name, "id", next.cert.id.Short(), "expires", next.cert.notAfter)
	case was && next == nil:
		a.note(what+" gone", "name", held.cert.name, "id", held.cert.id.Short(), "why", WhyExpired)
	case was && !is:
		a.note(what+" gone", "name", next.cert.name, "id", next.cert.id.Short(), "why", next.why, "detail", next.detail)
	}
}
