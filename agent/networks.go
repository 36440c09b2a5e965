package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/agent/networks"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/enrol"
)

const (
	networksRest  = 50 * time.Millisecond // between two choices: a heal brings hundreds of changes
	networksWatch = time.Second           // how often RTTs are compared, where there is a choice
	networksLook  = 30 * time.Second      // how often this machine's routes are read: not every change of them is news of netmon's
)

// routing connects the networks behind members, this node's own among them, with links, routes and forwarding.
type routing struct {
	n       *node
	log     *slog.Logger
	chooser *networks.Chooser
	wake    chan struct{}
	plan    atomic.Pointer[networks.Plan] // the newest, for status

	// of run:
	own     []netip.Prefix
	ownFrom *enrol.Membership
	foreign []networks.Foreign
	said    string // the newest error in the log
}

func newRouting(n *node) *routing {
	r := &routing{n: n, log: n.log.With("part", "networks"), chooser: networks.New(), wake: make(chan struct{}, 1)}
	r.plan.Store(&networks.Plan{})
	return r
}

// nudge says that a link, or this node's certificate, has changed. It never blocks.
func (r *routing) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run keeps routes, forwarding and what WireGuard lets through true until ctx ends; what it set in the system goes with the router.
func (r *routing) run(ctx context.Context) error {
	views, stopViews := r.n.dir.Watch()
	defer stopViews()
	nets, stopNets := r.n.netmon.Watch()
	defer stopNets()
	for look := time.Now(); ; {
		err := r.serveOwn()
		if others := r.others(); len(others) > 0 || len(r.plan.Load().Networks) > 0 {
			if !time.Now().Before(look) {
				err = errors.Join(err, r.lookAround())
				look = time.Now().Add(networksLook)
			}
			err = errors.Join(err, r.choose(ctx, others))
		}
		r.say(err)
		if !rest(ctx, networksRest) {
			return nil
		}
		var timer <-chan time.Time
		switch plan := r.plan.Load(); {
		case plan.Watch:
			timer = time.After(networksWatch)
		case len(plan.Networks) > 0 || err != nil:
			timer = time.After(networksLook)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-views:
		case <-nets:
			look = time.Now()
		case <-r.wake:
		case <-timer:
		}
	}
}

func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// serveOwn gives the overlay access to the networks that this node's certificate says it may route.
func (r *routing) serveOwn() error {
	m := r.n.membership.Load()
	if m == r.ownFrom {
		return nil
	}
	_, leaf, _, err := m.Leaf()
	if err != nil {
		return err
	}
	if err := r.n.router.Behind(leaf.Routes, r.n.cfg.Networks.KeepSources); err != nil {
		return err
	}
	if err := r.n.router.Forward("networks", len(leaf.Routes) > 0); err != nil {
		return err
	}
	if !slices.Equal(r.own, leaf.Routes) {
		r.log.Info("this node gives the network access to what is behind it", "networks", leaf.Routes, "sources_kept", r.n.cfg.Networks.KeepSources)
	}
	r.own, r.ownFrom = slices.Clone(leaf.Routes), m
	return nil
}

// others returns the members that route networks, without what is known of their links.
func (r *routing) others() []networks.Router {
	var out []networks.Router
	for m := range r.n.dir.View().Peers() {
		if len(m.Routes) > 0 {
			out = append(out, networks.Router{ID: m.ID, Prefixes: m.Routes})
		}
	}
	return out
}

// lookAround reads which networks this machine reaches by itself.
func (r *routing) lookAround() error {
	found, err := r.n.router.Foreign()
	if err != nil {
		return err
	}
	r.foreign = nil
	for p, device := range found {
		r.foreign = append(r.foreign, networks.Foreign{Prefix: p, Device: device})
	}
	return nil
}

func (r *routing) choose(ctx context.Context, others []networks.Router) error {
	table := r.n.links.Snapshot(ctx)
	if table == nil {
		return nil // it is the end
	}
	for i := range others {
		l := table[others[i].ID]
		others[i].Reachable, others[i].RTT = l.State == links.Connected || l.State == links.Idle, l.RTT
	}
	plan := r.chooser.Step(networks.Input{Routers: others, Own: r.own, Foreign: r.foreign, NoIPv4: r.noIPv4()}, time.Now())
	old := r.plan.Swap(&plan)
	r.report(old, &plan)
	r.n.extra.Set("networks", plan.Peers)
	return r.n.router.Route(plan.Routes)
}

func (r *routing) noIPv4() bool {
	_, leaf, _, err := r.n.membership.Load().Leaf()
	return err == nil && !slices.ContainsFunc((report{r.n}).addrs(leaf.Addrs), netip.Addr.Is4)
}

// report logs each network whose way has changed.
func (r *routing) report(old, now *networks.Plan) {
	view := r.n.dir.View()
	was := map[netip.Prefix]networks.Network{}
	for _, n := range old.Networks {
		was[n.Prefix] = n
	}
	for _, n := range now.Networks {
		w, known := was[n.Prefix]
		delete(was, n.Prefix)
		if known && w.State == n.State && w.Via == n.Via {
			continue
		}
		r.log.Info("network behind members", "prefix", n.Prefix, "state", n.State, "via", memberName(view, n.Via), "reason", n.Reason)
	}
	for p := range was {
		r.log.Info("network behind members is gone", "prefix", p)
	}
}

// say logs an error once, until it is another one.
func (r *routing) say(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != r.said {
		r.log.Warn("networks behind members are not all as they should be; trying again", "every", networksLook, "err", err)
	}
	r.said = text
}

func memberName(v *mesh.View, id mesh.NodeID) string {
	if id.IsZero() {
		return ""
	}
	if m, ok := v.Member(id); ok {
		return string(m.Name)
	}
	return "node " + id.Short()
}

// status lists the networks behind this node, then those behind others.
func (r *routing) status(view *mesh.View, self string) []api.Route {
	var out []api.Route
	var own []netip.Prefix
	if _, leaf, _, err := r.n.membership.Load().Leaf(); err == nil {
		own = leaf.Routes
	}
	for _, p := range own {
		own := api.Route{Prefix: p.String(), State: "own", Via: self, Routers: []string{self}}
		if p.Addr().Is4() && r.noIPv4() {
			own.State, own.Reason = string(networks.Off), "IPv4 is off on this machine, so members' packets to it cannot be answered"
		}
		out = append(out, own)
	}
	for _, n := range r.plan.Load().Networks {
		var routers []string
		for _, id := range n.Routers {
			routers = append(routers, memberName(view, id))
		}
		if i := slices.Index(own, n.Prefix); i >= 0 {
			out[i].Routers = append(out[i].Routers, routers...)
			continue
		}
		out = append(out, api.Route{Prefix: n.Prefix.String(), State: string(n.State), Via: memberName(view, n.Via), Routers: routers, Reason: n.Reason})
	}
	return out
}
