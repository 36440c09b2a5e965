//go:build linux

package e2e

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/gridwire/gridwire/e2e/lab"
)

// phone is a machine with nothing of ours on it: wireguard-go as its authors build it, wg-quick, and the configuration.
type phone struct {
	*world
	*lab.Host
	bin string
}

// stubResolvconf is what wg-quick hands its DNS settings to. The real one would look after services that a namespace does not have; this
// one writes the file that the namespace sees as /etc/resolv.conf, and refuses where that is the machine's own.
const stubResolvconf = `#!/bin/sh
grep -q ' /etc/resolv.conf ' /proc/self/mounts || { echo 'not in a namespace of the lab' >&2; exit 1; }
case $1 in -a) cat >/etc/resolv.conf;; -d) echo '# none' >/etc/resolv.conf;; esac
`

func (w *world) phone(h *lab.Host) *phone {
	w.Helper()
	p := &phone{world: w, Host: h, bin: w.TempDir()}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(p.bin, "wireguard-go"), "golang.zx2c4.com/wireguard").CombinedOutput(); err != nil {
		w.Fatalf("build wireguard-go: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(p.bin, "resolvconf"), []byte(stubResolvconf), 0o755); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _, _ = h.Exec(w.ctx(5*time.Second), "ip", "link", "delete", h.Interface()) }) // and wireguard-go ends
	return p
}

// up switches a configuration on, in place of the one before.
func (p *phone) up(config string) {
	p.Helper()
	file := filepath.Join(p.bin, p.Interface()+".conf") // wg-quick names the interface after the file
	if _, err := os.Stat(file); err == nil {
		must(p.sh("wg-quick down " + file))(p)
	}
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		p.Fatal(err)
	}
	must(p.sh("wg-quick up " + file))(p)
}

func (p *phone) sh(line string) (string, error) {
	out, err := p.Exec(p.ctx(10*time.Second), "env", "PATH="+p.bin+":"+os.Getenv("PATH"), "sh", "-c", line)
	return strings.TrimSpace(string(out)), err
}

// reaches demands that a ping from one end is answered by the other within limit.
func (p *phone) reaches(from *lab.Host, to netip.Addr, limit time.Duration) {
	p.Helper()
	took, err := p.WaitPing(p.ctx(limit), from, to.String())
	if err != nil {
		p.Fatalf("%s does not reach %v within %v: %v", from.Label(), to, limit, err)
	}
	p.Logf("%s reaches %v after %v", from.Label(), to, took.Round(time.Millisecond))
}

// answers reports whether one ping is answered.
func (p *phone) answers(from *lab.Host, to netip.Addr) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := from.Exec(ctx, "ping", "-n", "-c", "1", "-W", "0.3", to.String())
	return err == nil
}

// addressesOf returns what a configuration calls its own.
func addressesOf(t *testing.T, config string) []netip.Addr {
	t.Helper()
	var out []netip.Addr
	for line := range strings.Lines(config) {
		if list, ok := strings.CutPrefix(line, "Address = "); ok {
			for s := range strings.SplitSeq(strings.TrimSpace(list), ", ") {
				out = append(out, must(netip.ParsePrefix(s))(t).Addr())
			}
		}
	}
	if len(out) != 2 {
		t.Fatalf("addresses %v in\n%s", out, config)
	}
	return out
}

// elsewhere is a name server in the internet that knows one name.
func (w *world) elsewhere(h *lab.Host, name, addr string) {
	w.Helper()
	var conn net.PacketConn
	if err := h.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", h.Addr().String()+":53")
		return err
	}); err != nil {
		w.Fatal(err)
	}
	srv := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == name && q.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR(name + " 60 IN A " + addr)
			a.Answer = append(a.Answer, rr)
		}
		_ = rw.WriteMsg(a)
	})}
	done := make(chan struct{})
	go func() { _ = srv.ActivateAndServe(); close(done) }()
	w.Cleanup(func() { _ = srv.Shutdown(); <-done })
}

// TestDevice: a telephone with nothing of ours on it is in the network by way of a gateway: it reaches every member and is reached by every
// member, names resolve on it, a restart of the gateway costs it little, and its revocation ends it everywhere.
func TestDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, gate, bob := w.public("alice"), w.public("gate"), w.home("bob", home)
	resolver := w.public("resolver")
	w.elsewhere(resolver, "example.org.", "192.0.2.99")
	if err := os.WriteFile(gate.ResolvConf(), []byte("nameserver "+resolver.Addr().String()+"\n"), 0o644); err != nil { // as DHCP would
		t.Fatal(err)
	}
	w.found(alice)
	w.join(gate)
	w.join(bob)
	w.linkedAll(10*time.Second, alice, gate, bob)
	p := w.phone(w.home("phone", home))

	w.fails(alice, 4, []string{"gateway on"}, "export", "phone") // nobody serves devices yet
	w.run(gate, "gateway", "on")
	w.fails(gate, 4, []string{"run this on alice"}, "export", "phone")
	w.fails(alice, 4, []string{"taken by a member"}, "export", "bob")
	w.fails(alice, 2, []string{"DNS label"}, "export", "my phone")
	w.fails(alice, 4, []string{"serves no devices"}, "export", "phone", "--gateway", "bob")
	config := w.run(alice, "export", "phone")
	w.fails(alice, 4, []string{"--replace"}, "export", "phone")
	own := addressesOf(t, config)
	p.up(config)

	members := map[*lab.Host]netip.Addr{}
	for _, h := range []*lab.Host{alice, gate, bob} {
		addrs := w.status(h).Self.Addresses
		members[h] = addrs[0].Addr()
		p.reaches(p.Host, addrs[0].Addr(), 5*time.Second)
		p.reaches(p.Host, addrs[1].Addr(), 5*time.Second)
		p.reaches(h, own[0], 5*time.Second)
		p.reaches(h, own[1], 5*time.Second)
	}

	// A workload behind bob's NAT, and one on the gateway itself: both ends see each other's own addresses.
	for _, h := range []*lab.Host{bob, gate} {
		web := w.namespace(h, "web-"+h.Label())
		w.run(h, "workload", "add", "web", "--netns", web.Path())
		at := w.workloads(h)["web"].Addresses[0].Addr()
		p.reaches(p.Host, at, 5*time.Second)
		if _, err := web.Exec(w.ctx(5*time.Second), "ping", "-n", "-c", "1", "-W", "2", own[0].String()); err != nil {
			t.Errorf("the workload on %s does not reach the telephone: %v", h.Label(), err)
		}
	}
	if out := string(must(p.Exec(w.ctx(5*time.Second), "ping", "-n", "-c", "2", "-i", "0.2", w.status(bob).Self.Addresses[1].Addr().String()))(t)); strings.Contains(out, "edirect") {
		t.Errorf("the gateway tells the telephone of a shorter way, which there is not:\n%s", out)
	}

	// Names: the network's on the telephone, the telephone's in the network, and all others.
	for name, want := range map[string]string{"bob.farm.internal": members[bob].String(), "bob": members[bob].String()} {
		if got, err := p.sh("getent ahostsv6 " + name); err != nil || !strings.HasPrefix(got, want+" ") {
			t.Errorf("%s on the telephone: %q, %v; want %s", name, got, err, want)
		}
	}
	if got, err := p.sh("getent ahostsv4 example.org"); err != nil || !strings.HasPrefix(got, "192.0.2.99 ") {
		t.Errorf("other names on the telephone: %q, %v", got, err)
	}
	if got := w.dig(bob, "phone.farm.internal", "AAAA"); got != own[0].String() {
		t.Errorf("the telephone's name at bob: %q", got)
	}
	if got := w.run(gate, "status", "--json"); !strings.Contains(got, `"phone"`) || !strings.Contains(got, `"connected"`) {
		t.Errorf("status of the gateway:\n%s", got)
	}
	if !w.is(bob, "phone", "device") {
		t.Errorf("bob lists %+v", w.members(bob))
	}
	w.fromOwnAddress(p, bob, own[0], members[bob])

	must(0, w.agents[gate].Stop())(t)
	w.start(gate)
	p.reaches(bob, own[0], 5*time.Second) // the gateway goes on where it was

	if out := w.run(alice, "export", "phone", "--extend"); !strings.Contains(out, "phone.farm.internal") {
		t.Errorf("extended: %s", out)
	}
	p.reaches(p.Host, members[bob], 2*time.Second)

	start := time.Now()
	w.run(alice, "revoke", "phone")
	w.eventually(2*time.Second, "a revoked device reaches nobody", func() bool { return !p.answers(p.Host, members[bob]) && !p.answers(bob, own[0]) })
	t.Logf("revoked, and out after %v at most", time.Since(start).Round(time.Millisecond))
	w.eventually(2*time.Second, "its name is gone", func() bool { return w.dig(bob, "phone.farm.internal", "AAAA") == "" })
	for _, h := range []*lab.Host{alice, bob, gate} {
		if !w.is(h, "phone", "revoked") {
			t.Errorf("%s lists %+v", h.Label(), w.members(h))
		}
	}
	if strings.Contains(w.run(gate, "status", "--json"), `"devices"`) {
		t.Error("the gateway serves it still")
	}
}

// fromOwnAddress demands that a member sees the telephone's own address, not the gateway's.
func (w *world) fromOwnAddress(p *phone, member *lab.Host, from, to netip.Addr) {
	w.Helper()
	var conn net.PacketConn
	if err := member.Do(func() (err error) {
		conn, err = net.ListenPacket("udp6", netip.AddrPortFrom(to, 7777).String())
		return err
	}); err != nil {
		w.Fatal(err)
	}
	defer conn.Close()
	var send net.Conn
	if err := p.Do(func() (err error) {
		send, err = net.Dial("udp6", netip.AddrPortFrom(to, 7777).String())
		return err
	}); err != nil {
		w.Fatal(err)
	}
	defer send.Close()
	must(send.Write([]byte("hello")))(w)
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, addr, err := conn.ReadFrom(make([]byte, 100))
	if err != nil || addr.(*net.UDPAddr).AddrPort().Addr() != from {
		w.Errorf("%s hears from %v (%v), want %v", member.Label(), addr, err, from)
	}
}

// TestDeviceTwoGateways: there is one configuration for each gateway, and each of them works.
func TestDeviceTwoGateways(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, gate, shut := w.public("alice"), w.public("gate"), w.home("shut", home)
	boxes, printer := w.farm("farm", "box")
	w.mesh(alice, gate, shut)
	w.joinRouting(boxes[0], farmLAN.String())
	w.linkedAll(10*time.Second, alice, gate, shut, boxes[0])
	w.run(alice, "gateway", "on")
	w.run(gate, "gateway", "on")
	w.run(shut, "gateway", "on") // strangers do not reach it: it is left out
	w.eventually(5*time.Second, "alice knows the gateways", func() bool {
		_, err := alice.Gridwire(w.ctx(5*time.Second), "export", "probe", "--gateway", "gate")
		return err == nil
	})
	w.fails(alice, 4, []string{"do not reach shut"}, "export", "tablet", "--gateway", "shut")
	w.fails(alice, 2, []string{"not among the gateways"}, "export", "tablet", "--gateway", "gate", "--endpoint", "nobody=192.0.2.1:1")
	w.fails(alice, 2, []string{"HOST:PORT"}, "export", "tablet", "--gateway", "gate", "--endpoint", "192.0.2.1")
	out := w.run(alice, "export", "tablet", "--qr")
	if !strings.Contains(out, "█") {
		t.Error("no QR code")
	}
	at := regexpAll(out, "[Interface]")
	if len(at) != 2 {
		t.Fatalf("%d configurations, want 2:\n%s", len(at), out)
	}
	configs := []string{cutConfig(out[at[0]:at[1]]), cutConfig(out[at[1]:])}
	if addressesOf(t, configs[0])[0] == addressesOf(t, configs[1])[0] {
		t.Error("both gateways have one address for it")
	}
	p := w.phone(w.home("tablet", home))
	target := w.status(shut).Self.Addresses[0].Addr()
	both := w.dig(shut, "tablet.farm.internal", "AAAA")
	for _, c := range configs {
		p.up(c)
		p.reaches(p.Host, target, 5*time.Second)
		p.reaches(shut, addressesOf(t, c)[0], 5*time.Second)
		p.reaches(alice, addressesOf(t, c)[1], 5*time.Second)
		p.reaches(p.Host, printer.Addr(), 5*time.Second) // by way of the gateway and of the member that routes it
	}
	if strings.Count(both, "\n") != 1 {
		t.Errorf("before it is anywhere, its name has the addresses %q", both)
	}
	// The gateways say where it is, and its name leads there.
	w.eventually(20*time.Second, "another member lists it as connected", func() bool {
		return slices.ContainsFunc(w.members(shut), func(m member) bool { return m.Name == "tablet" && m.State == "connected" })
	})
	if got, want := w.dig(shut, "tablet.farm.internal", "AAAA"), addressesOf(t, configs[1])[0].String(); !strings.Contains(got, want) {
		t.Errorf("its name leads to %q, want %s", got, want)
	}
	w.fails(shut, 1, []string{"is a device", "connected as far as"}, "ping", "tablet")
	// Devices stay when the issuer that made them is no issuer any more.
	w.run(alice, "issuer", "add", "gate")
	w.eventually(5*time.Second, "gate is an issuer", func() bool {
		_, err := gate.Gridwire(w.ctx(5*time.Second), "export", "watch", "--gateway", "alice")
		return err == nil
	})
	w.eventually(2*time.Second, "alice knows the device of another issuer", func() bool { return w.is(alice, "watch", "device") })
	w.run(alice, "issuer", "remove", "gate")
	w.eventually(2*time.Second, "gate is an issuer no more", func() bool { return !strings.Contains(w.run(shut, "issuer", "list"), "gate") })
	if !w.is(shut, "watch", "device") || !w.is(shut, "gate", "member") {
		t.Errorf("after its issuer was dismissed: %+v", w.members(shut))
	}

	w.run(gate, "gateway", "off")
	w.eventually(2*time.Second, "without its gateway it reaches nobody", func() bool { return !p.answers(p.Host, target) })
	if got := w.run(alice, "status"); !strings.Contains(strings.Join(strings.Fields(got), " "), "the device probe has no gateway that is on") {
		t.Errorf("status of the issuer:\n%s", got)
	}
	again := w.run(alice, "export", "tablet", "--replace", "--gateway", "alice")
	if addressesOf(t, again)[0] == addressesOf(t, configs[0])[0] {
		t.Error("replaced, it has the addresses of the revoked key")
	}
	p.up(configs[0])
	if p.answers(p.Host, target) {
		t.Error("the configuration that was replaced works still")
	}
	p.up(again)
	p.reaches(p.Host, target, 5*time.Second)
}

// regexpAll returns where part begins in s.
func regexpAll(s, part string) []int {
	var out []int
	for from := 0; ; {
		i := strings.Index(s[from:], part)
		if i < 0 {
			return out
		}
		out = append(out, from+i)
		from += i + len(part)
	}
}

// cutConfig leaves out what is drawn behind a configuration.
func cutConfig(s string) string {
	lines := slices.Collect(strings.Lines(s))
	for i, l := range lines {
		if strings.HasPrefix(l, "PersistentKeepalive") {
			return strings.Join(lines[:i+1], "")
		}
	}
	return s
}
