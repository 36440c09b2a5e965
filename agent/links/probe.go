package links

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ProbePort is the UDP port of the echo, on overlay addresses only.
const ProbePort = 9584

// An echo datagram, 8 bytes. Small, because an idle link's only packets are these.
//
//	+------+------+---------+----------+------------------+
//	| 'g'  | 'w'  | version | 1 or 2   | sequence, uint32 |
//	+------+------+---------+----------+------------------+
//	                          request, reply
const (
	probeLen     = 8
	probeVersion = 1
	probeRequest = 1
	probeReply   = 2
)

func encodeProbe(kind byte, seq uint32) [probeLen]byte {
	b := [probeLen]byte{'g', 'w', probeVersion, kind}
	binary.BigEndian.PutUint32(b[4:], seq)
	return b
}

// decodeProbe accepts longer datagrams of the same version, so that fields can be added.
func decodeProbe(b []byte) (kind byte, seq uint32, ok bool) {
	if len(b) < probeLen || b[0] != 'g' || b[1] != 'w' || b[2] != probeVersion || b[3] != probeRequest && b[3] != probeReply {
		return 0, 0, false
	}
	return b[3], binary.BigEndian.Uint32(b[4:]), true
}

// prober owns the echo's socket: it answers requests and reports both kinds. It keeps no state.
type prober struct {
	conn *net.UDPConn
	log  *slog.Logger
}

// listenProbe binds addr on the overlay interface alone, so that no neighbour on another network reaches the echo (Linux accepts packets
// for any of its addresses on any interface).
func listenProbe(ctx context.Context, iface string, addr netip.Addr, log *slog.Logger) (*prober, error) {
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
	return &prober{conn: conn.(*net.UDPConn), log: log}, nil
}

// run reads until the socket is closed. heard is called with the overlay address of the sender.
func (p *prober) run(heard func(from netip.Addr, kind byte, seq uint32)) {
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
		kind, seq, ok := decodeProbe(buf[:n])
		if !ok {
			continue
		}
		if kind == probeRequest {
			reply := encodeProbe(probeReply, seq)
			_, _ = p.conn.WriteToUDPAddrPort(reply[:], from)
		}
		heard(from.Addr().Unmap(), kind, seq)
	}
}

func (p *prober) send(to netip.Addr, seq uint32) {
	b := encodeProbe(probeRequest, seq)
	// An error (no route yet, buffer full) is a lost probe, and judged as one.
	_, _ = p.conn.WriteToUDPAddrPort(b[:], netip.AddrPortFrom(to, ProbePort))
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
	req := encodeProbe(probeRequest, seq)
	if _, err := conn.Write(req[:]); err != nil {
		return 0, fmt.Errorf("send into the overlay: %w", err)
	}
	buf := make([]byte, 64)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return 0, fmt.Errorf("no answer within %v", limit)
		}
		if kind, got, ok := decodeProbe(buf[:n]); ok && kind == probeReply && got == seq {
			return time.Since(start), nil
		}
	}
}
