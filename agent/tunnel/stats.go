package tunnel

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/gridwire/gridwire/agent/meter"
	"github.com/gridwire/gridwire/mesh"
)

// PeerStats is what the device knows about a peer.
type PeerStats struct {
	Key           mesh.WGKey
	Endpoint      netip.AddrPort // invalid: none
	LastHandshake time.Time      // zero: none yet
	RxBytes       uint64         // WireGuard messages, without UDP and IP headers
	TxBytes       uint64
	RxPackets     uint64 // of the overlay, inside them; neither handshakes nor keepalives
	TxPackets     uint64
}

// Stats returns every peer's counters. It asks the device in this process: 23 us for 10 peers and 0.5 ms for 200, against 160 us and
// 1.3 ms through wgctrl (BenchmarkStats, on a busy machine with two slow cores), and no buffers as large as the answer.
func (t *Tunnel) Stats() (map[mesh.WGKey]PeerStats, error) {
	if t.closed() {
		return nil, fmt.Errorf("reading the counters of %s: %w", t.name, ErrClosed)
	}
	var p getParser
	if err := t.dev.IpcGetOperation(&p); err != nil {
		return nil, fmt.Errorf("reading the counters of %s: %w", t.name, err)
	}
	t.port.Store(uint32(p.port))
	t.tun.meter.Peers(func(key mesh.WGKey, c meter.Count) {
		if s, ok := p.peers[key]; ok {
			s.RxPackets, s.TxPackets = c.RxPackets, c.TxPackets
			p.peers[key] = s
		}
	})
	return p.peers, nil
}

// Meter returns what counts this tunnel's packets.
func (t *Tunnel) Meter() *meter.Meter { return t.tun.meter }

// Packets returns how many packets have passed through the interface, both ways together. It costs nothing.
func (t *Tunnel) Packets() uint64 { return t.tun.packets.Load() }

// NextPacket returns a channel that gets something when the next packet passes the interface. It is the same at each call, and for one reader.
func (t *Tunnel) NextPacket() <-chan struct{} {
	select {
	case <-t.tun.next: // one that passed when nobody asked any more
	default:
	}
	t.tun.alarm.Store(true)
	return t.tun.next
}

// getParser reads the device's answer to "get=1" (https://www.wireguard.com/xplatform/): KEY=VALUE lines, those of the device first, then
// each peer's, which begin with public_key. IpcGetOperation writes it all in one piece, so it is parsed where it lies, without a copy.
type getParser struct {
	port  uint16
	peers map[mesh.WGKey]PeerStats
}

// Write parses a whole answer.
func (p *getParser) Write(b []byte) (int, error) {
	p.peers = make(map[mesh.WGKey]PeerStats, bytes.Count(b, []byte("public_key=")))
	var cur PeerStats
	var sec, nsec int64
	flush := func() {
		if cur.Key.IsZero() {
			return
		}
		if sec != 0 || nsec != 0 {
			cur.LastHandshake = time.Unix(sec, nsec)
		}
		p.peers[cur.Key] = cur
	}
	for rest := b; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte{'\n'})
		key, value, _ := bytes.Cut(line, []byte{'='})
		var err error
		switch string(key) {
		case "public_key":
			flush()
			cur, sec, nsec = PeerStats{}, 0, 0
			err = decodeKey(&cur.Key, value)
		case "listen_port":
			var n uint64
			n, err = strconv.ParseUint(string(value), 10, 16)
			p.port = uint16(n)
		case "endpoint":
			cur.Endpoint, err = netip.ParseAddrPort(string(value))
			cur.Endpoint = netip.AddrPortFrom(cur.Endpoint.Addr().Unmap(), cur.Endpoint.Port())
		case "last_handshake_time_sec":
			sec, err = strconv.ParseInt(string(value), 10, 64)
		case "last_handshake_time_nsec":
			nsec, err = strconv.ParseInt(string(value), 10, 64)
		case "rx_bytes":
			cur.RxBytes, err = strconv.ParseUint(string(value), 10, 64)
		case "tx_bytes":
			cur.TxBytes, err = strconv.ParseUint(string(value), 10, 64)
		}
		if err != nil {
			return 0, fmt.Errorf("line %q of the device's answer: %w", line, err)
		}
	}
	flush()
	return len(b), nil
}

func decodeKey(k *mesh.WGKey, value []byte) error {
	if hex.DecodedLen(len(value)) != len(k) {
		return fmt.Errorf("key of %d characters, want %d", len(value), hex.EncodedLen(len(k)))
	}
	_, err := hex.Decode(k[:], value)
	return err
}
