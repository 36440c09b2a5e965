//go:build linux

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	pingInterval = 10 * time.Millisecond // of WaitPing: how finely a time to connect is measured
	askInterval  = 50 * time.Millisecond // between questions to an agent
)

// Ping sends count echo requests from a host, 5 a second, and fails unless every one is answered within a second. to is an address,
// or the name of a member, whose address from's agent is asked for.
func (l *Lab) Ping(ctx context.Context, from *Host, to string, count int) error {
	addr, err := l.resolve(ctx, from, to)
	if err != nil {
		return err
	}
	cmd := []string{"-n", "-q", "-i", "0.2", "-W", "1", "-c", fmt.Sprint(count), addr.String()}
	out, err := from.Exec(ctx, "ping", cmd...)
	if err != nil {
		return err
	}
	var sent, got int
	for _, line := range splitLines(string(out)) {
		if n, _ := fmt.Sscanf(line, "%d packets transmitted, %d received", &sent, &got); n == 2 && got == count {
			return nil
		}
	}
	return fmt.Errorf("ping from %s to %s: %d of %d answered", from.label, to, got, count)
}

// WaitPing sends an echo request each 10 ms until one is answered and returns how long that took from the call on. Addresses and
// routes may come and go meanwhile. If ctx ends first, the error says what the last attempt said.
func (l *Lab) WaitPing(ctx context.Context, from *Host, to string) (time.Duration, error) {
	start := time.Now()
	addr, err := l.await(ctx, from, to)
	if err != nil {
		return time.Since(start), err
	}
	p, err := newPinger(from, addr)
	if err != nil {
		return time.Since(start), fmt.Errorf("ping from %s: %w", from.label, err)
	}
	defer p.conn.Close()
	for {
		err := p.try(pingInterval)
		if err == nil {
			return time.Since(start), nil
		}
		if ctx.Err() != nil {
			return time.Since(start), fmt.Errorf("ping from %s to %s (%v): %w; last attempt: %w", from.label, to, addr, ctx.Err(), err)
		}
	}
}

// resolve returns to itself if it is an address, else the first address of the member with that name.
func (l *Lab) resolve(ctx context.Context, from *Host, to string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(to); err == nil {
		return a, nil
	}
	s, err := from.Status(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	p, ok := s.Peer(to)
	if !ok || len(p.Addresses) == 0 {
		return netip.Addr{}, fmt.Errorf("ping from %s: its agent knows no address of %s", from.label, to)
	}
	return p.Addresses[0].Addr(), nil
}

// await is resolve for a name that nobody may know yet.
func (l *Lab) await(ctx context.Context, from *Host, to string) (netip.Addr, error) {
	for {
		a, err := l.resolve(ctx, from, to)
		if err == nil {
			return a, nil
		}
		select {
		case <-ctx.Done():
			return a, err
		case <-time.After(askInterval):
		}
	}
}

// pinger sends echo requests by a raw socket in a host's namespace. The socket is not bound, so that each packet takes the route
// and the source address of its own moment.
type pinger struct {
	conn  net.PacketConn
	to    netip.Addr
	id    int
	seq   int
	nonce uint64 // in every packet: answers to an earlier pinger are still under way perhaps
	kind  icmp.Type
	reply icmp.Type
	proto int // for ParseMessage
}

func newPinger(h *Host, to netip.Addr) (*pinger, error) {
	p := &pinger{to: to, id: os.Getpid() & 0xffff, nonce: rand.Uint64(), kind: ipv4.ICMPTypeEcho, reply: ipv4.ICMPTypeEchoReply, proto: 1}
	network, local := "ip4:icmp", "0.0.0.0"
	if to.Is6() {
		network, local = "ip6:ipv6-icmp", "::"
		p.kind, p.reply, p.proto = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	err := h.Do(func() (err error) {
		p.conn, err = net.ListenPacket(network, local)
		return err
	})
	return p, err
}

// try sends one request and waits for an answer to it or to an earlier one.
func (p *pinger) try(wait time.Duration) error {
	p.seq++
	deadline := time.Now().Add(wait)
	payload := binary.BigEndian.AppendUint64(nil, p.nonce)
	m := icmp.Message{Type: p.kind, Body: &icmp.Echo{ID: p.id, Seq: p.seq & 0xffff, Data: payload}}
	b, err := m.Marshal(nil) // the kernel adds ICMPv6's checksum
	if err != nil {
		return err
	}
	_, sendErr := p.conn.WriteTo(b, &net.IPAddr{IP: p.to.AsSlice(), Zone: p.to.Zone()})
	if err := p.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if sendErr != nil {
				return sendErr
			}
			return errors.New("no answer")
		}
		if err != nil {
			return err
		}
		if p.answers(buf[:n], from) {
			return nil
		}
	}
}

func (p *pinger) answers(b []byte, from net.Addr) bool {
	m, err := icmp.ParseMessage(p.proto, b)
	if err != nil || m.Type != p.reply {
		return false
	}
	echo, ok := m.Body.(*icmp.Echo)
	ip, isIP := from.(*net.IPAddr)
	return ok && isIP && echo.ID == p.id && ip.IP.Equal(p.to.AsSlice()) &&
		len(echo.Data) == 8 && binary.BigEndian.Uint64(echo.Data) == p.nonce
}
