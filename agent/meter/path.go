package meter

import "encoding/binary"

// pair is a packet's two addresses.
type pair struct {
	from, to address
	v4       bool
}

// mapped is the upper part of the lower half of an IPv4-mapped address.
const mapped = 0xffff << 32

// pairOf reads the addresses of an IP packet.
func pairOf(b []byte) (p pair, ok bool) {
	switch {
	case len(b) >= 40 && b[0]>>4 == 6:
		p.from = address{binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
		p.to = address{binary.BigEndian.Uint64(b[24:]), binary.BigEndian.Uint64(b[32:])}
	case len(b) >= 20 && b[0]>>4 == 4:
		p.from.lo = mapped | uint64(binary.BigEndian.Uint32(b[12:]))
		p.to.lo = mapped | uint64(binary.BigEndian.Uint32(b[16:]))
		p.v4 = true
	default:
		return pair{}, false
	}
	return p, true
}

// run is a row of packets with the same addresses. first is the first of them, nil: none yet.
type run struct {
	first          []byte
	packets, bytes uint64
}

// takes counts b if it has the addresses of the run.
func (r *run) takes(b []byte) bool {
	if !same(r.first, b) {
		return false
	}
	r.packets++
	r.bytes += uint64(len(b))
	return true
}

// same compares addresses, as bytes: this is done for each packet, and reading them only once for each run.
func same(a, b []byte) bool {
	if len(a) < 20 || len(b) < 20 || a[0]>>4 != b[0]>>4 {
		return false
	}
	if a[0]>>4 == 6 {
		return len(a) >= 40 && len(b) >= 40 && [32]byte(a[8:]) == [32]byte(b[8:])
	}
	return [8]byte(a[12:]) == [8]byte(b[12:])
}

// Out counts packets on their way to peers: those of a batch as tun.Device's Read returns it.
func (m *Meter) Out(bufs [][]byte, sizes []int, offset int) {
	var r run
	for i := range sizes {
		b := bufs[i][offset:][:sizes[i]]
		if !r.takes(b) {
			m.sent(r)
			r = run{b, 1, uint64(len(b))}
		}
	}
	m.sent(r)
}

// In counts packets that came from peers: those of a batch as tun.Device's Write takes it.
func (m *Meter) In(bufs [][]byte, offset int) {
	var r run
	for _, b := range bufs {
		b = b[offset:]
		if !r.takes(b) {
			m.received(r)
			r = run{b, 1, uint64(len(b))}
		}
	}
	m.received(r)
}

func (m *Meter) sent(r run) {
	p, ok := pairOf(r.first)
	if !ok {
		return
	}
	peer, workload := m.look(p, p.to, p.from)
	for _, s := range [...]*slot{peer, workload} {
		if s != nil {
			s.txPackets.Add(r.packets)
			s.txBytes.Add(r.bytes)
		}
	}
}

func (m *Meter) received(r run) {
	p, ok := pairOf(r.first)
	if !ok {
		return
	}
	peer, workload := m.look(p, p.from, p.to)
	for _, s := range [...]*slot{peer, workload} {
		if s != nil {
			s.rxPackets.Add(r.packets)
			s.rxBytes.Add(r.bytes)
		}
	}
}

func (m *Meter) look(p pair, theirs, ours address) (peer, workload *slot) {
	t := m.table.Load()
	if p.v4 {
		peer = find(t.v4, theirs)
	} else {
		peer = find(t.v6, theirs)
	}
	if t.workloads.Len() > 0 {
		workload, _ = t.workloads.Get(ours)
	}
	return peer, workload
}
