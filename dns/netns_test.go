package dns

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The test starts this binary again, as a server in a network namespace.
const serverEnv = "GRIDWIRE_DNS_TEST_SERVER"

// TestNamespaceServer is no test but that server: it ends when its input does.
func TestNamespaceServer(t *testing.T) {
	if os.Getenv(serverEnv) == "" {
		t.Skip("only as a helper of TestInterface")
	}
	z := BuildZone(farm())
	s, err := New(Config{
		Listen:    []netip.AddrPort{netip.MustParseAddrPort("10.77.0.1:53"), netip.MustParseAddrPort("[fd00:1:2:0:a::1]:53")},
		Interface: "gw0", Zone: func() *Zone { return z },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends with the input, before Run does
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		cancel()
	}()
	fmt.Println("serving")
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestInterface: the server is found on the overlay interface, by this machine itself too, and not through any other interface, though
// Linux takes packets for any of its addresses on each of them. gw0 stands for the overlay, lan0 for the farmer's network.
func TestInterface(t *testing.T) {
	for _, tool := range []string{"ip", "dig", "ping"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	node, member, neighbour := fmt.Sprintf("gwdns%dn", os.Getpid()), fmt.Sprintf("gwdns%dm", os.Getpid()), fmt.Sprintf("gwdns%dx", os.Getpid())
	ip := func(args string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	for _, ns := range []string{node, member, neighbour} {
		ip("netns add " + ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", ns).Run() })
		ip("-n " + ns + " link set lo up")
	}
	for peer, iface := range map[string]string{member: "gw0", neighbour: "lan0"} {
		ip(fmt.Sprintf("-n %s link add %s type veth peer name eth0 netns %s", node, iface, peer))
		ip(fmt.Sprintf("-n %s link set %s up", node, iface))
		ip(fmt.Sprintf("-n %s link set eth0 up", peer))
	}
	ip("-n " + node + " addr add 10.77.0.1/16 dev gw0")
	ip("-n " + node + " addr add fd00:1:2:0:a::1/48 dev gw0 nodad")
	ip("-n " + node + " addr add 192.0.2.1/24 dev lan0")
	ip("-n " + node + " addr add 2001:db8::1/64 dev lan0 nodad")
	ip("-n " + member + " addr add 10.77.0.2/16 dev eth0")
	ip("-n " + member + " addr add fd00:1:2:0:b::1/48 dev eth0 nodad")
	ip("-n " + neighbour + " addr add 192.0.2.2/24 dev eth0")
	ip("-n " + neighbour + " addr add 2001:db8::2/64 dev eth0 nodad")
	ip("-n " + neighbour + " route add 10.77.0.1 via 192.0.2.1")
	ip("-n " + neighbour + " route add fd00:1:2:0:a::1 via 2001:db8::1")

	server := exec.Command("ip", "netns", "exec", node, os.Args[0], "-test.run=^TestNamespaceServer$", "-test.v")
	server.Env = append(os.Environ(), serverEnv+"=1")
	stdin, _ := server.StdinPipe()
	stdout, _ := server.StdoutPipe()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		if err := server.Wait(); err != nil {
			t.Errorf("server: %v", err)
		}
	}()
	for lines := bufio.NewScanner(stdout); ; {
		if !lines.Scan() {
			t.Fatal("the server did not start")
		}
		if strings.Contains(lines.Text(), "serving") {
			break
		}
	}
	dig := func(ns, server, proto string) (string, error) {
		out, err := exec.Command("ip", "netns", "exec", ns, "dig", "@"+server, "+short", "+time=1", "+tries=1", proto, "alice.farm.internal", "A").Output()
		return string(out), err
	}
	if out, err := exec.Command("ip", "netns", "exec", neighbour, "ping", "-c1", "-W2", "10.77.0.1").CombinedOutput(); err != nil {
		t.Fatalf("the neighbour does not reach the overlay address at all, so that this test proves nothing: %v: %s", err, out)
	}
	for _, addr := range []string{"10.77.0.1", "fd00:1:2:0:a::1"} {
		for _, proto := range []string{"+notcp", "+tcp"} {
			for _, ns := range []string{node, member} {
				if out, err := dig(ns, addr, proto); err != nil || out != "10.77.0.1\n" {
					t.Errorf("%s asks %s %s: %q, %v", ns, addr, proto, out, err)
				}
			}
			if out, err := dig(neighbour, addr, proto); err == nil {
				t.Errorf("the neighbour is answered by %s %s: %q", addr, proto, out)
			}
		}
	}
}
