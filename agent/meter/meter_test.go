package meter

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"github.com/gridwire/gridwire/mesh"
)

const offset = 16

// packet is an IP packet of that size behind offset bytes.
func packet(from, to string, size int) []byte {
	return makePacket(netip.MustParseAddr(from), netip.MustParseAddr(to), size)
}

func makePacket(from, to netip.Addr, size int) []byte {
	b := make([]byte, offset+size)
	ip := b[offset:]
	if from.Is4() {
		ip[0] = 0x45
		copy(ip[12:], from.AsSlice())
		copy(ip[16:], to.AsSlice())
		return b
	}
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], uint16(size-40))
	copy(ip[8:], from.AsSlice())
	copy(ip[24:], to.AsSlice())
	return b
}

func (m *Meter) out(packets ...[]byte) {
	sizes := make([]int, len(packets))
	for i, p := range packets {
		sizes[i] = len(p) - offset
	}
	m.Out(packets, sizes, offset)
}

func (m *Meter) peer(key byte) (c Count) {
	m.Peers(func(k mesh.WGKey, got Count) {
		if k[0] == key {
			c = got
		}
	})
	c.Life = 0
	return c
}

func (m *Meter) workload(name mesh.Name) (c Count, ok bool) {
	m.Workloads(func(n mesh.Name, got Count) {
		if n == name {
			c, ok = got, true
		}
	})
	return c, ok
}

func allowed(p ...string) (out []netip.Prefix) {
	for _, s := range p {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestPeers(t *testing.T) {
	m := New()
	m.SetPeer(mesh.WGKey{1}, allowed("fd00:0:0:1::/112", "10.66.0.1/32", "192.168.0.0/16"))
	m.SetPeer(mesh.WGKey{2}, allowed("fd00:0:0:2::/112", "10.66.0.2/32", "192.168.7.0/24", "::/0"))
	m.out(packet("fd00:0:0:9::1", "fd00:0:0:1::1", 100), packet("fd00:0:0:9::1", "fd00:0:0:1::1", 60), packet("fd00:0:0:9::1", "fd00:0:0:2::5", 50),
		packet("10.66.0.9", "10.66.0.1", 30), packet("10.66.0.9", "192.168.7.1", 31), packet("10.66.0.9", "192.168.8.1", 32),
		packet("10.66.0.9", "10.77.0.1", 33), packet("fd00:0:0:9::1", "2001:db8::1", 70), []byte(string(make([]byte, offset+8))))
	m.In([][]byte{packet("fd00:0:0:1::1", "fd00:0:0:9::1", 80), packet("fd00:0:0:1::1", "fd00:0:0:9::1", 81)}, offset)
	if got, want := m.peer(1), (Count{TxPackets: 4, TxBytes: 100 + 60 + 30 + 32, RxPackets: 2, RxBytes: 161}); got != want {
		t.Errorf("peer 1: %+v, want %+v", got, want)
	}
	if got, want := m.peer(2), (Count{TxPackets: 3, TxBytes: 50 + 31 + 70}); got != want {
		t.Errorf("peer 2: %+v, want %+v", got, want)
	}
	m.SetPeer(mesh.WGKey{1}, allowed("fd00:0:0:1::/112", "192.168.7.0/24")) // takes one from the other, gives its own up
	m.out(packet("10.66.0.9", "192.168.7.1", 31), packet("10.66.0.9", "192.168.8.1", 32))
	m.SetPeer(mesh.WGKey{2}, allowed("::/0")) // must not take back what it has lost
	m.out(packet("10.66.0.9", "192.168.7.1", 31))
	if got := m.peer(1); got.TxPackets != 6 {
		t.Errorf("peer 1 after it took a prefix: %+v", got)
	}
	m.RemovePeer(mesh.WGKey{1})
	m.out(packet("10.66.0.9", "192.168.7.1", 31), packet("fd00:0:0:9::1", "fd00:0:0:1::1", 100))
	if got := m.peer(1); got != (Count{}) {
		t.Errorf("peer 1 after it was removed: %+v", got)
	}
	if got := m.peer(2); got.TxPackets != 4 {
		t.Errorf("peer 2: %+v: what is no longer another peer's falls to ::/0", got)
	}
}

func TestWorkloads(t *testing.T) {
	m := New()
	m.SetPeer(mesh.WGKey{1}, allowed("fd00:0:0:1::/112"))
	web, db := netip.MustParseAddr("fd00:0:0:9::80"), netip.MustParseAddr("fd00:0:0:9::81")
	m.SetWorkloads(map[mesh.Name][]netip.Addr{"web": {web}, "db": {db}})
	m.out(makePacket(web, netip.MustParseAddr("fd00:0:0:1::1"), 100), makePacket(db, netip.MustParseAddr("fd00:0:0:1::1"), 50))
	m.In([][]byte{makePacket(netip.MustParseAddr("fd00:0:0:1::1"), web, 60)}, offset)
	first, _ := m.workload("web")
	if got := (Count{first.Life, 1, 1, 60, 100}); got != first {
		t.Errorf("web: %+v, want %+v", first, got)
	}
	if m.peer(1).TxPackets != 2 {
		t.Errorf("peer: %+v", m.peer(1))
	}
	m.SetWorkloads(map[mesh.Name][]netip.Addr{"web": {web}})
	m.out(makePacket(db, netip.MustParseAddr("fd00:0:0:1::1"), 50))
	if c, ok := m.workload("db"); !ok || c.TxPackets != 1 {
		t.Errorf("what db had counted when it was removed is lost: %+v %v", c, ok)
	}
	if _, ok := m.workload("db"); ok {
		t.Error("db is kept for ever")
	}
	m.SetWorkloads(map[mesh.Name][]netip.Addr{"web": {web}, "db": {db}})
	if c, _ := m.workload("db"); c.TxPackets != 0 || c.Life <= first.Life {
		t.Errorf("db came back: %+v", c)
	}
	if c, _ := m.workload("web"); c != first {
		t.Errorf("web stayed and has %+v, want %+v", c, first)
	}
}

// TestAgainstAScan compares the tables with a scan of all prefixes while they change.
func TestAgainstAScan(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	m := New()
	owners := map[netip.Prefix]byte{}
	want := map[byte]uint64{}
	random := func() netip.Prefix {
		if rnd.IntN(2) == 0 {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rnd.IntN(2)), byte(rnd.IntN(4)), byte(rnd.IntN(4))}), rnd.IntN(33)).Masked()
		}
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 7: byte(rnd.IntN(3)), 8: byte(rnd.IntN(3)), 15: byte(rnd.IntN(3))}), rnd.IntN(129)).Masked()
	}
	for range 3000 {
		key := byte(rnd.IntN(6) + 1)
		switch rnd.IntN(4) {
		case 0:
			var set []netip.Prefix
			for range rnd.IntN(4) {
				set = append(set, random())
			}
			m.SetPeer(mesh.WGKey{key}, set)
			for p, k := range owners {
				if k == key {
					delete(owners, p)
				}
			}
			for _, p := range set {
				owners[p] = key
			}
		case 1:
			m.RemovePeer(mesh.WGKey{key})
			for p, k := range owners {
				if k == key {
					delete(owners, p)
				}
			}
			delete(want, key)
		default:
			to := random().Addr()
			best := -1
			var owner byte
			for p, k := range owners {
				if p.Contains(to) && p.Bits() > best {
					best, owner = p.Bits(), k
				}
			}
			if best >= 0 {
				want[owner]++
			}
			m.out(makePacket(to, to, 40))
		}
		for k := byte(1); k <= 6; k++ {
			if got := m.peer(k).TxPackets; got != want[k] {
				t.Fatalf("peer %d has %d packets, want %d", k, got, want[k])
			}
		}
	}
}

// TestTablesChangeUnderTraffic: no packet of a peer that stays is missed.
func TestTablesChangeUnderTraffic(t *testing.T) {
	m, bufs, sizes := busy(20, 128)
	var wait sync.WaitGroup
	const batches = 2000
	for range 2 {
		wait.Go(func() {
			for range batches {
				m.Out(bufs, sizes, offset)
			}
		})
	}
	wait.Go(func() {
		for i := range 2000 {
			m.SetPeer(mesh.WGKey{200}, allowed("2001:db8::/32", "10.66.0.2/32"))
			m.SetWorkloads(map[mesh.Name][]netip.Addr{"db": {netip.AddrFrom4([4]byte{10, byte(i), 0, 1})}})
			m.Workloads(func(mesh.Name, Count) {})
			m.RemovePeer(mesh.WGKey{200})
		}
	})
	wait.Wait()
	if got := m.peer(0).TxPackets; got != 2*batches*128 {
		t.Errorf("%d packets, want %d", got, 2*batches*128)
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	m, bufs, sizes := busy(300, 1)
	if n := testing.AllocsPerRun(100, func() { m.Out(bufs, sizes, offset); m.In(bufs, offset) }); n != 0 {
		t.Errorf("%v allocations for a batch", n)
	}
}

// busy is a meter with that many peers and a batch of 128 packets, each run of them to another one.
func busy(peers, run int) (*Meter, [][]byte, []int) {
	m := New()
	addr := func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 6: byte(i >> 8), 7: byte(i), 15: 1}) }
	for i := range peers {
		m.SetPeer(mesh.WGKey{byte(i), byte(i >> 8)}, []netip.Prefix{
			netip.PrefixFrom(addr(i), 112).Masked(), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32),
		})
	}
	m.SetWorkloads(map[mesh.Name][]netip.Addr{"web": {addr(9000)}})
	var bufs [][]byte
	var sizes []int
	for i := range 128 {
		bufs = append(bufs, makePacket(addr(9000), addr(i/run*7%peers), 100))
		sizes = append(sizes, 100)
	}
	return m, bufs, sizes
}

// BenchmarkBulk is one flow, BenchmarkMixed the worst case: each packet goes to another peer.
func BenchmarkBulk(b *testing.B)  { benchmark(b, 128) }
func BenchmarkMixed(b *testing.B) { benchmark(b, 1) }

func benchmark(b *testing.B, run int) {
	m, bufs, sizes := busy(300, run)
	b.ReportAllocs()
	for range b.N {
		m.Out(bufs, sizes, offset)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/128, "ns/packet")
}
