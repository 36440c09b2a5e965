package control

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control/policy"
)

// Events for the loop.
type (
	evProven struct{ l *link }
	evEnded  struct {
		l   *link
		why error
	}
	evRefused struct { // a proof failed on a connection that this side dialled
		id  mesh.NodeID
		err error
	}
	evFailed struct { // a dial of the policy failed
		id  mesh.NodeID
		err error
	}
	evNews    struct{}                   // something was gossiped: links too young to be in GossipSub's mesh may have missed it
	evLearned struct{ from mesh.NodeID } // an exchange with this member brought news
	evNear    struct{ id mesh.NodeID }   // a way to this member was found; with a zero ID, lost
	evNetwork struct{ links []Link }
)

const (
	membersEvery = 500 * time.Millisecond // a heal changes the View thousands of times; the policy looks at it this often
	nearSoon     = 50 * time.Millisecond  // collects paths: ICE opens many at once
	young        = 3 * time.Second        // GossipSub has grafted a new peer by then
	relearn      = 300 * time.Millisecond // collects news from several exchanges
	linger       = 2 * time.Second        // of a second connection to the same member, for the streams on it
	nudgeEvery   = time.Minute            // names all peers to GossipSub again, which costs no packet
	syncEvery    = 10 * time.Minute       // with one member, in turn; and a second more for each member, because digests grow
)

// loop owns the table of proven connections and the policy.
func (c *Control) loop(ctx context.Context) {
	views, stop := c.cfg.Directory.Watch()
	defer stop()
	o := &owner{
		c: c, ctx: ctx, policy: policy.New(c.host.ID()),
		links: make(map[mesh.NodeID]*link), spares: make(map[mesh.NodeID][]*link),
		resyncs: make(map[mesh.NodeID]time.Time),
	}
	if c.cfg.Links != nil {
		o.network(c.cfg.Links())
	}
	o.members(time.Now())
	o.nudge, o.exchange = time.Now().Add(nudgeEvery), time.Now().Add(syncEvery)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Until(o.next()))
		select {
		case <-ctx.Done():
			return
		case v := <-views:
			o.enforce(v)
			o.look(o.membersLast.Add(membersEvery))
		case <-c.events.ready:
			for _, ev := range c.events.take() {
				o.handle(ev)
			}
		case <-timer.C:
		}
		o.due(time.Now())
	}
}

// owner is the loop's state.
type owner struct {
	c      *Control
	ctx    context.Context
	policy *policy.Policy
	links  map[mesh.NodeID]*link
	spares map[mesh.NodeID][]*link // further proven connections, until whoever dialled them closes them

	membersAt   time.Time // when to look at the View again; zero: it has not changed
	membersLast time.Time
	resyncs     map[mesh.NodeID]time.Time // with whom to compare records again, and when
	newsAt      time.Time                 // when something was gossiped last
	nudge       time.Time
	exchange    time.Time
	turn        int
}

func (o *owner) next() time.Time {
	t := o.nudge
	for _, other := range []time.Time{o.exchange, o.membersAt, o.policy.Next()} {
		if !other.IsZero() && other.Before(t) {
			t = other
		}
	}
	for _, at := range o.resyncs {
		if at.Before(t) {
			t = at
		}
	}
	return t
}

// due does what its time has come for.
func (o *owner) due(now time.Time) {
	if !o.membersAt.IsZero() && !now.Before(o.membersAt) {
		o.members(now)
	}
	o.resync(now)
	if !now.Before(o.nudge) {
		o.nudge = now.Add(nudgeEvery)
		for id := range o.links {
			o.tellGossip(id)
		}
	}
	if !now.Before(o.exchange) {
		members := time.Duration(o.c.cfg.Directory.View().Len())
		o.exchange = now.Add(syncEvery + members*time.Second)
		o.syncNext()
	}
	if next := o.policy.Next(); !next.IsZero() && !now.Before(next) {
		for id, l := range o.links {
			o.policy.Step(policy.Used{ID: id, At: l.conn.LastUse()}, now)
		}
		o.step(policy.Tick{}, now)
	}
}

// look makes the policy see who there is at that time, if not before.
func (o *owner) look(at time.Time) {
	if o.membersAt.IsZero() || at.Before(o.membersAt) {
		o.membersAt = at
	}
}

func (o *owner) handle(ev any) {
	now := time.Now()
	switch e := ev.(type) {
	case evProven:
		o.proven(e.l, now)
	case evEnded:
		o.ended(e.l, e.why, now)
	case evRefused:
		o.refused(e.id, e.err)
	case evFailed:
		if o.links[e.id] == nil {
			o.c.log.Debug("could not connect to a member", "node", e.id.Short(), "err", e.err)
			o.step(policy.Failed{ID: e.id}, now)
		}
	case evNews:
		o.newsAt = now
		for _, l := range o.links {
			soon := now.Add(relearn)
			if at, planned := o.resyncs[l.id]; now.Before(l.proven.Add(young)) && (!planned || soon.Before(at)) {
				o.resyncs[l.id] = soon
			}
		}
	case evLearned:
		for id := range o.links {
			if _, planned := o.resyncs[id]; !planned && id != e.from {
				o.resyncs[id] = now.Add(relearn)
			}
		}
	case evNear:
		o.step(policy.Found{ID: e.id}, now)
		o.look(now.Add(nearSoon))
	case evNetwork:
		o.network(e.links)
		o.membersAt = now
		o.c.host.CloseUnproven(o.c.known, errMoved)
		o.step(policy.NetworkChanged{}, now)
		for _, l := range o.links {
			l.check()
		}
	}
}

// refused says so when a member does not accept this node, once for each reason.
func (o *owner) refused(id mesh.NodeID, err error) {
	var r *RefusedError
	if !errors.As(err, &r) {
		return
	}
	if old := o.c.refused.set(id, r.Reason); gist(old) != gist(r.Reason) {
		o.c.log.Warn("a member does not accept this node", "node", id.Short(), "reason", r.Reason)
	}
}

// gist is a sentence without its numbers: many say what time it is.
func gist(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

// proven takes in a new connection. Of two to the same member one stays: both sides must choose the same one.
func (o *owner) proven(l *link, now time.Time) {
	if l.conn.Context().Err() != nil {
		return // its end is told next, and finds no link
	}
	old := o.links[l.id]
	if old != nil && !supersedes(o.c.host.ID(), l, old) {
		o.retire(l)
		return
	}
	o.links[l.id] = l
	o.c.skews.set(l.id, l.skew)
	o.publish()
	if old == nil {
		o.step(policy.Up{ID: l.id}, now)
	} else {
		l.keep(time.Duration(old.interval.Load()))
		o.retire(old)
	}
	o.c.log.Debug("connected to a member", "node", l.id.Short(), "remote", l.conn.Remote(), "inbound", l.conn.Inbound())
	o.c.refused.forget(l.id)
	o.tellGossip(l.id)
	if now.Sub(o.newsAt) < young {
		o.resyncs[l.id] = now.Add(young)
	}
}

// supersedes reports whether a new connection replaces an old one. When both sides dialled at about the same time, that of the smaller
// ID stays. Else whoever dialled had a reason to: it no longer reached the other side on the old one.
func supersedes(self mesh.NodeID, fresh, old *link) bool {
	simultaneous := fresh.conn.Since().Sub(old.conn.Since()).Abs() < 5*time.Second
	if simultaneous && fresh.conn.Inbound() != old.conn.Inbound() {
		return fresh.conn.Inbound() == (fresh.id.Compare(self) < 0)
	}
	return true
}

// errSuperseded is why one of two connections to the same member ends.
var errSuperseded = errors.New("there is another connection to the same member")

// retire puts a connection aside. Whoever dialled it closes it, after the streams on it had time to end; the other side waits for that.
// Otherwise two connections that one dial gave by two addresses, and that the two sides saw in different order, would both be closed.
func (o *owner) retire(l *link) {
	l.keep(0)
	o.spares[l.id] = append(o.spares[l.id], l)
	if l.conn.Inbound() {
		return
	}
	o.c.work.run(func() {
		t := time.NewTimer(linger)
		defer t.Stop()
		select {
		case <-t.C:
		case <-l.conn.Context().Done():
		case <-o.ctx.Done():
		}
		l.conn.Close(errSuperseded)
	})
}

func (o *owner) ended(l *link, why error, now time.Time) {
	spares := slices.DeleteFunc(o.spares[l.id], func(s *link) bool { return s == l || s.conn.Context().Err() != nil })
	if len(spares) == 0 {
		delete(o.spares, l.id)
	} else {
		o.spares[l.id] = spares
	}
	switch {
	case o.links[l.id] != l:
		o.tellGossip(l.id) // its streams may have been on the one that ended
	case len(spares) > 0: // the other side has decided for that one
		next := spares[len(spares)-1]
		o.spares[l.id] = spares[:len(spares)-1]
		o.links[l.id] = next
		next.keep(time.Duration(l.interval.Load()))
		o.publish()
		o.tellGossip(l.id)
	default:
		delete(o.links, l.id)
		o.publish()
		o.c.log.Debug("no longer connected to a member", "node", l.id.Short(), "why", why)
		o.step(policy.Down{ID: l.id}, now)
	}
}

// enforce closes the connections of those that are no members any more.
func (o *owner) enforce(v *mesh.View) {
	for id, l := range o.links {
		if _, ok := v.Member(id); ok {
			continue
		}
		l.conn.Close(errNoMember)
		for _, s := range o.spares[id] {
			s.conn.Close(errNoMember)
		}
	}
}

// errNoMember is why a connection ends whose other side was revoked, has left or let its certificate expire.
var errNoMember = errors.New("it is no longer a member")

// members tells the policy and the door who there is.
func (o *owner) members(now time.Time) {
	o.membersAt, o.membersLast = time.Time{}, now
	v := o.c.cfg.Directory.View()
	o.enforce(v)
	o.c.book.prune(v)
	o.c.skews.prune(v)
	o.c.refused.prune(v)
	welcome := make(map[netip.Addr]bool)
	ev := policy.Members{Peers: make([]policy.Peer, 0, v.Len())}
	if me, ok := v.Me(); ok {
		ev.Reachable = me.Reachable
	}
	for m := range v.Peers() {
		for _, a := range m.Endpoints {
			welcome[a.Addr()] = true
		}
		for _, a := range m.LAN {
			welcome[a.Addr()] = true
		}
		near := o.c.book.near(m)
		ev.Peers = append(ev.Peers, policy.Peer{
			ID: m.ID, Reachable: m.Reachable && len(m.Endpoints) > 0, Near: near,
			Dialable: near || len(m.Endpoints)+len(m.LAN) > 0,
		})
	}
	for _, l := range o.links {
		welcome[l.conn.Remote().Addr()] = true
	}
	o.c.host.Welcome(welcome)
	o.step(ev, now)
}

func (o *owner) network(links []Link) {
	o.c.book.setLinks(links)
	if o.c.lan != nil {
		o.c.lan.Changed(links)
	}
}

// step asks the policy and does what it says.
func (o *owner) step(ev policy.Event, now time.Time) {
	for _, a := range o.policy.Step(ev, now) {
		l := o.links[a.ID]
		switch {
		case a.Verb == policy.Dial:
			o.dial(a.ID)
		case l == nil:
		case a.Verb == policy.Keep && a.Fast:
			l.keep(fastBeat)
		case a.Verb == policy.Keep:
			l.keep(slowBeat)
		case a.Verb == policy.Release:
			l.keep(0)
		case a.Verb == policy.Close:
			l.conn.Close(errIdle)
		}
	}
}

// errIdle is why a connection ends that nobody needs.
var errIdle = errors.New("it was idle")

func (o *owner) dial(id mesh.NodeID) {
	o.c.work.run(func() {
		if err := o.c.connect(o.ctx, id, nil); err != nil {
			o.c.events.put(evFailed{id, err})
		}
	})
}

// publish makes the table visible.
func (o *owner) publish() {
	t := newTable(o.links)
	o.c.table.Store(t)
	o.c.watch.tell(o.c.Connections())
}

// tellGossip names a proven peer to GossipSub. To one that it has this is nothing; to one that it gave up, a new start.
func (o *owner) tellGossip(id mesh.NodeID) {
	if g := o.c.gossip.Load(); g != nil && o.links[id] != nil {
		g.Proven(id)
	}
}

func (o *owner) resync(now time.Time) {
	for id, at := range o.resyncs {
		if now.Before(at) {
			continue
		}
		l := o.links[id]
		if l != nil && l.syncing.Load() {
			o.resyncs[id] = now.Add(relearn) // that one's digest may be older than the news
			continue
		}
		delete(o.resyncs, id)
		if l != nil {
			o.c.work.run(func() { exchange{o.c}.sync(l) })
		}
	}
}

// syncNext compares records with one of the members, for what GossipSub may have lost.
func (o *owner) syncNext() {
	list := o.c.table.Load().list
	if len(list) == 0 {
		return
	}
	o.turn++
	l := list[o.turn%len(list)]
	o.c.work.run(func() { exchange{o.c}.sync(l) })
}
