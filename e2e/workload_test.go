//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// workload is a row of `gridwire workload list --json`.
type workload struct {
	Name, Health, Reason, Interface string
	DNSName                         string `json:"dns_name"`
	Addresses                       []netip.Prefix
	ReceiveBytes                    uint64 `json:"receive_bytes"`
}

func (w *world) workloads(h *lab.Host) map[string]workload {
	w.Helper()
	var all []workload
	if err := json.Unmarshal([]byte(w.run(h, "workload", "list", "--json")), &all); err != nil {
		w.Fatal(err)
	}
	out := map[string]workload{}
	for _, x := range all {
		out[x.Name] = x
	}
	return out
}

func (w *world) namespace(h *lab.Host, label string) *lab.Namespace {
	w.Helper()
	return must(h.Inner(label))(w)
}

// mirror starts a TCP server in a namespace that tells every client the two addresses of its connection, as the server sees them.
func (w *world) mirror(n *lab.Namespace, port int) {
	w.Helper()
	cmd := n.Command(context.Background(), os.Args[0], "-test.run=^TestMirror$")
	cmd.Env = append(os.Environ(), "GRIDWIRE_BIN="+binary, fmt.Sprintf("%s=[::]:%d", mirrorEnv, port))
	in := must(cmd.StdinPipe())(w)
	out := must(cmd.StdoutPipe())(w)
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		_ = in.Close()
		stuck := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer stuck.Stop()
		_ = cmd.Wait()
	})
	stuck := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		w.Fatalf("the mirror did not start: %v", err)
	}
}

// ask connects to a mirror from h and returns what it said: who the client is, and who the server.
func (w *world) ask(h interface {
	Exec(context.Context, string, ...string) ([]byte, error)
}, to netip.AddrPort) (client, server netip.Addr, err error) {
	out, err := h.Exec(w.ctx(3*time.Second), "curl", "-sS", "--http0.9", "--max-time", "2", "http://"+to.String())
	if err != nil {
		return client, server, err
	}
	var a, b netip.AddrPort
	fields := strings.Fields(string(out))
	if len(fields) != 2 || a.UnmarshalText([]byte(fields[0])) != nil || b.UnmarshalText([]byte(fields[1])) != nil {
		return client, server, fmt.Errorf("the mirror said %q", out)
	}
	return a.Addr().Unmap(), b.Addr().Unmap(), nil
}

// sees waits until h reaches the workload at to and both sides see the overlay's own addresses.
func (w *world) sees(h interface {
	Exec(context.Context, string, ...string) ([]byte, error)
}, from netip.Addr, to netip.AddrPort, limit time.Duration) {
	w.Helper()
	var last string
	w.eventually(limit, fmt.Sprintf("%v is reached from %v", to, from), func() bool {
		client, server, err := w.ask(h, to)
		last = fmt.Sprint(client, server, err)
		return err == nil && client == from && server == to.Addr()
	})
	_ = last
}

// overlay6 returns a host's own overlay address.
func (w *world) overlay6(h *lab.Host) netip.Addr {
	w.Helper()
	return w.status(h).Self.Addresses[0].Addr()
}

// vethsOf lists the network interfaces of h whose names begin with the workloads' prefix.
func (w *world) vethsOf(h *lab.Host) []string {
	w.Helper()
	var out []string
	for _, line := range strings.Split(string(must(h.Exec(w.ctx(5*time.Second), "ip", "-br", "link", "show", "type", "veth"))(w)), "\n") {
		if name, _, ok := strings.Cut(line, "@"); ok && name != "eth0" {
			out = append(out, name)
		}
	}
	return out
}

// TestWorkload: a namespace on a farmer behind NAT is part of the mesh: everybody reaches it directly with both source addresses as they
// are, it reaches everybody, and it survives the agent. When it vanishes, so does its name.
func TestWorkload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.home("alice", home), w.home("bob", home)
	carol := w.public("carol")
	w.mesh(carol, alice, bob)
	w.linked(alice, bob, 15*time.Second)
	web := w.namespace(alice, "web")
	out := w.run(alice, "workload", "add", "web", "--netns", web.Path(), "--port", "http=8080/tcp")
	if !strings.HasPrefix(out, "web.alice.farm.internal  fd") {
		t.Fatalf("workload add says %q", out)
	}
	row := w.workloads(alice)["web"]
	addr := row.Addresses[0].Addr()
	if row.Health != "up" || !addr.Is6() || row.DNSName != "web.alice.farm.internal" {
		t.Fatalf("list: %+v", row)
	}
	at := netip.AddrPortFrom(addr, 8080)
	w.mirror(web, 8080)
	w.sees(bob, w.overlay6(bob), at, 10*time.Second)
	w.sees(alice, w.overlay6(alice), at, time.Second) // its own host
	w.sees(carol, w.overlay6(carol), at, 5*time.Second)
	w.eventually(5*time.Second, "bob knows the workload's name", func() bool { return w.dig(bob, "web.alice.farm.internal", "AAAA") == addr.String() })
	if got := w.dig(bob, "_http._tcp.web.alice.farm.internal", "SRV"); !strings.HasSuffix(got, " 8080 web.alice.farm.internal.") {
		t.Errorf("SRV: %q", got)
	}
	// The other way round, and from workload to workload.
	back := w.namespace(bob, "db")
	w.run(bob, "workload", "add", "db", "--netns", back.Path())
	db := w.workloads(bob)["db"].Addresses[0].Addr()
	w.mirror(back, 5432)
	w.sees(web, addr, netip.AddrPortFrom(db, 5432), 5*time.Second)
	if err := web.SetResolvConf("nameserver " + w.overlay6(alice).String() + "\n"); err != nil {
		t.Fatal(err)
	}
	w.eventually(5*time.Second, "a workload asks its node for names, through glibc", func() bool {
		out, err := web.Exec(w.ctx(3*time.Second), "getent", "ahostsv6", "db.bob.farm.internal")
		return err == nil && strings.HasPrefix(string(out), db.String()+" ")
	})
	w.sees(back, db, at, 5*time.Second)
	second := w.namespace(alice, "two")
	w.run(alice, "workload", "add", "two", "--netns", second.Path())
	two := w.workloads(alice)["two"].Addresses[0].Addr()
	w.sees(second, two, at, 5*time.Second) // a neighbour on the same host

	// Another's address on its own interface: what it sends from there must not even arrive (no answer would find back anyway).
	echoes := func() string {
		b := string(must(web.Exec(w.ctx(5*time.Second), "cat", "/proc/net/snmp6"))(t))
		_, b, _ = strings.Cut(b, "Icmp6InEchos")
		return strings.Fields(b)[0]
	}
	ping := func(from netip.Addr) {
		_, _ = second.Exec(w.ctx(5*time.Second), "ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-I", from.String(), addr.String())
	}
	must(second.Exec(w.ctx(5*time.Second), "ip", "addr", "add", db.Next().String()+"/128", "dev", "gw0", "nodad"))(t)
	before := echoes()
	ping(db.Next())
	if after := echoes(); after != before {
		t.Errorf("a workload sent from an address that is not its own: %s echo requests arrived, %s before", after, before)
	}
	if ping(two); echoes() == before {
		t.Error("what it sends from its own address does not arrive either: that says nothing")
	}

	w.agents[alice].Kill()
	w.start(alice)
	if got := w.workloads(alice); got["web"].Addresses[0].Addr() != addr || got["web"].Health != "up" || got["two"].Health != "up" {
		t.Fatalf("after kill -9 and a new start: %+v", got)
	}
	w.sees(bob, w.overlay6(bob), at, 10*time.Second)
	if w.workloads(alice)["web"].ReceiveBytes == 0 {
		t.Error("nothing was counted")
	}

	w.eventually(5*time.Second, "bob knows the second one's name", func() bool { return w.dig(bob, "two.alice.farm.internal", "AAAA") == two.String() })
	if err := second.Delete(); err != nil { // nothing runs in it
		t.Fatal(err)
	}
	w.eventually(5*time.Second, "the namespace that vanished is noticed", func() bool { return w.workloads(alice)["two"].Health == "gone" })
	w.eventually(5*time.Second, "its name is withdrawn everywhere", func() bool { return w.dig(bob, "two.alice.farm.internal", "AAAA") == "" })
	again := w.namespace(alice, "two")
	must(alice.Exec(w.ctx(5*time.Second), "nft", "add table ip other; add chain ip other FORWARD { type filter hook forward priority 0; policy drop; }"))(t)
	addTwo := must(alice.Command(w.ctx(10*time.Second), binary, "workload", "add", "two", "--netns", again.Name(), "--socket", alice.Socket()).CombinedOutput())(t)
	if !strings.Contains(string(addTwo), "another firewall of this machine drops what passes through it unless a rule lets it through, workloads' packets too: table other, chain FORWARD") {
		t.Errorf("nothing is said about the firewall: %s", addTwo)
	}
	must(alice.Exec(w.ctx(5*time.Second), "nft", "delete table ip other"))(t)
	if got := w.workloads(alice)["two"]; got.Health != "up" || got.Addresses[0].Addr() != two {
		t.Errorf("attached again: %+v, want %v as before", got, two)
	}
	w.sees(again, two, at, 5*time.Second)
	// An address out of its block that the node has by itself gets a name too.
	own := two.Next()
	must(alice.Exec(w.ctx(5*time.Second), "ip", "addr", "add", own.String()+"/128", "dev", "lo"))(t)
	w.run(alice, "workload", "add", "here", "--address", own.String())
	must(bob.Exec(w.ctx(5*time.Second), "ping", "-n", "-c", "1", "-W", "3", own.String()))(t)
	must(alice.Exec(w.ctx(5*time.Second), "ip", "addr", "del", own.String()+"/128", "dev", "lo"))(t)
	w.eventually(5*time.Second, "an address that nothing leads to is noticed", func() bool { return w.workloads(alice)["here"].Health == "down" })
	for _, name := range []string{"web", "two", "here"} {
		w.run(alice, "workload", "remove", name)
	}
	if left := w.vethsOf(alice); len(left) != 0 {
		t.Errorf("interfaces left behind: %v", left)
	}
	if out, err := alice.Exec(w.ctx(5*time.Second), "nft", "list", "tables"); err != nil || strings.Contains(string(out), "workloads") {
		t.Errorf("tables left behind: %s %v", out, err)
	}
	if b, _ := alice.Exec(w.ctx(5*time.Second), "cat", "/proc/sys/net/ipv6/conf/all/forwarding"); strings.TrimSpace(string(b)) != "0" {
		t.Errorf("forwarding is still %s", b)
	}
}

// TestWorkloadRefused: each mistake is a clear error, and nothing is left of it.
func TestWorkloadRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	w.mesh(alice)
	web := w.namespace(alice, "web")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.run(alice, "workload", "add", "taken", "--netns", web.Path())
	other := w.namespace(alice, "other")
	state := func() string {
		var names []string
		for _, x := range w.workloads(alice) {
			names = append(names, x.Name, x.Health)
		}
		return fmt.Sprint(names, w.vethsOf(alice))
	}
	before := state()
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"add no_label --netns " + other.Path(), 2, "DNS label"},
		{"add " + strings.Repeat("x", 64) + " --netns " + other.Path(), 2, "64 characters"},
		{"add web", 2, "--netns PATH or --address ADDR"},
		{"add web --netns x --address ::1", 2, "exclude each other"},
		{"add web --netns " + other.Path() + " --port 70000", 2, "1 to 65535"},
		{"add web --netns " + other.Path() + " --port http=80/sctp", 2, "tcp or udp"},
		{"add web --netns /nowhere", 4, "no network namespace /nowhere"},
		{"add web --netns " + file, 4, "is no network namespace"},
		{"add web --netns /proc/self/ns/mnt", 4, "is no network namespace"},
		{"add web --netns /proc/self/ns/net", 4, "in which the agent runs"},
		{"add taken --netns " + other.Path(), 4, "a workload taken already"},
		{"add web --netns " + web.Path(), 4, "has an interface gw0 already"},
		{"add web --netns " + other.Path() + " --ifname with/slash", 4, "interface name"},
		{"add web --address 192.0.2.1", 4, "is not this node's to name"},
		{"add web --address " + w.overlay6(alice).String(), 4, "is not this node's to name"},
		{"add web --address " + w.overlay6(alice).Next().Next().Next().String(), 4, "no route of this machine leads to it but the mesh's own"},
		{"add web --address rubbish", 2, "no IPv4 or IPv6 address"},
		{"remove web", 1, "no workload web"},
		{"remove", 2, "NAME"},
	} {
		_, err := alice.Gridwire(w.ctx(10*time.Second), append([]string{"workload"}, strings.Fields(c.args)...)...)
		var failed *lab.CommandError
		if !errors.As(err, &failed) || failed.Code != c.code || !strings.Contains(failed.Stderr, c.says) {
			t.Errorf("workload %s: %v, want exit status %d and %q", c.args, err, c.code, c.says)
		}
	}
	if after := state(); after != before {
		t.Errorf("something was left behind:\n%s\nbefore:\n%s", after, before)
	}
	if out := must(other.Exec(w.ctx(5*time.Second), "ip", "-br", "link"))(t); strings.Count(string(out), "\n") != 1 {
		t.Errorf("something is left in the namespace:\n%s", out)
	}
	// Who is not root is told so before anything happens.
	out, err := alice.Exec(w.ctx(10*time.Second), "setpriv", "--reuid", "65534", "--clear-groups", binary, "workload", "add", "web", "--netns", other.Path(), "--socket", alice.Socket())
	var failed *lab.CommandError
	if !errors.As(err, &failed) || failed.Code != 4 || !strings.Contains(failed.Stderr, "takes root") {
		t.Errorf("not root: %s %v", out, err)
	}
	w.agents[alice].Stop()
	if _, err := alice.Gridwire(w.ctx(10*time.Second), "workload", "add", "web", "--netns", other.Path()); !errors.As(err, &failed) || failed.Code != 3 {
		t.Errorf("without an agent: %v", err)
	}
}

// TestWorkloadIPv4: where the node's certificate authorises an IPv4 prefix, a workload has an address out of it, with the same promises; and
// something with an address of its own behind the node, an interface of its own making, can have a name.
func TestWorkloadIPv4(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	w.found(alice)
	w.start(bob, "--join", w.token("bob", "--route", "192.0.2.0/29", "--route", "203.0.113.0/24"))
	w.linked(alice, bob, 10*time.Second)
	web := w.namespace(bob, "web")
	w.run(bob, "workload", "add", "web", "--netns", web.Path())
	row := w.workloads(bob)["web"]
	if len(row.Addresses) != 2 || row.Addresses[1].String() != "192.0.2.1/32" {
		t.Fatalf("addresses %v, want 192.0.2.1 as the second", row.Addresses)
	}
	w.mirror(web, 8080)
	own4 := w.status(alice).Self.Addresses[1].Addr()
	w.sees(alice, own4, netip.AddrPortFrom(row.Addresses[1].Addr(), 8080), 10*time.Second)
	w.sees(alice, w.overlay6(alice), netip.AddrPortFrom(row.Addresses[0].Addr(), 8080), 5*time.Second)

	// Bob forwards now, but routes for nobody to his own network.
	must(web.Exec(w.ctx(5*time.Second), "ip", "-4", "route", "add", "default", "via", "inet6", "fe80::1", "dev", "gw0"))(t)
	must(bob.Exec(w.ctx(5*time.Second), "nft", "add table ip seen; add chain ip seen out { type filter hook postrouting priority 300; };"+
		"add rule ip seen out oifname eth0 ip saddr 192.0.2.1 counter"))(t)
	if _, err := web.Exec(w.ctx(5*time.Second), "ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", alice.Addr().String()); err == nil {
		t.Error("a workload pings the internet through its host")
	}
	if seen := string(must(bob.Exec(w.ctx(5*time.Second), "nft", "list", "table", "ip", "seen"))(t)); !strings.Contains(seen, "192.0.2.1 counter packets 0 ") {
		t.Errorf("a workload's packets leave its host beside the mesh:\n%s", seen)
	}

	// A machine that somebody has connected to bob, with an address out of bob's block, and one in a routed prefix.
	vm := w.namespace(bob, "vm")
	at6, at4 := row.Addresses[0].Addr().Next(), netip.MustParseAddr("203.0.113.7")
	for _, line := range []string{
		"link add br0 type veth peer name eth0 netns " + vm.Name(), "link set br0 up", "addr add fe80::9/64 dev br0 nodad", "addr add 203.0.113.1/24 dev br0",
		"route add " + at6.String() + "/128 dev br0",
	} {
		must(bob.Exec(w.ctx(5*time.Second), "ip", strings.Fields(line)...))(t)
	}
	for _, line := range []string{
		"link set eth0 up", "addr add " + at6.String() + "/128 dev eth0 nodad", "addr add 203.0.113.7/24 dev eth0", "-6 route add default via fe80::9 dev eth0",
		"route add default via 203.0.113.1",
	} {
		must(vm.Exec(w.ctx(5*time.Second), "ip", strings.Fields(line)...))(t)
	}
	w.mirror(vm, 8080)
	w.run(bob, "workload", "add", "vm6", "--address", at6.String())
	w.run(bob, "workload", "add", "vm4", "--address", at4.String())
	w.sees(alice, w.overlay6(alice), netip.AddrPortFrom(at6, 8080), 5*time.Second)
	w.eventually(5*time.Second, "the address in the routed network is reached", func() bool { // by what source is networks' concern
		_, server, err := w.ask(alice, netip.AddrPortFrom(at4, 8080))
		return err == nil && server == at4
	})
	w.run(bob, "workload", "remove", "vm6")
	w.eventually(5*time.Second, "without its name the address is cut off", func() bool {
		_, _, err := w.ask(alice, netip.AddrPortFrom(at6, 8080))
		return err != nil
	})
}

// TestWorkloadOfService: the agent needs no more rights for workloads than for anything else, a namespace may have IPv6 off, as container
// runtimes leave it, and when the node leaves its network nothing of its workloads stays.
func TestWorkloadOfService(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	w.stateOf(alice)
	w.run(alice, "init", "farm", "--node", "alice")
	w.serve(alice)
	web := w.namespace(alice, "web")
	must(web.Exec(w.ctx(5*time.Second), "sh", "-c", "for f in all default; do echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6; done"))(t)
	w.run(alice, "workload", "add", "web", "--netns", web.Path(), "--ifname", "mesh0")
	row := w.workloads(alice)["web"]
	if row.Health != "up" {
		t.Fatalf("%+v", row)
	}
	w.mirror(web, 8080)
	w.sees(alice, w.overlay6(alice), netip.AddrPortFrom(row.Addresses[0].Addr(), 8080), 5*time.Second)
	must(web.Exec(w.ctx(5*time.Second), "ip", "link", "set", "mesh0", "down"))(t)
	w.eventually(5*time.Second, "the interface that is down is noticed", func() bool { return w.workloads(alice)["web"].Health == "down" })
	must(web.Exec(w.ctx(5*time.Second), "ip", "link", "set", "mesh0", "up"))(t)
	w.eventually(5*time.Second, "it came up without its address", func() bool { return strings.Contains(w.workloads(alice)["web"].Reason, "lost it its address") })
	must(web.Exec(w.ctx(5*time.Second), "ip", "addr", "add", row.Addresses[0].String(), "dev", "mesh0", "nodad"))(t)
	w.eventually(8*time.Second, "and has it again", func() bool { return w.workloads(alice)["web"].Health == "up" })

	w.run(alice, "leave", "--yes")
	w.eventually(5*time.Second, "the interface is removed", func() bool { return len(w.vethsOf(alice)) == 0 })
	w.eventually(5*time.Second, "the tables are removed", func() bool {
		out, err := alice.Exec(w.ctx(5*time.Second), "nft", "list", "tables")
		return err == nil && !strings.Contains(string(out), "gridwire")
	})
}
