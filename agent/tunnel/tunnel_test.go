package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

func open(t testing.TB, c Config) (*Tunnel, error) {
	t.Helper()
	nstest.Require(t)
	if c.Interface == "" {
		c.Interface = "gw0"
	}
	c.PrivateKey = privateKey(9)
	if c.Bind == nil {
		c.Bind = conn.NewDefaultBind()
	}
	return New(c)
}

func mustOpen(t testing.TB, c Config) *Tunnel {
	t.Helper()
	tun, err := open(t, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tun.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return tun
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("want %q in the error, got: %v", w, err)
		}
	}
}

func nothingLeft(t *testing.T, name string) {
	t.Helper()
	if _, err := net.InterfaceByName(name); err == nil {
		t.Errorf("interface %s is still there", name)
	}
	if _, err := os.Lstat(sockPath(name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket %s: %v", sockPath(name), err)
	}
}

func TestPeersThroughTheirWholeLife(t *testing.T) {
	tun := mustOpen(t, Config{Mark: 77})
	if tun.Port() == 0 {
		t.Error("no port")
	}
	key := publicKey(3)
	if err := tun.SetEndpoint(key, netip.MustParseAddrPort("192.0.2.9:9")); !errors.Is(err, ErrNoPeer) {
		t.Errorf("endpoint of nobody: %v", err)
	}
	if err := tun.Handshake(key); !errors.Is(err, ErrNoPeer) {
		t.Errorf("handshake with nobody: %v", err)
	}
	p := PeerConfig{Key: key, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("2001:db8::3/128"), netip.MustParsePrefix("10.64.0.3/32")}}
	if err := tun.SetPeer(p); err != nil {
		t.Fatal(err)
	}
	if err := tun.SetEndpoint(key, netip.MustParseAddrPort("[::ffff:127.0.0.9]:9")); err != nil {
		t.Fatal(err)
	}
	p.AllowedIPs, p.Keepalive = p.AllowedIPs[:1], 25*time.Second
	if err := tun.SetPeer(p); err != nil { // the endpoint stays
		t.Fatal(err)
	}
	stats, err := tun.Stats()
	if err != nil || stats[key].Endpoint != netip.MustParseAddrPort("127.0.0.9:9") || stats[key].Key != key {
		t.Errorf("stats: %+v %v", stats, err)
	}
	if out, err := exec.Command("wg", "show", "gw0", "dump").CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		t.Log("no wg here")
	} else {
		for _, want := range []string{key.String(), "127.0.0.9:9", "2001:db8::3/128", "25", fmt.Sprint(tun.Port()), "0x4d"} {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("wg show: no %q: %v\n%s", want, err, out)
			}
		}
		if strings.Contains(string(out), "10.64.0.3") {
			t.Errorf("wg show: an allowed address was not replaced\n%s", out)
		}
	}
	for range 2 {
		if err := tun.RemovePeer(key); err != nil {
			t.Fatal(err)
		}
	}
	if stats, err := tun.Stats(); err != nil || len(stats) != 0 {
		t.Errorf("after the removal: %v %v", stats, err)
	}
	for range 2 {
		if err := tun.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	nothingLeft(t, "gw0")
	_, err = tun.Stats()
	for what, err := range map[string]error{"Stats": err, "SetPeer": tun.SetPeer(p), "Handshake": tun.Handshake(key), "RemovePeer": tun.RemovePeer(key)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

func TestSocketModeAndRestoring(t *testing.T) {
	tun := mustOpen(t, Config{})
	if info, err := os.Lstat(sockPath("gw0")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode: %v %v", info, err)
	}
	if restored, err := tun.uapi.restore(); restored || err != nil {
		t.Errorf("restore without need: %v %v", restored, err)
	}
	if err := os.Remove(sockPath("gw0")); err != nil {
		t.Fatal(err)
	}
	if restored, err := tun.uapi.restore(); !restored || err != nil {
		t.Errorf("restore: %v %v", restored, err)
	}
	if err := tun.SetPeer(PeerConfig{Key: publicKey(4)}); err != nil {
		t.Errorf("after restoring: %v", err)
	}
}

func TestWhatAKilledProcessLeft(t *testing.T) {
	nstest.Require(t)
	h := nstest.Start(t, "node", nstest.Options{SameNetwork: true, Args: []string{"gw0", "1", "0"}, Wrong: true})
	tell(t, h, "new")
	_, err := open(t, Config{})
	wantError(t, err, "gw0", "exists already", "--interface")
	if err := syscall.Kill(h.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 100 { // until the kernel has taken the interface away
		if _, err := net.InterfaceByName("gw0"); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := os.Lstat(sockPath("gw0")); err != nil {
		t.Errorf("a killed process's socket should be there: %v", err)
	}
	tun := mustOpen(t, Config{})
	if err := tun.Close(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, "gw0")
}

func TestSocketUsedInAnotherNamespace(t *testing.T) {
	nstest.Require(t)
	h := nstest.Start(t, "node", nstest.Options{Args: []string{"gw0", "1", "0"}})
	tell(t, h, "new")
	_, err := open(t, Config{})
	wantError(t, err, sockPath("gw0"), "in use", "--interface")
	if _, err := net.InterfaceByName("gw0"); err == nil {
		t.Error("the interface was left behind")
	}
	tell(t, h, "close")
	nothingLeft(t, "gw0")
}

func TestErrorsSayWhatIsLacking(t *testing.T) {
	nstest.Require(t)
	ask := func(o nstest.Options, port string) error {
		o.UID, o.SameNetwork, o.Args = 12345, true, []string{"gwu", "1", port}
		h := nstest.Start(t, "node", o)
		answer := h.Tell("new")
		if rest, bad := strings.CutPrefix(answer, "error "); bad {
			return errors.New(rest)
		}
		tell(t, h, "close")
		return nil
	}
	wantError(t, ask(nstest.Options{}, "0"), "gwu", "CAP_NET_ADMIN", "AmbientCapabilities")
	_ = os.RemoveAll(uapiDir)
	wantError(t, ask(nstest.Options{Ambient: ambient}, "0"), uapiDir, "uid 12345", "install -d")
	if err := errors.Join(os.MkdirAll(uapiDir, 0o755), os.Chown(uapiDir, 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(uapiDir)
	if err := ask(nstest.Options{Ambient: ambient}, "53"); err != nil {
		t.Errorf("with both capabilities and the folder: %v", err)
	}
	wantError(t, ask(nstest.Options{Ambient: ambient[:1]}, "53"), "port 53", "CAP_NET_BIND_SERVICE")
	if err := os.Chmod(tunPath, 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, ask(nstest.Options{Ambient: ambient}, "0"), tunPath, "may not open")
	if err := os.Remove(tunPath); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := nstest.MakeTUN(); err != nil {
			t.Error(err)
		}
	}()
	_, err := open(t, Config{})
	wantError(t, err, tunPath, "modprobe tun", "--device")
	nothingLeft(t, "gw0")
	nothingLeft(t, "gwu")
}

func TestPortInUse(t *testing.T) {
	nstest.Require(t)
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: 7777})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = open(t, Config{Port: 7777})
	wantError(t, err, "port 7777", "another program", "--listen")
	nothingLeft(t, "gw0")
}

func TestRunSaysThatTheInterfaceIsGone(t *testing.T) {
	tun := mustOpen(t, Config{})
	ended := make(chan error, 1)
	go func() { ended <- tun.Run(t.Context()) }()
	link, err := netlink.LinkByName("gw0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-ended, "gw0", "taken away")
}

func TestRunEndsWithItsContextAndAtClose(t *testing.T) {
	tun := mustOpen(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tun.Run(ctx); err != nil {
		t.Error(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- tun.Run(t.Context()) }()
	if err := tun.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run after Close: %v", err)
	}
}

// TestLinkDownKeepsTheSocket: the control plane shares it.
func TestLinkDownKeepsTheSocket(t *testing.T) {
	tun := mustOpen(t, Config{})
	link, err := netlink.LinkByName("gw0")
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(netlink.Link) error{netlink.LinkSetUp, netlink.LinkSetDown, netlink.LinkSetUp, netlink.LinkSetDown} {
		if err := change(link); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetMTU(link, 1300); err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(tun.Port())})
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("the port is free after link down: %v", err)
		c.Close()
	}
}

func TestHandshakeAfterAnAttemptWithoutEndpoint(t *testing.T) {
	_, b := hosts(t, false)
	// A third node, in this namespace, is what is tested; b gets it as a peer.
	nstest.Veth(t, "gwt", "eth1", b.PID(), "198.51.100.1/24")
	tell(t, b, "configure eth1 198.51.100.2/24")
	tell(t, b, "peer 9 2001:db8::9/128")
	tun := mustOpen(t, Config{})
	key := publicKey(2)
	if err := tun.SetPeer(PeerConfig{Key: key, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("2001:db8::2/128")}}); err != nil {
		t.Fatal(err)
	}
	if err := tun.dev.LookupPeer(device.NoisePublicKey(key)).SendHandshakeInitiation(false); err == nil { // as a packet from the machine would
		t.Error("a handshake without an endpoint succeeded")
	}
	if err := tun.SetEndpoint(key, netip.MustParseAddrPort("198.51.100.2:7002")); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := tun.Handshake(key); err != nil {
		t.Fatal(err)
	}
	first := handshaked(t, tun)
	if took := first.Sub(start); took > 2*time.Second { // RekeyTimeout would make it 5
		t.Errorf("the handshake took %v", took)
	}
	if err := tun.Handshake(key); err != nil { // a live session is kept
		t.Fatal(err)
	}
	if again := handshaked(t, tun); !again.Equal(first) {
		t.Error("a second call replaced a live session")
	}
}

// TestHandshakeLeavesTheDevicesOwnAlone: the device sends an initiation by itself when a packet waits for a peer. A second one at the same
// moment would spoil it.
func TestHandshakeLeavesTheDevicesOwnAlone(t *testing.T) {
	nstest.Require(t)
	tun := mustOpen(t, Config{})
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	marker, err := net.DialUDP("udp4", nil, peer.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer marker.Close()
	arrived := func() (n int) { // until the marker, which is sent last
		if _, err := marker.Write([]byte("marker")); err != nil {
			t.Fatal(err)
		}
		for buf := make([]byte, 1500); ; n++ {
			size, err := peer.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if string(buf[:size]) == "marker" {
				return n
			}
		}
	}
	key, addr := publicKey(2), peer.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := tun.SetPeer(PeerConfig{Key: key, Endpoint: addr, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("2001:db8::2/128")}}); err != nil {
		t.Fatal(err)
	}
	if err := tun.dev.LookupPeer(device.NoisePublicKey(key)).SendHandshakeInitiation(false); err != nil { // as a packet from the machine would
		t.Fatal(err)
	}
	if n := arrived(); n != 1 {
		t.Fatalf("the device sent %d initiations by itself, want 1", n)
	}
	handshakes := func(what string, wants ...int) {
		t.Helper()
		for i, want := range wants {
			if err := tun.Handshake(key); err != nil {
				t.Fatal(err)
			}
			if n := arrived(); n != want {
				t.Errorf("%s: call %d sent %d initiations, want %d", what, i+1, n, want)
			}
		}
	}
	handshakes("after the device's own, to a new peer", 0, 1, 1) // the first leaves it alone; retries send
	if err := tun.SetEndpoint(key, addr); err != nil {
		t.Fatal(err)
	}
	handshakes("to a fresh endpoint", 1)
	if err := tun.SetEndpoint(key, addr); err != nil {
		t.Fatal(err)
	}
	own := tun.dev.LookupPeer(device.NoisePublicKey(key))
	own.ExpireCurrentKeypairs() // lets the device send again at once
	if err := own.SendHandshakeInitiation(false); err != nil {
		t.Fatal(err)
	}
	if n := arrived(); n != 1 {
		t.Fatalf("the device sent %d initiations by itself, want 1", n)
	}
	handshakes("after the device's own, to a fresh endpoint", 0, 1)
}

func handshaked(t *testing.T, tun *Tunnel) time.Time {
	t.Helper()
	for range 300 {
		stats, err := tun.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if last := stats[publicKey(2)].LastHandshake; !last.IsZero() {
			return last
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("no handshake")
	return time.Time{}
}
