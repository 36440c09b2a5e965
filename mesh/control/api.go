package control

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control/p2p"
)

// Connect returns when there is a proven connection to the member, which is dialled by all addresses that are known if there is none.
func (c *Control) Connect(ctx context.Context, id mesh.NodeID) error { return c.connect(ctx, id, nil) }

// ConnectAddr is Connect by one address only: the remote address of a path that ICE has opened.
func (c *Control) ConnectAddr(ctx context.Context, id mesh.NodeID, addr netip.AddrPort) error {
	return c.connect(ctx, id, []netip.AddrPort{addr})
}

// connect dials and waits for the proof. A nil addrs: what the View and the book know.
func (c *Control) connect(ctx context.Context, id mesh.NodeID, addrs []netip.AddrPort) error {
	if conn := c.provenConn(id); conn != nil {
		conn.Use()
		return nil
	}
	m, ok := c.cfg.Directory.View().Member(id)
	if !ok {
		return fmt.Errorf("connecting to %s: it is no member of this network", id.Short())
	}
	if addrs == nil {
		addrs = c.book.addrs(m)
	}
	conn, err := c.host.Dial(ctx, id, addrs)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", m.Name, err)
	}
	conn.Use()
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	if err := conn.WaitProven(ctx); err != nil {
		return fmt.Errorf("connecting to %s at %v: %w", m.Name, conn.Remote(), err)
	}
	return c.listed(ctx, conn)
}

// listed waits until the loop has taken a proven connection into the table, so that whoever connected can use it.
func (c *Control) listed(ctx context.Context, conn *p2p.Conn) error {
	news, stop := c.watch.add()
	defer stop()
	for c.provenConn(conn.ID()) == nil {
		select {
		case <-news:
		case <-conn.Context().Done():
			return fmt.Errorf("connecting to %s: the connection did not last: %w", conn.ID().Short(), context.Cause(conn.Context()))
		case <-ctx.Done():
			return fmt.Errorf("connecting to %s: %w", conn.ID().Short(), ctx.Err())
		}
	}
	return nil
}

// Path says that packets from addr reach us and ours reach the member there (ICE has selected the pair); an invalid addr: no longer. It
// is dialled when the member is needed, and lets the mesh survive the loss of its last reachable member.
func (c *Control) Path(id mesh.NodeID, addr netip.AddrPort) {
	if !c.known(id) {
		return
	}
	c.book.setPath(id, addr)
	if !addr.IsValid() {
		id = mesh.NodeID{}
	}
	c.events.put(evNear{id})
}

// foundOnLAN takes in what multicast has found.
func (c *Control) foundOnLAN(id mesh.NodeID, addrs []netip.AddrPort) {
	if c.known(id) && c.book.found(id, addrs) {
		c.log.Debug("found a member on the LAN", "node", id.Short(), "addresses", addrs)
		c.events.put(evNear{id})
	}
}

// NetworkChanged takes in the news of nat/netmon: members that could not be reached are tried again, connections are checked at once,
// and discovery on the LAN starts anew on these links.
func (c *Control) NetworkChanged(links []Link) {
	c.events.put(evNetwork{slices.Clone(links)})
}

// Connections returns the proven connections, by ID.
func (c *Control) Connections() []Connection {
	list := c.table.Load().list
	out := make([]Connection, 0, len(list))
	for _, l := range list {
		out = append(out, l.connection())
	}
	slices.SortFunc(out, func(a, b Connection) int { return a.ID.Compare(b.ID) })
	return out
}

// Watch returns a channel that holds the newest connections whenever one was made or has ended, and how to end that.
func (c *Control) Watch() (<-chan []Connection, func()) { return c.watch.add() }

// Via returns the members that hold a connection to this node and that others can reach: its forwarders, those kept first, then the
// nearest. Their heartbeats are answered.
func (c *Control) Via() []mesh.NodeID {
	v := c.cfg.Directory.View()
	var out []Connection
	for _, l := range c.table.Load().list {
		if m, ok := v.Member(l.id); ok && m.Reachable && l.kept.Load() && !l.late.Load() {
			out = append(out, l.connection())
		}
	}
	slices.SortFunc(out, func(a, b Connection) int { return cmp.Or(cmp.Compare(a.RTT, b.RTT), a.ID.Compare(b.ID)) })
	ids := make([]mesh.NodeID, len(out))
	for i, o := range out {
		ids[i] = o.ID
	}
	return ids
}

// Refused returns the members that did not accept this node's proof when it last met them, and why.
func (c *Control) Refused() map[mesh.NodeID]string { return c.refused.prune(c.cfg.Directory.View()) }

// Skew returns how far each member's clock is ahead of ours, as its last hello showed; half a round trip too small.
func (c *Control) Skew() map[mesh.NodeID]time.Duration { return c.skews.prune(c.cfg.Directory.View()) }
