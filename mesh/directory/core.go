package directory

import (
	"bytes"
	"container/heap"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/benbjohnson/immutable"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
)

// Limits of what is kept.
const (
	MaxRecords = 20000 // members, four times what a network is built for
	maxIssuers = 256   // issuer certificates; only the root's key makes them
	// KeepExpired is how long the record of a member whose certificate has expired is kept: it is listed as gone, and comes back at
	// once when it renews.
	KeepExpired = 7 * 24 * time.Hour
)

// Why says why somebody whose record is known is no member.
type Why string

// The reasons. An entry that is in the View has none.
const (
	WhyRevoked Why = "revoked"
	WhyLeft    Why = "left"
	WhyExpired Why = "expired"
)

// entry is a record and what was made of it. Immutable, so that snapshots can share it.
type entry struct {
	*record
	why    Why       // "": it counts
	detail string    // why, for people
	when   time.Time // since when
	due    time.Time // the next moment at which time alone changes something
	hours  int       // what its time says about our clock, see trust
	timed  bool      // hours says something
}

// witness reports whether the entry's time counts. That must not depend on the time.
func (e *entry) witness() bool { return e != nil && e.timed && e.why != WhyRevoked }

// live returns the certificate if the entry counts.
func (e *entry) live() *cert {
	if e == nil || e.why != "" {
		return nil
	}
	return e.cert
}

type entries = immutable.Map[mesh.NodeID, *entry]

// core is the directory's state: a plain function of the set of items seen and of the time, whatever order they came in. It has no
// clock, goroutine, file or log.
type core struct {
	root      *pki.Root
	self      mesh.NodeID
	trust     *trust
	swept     time.Time // trusted time of the last sweep
	past      time.Time // the latest moment that sweeps have passed: if time falls behind it, all is judged again
	view      *mesh.View
	entries   *entries
	resources resources
	byIssuer  map[mesh.KeyID]touched // members by the signer of their certificate
	bySerial  map[certKey]touched    // and by its serial number: one, unless an issuer used a number twice
	issuers   map[[sha256.Size]byte]*issuer
	lists     lists
	revoked   *revocations
	waiting   waiting
	conflicts map[mesh.NodeID]Conflict
	schedule  schedule
	devices   devices
}

func newCore(root *pki.Root, self mesh.NodeID, now time.Time) *core {
	c := &core{
		root: root, self: self, trust: newTrust(now), view: mesh.NewView(root.Network, self),
		entries: immutable.NewMap[mesh.NodeID, *entry](idHasher{}), resources: newResources(),
		byIssuer: make(map[mesh.KeyID]touched), bySerial: make(map[certKey]touched),
		issuers: make(map[[sha256.Size]byte]*issuer), lists: make(lists), revoked: newRevocations(root.KeyID(), nil),
		conflicts: make(map[mesh.NodeID]Conflict), devices: newDevices(),
	}
	c.swept = c.trust.now(now)
	return c
}

// event is one of: *record, *issuer, *list, heldList, deviceItem, tick.
type event any

// tick lets time pass.
type tick struct{}

// actions is what the owner has to do after a step, beside publishing a snapshot.
type actions struct {
	verdict Verdict
	err     error
	dirty   kinds  // what must be saved
	changed bool   // something that is not saved changed: conflicts
	notes   []note // what to log
}

// kinds are the four files of a directory.
type kinds struct{ records, revocations, issuers, devices bool }

func (k kinds) or(o kinds) kinds {
	return kinds{k.records || o.records, k.revocations || o.revocations, k.issuers || o.issuers, k.devices || o.devices}
}

// durable reports whether one of those changed that must be on disk before anybody is told.
func (k kinds) durable() bool { return k.revocations || k.issuers || k.devices }

func allKinds() kinds { return kinds{true, true, true, true} }

// note is a change of state to be logged.
type note struct {
	warn bool
	text string
	args []any
}

func (a *actions) note(text string, args ...any) {
	a.notes = append(a.notes, note{text: text, args: args})
}
func (a *actions) warn(text string, args ...any) {
	a.notes = append(a.notes, note{warn: true, text: text, args: args})
}

// step applies one event at the system time now.
func (c *core) step(ev event, now time.Time) actions {
	a := actions{verdict: Stale}
	c.sweep(now, &a)
	switch ev := ev.(type) {
	case *record:
		c.applyRecord(ev, now, &a)
	case *issuer:
		c.applyIssuer(ev, &a)
	case *list:
		c.applyList(ev, &a)
	case heldList:
		c.hold(ev, &a)
	case deviceItem:
		deviceRules{c}.apply(ev.record, &a)
	}
	c.sweep(now, &a) // a record may have told us that it is later than we thought
	return a
}

func (c *core) applyRecord(r *record, now time.Time, a *actions) {
	held, known := c.entries.Get(r.cert.id)
	switch {
	case known && held.hash == r.hash:
		return
	case c.swept.After(r.cert.notAfter.Add(KeepExpired)):
		a.verdict, a.err = Invalid, fmt.Errorf("record of %s: its certificate expired on %s, more than %d days ago", r.cert.name,
			r.cert.notAfter.Format(time.RFC3339), int(KeepExpired.Hours()/24))
		return
	case !known && c.entries.Len() >= MaxRecords:
		a.verdict, a.err = Invalid, fmt.Errorf("record of %s: the directory is full, it holds %d members", r.cert.name, MaxRecords)
		return
	}
	c.learn(r.cert.issuer, a)
	held, known = c.entries.Get(r.cert.id) // a list that waited for the issuer may have changed it
	if known && r.contradicts(held.record) {
		c.conflict(r, held.record, now, a)
	}
	if known && !r.outranks(held.record) {
		return
	}
	r = c.intern(r)
	next := c.judge(r)
	if c.self != r.cert.id {
		next.hours, next.timed = c.trust.hoursOf(r.time, now), !r.time.After(r.cert.notAfter)
	}
	c.put(held, next, a)
	if c.self == r.cert.id {
		c.trust.certified(r.cert.issued, now)
	}
	a.dirty.records = true
	if next.why == "" || next.why == WhyLeft {
		a.verdict = Accepted
	}
}

// intern lets all records by one issuer certificate share it.
func (c *core) intern(r *record) *record {
	held, ok := c.issuers[r.cert.issuer.sum]
	if !ok || held == r.cert.issuer {
		return r
	}
	shared, own := *r.cert, *r
	shared.issuer = held
	own.cert = &shared
	return &own
}

// judge says whether a record counts, at the time of the last sweep.
func (c *core) judge(r *record) *entry {
	e := &entry{record: r, due: r.cert.notAfter.Add(1)} // the last moment belongs to the certificate's life (RFC 5280, 4.1.2.5)
	expired := !c.swept.Before(e.due)
	v, revoked := c.revoked.member(r.cert.id, r.cert.issuer.Issuer, r.cert.serial)
	switch {
	case revoked:
		e.why, e.detail, e.when = WhyRevoked, v.why, v.at
	case r.tombstone:
		e.why, e.detail, e.when = WhyLeft, "it left", r.time
	case expired:
		e.why, e.detail, e.when = WhyExpired, "its certificate expired", r.cert.notAfter
	}
	if expired {
		e.due = r.cert.notAfter.Add(KeepExpired + 1)
	}
	return e
}

// known returns what is known of a node or a device.
func (c *core) known(id mesh.NodeID) (*entry, bool) {
	if e, ok := c.entries.Get(id); ok {
		return e, true
	}
	return c.devices.entries.Get(id)
}

// rejudge judges a known record again. It drops the record when its time is over.
func (c *core) rejudge(id mesh.NodeID, a *actions) {
	held, ok := c.known(id)
	if !ok {
		return
	}
	if c.swept.After(held.cert.notAfter.Add(KeepExpired)) {
		c.put(held, nil, a)
		a.dirty = a.dirty.or(kinds{records: held.device == nil, devices: held.device != nil})
		return
	}
	next := c.judge(held.record)
	next.hours, next.timed = held.hours, held.timed
	c.put(held, next, a)
}

// put replaces held (nil: nothing) by next (nil: nothing) and brings indexes and View up to date.
func (c *core) put(held, next *entry, a *actions) {
	t := make(touched)
	if held != nil {
		t.add(held.cert)
	}
	if next != nil {
		t.add(next.cert)
	}
	c.index(held, next)
	if old, live := held.live(), next.live(); old != live {
		if old != nil {
			c.resources.remove(old, t)
		}
		if live != nil {
			c.resources.add(live, t)
		}
	}
	c.set(held, next)
	if next != nil {
		if end := next.cert.notAfter.Add(1); !c.swept.Before(end) && end.After(c.past) {
			c.past = end // it came when it had expired already: no appointment said so
		}
		if held == nil || !held.due.Equal(next.due) {
			heap.Push(&c.schedule, appointment{next.due, next.cert.id})
		}
	}
	for id := range t {
		c.place(id)
	}
	c.tell(held, next, a)
}

// set puts next in held's place.
func (c *core) set(held, next *entry) {
	switch {
	case held != nil && held.device != nil || next != nil && next.device != nil:
		c.devices.set(held, next)
	case next == nil:
		c.entries = c.entries.Delete(held.cert.id)
		delete(c.conflicts, held.cert.id)
	default:
		c.entries = c.entries.Set(next.cert.id, next)
	}
}

// index keeps the lookup tables and the count of times.
func (c *core) index(held, next *entry) {
	if held.witness() {
		c.trust.remove(held.hours)
	}
	if next.witness() {
		c.trust.add(next.hours)
	}
	if held != nil && next != nil && held.cert == next.cert {
		return
	}
	if held != nil {
		drop(c.byIssuer, held.cert.issuer.KeyID, held.cert.id)
		drop(c.bySerial, certKey{held.cert.issuer.KeyID, held.cert.serial}, held.cert.id)
	}
	if next != nil {
		keep(c.byIssuer, next.cert.issuer.KeyID, next.cert)
		keep(c.bySerial, certKey{next.cert.issuer.KeyID, next.cert.serial}, next.cert)
	}
}

func keep[K comparable](m map[K]touched, k K, ct *cert) {
	if m[k] == nil {
		m[k] = make(touched)
	}
	m[k].add(ct)
}

func drop[K comparable](m map[K]touched, k K, id mesh.NodeID) {
	delete(m[k], id)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}

// place makes the View say what the state says about one node.
func (c *core) place(id mesh.NodeID) {
	if (deviceRules{c}).place(id) {
		return
	}
	e, _ := c.entries.Get(id)
	held, present := c.view.Member(id)
	m := c.member(e)
	switch {
	case m == nil && present:
		c.view = c.view.Without(id)
	case m != nil && (!present || !same(held, m)):
		c.view = c.view.With(m)
	}
}

// member returns what the View says about an entry: nil if it does not count, or if an older certificate has its WireGuard key or its
// block of addresses: two peers cannot share one.
func (c *core) member(e *entry) *mesh.Member {
	ct := e.live()
	if ct == nil || c.resources.wireGuard.holder(ct.wireGuard) != ct || c.resources.block.holder(ct.block) != ct {
		return nil
	}
	m := *e.template
	m.Name = c.resources.names.of(ct)
	m.Addrs = c.resources.addrs(ct)
	if iss := c.issuerOf(ct.id); iss != nil {
		m.Issuer, m.IssuerKey = true, iss.KeyID
	}
	return &m
}

// same compares what can differ between two states of one record, and the record.
func same(a, b *mesh.Member) bool {
	return a.Seq == b.Seq && a.Updated.Equal(b.Updated) && a.Serial == b.Serial && a.Boot == b.Boot && a.Name == b.Name &&
		a.Issuer == b.Issuer && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Endpoints, b.Endpoints) &&
		slices.Equal(a.LAN, b.LAN) && slices.Equal(a.Via, b.Via) && a.Reachable == b.Reachable && a.NAT == b.NAT &&
		a.Software == b.Software && a.SealKey == b.SealKey && a.IssuerID == b.IssuerID && a.WireGuard == b.WireGuard &&
		a.NotBefore.Equal(b.NotBefore) && a.NotAfter.Equal(b.NotAfter) && slices.Equal(a.Tags, b.Tags) && slices.Equal(a.Routes, b.Routes) &&
		a.Gateway == b.Gateway && slices.Equal(a.Connected, b.Connected) && slices.EqualFunc(a.Workloads, b.Workloads, sameWorkload)
}

func sameWorkload(a, b mesh.Workload) bool {
	return a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Ports, b.Ports)
}

// issuerOf returns the node's certificate as an issuer, if it may act as one now.
func (c *core) issuerOf(id mesh.NodeID) *issuer {
	var best *issuer
	for _, iss := range c.issuers { // at most maxIssuers, a handful in practice
		if iss.NodeID == id && c.mayIssue(iss) && (best == nil || bytes.Compare(iss.sum[:], best.sum[:]) < 0) {
			best = iss
		}
	}
	return best
}

func (c *core) mayIssue(iss *issuer) bool {
	_, revoked := c.revoked.issuer(iss.Issuer)
	return !revoked && !c.swept.After(iss.Cert.NotAfter)
}
