package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/explain"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/agent/logring"
	"github.com/gridwire/gridwire/agent/metrics"
	"github.com/gridwire/gridwire/agent/story"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/nat"
)

// diagnosis answers what is asked when something does not work. Logs need no membership.
func (a *Agent) diagnosis() api.Diagnosis {
	return api.Diagnosis{
		Netcheck: member0(a, diagnoser.netcheck),
		Explain:  member1(a, diagnoser.explain),
		Logs: func(context.Context) (*api.Logs, error) {
			lines, dropped := a.logs.Lines()
			return &api.Logs{Lines: lines, Dropped: dropped}, nil
		},
		Metrics: member0(a, diagnoser.metrics),
		Config: func(context.Context) (*api.Text, error) {
			cfg := *a.cfg
			if cfg.Token != "" {
				cfg.Token = "[removed]"
			}
			return &api.Text{Text: strings.ReplaceAll(fmt.Sprintf("%+v", cfg), " ", "\n")}, nil
		},
	}
}

// keepLines makes a logger whose newest lines can be asked for.
func keepLines(log *slog.Logger) (*slog.Logger, *logring.Ring) {
	ring := logring.New()
	return slog.New(ring.Handler(log.Handler())), ring
}

// diagnoser gathers what explain and netcheck tell. It changes nothing.
type diagnoser struct{ *node }

// metrics scrapes as Prometheus does.
func (n diagnoser) metrics(ctx context.Context) (*api.Text, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	var page collected
	metrics.Handler(report(n).scrape).ServeHTTP(&page, req)
	return &api.Text{Text: page.String()}, nil
}

// collected is a page that was served to nobody.
type collected struct{ strings.Builder }

// Header implements http.ResponseWriter.
func (*collected) Header() http.Header { return http.Header{} }

// WriteHeader implements http.ResponseWriter.
func (*collected) WriteHeader(int) {}

// askLimit bounds a fresh round of questions to other members: retransmissions to the silent (about 3 s) and the test of reachability.
const askLimit = 8 * time.Second

func (n diagnoser) netcheck(ctx context.Context) (*api.Netcheck, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	r := n.reach.prober.Ask(ctx)
	local, port := n.localAddrs(), n.base.tun.Port()
	words := explain.NAT(r, local, port, len(n.cfg.Advertise) > 0, n.dir.View().Len()-1)
	out := &api.Netcheck{
		NAT: string(r.Type), Mapping: words.Mapping, Filtering: words.Filtering, Port: port, Reachable: r.Reachable || len(n.cfg.Advertise) > 0,
		Local: []string{}, Mapped: []string{}, Advertised: orEmpty(n.cfg.Advertise), IPv6Works: words.IPv6Works, UDPBlocked: r.Type == nat.Blocked,
		Servers: []api.NetcheckServer{}, Members: []api.NetcheckLatency{}, Control: []api.ControlConn{}, Meaning: words.Meaning, Advice: orEmpty(words.Advice),
	}
	if !r.At.IsZero() {
		out.Asked = &r.At
	}
	for _, a := range local {
		out.Local = append(out.Local, a.String())
		out.IPv6 = out.IPv6 || a.Is6() && a.IsGlobalUnicast() && !a.IsPrivate()
	}
	for _, a := range r.Mapped {
		out.Mapped = append(out.Mapped, a.String())
	}
	table := n.links.Snapshot(context.WithoutCancel(ctx))
	for _, m := range r.Mappings {
		out.Servers = append(out.Servers, api.NetcheckServer{Name: n.at(m.Server, table), Address: m.Server.String(), Mapped: m.Mapped.String(), RTT: m.RTT.Seconds()})
	}
	for _, a := range r.Silent {
		out.Servers = append(out.Servers, api.NetcheckServer{Name: n.at(a, table), Address: a.String(), Silent: true})
	}
	for _, c := range n.control.Connections() {
		out.Control = append(out.Control, api.ControlConn{Name: n.nameOf(c.ID), Remote: c.Remote.String(), RTT: c.RTT.Seconds()})
	}
	out.Members = n.latencies(table)
	return out, nil
}

// latencies lists the members, the nearest first, those without a link last.
func (n diagnoser) latencies(table map[mesh.NodeID]links.Status) []api.NetcheckLatency {
	out := []api.NetcheckLatency{}
	for p := range n.dir.View().Peers() {
		l := table[p.ID]
		row := api.NetcheckLatency{Name: string(p.Name), State: cmp.Or(string(l.State), string(links.Connecting))}
		if l.State == links.Connected {
			row.RTT = l.RTT.Seconds()
		}
		out = append(out, row)
	}
	slices.SortFunc(out, func(a, b api.NetcheckLatency) int {
		if (a.RTT == 0) != (b.RTT == 0) {
			return cmp.Compare(b.RTT, a.RTT)
		}
		return cmp.Or(cmp.Compare(a.RTT, b.RTT), strings.Compare(a.Name, b.Name))
	})
	return out
}

func (n diagnoser) nameOf(id mesh.NodeID) string {
	if m, ok := n.dir.View().Member(id); ok {
		return string(m.Name)
	}
	return id.Short()
}

// at returns the name of the member that is reached at addr, or nothing.
func (n diagnoser) at(addr netip.AddrPort, table map[mesh.NodeID]links.Status) string {
	for p := range n.dir.View().Peers() {
		if slices.Contains(p.Endpoints, addr) || slices.Contains(p.LAN, addr) || table[p.ID].Path.Remote == addr {
			return string(p.Name)
		}
	}
	for _, c := range n.control.Connections() {
		if c.Remote == addr {
			return n.nameOf(c.ID)
		}
	}
	return ""
}

func (n diagnoser) explain(ctx context.Context, r api.NameRequest) (*api.Explain, error) {
	m, err := admin(n).find(r.Name)
	if err != nil {
		if e := n.gone(r.Name); e != nil {
			return e, nil
		}
		return nil, err
	}
	if m.ID == n.membership.Load().ID() {
		return nil, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%s is this machine itself: gridwire status and gridwire netcheck tell about it", m.Name)}
	}
	n.lookAgain(ctx, m.ID)
	l, tale := n.links.Snapshot(ctx)[m.ID], n.story.Link(m.ID)
	peer := peerStatus(m, l)
	peer.MTU = n.pmtu.Paths()[m.ID].MTU
	out := &api.Explain{
		Peer: peer, Standing: "member", SelfNAT: string(n.reach.prober.Report().Type), PeerNAT: string(l.PeerNAT),
		Pairs: []api.Pair{}, Changes: changes(tale.Changes),
	}
	if !tale.Since.IsZero() {
		out.Since = &tale.Since
	}
	if seen := n.lastSeen(m, l, tale.Changes); !seen.IsZero() {
		out.LastSeen = &seen
	}
	for _, p := range l.Pairs {
		out.Pairs = append(out.Pairs, api.Pair{
			Local: p.Local.Addr.String(), LocalType: string(p.Local.Type), Remote: p.Remote.Addr.String(), RemoteType: string(p.Remote.Type),
			State: string(p.State), Nominated: p.Nominated, Sent: p.RequestsSent, Answered: p.ResponsesGot,
		})
	}
	exchange := tale.Newest
	switch {
	case tale.Worked != nil && l.State == links.Connected:
		exchange = *tale.Worked
	case tale.Before != nil && exchange.Outcome == "": // a new attempt has just begun and tells nothing yet
		exchange = *tale.Before
	}
	if !exchange.Began.IsZero() {
		out.Exchange = n.exchange(m.ID, exchange)
	}
	f := n.facts(m, l, tale)
	if out.LastSeen != nil {
		f.LastSeen = *out.LastSeen
	}
	f.State = peer.State
	out.Meaning, out.Advice = explain.Words(f)
	out.Advice = orEmpty(out.Advice)
	return out, nil
}

// lookAgain asks how this machine looks from outside where a link is down and no member is connected: the fault is most likely here, and what was
// found out minutes ago is no help.
func (n diagnoser) lookAgain(ctx context.Context, peer mesh.NodeID) {
	up := n.links.Snapshot(ctx)[peer].State == links.Connected
	if up || len(n.control.Connections()) > 0 || n.dir.Now().Sub(n.reach.prober.Report().At) < fresh {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit/2)
	defer cancel()
	n.reach.prober.Ask(ctx)
}

// fresh is for how long a report stands without being asked for anew.
const fresh = 10 * time.Second

// gone tells about somebody who was a member, or returns nil.
func (n diagnoser) gone(name string) *api.Explain {
	label := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(name), "."), "."+n.root.Network.Domain)
	for _, g := range n.dir.Gone() {
		if string(g.Name) != label {
			continue
		}
		out := &api.Explain{
			Peer:     api.Peer{Name: label, ID: g.ID.String(), Addresses: []string{}, Tags: []string{}, State: string(links.Unreachable), Reason: g.Detail, Path: api.Path{Kind: "none"}},
			Standing: string(g.Why), SelfNAT: string(n.reach.prober.Report().Type), Pairs: []api.Pair{}, Changes: []api.Change{},
		}
		out.Meaning, out.Advice = explain.Words(explain.Facts{Peer: explain.Side{Name: label}, Standing: string(g.Why), When: g.When})
		return out
	}
	return nil
}

// lastSeen is the newest sign of life of a member: a packet, a handshake, a record. A control connection is none: it may be dead, and nobody
// has noticed yet.
func (n diagnoser) lastSeen(m *mesh.Member, l links.Status, changes []story.Change) time.Time {
	if l.State == links.Connected {
		return n.dir.Now()
	}
	newest := seen(m, l, n.control.Skew(), n.dir.Now())
	for _, c := range changes {
		if c.What == string(links.Connecting) && c.At.After(newest) { // it had worked until then
			newest = c.At
		}
	}
	if l.LastHandshake.After(newest) {
		newest = l.LastHandshake
	}
	return newest
}

func (n diagnoser) facts(m *mesh.Member, l links.Status, tale story.Link) explain.Facts {
	r := n.reach.prober.Report()
	peer := explain.Side{Name: string(m.Name), NAT: cmp.Or(l.PeerNAT, nat.Type(m.NAT)), Reachable: m.Reachable, Mapped: slices.Clone(m.Endpoints)}
	for _, a := range m.LAN {
		peer.Local = append(peer.Local, a.Addr())
		peer.Port = a.Port()
	}
	for _, c := range tale.Newest.Remote {
		if c.Type == nat.ServerReflexive {
			peer.Mapped = append(peer.Mapped, c.Addr)
		}
	}
	return explain.Facts{
		Self: explain.Side{
			Name: "this machine", NAT: r.Type, Reachable: r.Reachable || len(n.cfg.Advertise) > 0, Advertised: len(n.cfg.Advertise) > 0,
			Local: n.localAddrs(), Port: n.base.tun.Port(), Mapped: r.Mapped,
		},
		Peer: peer, Standing: "member", Reason: l.Reason, Remote: l.Path.Remote, LocalType: l.Path.LocalType, RemoteType: l.Path.RemoteType,
		Tried: len(l.Pairs) > 0, Connections: len(n.control.Connections()), Now: n.dir.Now(),
	}
}

func (n diagnoser) exchange(peer mesh.NodeID, e story.Exchange) *api.Exchange {
	carrier := func(by mesh.NodeID) string {
		switch by {
		case mesh.NodeID{}:
			return ""
		case peer:
			return "directly"
		}
		return n.nameOf(by)
	}
	out := &api.Exchange{
		Began: e.Began, Offered: "peer", SentBy: carrier(e.SentBy), HeardBy: carrier(e.HeardBy), Outcome: e.Outcome,
		Local: candidates(e.Local), Remote: candidates(e.Remote), Steps: []api.Step{},
	}
	if e.Controlling {
		out.Offered = "self"
	}
	for _, s := range e.Steps {
		out.Steps = append(out.Steps, api.Step{After: s.At.Sub(e.Began).Seconds(), What: s.What})
	}
	return out
}

func candidates(cs []nat.Candidate) []api.Candidate {
	out := []api.Candidate{}
	for _, c := range cs {
		out = append(out, api.Candidate{Type: string(c.Type), Address: c.Addr.String()})
	}
	return out
}

func changes(cs []story.Change) []api.Change {
	out := []api.Change{}
	for _, c := range cs {
		row := api.Change{At: c.At, What: c.What, Reason: c.Why}
		if c.Path.Kind == "direct" {
			row.Path = addrText(c.Path.Remote)
		}
		out = append(out, row)
	}
	return out
}
