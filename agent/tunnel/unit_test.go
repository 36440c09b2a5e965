package tunnel

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/gridwire/gridwire/mesh"
)

func TestTrimmer(t *testing.T) {
	type second struct {
		rate int // packets
		trim bool
	}
	repeat := func(n int, s second) []second { return slices.Repeat([]second{s}, n) }
	join := func(parts ...[]second) []second { return slices.Concat(parts...) }
	quiet, once, wait := second{0, false}, []second{{0, true}}, int(trimQuiet/time.Second)
	for name, seconds := range map[string][]second{
		"idle for ever":           repeat(600, quiet),
		"probes only":             repeat(600, second{100, false}),
		"burst, then quiet":       join(repeat(10, second{200_000, false}), repeat(wait, quiet), once, repeat(100, quiet)),
		"full speed for ever":     repeat(600, second{200_000, false}),
		"a pause is no end":       join(repeat(3, second{200_000, false}), repeat(wait, quiet), repeat(3, second{200_000, false}), repeat(wait, quiet), once),
		"big, then a small steam": join(repeat(3, second{200_000, false}), repeat(wait, second{10_000, false}), []second{{10_000, true}}, repeat(100, second{10_000, false})),
		"big, then middling":      join(repeat(3, second{200_000, false}), repeat(100, second{50_000, false}), repeat(wait, quiet), once),
		"two bursts":              join(repeat(2, second{9000, false}), repeat(wait, quiet), once, repeat(3*wait, quiet), repeat(2, second{9000, false}), repeat(wait, quiet), once),
	} {
		var m trimmer
		now, packets := time.Unix(1000, 0), uint64(0)
		m.step(0, now)
		for i, s := range seconds {
			now, packets = now.Add(time.Second), packets+uint64(s.rate)
			if got := m.step(packets, now); got != s.trim {
				t.Errorf("%s: second %d: trim %v, want %v", name, i, got, s.trim)
				break
			}
		}
	}
	var m trimmer
	now := time.Unix(1000, 0)
	m.step(5, now)
	if m.step(10, now) || m.step(11, now.Add(-time.Hour)) {
		t.Error("a clock that stands still or goes back made it trim")
	}
}

const answer = `private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a
listen_port=12912
public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33
preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52
allowed_ip=192.168.4.4/32
endpoint=[abcd:23::33%2]:51820
public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376
tx_bytes=38333
rx_bytes=2224
allowed_ip=192.168.4.6/32
persistent_keepalive_interval=111
endpoint=182.122.22.19:3233
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500
public_key=662e14fd594556f522604703340351258903b64f35553763f19426ab2a515c58
endpoint=[::ffff:5.152.198.39]:51820
allowed_ip=192.168.4.10/32
`

func TestGetParser(t *testing.T) {
	var p getParser
	if _, err := p.Write([]byte(answer)); err != nil {
		t.Fatal(err)
	}
	if p.port != 12912 || len(p.peers) != 3 {
		t.Fatalf("port %d, %d peers", p.port, len(p.peers))
	}
	want := map[string]PeerStats{
		"[abcd:23::33%2]:51820": {},
		"182.122.22.19:3233":    {LastHandshake: time.Unix(1700000000, 500), RxBytes: 2224, TxBytes: 38333},
		"5.152.198.39:51820":    {},
	}
	for key, got := range p.peers {
		w, ok := want[got.Endpoint.String()]
		if !ok || got.Key != key || !got.LastHandshake.Equal(w.LastHandshake) || got.RxBytes != w.RxBytes || got.TxBytes != w.TxBytes {
			t.Errorf("%+v", got)
		}
	}
	for _, bad := range []string{"public_key=00", "listen_port=70000", "rx_bytes=-1", "endpoint=nowhere", "public_key=" + strings.Repeat("zz", 32)} {
		if _, err := new(getParser).Write([]byte(bad + "\n")); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// write is the slow opposite of getParser.
func write(port uint16, peers map[mesh.WGKey]PeerStats) string {
	var b strings.Builder
	if port != 0 {
		fmt.Fprintf(&b, "listen_port=%d\n", port)
	}
	for k, p := range peers {
		fmt.Fprintf(&b, "public_key=%x\nrx_bytes=%d\ntx_bytes=%d\n", k[:], p.RxBytes, p.TxBytes)
		if p.Endpoint.IsValid() {
			fmt.Fprintf(&b, "endpoint=%v\n", p.Endpoint)
		}
		if !p.LastHandshake.IsZero() {
			fmt.Fprintf(&b, "last_handshake_time_sec=%d\nlast_handshake_time_nsec=%d\n", p.LastHandshake.Unix(), p.LastHandshake.Nanosecond())
		}
	}
	return b.String()
}

func FuzzGetParser(f *testing.F) {
	f.Add([]byte(answer))
	f.Add([]byte("listen_port=1\npublic_key=" + strings.Repeat("00", 32)))
	f.Add([]byte("\n=\nerrno=0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p, again getParser
		if n, err := p.Write(b); err != nil || n != len(b) {
			return
		}
		for _, s := range p.peers {
			if s.LastHandshake.Nanosecond() < 0 {
				t.Fatalf("%+v", s)
			}
		}
		if _, err := again.Write([]byte(write(p.port, p.peers))); err != nil {
			t.Fatalf("what was read cannot be written and read again: %v", err)
		}
		if again.port != p.port || !maps.EqualFunc(p.peers, again.peers, func(a, b PeerStats) bool {
			return a.Endpoint == b.Endpoint && a.LastHandshake.Equal(b.LastHandshake) && a.RxBytes == b.RxBytes && a.TxBytes == b.TxBytes
		}) {
			t.Fatalf("%+v\n%+v", p, again)
		}
	})
}

func TestBadConfig(t *testing.T) {
	good := Config{Interface: "gw0", PrivateKey: [32]byte{1}, Bind: conn.NewDefaultBind()}
	for want, change := range map[string]func(*Config){
		"Config.Bind":         func(c *Config) { c.Bind = nil },
		"Config.PrivateKey":   func(c *Config) { c.PrivateKey = [32]byte{} },
		"at least 1280":       func(c *Config) { c.MTU = 1279 },
		"too large":           func(c *Config) { c.MTU = 65536 },
		"want 1 to 15":        func(c *Config) { c.Interface = "sixteen-letters-" },
		"has 0 bytes":         func(c *Config) { c.Interface = "" },
		"use letters, digits": func(c *Config) { c.Interface = "gw%d" },
		`"../x"`:              func(c *Config) { c.Interface = "../x" },
		`".."`:                func(c *Config) { c.Interface = ".." },
		`"a b"`:               func(c *Config) { c.Interface = "a b" },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in the error, got: %v", want, err)
		}
	}
	if err := good.check(); err != nil || good.MTU != DefaultMTU {
		t.Errorf("a good configuration: MTU %d, %v", good.MTU, err)
	}
}

func TestUDPAddrUnmaps(t *testing.T) {
	if got := udpAddr(netip.MustParseAddrPort("[::ffff:192.0.2.1]:7")).String(); got != "192.0.2.1:7" {
		t.Error(got)
	}
}

func udpEndpoint(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 9)
}

// overlay returns a peer's two addresses.
func overlay(i int) []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}), 128),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64, byte(i >> 8), byte(i)}), 32),
	}
}

func TestCollectorSetsAndRestores(t *testing.T) {
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	now := func() int {
		p := debug.SetGCPercent(-1)
		debug.SetGCPercent(p)
		return p
	}
	t.Setenv("GOGC", "")
	if err := os.Unsetenv("GOGC"); err != nil {
		t.Fatal(err)
	}
	c := newCollector()
	for _, want := range []int{quietGC, busyGC, quietGC} {
		if c.set(want); now() != want {
			t.Errorf("the percentage is %d, want %d", now(), want)
		}
	}
	if c.restore(); now() != 77 {
		t.Errorf("after restore the percentage is %d, want 77", now())
	}
	t.Setenv("GOGC", "100")
	c = newCollector()
	c.set(quietGC)
	if c.restore(); now() != 77 {
		t.Errorf("a percentage that the user has set was changed to %d", now())
	}
}

func TestTrimmerSaysWhenItIsBusy(t *testing.T) {
	var m trimmer
	now, packets := time.Unix(1000, 0), uint64(0)
	for i, rate := range []uint64{0, 0, 100, 3000, 50, 50} {
		now, packets = now.Add(time.Second), packets+rate
		m.step(packets, now)
		if want := i >= 3; m.busy() != want {
			t.Errorf("second %d: busy %v, want %v", i, m.busy(), want)
		}
	}
	for range trimQuiet / time.Second {
		now = now.Add(time.Second)
		m.step(packets, now)
	}
	if m.busy() {
		t.Error("still busy after it was trimmed")
	}
}
