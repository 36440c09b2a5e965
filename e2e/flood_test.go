//go:build linux

package e2e

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// floods are what a stranger may throw at the shared port. Each makes the i-th datagram.
var floods = map[string]func(b []byte, i int) []byte{
	"random bytes": func(b []byte, i int) []byte {
		return fill(b[:1+i%1200])
	},
	"WireGuard initiations": func(b []byte, i int) []byte {
		b = fill(b[:148])
		copy(b, []byte{1, 0, 0, 0})
		return b
	},
	"STUN Binding requests": func(b []byte, i int) []byte {
		b = fill(b[:44])
		copy(b, []byte{0, 1, 0, 24, 0x21, 0x12, 0xa4, 0x42})
		copy(b[20:], []byte{0x80, 0x22, 0, 20}) // SOFTWARE
		return b
	},
	"half QUIC handshakes": func(b []byte, i int) []byte {
		b = fill(b[:1200])
		copy(b, []byte{0xc3, 0, 0, 0, 1, 8}) // long header, Initial, version 1, 8 bytes of destination connection ID
		b[14] = 8
		copy(b[23:], []byte{0, 0x44, 0x90}) // no token; length
		return b
	},
}

func fill(b []byte) []byte {
	_, _ = rand.Read(b) // cannot fail (crypto/rand)
	return b
}

const floodDatagrams = 30_000

// TestFloodsStopNothing: links go on and memory stays bounded while a stranger floods the shared port.
func TestFloodsStopNothing(t *testing.T) {
	w := newWorld(t, lab.Options{LogLevel: "info"})
	alice, bob, mallory := w.public("alice"), w.home("bob", home), w.public("mallory")
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	target := netip.AddrPortFrom(alice.Addr(), w.status(alice).Self.ListenPort)
	for name, make := range floods {
		t.Run(name, func(t *testing.T) {
			before := rss(t, w.agents[alice].PID())
			pings := w.flow(bob, alice, 50*time.Millisecond)
			var sent int
			err := mallory.Do(func() error {
				conn, err := net.Dial("udp", target.String())
				if err != nil {
					return err
				}
				defer conn.Close()
				buf := [1500]byte{}
				for i := range floodDatagrams {
					if _, err := conn.Write(make(buf[:], i)); err == nil {
						sent++
					}
					if i%100 == 99 {
						time.Sleep(2 * time.Millisecond) // some 30,000 a second: more only tests the machine's queues
					}
				}
				return nil
			})
			if err != nil || sent < floodDatagrams/2 {
				t.Fatalf("sent %d datagrams: %v", sent, err)
			}
			pings.end()
			after := rss(t, w.agents[alice].PID())
			t.Logf("%d datagrams, resident %d -> %d MiB", sent, before>>20, after>>20)
			if after > before+64<<20 {
				t.Errorf("resident memory grew from %d to %d MiB", before>>20, after>>20)
			}
			if p := w.peer(bob, "alice"); p.State != "connected" {
				t.Errorf("the link is %s: %+v", p.State, p)
			}
			if err := w.Ping(w.ctx(10*time.Second), bob, "alice", 5); err != nil {
				t.Error(err)
			}
		})
	}
	carol := w.home("carol", home)
	w.join(carol) // strangers who mean well still get in
	w.linked(carol, alice, 10*time.Second)
}

// rss returns a process's resident set in bytes.
func rss(t *testing.T, pid int) int {
	t.Helper()
	b := must(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))(t)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
