// Package meter counts the packets that pass the tunnel's interface, by peer and by workload.
//
//	interface -> Out -> device        device -> In -> interface
//
// WireGuard counts bytes by peer, not packets, and knows nothing of workloads. Here, between the interface and the device, each packet is
// by itself (what the system hands over in one piece is cut already, and not yet joined again), and what comes from a peer has been proven
// to. A counter in the system's firewall would count joined ones as one.
//
// The package is in the data path, so: no lock, no allocation, and one look at the tables for each run of packets with the same two
// addresses, which in bulk traffic is one for each batch: 9 ns of the processor for a packet, and 75 where each goes to another of 300 peers
// (BenchmarkBulk, BenchmarkMixed), of the 2,800 that the device takes at either end. The tables are persistent maps that the control side replaces.
package meter

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/benbjohnson/immutable"

	"github.com/gridwire/gridwire/mesh"
)

// Count is what has passed. Life is another number whenever counting began at zero again, in this run of the agent.
type Count struct {
	Life                 uint64
	RxPackets, TxPackets uint64
	RxBytes, TxBytes     uint64 // of packets, IP headers included
}

// Meter is made by New. Out and In are for the data path; all other methods for the control side, and may be called at any time.
type Meter struct {
	table atomic.Pointer[table]

	mu        sync.Mutex // guards the rest; the data path never takes it
	peers     map[mesh.WGKey]*peer
	workloads map[mesh.Name]*workload
	lives     uint64
}

type slot struct {
	life               uint64
	rxPackets, rxBytes atomic.Uint64
	txPackets, txBytes atomic.Uint64
}

func (s *slot) count() Count {
	return Count{s.life, s.rxPackets.Load(), s.txPackets.Load(), s.rxBytes.Load(), s.txBytes.Load()}
}

type peer struct {
	slot
	prefixes []netip.Prefix
}

type workload struct {
	slot
	addrs []netip.Addr
	gone  bool // removed, and not yet read since
}

// address is an IP address, IPv4 mapped into IPv6.
type address struct{ hi, lo uint64 }

func addressOf(a netip.Addr) address {
	b := a.As16()
	return address{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// mask keeps the first bits.
func (a address) mask(bits int) address {
	if bits <= 64 {
		return address{a.hi &^ (1<<(64-bits) - 1), 0}
	}
	return address{a.hi, a.lo &^ (1<<(128-bits) - 1)}
}

type hasher struct{}

func (hasher) Hash(a address) uint32 {
	h := (a.hi ^ a.lo*0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd
	return uint32(h >> 32)
}
func (hasher) Equal(a, b address) bool { return a == b }

type addresses = immutable.Map[address, *slot]

// prefixes are those of one length.
type prefixes struct {
	bits  int
	slots *addresses
}

// table is what the data path looks at. It is never changed, only replaced.
type table struct {
	v4, v6    []prefixes // longest first
	workloads *addresses
}

// find returns the slot of the longest prefix that contains a, as WireGuard does; nil: none.
func find(in []prefixes, a address) *slot {
	for _, p := range in {
		if s, ok := p.slots.Get(a.mask(p.bits)); ok {
			return s
		}
	}
	return nil
}

// New returns a Meter that knows nobody.
func New() *Meter {
	m := &Meter{peers: map[mesh.WGKey]*peer{}, workloads: map[mesh.Name]*workload{}}
	m.table.Store(&table{workloads: immutable.NewMap[address, *slot](hasher{})})
	return m
}

func (m *Meter) newLife() uint64 {
	m.lives++
	return m.lives
}

// SetPeer says which addresses are a peer's from now on. As in WireGuard, they are no other peer's then.
func (m *Meter) SetPeer(key mesh.WGKey, allowed []netip.Prefix) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[key]
	if p == nil {
		p = &peer{slot: slot{life: m.newLife()}}
		m.peers[key] = p
	}
	t := m.copy()
	for _, old := range p.prefixes {
		if !slices.Contains(allowed, old) {
			t.remove(old, &p.slot)
		}
	}
	p.prefixes = slices.Clone(allowed)
	for _, a := range allowed {
		t.set(a, &p.slot)
	}
	m.table.Store(t)
}

// RemovePeer forgets a peer and its counts.
func (m *Meter) RemovePeer(key mesh.WGKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[key]
	if p == nil {
		return
	}
	delete(m.peers, key)
	t := m.copy()
	for _, old := range p.prefixes {
		t.remove(old, &p.slot)
	}
	m.table.Store(t)
}

// Peers calls f for each peer.
func (m *Meter) Peers(f func(mesh.WGKey, Count)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, p := range m.peers {
		f(key, p.count())
	}
}

// SetWorkloads says which addresses are whose on this node. One that stays keeps its count.
func (m *Meter) SetWorkloads(now map[mesh.Name][]netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	same := true
	for name, addrs := range now {
		w := m.workloads[name]
		if w == nil {
			w = &workload{slot: slot{life: m.newLife()}, gone: true}
			m.workloads[name] = w
		}
		same = same && !w.gone && slices.Equal(w.addrs, addrs)
		w.addrs, w.gone = slices.Clone(addrs), false
	}
	for name, w := range m.workloads {
		if _, ok := now[name]; !ok && !w.gone {
			same, w.gone = false, true
		}
	}
	if same {
		return
	}
	b := immutable.NewMapBuilder[address, *slot](hasher{})
	for _, w := range m.workloads {
		for _, a := range w.addrs {
			if !w.gone {
				b.Set(addressOf(a), &w.slot)
			}
		}
	}
	t := m.copy()
	t.workloads = b.Map()
	m.table.Store(t)
}

// Workloads calls f for each workload; a last time for those that were removed since the call before.
func (m *Meter) Workloads(f func(mesh.Name, Count)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, w := range m.workloads {
		f(name, w.count())
		if w.gone {
			delete(m.workloads, name)
		}
	}
}

func (m *Meter) copy() *table {
	t := *m.table.Load()
	t.v4, t.v6 = slices.Clone(t.v4), slices.Clone(t.v6)
	return &t
}

// of returns the list that p belongs to, and its length as an IPv6 prefix.
func (t *table) of(p netip.Prefix) (*[]prefixes, int) {
	if p.Addr().Is4() {
		return &t.v4, p.Bits() + 96
	}
	return &t.v6, p.Bits()
}

func (t *table) set(p netip.Prefix, s *slot) {
	list, bits := t.of(p)
	i, ok := slices.BinarySearchFunc(*list, bits, func(p prefixes, bits int) int { return bits - p.bits })
	if !ok {
		*list = slices.Insert(*list, i, prefixes{bits, immutable.NewMap[address, *slot](hasher{})})
	}
	(*list)[i].slots = (*list)[i].slots.Set(addressOf(p.Addr()).mask(bits), s)
}

func (t *table) remove(p netip.Prefix, s *slot) {
	list, bits := t.of(p)
	for i := range *list {
		at := &(*list)[i]
		if at.bits != bits {
			continue
		}
		key := addressOf(p.Addr()).mask(bits)
		if owner, ok := at.slots.Get(key); ok && owner == s { // it may be another peer's by now
			at.slots = at.slots.Delete(key)
		}
		if at.slots.Len() == 0 {
			*list = slices.Delete(*list, i, i+1)
		}
		return
	}
}
