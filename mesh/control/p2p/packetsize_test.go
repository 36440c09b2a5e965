package p2p

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// measured is a socket as the shared one is, a net.PacketConn and nothing more, that knows its largest datagram.
type measured struct {
	net.PacketConn
	largest *atomic.Int64
}

func (m measured) WriteTo(b []byte, to net.Addr) (int, error) {
	for old := m.largest.Load(); int64(len(b)) > old && !m.largest.CompareAndSwap(old, int64(len(b))); old = m.largest.Load() {
	}
	return m.PacketConn.WriteTo(b, to)
}

func TestPacketsFitEveryPath(t *testing.T) {
	var largest atomic.Int64
	host := func() *Host {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		h, err := New(Config{
			Identity: key, Log: slog.New(slog.DiscardHandler),
			Sockets: func(family string) (net.PacketConn, error) {
				c, err := net.ListenUDP(family, nil)
				return measured{c, &largest}, err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.Close() })
		return h
	}
	a, b := host(), host()
	b.Handle("/sink/1", true, func(c *Conn, s network.Stream) {
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := a.Dial(ctx, b.ID(), loopback(b)[:1])
	if err != nil {
		t.Fatal(err)
	}
	s, err := conn.Open(ctx, "/sink/1")
	if err != nil {
		t.Fatal(err)
	}
	const size = 100_000 // many full packets, both ways
	if _, err := s.Write(bytes.Repeat([]byte{1}, size)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if got := largest.Load(); got != packetSize {
		t.Errorf("the largest QUIC packet has %d bytes, want %d", got, packetSize)
	}
}
