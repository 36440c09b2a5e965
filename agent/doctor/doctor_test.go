package doctor

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

var today = time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)

const (
	route4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
	routes6 = "fd0000010002000000000000000000000 30 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 gw7\n"
)

// healthy is a machine without faults; each case breaks one thing.
func healthy() Machine {
	files := fstest.MapFS{
		"dev/net/tun": {Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666}, "state": {Mode: fs.ModeDir | 0o700}, "state/identity.key": {Mode: 0o600},
		"proc/self/status":                        {Data: []byte("Name:\tx\nCapEff:\t0000000000001400\n")},
		"proc/sys/net/ipv6/conf/all/disable_ipv6": {Data: []byte("0\n")},
		"proc/net/route":                          {Data: []byte(route4)},
		"proc/net/ipv6_route":                     {Data: []byte(routes6)},
	}
	inside := func(p string) string { return strings.TrimPrefix(p, "/") }
	return Machine{
		ReadFile: func(p string) ([]byte, error) { return fs.ReadFile(files, inside(p)) },
		ReadDir:  func(p string) ([]fs.DirEntry, error) { return fs.ReadDir(files, inside(p)) },
		Stat:     func(p string) (fs.FileInfo, error) { return fs.Stat(files, inside(p)) },
		Run:      func(context.Context, string, ...string) (string, error) { return "", fs.ErrNotExist },
		Clash:    func(netip.Prefix, string) (string, error) { return "", nil },
		Interfaces: func() ([]Interface, error) {
			return []Interface{
				{Name: "eth0", MTU: 1500, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.0.5/24")}},
				{Name: "gw7", MTU: 1420, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("fd00:1:2::1/128")}},
			}, nil
		},
		Left: func(string, string) (Leftovers, error) { return Leftovers{}, nil },
		Free: func(string) (uint64, error) { return 1 << 30, nil },
		Now:  func() time.Time { return today },
		Root: true,
	}
}

func running() *api.Status {
	issued, ends := today.Add(-10*24*time.Hour), today.Add(20*24*time.Hour)
	return &api.Status{
		Network: &api.Network{IPv4Prefix: "10.77.0.0/16", IPv6Prefix: "fd00:1:2::/48"},
		Self:    api.Self{ListenPort: 40001, Interface: "gw7", Version: "1.0", CertificateIssued: &issued, CertificateExpires: &ends},
		Peers:   []api.Peer{{Name: "bob", State: "connected", Version: "1.0"}},
	}
}

func subject() Subject { return Subject{State: "/state", Status: running()} }

func TestHealthyMachine(t *testing.T) {
	for _, r := range Check(t.Context(), healthy(), subject()) {
		if r.Grade != OK {
			t.Errorf("%s: %s: %s", r.Topic, r.Grade, r.Finding)
		}
	}
}

// prints answers one command, as far as its words contain sub.
func prints(prog, sub, out string) func(*Machine) {
	return func(m *Machine) {
		before := m.Run
		m.Run = func(ctx context.Context, name string, args ...string) (string, error) {
			if name == prog && strings.Contains(strings.Join(args, " "), sub) {
				return out, nil
			}
			return before(ctx, name, args...)
		}
	}
}

func all(spoil ...func(*Machine)) func(*Machine) {
	return func(m *Machine) {
		for _, f := range spoil {
			f(m)
		}
	}
}

func file(path, text string) func(*Machine) {
	return func(m *Machine) {
		before := m.ReadFile
		m.ReadFile = func(p string) ([]byte, error) {
			switch {
			case p != path:
				return before(p)
			case text == "":
				return nil, fs.ErrNotExist
			}
			return []byte(text), nil
		}
	}
}

func iface(i Interface) func(*Machine) {
	return func(m *Machine) {
		was, _ := m.Interfaces()
		m.Interfaces = func() ([]Interface, error) { return append([]Interface{i}, was...), nil }
	}
}

const dropAll = `{"nftables": [{"chain": {"family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
{"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "gw7"}}, {"accept": null}]}},
{"chain": {"family": "ip", "table": "mine", "name": "out", "type": "filter", "hook": "output", "prio": 0, "policy": "accept"}}
]}`

func TestEachFaultIsNamedWithItsRemedy(t *testing.T) {
	closed := strings.ReplaceAll(dropAll, "gw7", "other")
	mute := strings.ReplaceAll(dropAll, `"prio": 0, "policy": "accept"`, `"prio": 0, "policy": "drop"`)
	for name, tc := range map[string]struct {
		spoil  func(*Machine)
		topic  string
		grade  Grade
		remedy string
	}{
		"no rights":          {file("/proc/self/status", "CapEff:\t0000000000000400\n"), "rights", Warn, "systemd service"},
		"no tun":             {func(m *Machine) { m.Stat = func(string) (fs.FileInfo, error) { return nil, fs.ErrNotExist } }, "/dev/net/tun", Bad, "modprobe tun"},
		"tun for root alone": {func(m *Machine) { m.Stat = rootsTUN }, "/dev/net/tun", Warn, "chmod 0666 /dev/net/tun"},
		"clock":              {func(m *Machine) { m.Now = func() time.Time { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) } }, "clock", Warn, "set-ntp"},
		"ufw, unreadable":    {prints("ufw", "status", "Status: active\n22/tcp ALLOW Anywhere\n"), "firewall", Warn, "ufw allow 40001/udp && ufw allow in on gw7"},
		"ufw":                {all(prints("ufw", "status", "Status: active\n"), prints("iptables", "-S", "-P INPUT DROP\n-A INPUT -i gw7 -j ACCEPT\n")), "firewall", Warn, "ufw allow 40001/udp"},
		"ufw closes gw7":     {all(prints("ufw", "status", "Status: active\n"), prints("iptables", "-S", "-P INPUT DROP\n-A INPUT -p udp --dport 40001 -j ACCEPT\n")), "firewall", Bad, "ufw allow in on gw7"},
		"firewalld":          {prints("firewall-cmd", "--state", "running\n"), "firewall", Warn, "--add-port=40001/udp"},
		"firewalld, rules":   {all(prints("firewall-cmd", "--state", "running\n"), prints("nft", "list", dropAll)), "firewall", Warn, "firewall-cmd --permanent --add-port=40001/udp && firewall-cmd --reload"},
		"nftables":           {prints("nft", "list", dropAll), "firewall", Warn, "nft insert rule inet filter input udp dport 40001 accept"},
		"nftables, gw7":      {prints("nft", "list", closed), "firewall", Bad, "nft insert rule inet filter input iifname gw7 accept"},
		"nftables, output":   {prints("nft", "list", mute), "firewall", Bad, "nft insert rule ip mine out udp sport 40001 accept"},
		"iptables":           {prints("ip6tables", "-S", "-P INPUT DROP\n-A INPUT -i gw7 -j ACCEPT\n"), "firewall", Warn, "ip6tables -I INPUT -p udp --dport 40001 -j ACCEPT"},
		"unreadable":         {func(m *Machine) { m.Root = false; m.Run = denied }, "firewall", Warn, "sudo"},
		"no ipv6":            {file("/proc/sys/net/ipv6/conf/all/disable_ipv6", ""), "IPv6", Bad, "ipv6.disable"},
		"ipv4 clash": {func(m *Machine) {
			m.Clash = func(netip.Prefix, string) (string, error) { return "10.0.0.0/8 via eth0", nil }
		}, "IPv4 addresses", Warn, "--ipv4"},
		"wide folder":      {func(m *Machine) { m.Stat = wide }, "state folder", Bad, "chmod 700"},
		"wide file":        {func(m *Machine) { m.ReadDir = wideFile }, "state folder", Bad, "chmod 600 /state/identity.key"},
		"disk full":        {func(m *Machine) { m.Free = func(string) (uint64, error) { return 1 << 20, nil } }, "disk", Bad, "df -h /state"},
		"disk nearly full": {func(m *Machine) { m.Free = func(string) (uint64, error) { return 20 << 20, nil } }, "disk", Warn, "df -h"},
		"small MTU": {func(m *Machine) {
			m.Interfaces = func() ([]Interface, error) {
				return []Interface{{Name: "eth0", MTU: 1300, Up: true}, {Name: "gw7", MTU: 1420}}, nil
			}
		}, "MTU", Warn, "ip link set eth0 mtu 1500"},
		"VPN with an address of ours": {iface(Interface{Name: "tun0", Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.3.4/24")}}), "other VPNs", Warn, "give tun0 another range"},
		"VPN with a route of ours": {file("/proc/net/ipv6_route", "fd000001000200000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 wg0\n"),
			"other VPNs", Warn, "ip -6 route del fd00:1:2::/64 dev wg0"},
		"certificate not renewed": {func(m *Machine) { m.Now = func() time.Time { return today.Add(15 * 24 * time.Hour) } }, "certificate", Warn, "gridwire issuer list"},
		"certificate expired":     {func(m *Machine) { m.Now = func() time.Time { return today.Add(21 * 24 * time.Hour) } }, "certificate", Bad, "within 7 days"},
	} {
		t.Run(name, func(t *testing.T) {
			m := healthy()
			tc.spoil(&m)
			for _, r := range Check(t.Context(), m, subject()) {
				if r.Topic == tc.topic {
					if r.Grade != tc.grade || !strings.Contains(r.Remedy, tc.remedy) {
						t.Errorf("got %+v, want %s with %q", r, tc.grade, tc.remedy)
					}
					return
				}
			}
			t.Errorf("no result for %s", tc.topic)
		})
	}
}

// TestAFirewallThatDropsWhatIsPassedOn matters to a node with a network behind it only.
func TestAFirewallThatDropsWhatIsPassedOn(t *testing.T) {
	m := healthy()
	prints("iptables", "-S", "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n")(&m)
	s := subject()
	if r := find(t, Check(t.Context(), m, s), "firewall"); r.Grade != OK {
		t.Errorf("without a network behind it: %+v", r)
	}
	s.Status.Routes = []api.Route{{Prefix: "192.168.9.0/24", State: "active", Via: "bob"}, {Prefix: "192.168.1.0/24", State: "own"}}
	r := find(t, Check(t.Context(), m, s), "firewall")
	if r.Grade != Bad || !strings.Contains(r.Finding, "192.168.1.0/24") || strings.Contains(r.Finding, "192.168.9.0") || !strings.Contains(r.Remedy, "-I FORWARD -i gw7 -j ACCEPT") {
		t.Errorf("%+v", r)
	}
}

func denied(context.Context, string, ...string) (string, error) {
	return "", errors.New("operation not permitted")
}

func wide(p string) (fs.FileInfo, error) {
	if p == "/dev/net/tun" {
		return healthy().Stat(p)
	}
	return fs.Stat(fstest.MapFS{"x": {Mode: fs.ModeDir | fs.ModeCharDevice | 0o755}}, "x")
}

func wideFile(string) ([]fs.DirEntry, error) {
	return fs.ReadDir(fstest.MapFS{"identity.key": {Mode: 0o644}, "root.pem": {Mode: 0o600}}, ".")
}

func rootsTUN(string) (fs.FileInfo, error) {
	return fs.Stat(fstest.MapFS{"tun": {Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600}}, "tun")
}

func find(t *testing.T, rs []Result, topic string) Result {
	t.Helper()
	for _, r := range rs {
		if r.Topic == topic {
			return r
		}
	}
	t.Fatalf("no result for %s", topic)
	return Result{}
}

func TestTheAgentsAnswerIsJudged(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Subject)
		topic  string
		grade  Grade
		remedy string
	}{
		"none":          {func(s *Subject) { s.Status, s.Asked = &api.Status{}, api.ErrNoAgent }, "agent", Warn, "systemctl"},
		"may not ask":   {func(s *Subject) { s.Status, s.Asked = &api.Status{}, errors.New("no permission to use it") }, "agent", Warn, "usermod"},
		"no member":     {func(s *Subject) { s.Status = &api.Status{} }, "agent", Warn, "gridwire join TOKEN"},
		"a link down":   {func(s *Subject) { s.Status.Peers[0].State = "unreachable" }, "agent", Warn, "gridwire explain NAME"},
		"UDP blocked":   {func(s *Subject) { s.Status.Self.NAT = "blocked" }, "agent", Bad, "outgoing UDP"},
		"clock of bob":  {func(s *Subject) { s.Status.Warnings = []string{"the clocks of this node and bob differ by 1h"} }, "clock", Warn, "set-ntp"},
		"older version": {func(s *Subject) { s.Status.Peers[0].Version = "0.9" }, "versions", Warn, "update the older ones"},
	} {
		t.Run(name, func(t *testing.T) {
			s := subject()
			tc.change(&s)
			if r := find(t, Check(t.Context(), healthy(), s), tc.topic); r.Grade != tc.grade || !strings.Contains(r.Remedy, tc.remedy) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestOtherVPNsAreNamed(t *testing.T) {
	m := healthy()
	iface(Interface{Name: "tailscale0", Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("100.72.1.2/32")}})(&m)
	iface(Interface{Name: "ztabcdefgh", Up: true})(&m)
	iface(Interface{Name: "wlan0", Up: true})(&m)
	r := find(t, Check(t.Context(), m, subject()), "other VPNs")
	if r.Grade != OK || !strings.Contains(r.Finding, "ZeroTier (ztabcdefgh), Tailscale (tailscale0)") || strings.Contains(r.Finding, "wlan") {
		t.Errorf("%+v", r)
	}
}

func TestAnOrdinaryUserNeedsNoRightsWhereTheAgentRuns(t *testing.T) {
	m := healthy()
	m.Root = false
	file("/proc/self/status", "CapEff:\t0000000000000000\n")(&m)
	if r := find(t, Check(t.Context(), m, subject()), "rights"); r.Grade != OK {
		t.Errorf("%+v", r)
	}
	if r := find(t, Check(t.Context(), m, Subject{State: "/state", Asked: errors.New("no permission to use it")}), "rights"); r.Grade != OK {
		t.Errorf("an agent of which this user is not a friend: %+v", r)
	}
	if r := find(t, Check(t.Context(), m, Subject{State: "/state", Asked: api.ErrNoAgent}), "rights"); r.Grade != Warn {
		t.Errorf("without an agent: %+v", r)
	}
}

func TestThisVeryMachine(t *testing.T) {
	for _, r := range Check(t.Context(), System(), Subject{State: t.TempDir(), Asked: api.ErrNoAgent}) {
		if r.Topic == "" || r.Finding == "" || r.Grade != OK && r.Grade != Warn && r.Grade != Bad {
			t.Errorf("%+v", r)
		}
	}
}

func TestFixMendsWhatItNamed(t *testing.T) {
	for path, spoil := range map[string]func(*Machine){
		"/state": func(m *Machine) { m.Stat = wide }, "/state/identity.key": func(m *Machine) { m.ReadDir = wideFile },
	} {
		m := healthy()
		spoil(&m)
		mended := map[string]os.FileMode{}
		m.Chmod = func(p string, mode fs.FileMode) error { mended[p] = mode; return nil }
		for _, r := range Check(t.Context(), m, subject()) {
			if r.Fix != nil {
				if err := r.Fix(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
		if len(mended) != 1 || mended[path]&0o077 != 0 || mended[path] == 0 {
			t.Errorf("mended %v, want %s", mended, path)
		}
	}
}

func TestLeftovers(t *testing.T) {
	removed := false
	m := healthy()
	m.Left = func(state, socket string) (Leftovers, error) {
		if state != "/state" || socket != "/sock" {
			t.Errorf("looks in %q and at %q", state, socket)
		}
		return Leftovers{[]string{"nftables table gridwire_gw9"}, func() error { removed = true; return nil }}, errors.New("the rest is hidden")
	}
	s := subject()
	s.Socket = "/sock"
	r := m.leftovers(s)
	if r.Grade != Warn || !strings.Contains(r.Finding, "gridwire_gw9") || r.Fix == nil || r.Fix(t.Context()) != nil || !removed {
		t.Errorf("%+v, removed: %v", r, removed)
	}
	m.Left = func(string, string) (Leftovers, error) { return Leftovers{}, fs.ErrPermission }
	if r := m.leftovers(s); r.Grade != Warn || r.Fix != nil {
		t.Errorf("root who sees nothing: %+v", r)
	}
	m.Root = false
	if r := m.leftovers(s); r.Grade != OK || !strings.Contains(r.Finding, "only root") {
		t.Errorf("not root: %+v", r)
	}
}
