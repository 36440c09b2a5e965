package links

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ProbePort is the UDP port of the echo, on overlay addresses only.
const ProbePort = 9584

// An echo datagram. Small, because an idle link's only packets are these. A request tells how the sender's probes before went (Told); WireGuard
// pads what it carries to 16 bytes, so that this costs nothing: both kinds take 96 bytes of it.
//
//	+------+------+---------+----------+------------------+
//	| 'g'  | 'w'  | version | 1 or 2   | sequence, uint32 |
//	+------+------+---------+----------+------------------+
//	                          request, reply
//	+------------------------------+----------+-----------+
//	| RTT in microseconds, uint32  | judged,  | lost,     |  requests only
//	| 0: nothing new               | uint16   | uint16    |
//	+------------------------------+----------+-----------+
const (
	replyLen     = 8
	requestLen   = 16
	probeVersion = 1
	probeRequest = 1
	probeReply   = 2
	// probeWire is what either takes as a WireGuard message: IPv6 and UDP headers (48 bytes) before it, padded to 16; 32 around it.
	probeWire = 96
)

func encodeRequest(seq uint32, t Told) [requestLen]byte {
	b := [requestLen]byte{'g', 'w', probeVersion, probeRequest}
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], uint32(min(t.RTT.Microseconds(), 1<<32-1)))
	binary.BigEndian.PutUint16(b[12:], t.Probed)
	binary.BigEndian.PutUint16(b[14:], t.Lost)
	return b
}

func encodeReply(seq uint32) [replyLen]byte {
	b := [replyLen]byte{'g', 'w', probeVersion, probeReply}
	binary.BigEndian.PutUint32(b[4:], seq)
	return b
}

// echo is a datagram that was read.
type echo struct {
	reply bool
	seq   uint32
	tells bool
	told  Told
}

// decodeProbe accepts longer datagrams of the same version, so that fields can be added, and requests that tell nothing.
func decodeProbe(b []byte) (e echo, ok bool) {
	if len(b) < replyLen || b[0] != 'g' || b[1] != 'w' || b[2] != probeVersion || b[3] != probeRequest && b[3] != probeReply {
		return echo{}, false
	}
	e = echo{reply: b[3] == probeReply, seq: binary.BigEndian.Uint32(b[4:])}
	if !e.reply && len(b) >= requestLen {
		e.tells = true
		e.told = Told{
			RTT:    time.Duration(binary.BigEndian.Uint32(b[8:])) * time.Microsecond,
			Probed: binary.BigEndian.Uint16(b[12:]), Lost: binary.BigEndian.Uint16(b[14:]),
		}
	}
	return e, true
}

// prober owns the echo's socket: it answers requests and reports both kinds. It keeps no state but counts what it costs.
type prober struct {
	conn *net.UDPConn
	log  *slog.Logger
	cost *cost
}

// cost is what probing has sent.
type cost struct{ requests, replies atomic.Uint64 }

// listenProbe binds addr on the overlay interface alone, so that no neighbour on another network reaches the echo (Linux accepts packets
// for any of its addresses on any interface).
func listenProbe(ctx context.Context, iface string, addr netip.Addr, cost *cost, log *slog.Logger) (*prober, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = unix.BindToDevice(int(fd), iface) })
		if err != nil {
			return err
		}
		return serr
	}}
	conn, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(addr, ProbePort).String())
	if err != nil {
		return nil, fmt.Errorf("open the link probe's socket on %v (%s): %w", addr, iface, err)
	}
	return &prober{conn: conn.(*net.UDPConn), log: log, cost: cost}, nil
}

// run reads until the socket is closed. heard is called with the overlay address of the sender.
func (p *prober) run(heard func(from netip.Addr, e echo, at time.Time)) {
	buf := make([]byte, 64)
	for {
		n, from, err := p.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				continue
			}
			if isClosed(err) {
				return
			}
			continue // an ICMP error of an earlier send
		}
		at := time.Now()
		e, ok := decodeProbe(buf[:n])
		if !ok {
			continue
		}
		if from.Port() != ProbePort {
			e.tells = false // not the links' own: Ping's or EchoRequest's, which have nothing to tell
		}
		if !e.reply {
			reply := encodeReply(e.seq)
			if _, err := p.conn.WriteToUDPAddrPort(reply[:], from); err == nil {
				p.cost.replies.Add(1)
			}
		}
		heard(from.Addr().Unmap(), e, at)
	}
}

func (p *prober) send(to netip.Addr, seq uint32, told Told) {
	b := encodeRequest(seq, told)
	// An error (no route yet, buffer full) is a lost probe, and judged as one.
	if _, err := p.conn.WriteToUDPAddrPort(b[:], netip.AddrPortFrom(to, ProbePort)); err == nil {
		p.cost.requests.Add(1)
	}
}

func (p *prober) close() { _ = p.conn.Close() }

// Ping sends one echo request to an overlay address from an ordinary socket and waits for the answer, at most limit. For the command line.
func Ping(ctx context.Context, addr string, limit time.Duration) (time.Duration, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return 0, fmt.Errorf("overlay address %q: %w", addr, err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", netip.AddrPortFrom(a, ProbePort).String())
	if err != nil {
		return 0, fmt.Errorf("no route into the overlay: %w", err)
	}
	defer func() { _ = conn.Close() }()
	start := time.Now()
	if err := conn.SetDeadline(start.Add(limit)); err != nil {
		return 0, err
	}
	seq := rand.Uint32()
	req := encodeRequest(seq, Told{})
	if _, err := conn.Write(req[:]); err != nil {
		return 0, fmt.Errorf("send into the overlay: %w", err)
	}
	buf := make([]byte, 64)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return 0, fmt.Errorf("no answer within %v", limit)
		}
		if e, ok := decodeProbe(buf[:n]); ok && e.reply && e.seq == seq {
			return time.Since(start), nil
		}
	}
}
