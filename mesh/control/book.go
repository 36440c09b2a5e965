package control

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/gridwire/gridwire/mesh"
)

// book knows where members can be dialled, besides what their records say. It holds members only; see prune.
type book struct {
	mu    sync.Mutex // guards what follows
	links []Link
	paths map[mesh.NodeID]netip.AddrPort   // what ICE has opened
	lan   map[mesh.NodeID][]netip.AddrPort // what multicast has found, on our links
}

func newBook() *book {
	return &book{paths: make(map[mesh.NodeID]netip.AddrPort), lan: make(map[mesh.NodeID][]netip.AddrPort)}
}

// setLinks takes this machine's links. What was found on the old ones is forgotten.
func (b *book) setLinks(links []Link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.links = slices.Clone(links)
	clear(b.lan)
}

func (b *book) setPath(id mesh.NodeID, addr netip.AddrPort) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if addr.IsValid() {
		b.paths[id] = addr
		return
	}
	delete(b.paths, id)
}

// found takes addresses that multicast brought, and reports whether any is on a link of ours.
func (b *book) found(id mesh.NodeID, addrs []netip.AddrPort) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	on := slices.DeleteFunc(slices.Clone(addrs), func(a netip.AddrPort) bool { return !b.onLink(a.Addr()) })
	if len(on) == 0 {
		return false
	}
	b.lan[id] = on
	return true
}

// onLink reports whether a is a neighbour's on one of our links. Callers hold the lock.
func (b *book) onLink(a netip.Addr) bool {
	for _, l := range b.links {
		for _, p := range l.Prefixes {
			if p.Masked().Contains(a) && p.Addr() != a {
				return true
			}
		}
	}
	return false
}

// near reports whether a way to the member is known that needs nobody's help.
func (b *book) near(m *mesh.Member) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, path := b.paths[m.ID]
	return path || len(b.lan[m.ID]) > 0 || slices.ContainsFunc(m.LAN, func(a netip.AddrPort) bool { return b.onLink(a.Addr()) })
}

// addrs returns where to dial a member, what is likely to work first. Addresses on its own networks that are not on ours come last:
// they work in a routed company network, and otherwise cost one lost packet.
func (b *book) addrs(m *mesh.Member) []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out, off []netip.AddrPort
	if p, ok := b.paths[m.ID]; ok {
		out = append(out, p)
	}
	out = append(out, b.lan[m.ID]...)
	for _, a := range m.LAN {
		if b.onLink(a.Addr()) {
			out = append(out, a)
		} else {
			off = append(off, a)
		}
	}
	out = append(append(out, m.Endpoints...), off...)
	seen := make(map[netip.AddrPort]bool, len(out))
	return slices.DeleteFunc(out, func(a netip.AddrPort) bool {
		old := seen[a]
		seen[a] = true
		return old
	})
}

// prune forgets those that are no longer members.
func (b *book) prune(v *mesh.View) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.paths {
		if _, ok := v.Member(id); !ok {
			delete(b.paths, id)
		}
	}
	for id := range b.lan {
		if _, ok := v.Member(id); !ok {
			delete(b.lan, id)
		}
	}
}
