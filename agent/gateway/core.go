package gateway

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/agent/tunnel"
	"github.com/gridwire/gridwire/mesh"
)

// aliveFor is how long after the last packet a device counts as connected: its app sends a keepalive each 25 s, and one may be lost.
const aliveFor = 65 * time.Second

// oneKeepalive is how long after the last packet a device has probably gone, if another gateway has it: then there is no doubt where it is.
const oneKeepalive = 35 * time.Second

// core is what a gateway knows. It has no tunnel, clock, goroutine or log.
type core struct {
	self    mesh.NodeID
	on      bool
	view    *mesh.View
	peers   map[mesh.WGKey][]netip.Prefix // in the tunnel now
	counted map[mesh.WGKey]count
	seen    map[mesh.WGKey]netip.AddrPort  // where devices were heard last, in this run or an earlier one
	moved   bool                           // seen has changed since it was saved
	routes  map[mesh.NodeID][]netip.Prefix // told to Config.Route
	failing bool                           // the last change of the tunnel failed, and that was logged
}

// count is when a device was heard last, as far as its counter tells.
type count struct {
	received uint64
	heard    time.Time // zero: not in this run
}

func newCore(self mesh.NodeID, view *mesh.View, seen map[mesh.WGKey]netip.AddrPort) *core {
	c := &core{self: self, view: view, peers: map[mesh.WGKey][]netip.Prefix{}, counted: map[mesh.WGKey]count{}, seen: map[mesh.WGKey]netip.AddrPort{}}
	maps.Copy(c.seen, seen)
	return c
}

// wanted returns the devices that this node serves, each with the addresses that are its own here.
func (c *core) wanted() map[mesh.WGKey][]netip.Prefix {
	out := map[mesh.WGKey][]netip.Prefix{}
	if !c.on {
		return out
	}
	for d := range c.view.Devices() {
		if p, ok := d.At(c.self); ok && len(p.Addrs) > 0 {
			out[d.WireGuard] = hostPrefixes(p.Addrs)
		}
	}
	return out
}

// changes returns what the tunnel lacks, and who has to go out of it.
func (c *core) changes() (set []tunnel.PeerConfig, remove []mesh.WGKey) {
	want := c.wanted()
	for key := range c.peers {
		if _, ok := want[key]; !ok {
			remove = append(remove, key)
		}
	}
	for key, prefixes := range want {
		if have, ok := c.peers[key]; !ok || !slices.Equal(have, prefixes) {
			p := tunnel.PeerConfig{Key: key, AllowedIPs: prefixes}
			if !ok {
				p.Endpoint = c.seen[key]
			}
			set = append(set, p)
		}
	}
	return set, remove
}

// routes returns what every member has to send to other gateways: the addresses that devices have there. A gateway that is off, or that is no
// member any more, gets nothing: what is sent to its devices fails at once instead of vanishing.
func routes(v *mesh.View) map[mesh.NodeID][]netip.Prefix {
	out := map[mesh.NodeID][]netip.Prefix{}
	for d := range v.Devices() {
		for _, p := range d.Profiles {
			if g, ok := v.Member(p.Gateway); ok && g.Gateway && g.ID != v.Self {
				out[g.ID] = append(out[g.ID], hostPrefixes(p.Addrs)...)
			}
		}
	}
	return out
}

func sameRoutes(a, b map[mesh.NodeID][]netip.Prefix) bool {
	return maps.EqualFunc(a, b, func(p, q []netip.Prefix) bool {
		for _, x := range p {
			if !slices.Contains(q, x) {
				return false
			}
		}
		return len(p) == len(q)
	})
}

func hostPrefixes(addrs []netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// count takes the tunnel's counters over.
func (c *core) count(stats map[mesh.WGKey]tunnel.PeerStats, now time.Time) {
	maps.DeleteFunc(c.counted, func(key mesh.WGKey, _ count) bool { _, ok := c.peers[key]; return !ok })
	for key := range c.peers {
		s, ok := stats[key]
		if was := c.counted[key]; !ok || s.RxBytes == was.received {
			continue
		}
		c.counted[key] = count{s.RxBytes, now}
		if s.Endpoint.IsValid() && c.seen[key] != s.Endpoint {
			c.seen[key], c.moved = s.Endpoint, true
		}
	}
}

// alive returns the devices that were heard just now, in order.
func (c *core) alive(now time.Time) []mesh.WGKey {
	out := []mesh.WGKey{}
	for key, n := range c.counted {
		if isAlive(n.heard, now) && !(c.claimed(key) && now.Sub(n.heard) > oneKeepalive) {
			out = append(out, key)
		}
	}
	slices.SortFunc(out, func(a, b mesh.WGKey) int { return bytes.Compare(a[:], b[:]) })
	return out
}

// claimed reports whether another gateway says that the device is connected there.
func (c *core) claimed(key mesh.WGKey) bool {
	d, ok := c.view.Device(mesh.DeviceID(key))
	if !ok {
		return false
	}
	return slices.ContainsFunc(d.Profiles, func(p mesh.Profile) bool {
		g, ok := c.view.Member(p.Gateway)
		return ok && g.ID != c.self && slices.Contains(g.Connected, key)
	})
}

func isAlive(heard, now time.Time) bool { return !heard.IsZero() && now.Sub(heard) < aliveFor }

// forget drops the endpoints of devices that there are no more.
func (c *core) forget() {
	maps.DeleteFunc(c.seen, func(key mesh.WGKey, _ netip.AddrPort) bool {
		_, ok := c.view.Device(mesh.DeviceID(key))
		return !ok
	})
}

// report says how the devices are that this node serves, by name.
func (c *core) report(stats map[mesh.WGKey]tunnel.PeerStats, now time.Time) []Status {
	c.count(stats, now)
	var out []Status
	for d := range c.view.Devices() {
		p, ok := d.At(c.self)
		if !ok || c.peers[d.WireGuard] == nil {
			continue
		}
		s := stats[d.WireGuard]
		st := Status{
			Device: d, Addrs: p.Addrs, Endpoint: s.Endpoint, LastHandshake: s.LastHandshake, RxBytes: s.RxBytes, TxBytes: s.TxBytes,
			Heard: c.counted[d.WireGuard].heard,
		}
		st.Alive = isAlive(st.Heard, now)
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b Status) int { return a.Device.ID.Compare(b.Device.ID) })
	return out
}
