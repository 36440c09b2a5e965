package agent

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/agent/route"
	"github.com/gridwire/gridwire/agent/workload"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control"
	"github.com/gridwire/gridwire/mesh/signal"
	"github.com/gridwire/gridwire/mesh/wire"
)

// wire carries news from one part to another. It decides nothing.
func (n *node) wire(ctx context.Context) error {
	views, stopViews := n.dir.Watch()
	defer stopViews()
	conns, stopConns := n.control.Watch()
	defer stopConns()
	nets, stopNets := n.netmon.Watch()
	defer stopNets()
	reports, stopReports := n.reach.prober.Watch()
	defer stopReports()
	ways := waysToMembers{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case v := <-views:
			n.links.Post(links.ViewChanged{View: v})
			counting{n}.viewed(v)
			n.self.nudge()
		case cs := <-conns:
			way, member := ways.newIn(cs)
			if way {
				n.links.Post(links.SignalPathChanged{})
			}
			if member {
				n.reach.prober.Trigger()
			}
			n.self.nudge()
		case <-nets:
			n.networkChanged()
		case r := <-reports:
			n.links.Post(links.NATChanged{Report: r})
			n.self.nudge()
		}
	}
}

// waysToMembers remembers when the control connection to each member was made.
type waysToMembers map[mesh.NodeID]time.Time

// newIn takes the connections there are now. way says that one is new: a signal that waits can go by it; it need not be one more, since it
// may have taken the place of one that is dead. member says that one is to a member that there was none to.
func (w waysToMembers) newIn(cs []control.Connection) (way, member bool) {
	now := make(map[mesh.NodeID]bool, len(cs))
	for _, c := range cs {
		if !c.Proven {
			continue
		}
		now[c.ID] = true
		since, known := w[c.ID]
		way = way || !known || !since.Equal(c.Since)
		member = member || !known
		w[c.ID] = c.Since
	}
	for id := range w {
		if !now[id] {
			delete(w, id)
		}
	}
	return way, member
}

func (n *node) networkChanged() {
	n.log.Info("this machine's network changed", "addresses", n.localAddrs())
	n.control.NetworkChanged(n.controlLinks())
	n.reach.prober.Trigger()
	n.links.Post(links.NetworkChanged{})
	if _, err := n.router.Recheck(); err != nil {
		n.log.Warn("could not look for an IPv4 clash again", "err", err)
	}
	n.names.nudge() // IPv4 may be off or on again
	n.names.resolver.networkChanged()
	n.self.nudge()
}

// ignoredInterface names interfaces that are no underlay: our own, which would be recursion, and those of other networks of gridwire, which
// would be too where two machines are in the same two: each network's links would look best by way of the other's.
func (n *node) ignoredInterface(name string) bool {
	return name == n.cfg.Interface || name == "lo" || strings.HasPrefix(name, "docker") || strings.HasPrefix(name, "veth") ||
		strings.HasPrefix(name, workload.InterfacePrefix(n.cfg.Interface)) ||
		route.Guarded(name)
}

// localAddrs are this machine's underlay addresses.
func (n *node) localAddrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range n.netmon.State().Addrs() {
		if n.base.overlay.ok(a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

func (n *node) localAddrPorts() []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range n.localAddrs() {
		out = append(out, netip.AddrPortFrom(a, n.base.tun.Port()))
	}
	return out
}

func (n *node) controlLinks() []control.Link {
	var out []control.Link
	for _, l := range n.netmon.State().Links {
		if l.Up {
			out = append(out, control.Link{Index: l.Index, Name: l.Name, Prefixes: l.Prefixes, Multicast: l.Multicast})
		}
	}
	return out
}

// linkReported tells the control plane where a member is reached, so that it outlives the members that strangers reach. It runs in the
// links' goroutine and must not block.
func (n *node) linkReported(r links.Report) {
	n.routing.nudge()
	switch r.State {
	case links.Connected:
		n.control.Path(r.Peer, r.Path.Remote)
		n.pmtu.CameUp(r.Peer)
	case links.Unreachable:
		n.control.Path(r.Peer, noAddr)
	}
}

func (n *node) handleEnrol(ctx context.Context, from netip.AddrPort, member bool, f *wire.EnrolFrame) *wire.EnrolResponse {
	return n.enrol.Handle(ctx, from, member, f)
}

func (n *node) handleSignal(ctx context.Context, from mesh.NodeID, f *wire.SignalFrame) *wire.SignalAck {
	return n.signal.Handle(ctx, from, f)
}

// deliver takes a signal that arrived for this node.
func (n *node) deliver(from mesh.NodeID, s *wire.Signal, delay time.Duration) {
	switch body := s.Body.(type) {
	case *wire.Signal_ReachRequest:
		n.reach.requested(from, body.ReachRequest)
	case *wire.Signal_ReachProbe:
		n.reach.probeFor(body.ReachProbe.Address, body.ReachProbe.Nonce)
	case *wire.Signal_PortRequest:
		n.reach.secondPortRequested(from, body.PortRequest.Nonce)
	case *wire.Signal_Usage:
		n.usage.received(from, body.Usage)
	case *wire.Signal_PortOffer:
		n.reach.offers.deliver(from, body.PortOffer)
	default:
		n.links.Post(links.SignalArrived{From: from, Signal: s, Delay: delay})
	}
}

// carrier shows the control plane to signalling.
type carrier struct{ *control.Control }

func (c carrier) Connections() []signal.Conn {
	var out []signal.Conn
	for _, conn := range c.Control.Connections() {
		if conn.Proven {
			out = append(out, signal.Conn{ID: conn.ID, RTT: conn.RTT, MinRTT: conn.MinRTT})
		}
	}
	return out
}
