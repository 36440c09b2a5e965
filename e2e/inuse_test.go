//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	attached "github.com/gridwire/gridwire/agent/workload"
	"github.com/gridwire/gridwire/e2e/lab"
)

// condition is all of a machine that an agent may change, line by line: interfaces, addresses, routes, rules, nftables, kernel settings,
// listening sockets, files in /run and /etc.
func (p *pc) condition() []string {
	p.w.Helper()
	var out []string
	for what, cmd := range map[string]string{
		"interface": "ip -o link | cut -d: -f2",
		"address":   "ip -o address | tr -s ' ' | cut -d' ' -f2-4",
		"route":     "ip route show table all; ip -6 route show table all | grep -v '^fe80\\|^ff00\\|^multicast'",
		"rule":      "ip rule; ip -6 rule",
		"nftables":  "nft -s list ruleset",
		"setting":   "cd /proc/sys/net && grep -sH . ipv4/ip_* ipv4/conf/*/* ipv6/conf/*/* | grep -v stable_secret",
		"socket":    "ss -Hlntup | tr -s ' ' | cut -d' ' -f1,5,7 | sed 's/pid=[0-9]*,fd=[0-9]*//g' | sort -u",
		"run":       "ls -d /run/wireguard/* /run/gridwire/* " + p.h.Socket() + " 2>&1 | grep -v 'No such'; true",
		"etc":       "cd /etc && find . -maxdepth 1 && sed 's/^/resolv.conf: /' resolv.conf",
	} {
		b := must(p.Exec(p.w.ctx(10*time.Second), "sh", "-c", cmd))(p.w)
		for line := range strings.Lines(string(b)) {
			out = append(out, what+": "+strings.TrimRight(line, " \n"))
		}
	}
	slices.Sort(out)
	return out
}

// changed returns the lines that differ, but for those that are about one of names.
func changed(before, after []string, names ...string) (out []string) {
	about := func(line string) bool {
		if strings.Trim(strings.TrimPrefix(line, "nftables:"), "\t }") == "" {
			return true // it says nothing by itself
		}
		return slices.ContainsFunc(names, func(n string) bool { return strings.Contains(line, n) })
	}
	for _, d := range []struct {
		sign string
		a, b []string
	}{{"- ", before, after}, {"+ ", after, before}} {
		for _, line := range d.a {
			if !slices.Contains(d.b, line) && !about(line) {
				out = append(out, d.sign+line)
			}
		}
	}
	return out
}

// outlives returns what the lines about what outlives agents contain: attached workloads' interfaces, and the tables that say what those may send.
func (p *pc) outlives(agents ...*lab.Host) []string {
	p.w.Helper()
	var out []string
	for _, h := range agents {
		table := "gridwire_" + h.Interface() + "_workloads"
		out = append(out, attached.InterfacePrefix(h.Interface()), table)
		rules, _ := p.Exec(p.w.ctx(5*time.Second), "nft", "-s", "list", "table", "inet", table)
		for line := range strings.Lines(string(rules)) {
			if line = strings.Trim(line, "\t\n {}"); line != "" {
				out = append(out, line)
			}
		}
	}
	return out
}

// busy is a member of everything: it has a workload, serves a device as a gateway, routes a network and has others routed to it, answers
// names for the machine's resolver, shows its page to a browser that stays, and its metrics to somebody who keeps the connection.
type busy struct {
	*pc
	h        *lab.Host
	web      *lab.Namespace
	port     int // of metrics; the page has the next
	lan, far string
	wrap     []string // what becomes the agent; nil: root, on its machine
	second   bool     // the machine's resolver asks another network's agent: without split DNS it can ask one only
}

func (b *busy) start(args ...string) *lab.Agent {
	b.w.Helper()
	if b.wrap == nil {
		b.wrap = b.Wrap()
	}
	args = append([]string{"--resolver", "on", "--metrics", fmt.Sprintf("127.0.0.1:%d", b.port), "--page", fmt.Sprintf("127.0.0.1:%d", b.port+1)}, args...)
	a := must(b.h.StartAgentWith(lab.AgentConfig{Args: args, Wrap: b.wrap}))(b.w)
	b.w.agents[b.h] = a
	if err := a.WaitReady(b.w.ctx(20 * time.Second)); err != nil {
		b.w.Fatal(err)
	}
	return a
}

// everything waits until all of it is in use.
func (b *busy) everything(issuer *lab.Host) {
	w := b.w
	w.Helper()
	w.linked(b.h, issuer, 15*time.Second)
	w.eventually(10*time.Second, "the far network is routed to "+b.h.Label(), func() bool { return w.route(b.h, b.far).State == "active" })
	w.eventually(10*time.Second, "the resolver asks "+b.h.Label(), func() bool { return b.second || strings.Contains(b.text("resolv.conf"), b.h.Interface()) })
	w.eventually(10*time.Second, "the workload is up", func() bool { return w.workloads(b.h)["web"].Health == "up" })
	if now := w.exec(b.h, "sh", "-c", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"); now != "1\n1\n" {
		w.Errorf("%s does not forward: %q", b.h.Label(), now)
	}
	for i, path := range []string{"/metrics", "/api/events"} {
		var conn net.Conn
		if err := b.h.Do(func() (err error) {
			conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", b.port+i))
			return err
		}); err != nil {
			w.Fatal(err)
		}
		w.Cleanup(func() { _ = conn.Close() })
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", path, b.port+i)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		head := make([]byte, 15)
		if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 200 OK" && string(head) != "HTTP/1.1 200 OK"[:15] {
			w.Errorf("%s: %q, %v", path, head, err)
		}
	}
}

// join joins the network of issuer, and uses everything.
func (b *busy) join(issuer *lab.Host, phone string) {
	w, h := b.w, b.h
	w.Helper()
	w.issuer = issuer
	b.start("--join", w.token(h.Label(), "--route", b.lan))
	b.web = w.namespace(h, "web-"+h.Label())
	w.run(h, "gateway", "on")
	w.run(h, "workload", "add", "web", "--netns", b.web.Path())
	w.eventually(5*time.Second, "the issuer knows the gateway", func() bool {
		_, err := issuer.Gridwire(w.ctx(5*time.Second), "export", phone, "--gateway", h.Label())
		return err == nil
	})
	b.everything(issuer)
}

// busyMember joins h, whose machine is m, to the network of issuer.
func (w *world) busyMember(h *lab.Host, m *lab.Machine, issuer *lab.Host, port int, lan, far, phone string, second bool) *busy {
	w.Helper()
	b := &busy{pc: &pc{m, w, h}, h: h, port: port, lan: lan, far: far, second: second}
	b.join(issuer, phone)
	return b
}

// lanOf gives h a second network, and a machine whose resolver is its own.
func (w *world) lanOf(h *lab.Host, prefix string) *lab.Machine {
	w.Helper()
	first := netip.MustParsePrefix(prefix).Addr().Next()
	w.exec(h, "ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
	w.exec(h, "ip", "address", "add", netip.PrefixFrom(first, 24).String(), "dev", "lan0")
	w.exec(h, "sh", "-c", "ip link set lan0 up; ip link set lan1 up; sysctl -qw net.ipv6.conf.eth0.accept_ra=1; mkdir -p /run/wireguard")
	return must(h.Machine(lab.MachineConfig{ResolvConf: "# the owner's\nnameserver 192.0.2.53\n", Hosts: "files dns"}))(w)
}

// beforeBusy makes the network that a busy member joins: alice founds it, far has 198.18.7.0/24 behind it, and bob, who is to be busy, a LAN.
func (w *world) beforeBusy() (alice, bob *lab.Host, m *lab.Machine) {
	w.Helper()
	alice, far, bob := w.public("alice"), w.public("far"), w.public("bob")
	w.found(alice)
	w.joinRouting(far, "198.18.7.0/24")
	return alice, bob, w.lanOf(bob, "192.168.77.0/24")
}

// TestEverythingInUse: however an agent ends with everything in use, the machine is as it was but for the attached workloads, which outlive
// it: by SIGTERM, within 2 s; after kill -9 by the next one's end or by doctor, without any agent; and after leave, without the workloads.
func TestEverythingInUse(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob, m := w.beforeBusy()
	p := &pc{m, w, bob}
	before := p.condition()
	b := w.busyMember(bob, m, alice, 9586, "192.168.77.0/24", "198.18.7.0/24", "phone", false)
	if got := changed(before, p.condition(), p.outlives(bob)...); len(got) < 20 {
		t.Fatalf("all that a busy agent changes is %q: this test would see nothing", got)
	}
	ends := func(how string) {
		t.Helper()
		start := time.Now()
		if err := w.agents[bob].Stop(); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: it took %v", how, took)
		}
		if got := changed(before, p.condition(), p.outlives(bob)...); len(got) > 0 {
			t.Errorf("%s: the machine is not as it was:\n%s", how, strings.Join(got, "\n"))
		}
	}
	ends("SIGTERM")
	b.start()
	b.everything(alice)
	w.agents[bob].Kill()
	b.start()
	b.everything(alice)
	ends("kill -9, start, SIGTERM")
	b.start()
	b.everything(alice)
	w.agents[bob].Kill()
	if got := changed(before, p.condition(), p.outlives(bob)...); len(got) < 3 {
		t.Errorf("kill -9 leaves %q: doctor would have nothing to do", got)
	}
	w.says("doctor", p.doctor(), "a killed agent left nftables tables")
	w.says("doctor --fix", p.doctor("--fix"), "mended")
	if got := changed(before, p.condition(), p.outlives(bob)...); len(got) > 0 {
		t.Errorf("kill -9, doctor --fix: the machine is not as it was:\n%s", strings.Join(got, "\n"))
	}
	b.start()
	b.everything(alice)
	w.run(bob, "leave")
	if err := w.agents[bob].Stop(); err != nil {
		t.Error(err)
	}
	if got := changed(before, p.condition()); len(got) > 0 {
		t.Errorf("leave: the machine is not as it was:\n%s", strings.Join(got, "\n"))
	}
	if left, _ := filepath.Glob(filepath.Join(bob.State(), "*")); len(left) > 1 {
		t.Errorf("leave: left in the state folder: %q", left)
	}
}
