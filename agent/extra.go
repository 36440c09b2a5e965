package agent

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
)

// extras merges what several concerns want routed to peers (routed networks, devices behind gateways) into the one set that the links take.
type extras struct {
	post func(links.Event)

	mu   sync.Mutex // guards sets and all, and keeps posts in the order of Set; post never blocks
	sets map[string]map[mesh.NodeID][]netip.Prefix
	all  map[mesh.NodeID][]netip.Prefix
}

func newExtras(post func(links.Event)) *extras {
	return &extras{post: post, sets: map[string]map[mesh.NodeID][]netip.Prefix{}}
}

// Set replaces what a concern wants, as a whole. The caller does not change prefixes afterwards.
func (e *extras) Set(concern string, prefixes map[mesh.NodeID][]netip.Prefix) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sets[concern] = prefixes
	e.all = mergeExtra(e.sets)
	e.post(links.Extra{Prefixes: e.all})
}

// of returns what is routed to one peer. It is not to be changed.
func (e *extras) of(id mesh.NodeID) []netip.Prefix {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all[id]
}

// mergeExtra gives each prefix to one peer, because WireGuard does so: where two claim the same one, the concern that comes first in the
// alphabet wins, and within a concern the lower node ID, so that the outcome does not depend on the order of events. Default routes are
// left out: no member may draw all of this machine's traffic.
func mergeExtra(sets map[string]map[mesh.NodeID][]netip.Prefix) map[mesh.NodeID][]netip.Prefix {
	out := map[mesh.NodeID][]netip.Prefix{}
	taken := map[netip.Prefix]bool{}
	for _, concern := range slices.Sorted(maps.Keys(sets)) {
		set := sets[concern]
		for _, id := range slices.SortedFunc(maps.Keys(set), mesh.NodeID.Compare) {
			for _, p := range slices.SortedFunc(slices.Values(set[id]), comparePrefixes) {
				p = p.Masked()
				if !p.IsValid() || p.Bits() == 0 || taken[p] {
					continue
				}
				taken[p] = true
				out[id] = append(out[id], p)
			}
		}
	}
	return out
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
