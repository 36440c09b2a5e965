package lan

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

const helperEnv = "GRIDWIRE_LAN_TEST_SELF"

// TestHelper is not a test: it is what runs inside a network namespace. It prints whom it finds.
func TestHelper(t *testing.T) {
	self := os.Getenv(helperEnv)
	if self == "" {
		t.Skip("runs inside TestSwitchWithNoRouter only")
	}
	l := New(Config{
		Self: mesh.NodeID{self[0]}, Secret: secret, Port: 51820, Now: time.Now, Log: slog.Default(),
		Known: func(mesh.NodeID) bool { return true },
		Found: func(id mesh.NodeID, addrs []netip.AddrPort) {
			fmt.Printf("found %s %v\n", hex.EncodeToString(id[:1]), addrs)
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	// No address yet: a box that boots before it has one.
	l.Changed(links(t))
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() { // each line says that the links have changed
		l.Changed(links(t))
	}
	cancel()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Error("Run does not end")
	}
}

func links(t *testing.T) (out []Link) {
	ifaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ifaces {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		link := Link{Index: i.Index, Name: i.Name, Multicast: i.Flags&net.FlagMulticast != 0}
		addrs, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				link.Prefixes = append(link.Prefixes, p)
			}
		}
		out = append(out, link)
	}
	return out
}

// Two hosts on one switch, with no default route, that get an address only after they have started. One has a second link, whose
// address must not show on the first.
func TestSwitchWithNoRouter(t *testing.T) {
	if testing.Short() || os.Getuid() != 0 {
		t.Skip("needs root and network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs iproute2")
	}
	pid := os.Getpid()
	a, b, c := fmt.Sprintf("gwlan%da", pid), fmt.Sprintf("gwlan%db", pid), fmt.Sprintf("gwlan%dc", pid)
	for _, ns := range []string{a, b, c} {
		run(t, "netns", "add", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	}
	run(t, "-n", a, "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", b)
	run(t, "-n", a, "link", "add", "lan1", "type", "veth", "peer", "name", "lan1", "netns", c)
	for _, l := range [][2]string{{a, "lan0"}, {b, "lan0"}, {a, "lan1"}, {c, "lan1"}} {
		run(t, "-n", l[0], "link", "set", l[1], "up")
	}
	run(t, "-n", a, "addr", "add", "10.99.1.1/24", "dev", "lan1")
	foundA, toA := helper(t, a, "A")
	foundB, toB := helper(t, b, "B")
	time.Sleep(300 * time.Millisecond)
	run(t, "-n", a, "addr", "add", "169.254.3.4/16", "dev", "lan0")
	run(t, "-n", b, "addr", "add", "169.254.5.6/16", "dev", "lan0")
	fmt.Fprintln(toA, "changed")
	fmt.Fprintln(toB, "changed")
	expect(t, foundA, "found 42 [169.254.5.6:51820]")
	if line := expect(t, foundB, "found 41 [169.254.3.4:51820]"); strings.Contains(line, "10.99.1.1") {
		t.Errorf("an address of another link was shown: %s", line)
	}
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Skipf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// helper starts TestHelper in a namespace, and returns what it prints and a way to write to it.
func helper(t *testing.T, ns, self string) (<-chan string, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", ns, os.Args[0], "-test.run=^TestHelper$", "-test.v")
	cmd.Env = append(os.Environ(), helperEnv+"="+self)
	cmd.Stdin = r
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	done := make(chan struct{})
	go func() { // the cleanup waits for it
		defer close(done)
		for s := bufio.NewScanner(out); s.Scan(); {
			select {
			case lines <- s.Text():
			default:
			}
		}
	}()
	t.Cleanup(func() {
		_ = w.Close()
		_ = r.Close()
		<-done
		if err := cmd.Wait(); err != nil {
			t.Errorf("helper %s: %v", self, err)
		}
	})
	return lines, w
}

func expect(t *testing.T, lines <-chan string, want string) string {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case l := <-lines:
			if strings.Contains(l, want) {
				return l
			}
			if strings.HasPrefix(l, "found") {
				t.Logf("%s", l)
			}
		case <-timeout:
			t.Fatalf("%q was not printed within 10 s", want)
		}
	}
}
