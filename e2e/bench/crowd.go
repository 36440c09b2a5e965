//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/agent/metrics"
	"github.com/gridwire/gridwire/mesh"
)

// crowdCommand has this program serve the metrics of a mesh that is made up: the agent's own state machine of links, ledger and metrics in a
// process of their own, with members and answers to probes that nobody sent. What is not in it is the rest of an agent.
const crowdCommand = "crowd"

const crowdSize = 200

// crowd is the mesh.
type crowd struct {
	core   *links.Core
	view   *mesh.View
	ledger *ledger.Ledger
	start  time.Time
	bytes  uint64
}

func member(i int) *mesh.Member {
	id := mesh.NodeID{byte(i >> 8), byte(i), 1}
	addr := netip.AddrFrom16([16]byte{0xfd, 1: 1, 6: byte(i >> 8), 7: byte(i), 15: 1})
	return &mesh.Member{
		ID: id, Name: mesh.Name(fmt.Sprintf("barn-%d-of-somebody", i)), WireGuard: mesh.WGKey{byte(i >> 8), byte(i), 2}, Addrs: []netip.Addr{addr},
		Block: netip.PrefixFrom(addr, 112).Masked(), Updated: time.Now(), NAT: "endpoint-independent",
	}
}

// newCrowd has every link up, and measured for 20 minutes.
func newCrowd() *crowd {
	self := member(0)
	c := &crowd{view: mesh.NewView(mesh.Network{}, self.ID).With(self), start: time.Now()}
	good := map[mesh.NodeID]netip.AddrPort{}
	for i := range crowdSize {
		m := member(i + 1)
		c.view = c.view.With(m)
		good[m.ID] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 51820)
	}
	c.core = links.NewCore(self.ID, 1, good, 1)
	c.ledger = ledger.Open(nowhere{}, c.start, slog.New(slog.DiscardHandler))
	now := c.start.Add(-20 * time.Minute)
	c.step(links.ViewChanged{View: c.view}, now)
	for ; now.Before(c.start); now = now.Add(250 * time.Millisecond) {
		c.step(links.Tick{}, now)
	}
	return c
}

// step answers each probe, but one in 50.
func (c *crowd) step(ev links.Event, now time.Time) {
	for _, a := range c.core.Step(ev, now) {
		if p, ok := a.(links.Probe); ok && (p.Seq%50 != 0 || now.Before(c.start.Add(-19*time.Minute))) {
			rtt := time.Duration(binary.BigEndian.Uint16(p.Peer[:])%80+p16(p.Seq)) * time.Millisecond
			c.step(links.ProbeAnswered{Peer: p.Peer, Seq: p.Seq, At: now.Add(rtt)}, now)
		}
	}
}

func p16(seq uint32) uint16 { return uint16(seq % 7) }

// snapshot is put together as the agent does.
func (c *crowd) snapshot(context.Context) metrics.Snapshot {
	now := time.Now()
	table := c.core.Snapshot(now)
	c.bytes += 1000
	readings := make([]ledger.Reading, 0, len(table))
	for id := range table {
		m, _ := c.view.Member(id)
		readings = append(readings, ledger.Reading{
			Key: ledger.PeerKey(id), Name: string(m.Name), Epoch: 1, Counters: ledger.Counters{ReceiveBytes: c.bytes, TransmitBytes: c.bytes, ReceivePackets: c.bytes / 100, TransmitPackets: c.bytes / 100},
		})
	}
	c.ledger.Record(now, readings)
	s := metrics.Snapshot{Now: now, Started: c.start, Version: "bench", NAT: "open", Members: c.view.Len(), CertificateExpires: now.Add(time.Hour)}
	skew, no := 20*time.Millisecond, false
	for m := range c.view.Peers() {
		s.Peers = append(s.Peers, metrics.Peer{
			Name: string(m.Name), Status: table[m.ID], Traffic: c.ledger.Total(ledger.PeerKey(m.ID)).Counters, LastSeen: m.Updated, MTU: 1420, Skew: &skew, Disputed: &no,
		})
	}
	return s
}

// nowhere is a state folder that keeps nothing.
type nowhere struct{}

func (nowhere) Read(string) ([]byte, error)      { return nil, fs.ErrNotExist }
func (nowhere) Write(string, []byte) error       { return nil }
func (nowhere) ReadCache(string) ([]byte, error) { return nil, fs.ErrNotExist }
func (nowhere) WriteCache(string, []byte) error  { return nil }
func (nowhere) Remove(string) error              { return nil }

// serveCrowd prints where it serves, and ends when its standard input does.
func serveCrowd() error {
	debug.SetGCPercent(20) // as an agent that carries little traffic has it
	c := newCrowd()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() { // the process ends with it
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler(c.snapshot))
	return http.Serve(l, mux)
}
