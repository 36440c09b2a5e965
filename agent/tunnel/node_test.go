package tunnel

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

func TestMain(m *testing.M) {
	os.Exit(nstest.Main(func() int {
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			println(err.Error())
			return 1
		}
		return code
	}, map[string]nstest.Role{"node": playNode}))
}

// privateKey and publicKey of a test's node, from a number.
func privateKey(seed byte) [32]byte {
	k := [32]byte{1: seed}
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

func publicKey(seed byte) mesh.WGKey { return mesh.WGKey(wgtypes.Key(privateKey(seed)).PublicKey()) }

// playNode is a host with a tunnel. Arguments: interface, key number, UDP port. It answers each command with "ok ..." or an error.
func playNode(in *bufio.Scanner, out io.Writer, args []string) error {
	seed, port := atoi(args[1]), atoi(args[2])
	n := &node{out: out}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for in.Scan() {
		words := strings.Fields(in.Text())
		if words[0] == "new" {
			t, err := New(Config{Interface: args[0], PrivateKey: privateKey(byte(seed)), Port: uint16(port), Bind: conn.NewDefaultBind(), Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				n.answer("", err)
				continue
			}
			n.tunnel = t
			defer t.Close()
			go t.Run(ctx)
			n.answer("", nil)
			continue
		}
		n.answer(n.do(words[0], words[1:]))
	}
	return nil
}

type node struct {
	out    io.Writer
	tunnel *Tunnel
}

func (n *node) answer(s string, err error) {
	if err != nil {
		fmt.Fprintln(n.out, "error", strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	fmt.Fprintln(n.out, "ok", s)
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err) // the test's own command
	}
	return n
}

func (n *node) do(command string, args []string) (string, error) {
	switch command {
	case "configure": // interface, address
		return "", nstest.Configure(args[0], args[1:]...)
	case "peer": // key number, allowed prefix, endpoint or nothing
		p := PeerConfig{Key: publicKey(byte(atoi(args[0]))), AllowedIPs: []netip.Prefix{netip.MustParsePrefix(args[1])}}
		if len(args) > 2 {
			p.Endpoint = netip.MustParseAddrPort(args[2])
		}
		return "", n.tunnel.SetPeer(p)
	case "sink": // address: takes what comes
		l, err := net.Listen("tcp", args[0])
		if err != nil {
			return "", err
		}
		go sink(l)
		return "", nil
	case "source": // address, milliseconds: sends and says how fast
		return source(args[0], time.Duration(atoi(args[1]))*time.Millisecond)
	case "rss":
		return fmt.Sprint(rss(os.Getpid())), nil
	case "close":
		return "", n.tunnel.Close()
	}
	return "", fmt.Errorf("no command %q", command)
}

func sink(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{c}) }()
	}
}

func source(addr string, d time.Duration) (string, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	buf, sent, start := make([]byte, 128<<10), 0, time.Now()
	for time.Since(start) < d {
		w, err := c.Write(buf)
		if err != nil {
			return "", err
		}
		sent += w
	}
	return fmt.Sprintf("%.0f", float64(sent)*8/1e6/time.Since(start).Seconds()), nil
}

// rss returns a process's resident set in kB.
func rss(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return -1
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	return atoi(strings.Fields(rest)[0])
}

// hosts makes two nodes in namespaces of their own, joined by a veth: 192.0.2.1 with 2001:db8::1 in the tunnel, and 192.0.2.2 with
// 2001:db8::2. The first knows where the second is if endpoint is set.
func hosts(t testing.TB, endpoint bool) (a, b *nstest.Host) {
	t.Helper()
	nstest.Require(t)
	a = nstest.Start(t, "node", nstest.Options{Args: []string{"gwa", "1", "7001"}})
	b = nstest.Start(t, "node", nstest.Options{Args: []string{"gwb", "2", "7002"}})
	if err := nstest.Join("eth0", a.PID(), "eth0", b.PID()); err != nil {
		t.Fatal(err)
	}
	tell(t, a, "configure eth0 192.0.2.1/24")
	tell(t, b, "configure eth0 192.0.2.2/24")
	for _, h := range []*nstest.Host{a, b} {
		tell(t, h, "new")
	}
	tell(t, a, "configure gwa 2001:db8::1/64")
	tell(t, b, "configure gwb 2001:db8::2/64")
	if endpoint {
		tell(t, a, "peer 2 2001:db8::2/128 192.0.2.2:7002")
	} else {
		tell(t, a, "peer 2 2001:db8::2/128")
	}
	tell(t, b, "peer 1 2001:db8::1/128")
	return a, b
}

func tell(t testing.TB, h *nstest.Host, command string) string {
	t.Helper()
	answer := h.Tell(command)
	rest, ok := strings.CutPrefix(answer, "ok ")
	if !ok {
		t.Fatalf("%s: %s", command, answer)
	}
	return rest
}

// ambient capabilities of the agent's service.
var ambient = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE}
