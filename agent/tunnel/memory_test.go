package tunnel

import (
	"fmt"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

// TestMemoryComesBack runs two nodes at full speed and looks at their resident sets.
func TestMemoryComesBack(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("measures memory under load, without the race detector")
	}
	a, b := hosts(t, true)
	tell(t, b, "sink [2001:db8::2]:5001")
	idle := [2]int{rss(a.PID()), rss(b.PID())}
	speed := tell(t, a, "source [2001:db8::2]:5001 3000")
	loaded := [2]int{rss(a.PID()), rss(b.PID())}
	var after [2]int
	for deadline := time.Now().Add(2 * trimQuiet); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		after = [2]int{rss(a.PID()), rss(b.PID())}
		if max(after[0], after[1]) < 60_000 {
			break
		}
	}
	t.Logf("%s Mbit/s; resident kB (sender, receiver): idle %v, after the load %v, then %v", speed, idle, loaded, after)
	if max(after[0], after[1]) >= 60_000 {
		t.Errorf("%v after the load the resident set is not below 60 MB", 2*trimQuiet)
	}
}

// BenchmarkStats compares ways to read the counters: Stats, and wgctrl through the UAPI socket.
func BenchmarkStats(b *testing.B) {
	nstest.Require(b)
	for _, peers := range []int{10, 200} {
		tun, err := New(Config{Interface: "gwbench", PrivateKey: privateKey(9), Bind: conn.NewDefaultBind()})
		if err != nil {
			b.Fatal(err)
		}
		for i := range peers {
			key := mesh.WGKey(wgtypes.Key{2: byte(i), 3: byte(i >> 8), 31: 64}.PublicKey())
			if err := tun.SetPeer(PeerConfig{Key: key, Endpoint: udpEndpoint(i), AllowedIPs: overlay(i)}); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("device/%d", peers), func(b *testing.B) {
			for b.Loop() {
				if s, err := tun.Stats(); err != nil || len(s) != peers {
					b.Fatal(len(s), err)
				}
			}
		})
		b.Run(fmt.Sprintf("wgctrl/%d", peers), func(b *testing.B) {
			for b.Loop() {
				if d, err := tun.wg.Device("gwbench"); err != nil || len(d.Peers) != peers {
					b.Fatal(err)
				}
			}
		})
		if err := tun.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
