package doctor

import (
	"context"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

// healthy is a machine without faults; each case breaks one thing.
func healthy() Machine {
	files := fstest.MapFS{"dev/net/tun": {Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666}, "state": {Mode: fs.ModeDir | 0o700}}
	return Machine{
		ReadFile: func(p string) ([]byte, error) {
			switch p {
			case "/proc/self/status":
				return []byte("Name:\tx\nCapEff:\t0000000000001400\n"), nil
			case "/proc/sys/net/ipv6/conf/all/disable_ipv6":
				return []byte("0\n"), nil
			}
			return nil, fs.ErrNotExist
		},
		Stat:  func(p string) (fs.FileInfo, error) { return fs.Stat(files, strings.TrimPrefix(p, "/")) },
		Run:   func(context.Context, string, ...string) (string, error) { return "", fs.ErrNotExist },
		Clash: func(netip.Prefix, string) (string, error) { return "", nil },
		Now:   func() time.Time { return time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC) },
	}
}

func running() *api.Status {
	return &api.Status{
		Network: &api.Network{IPv4Prefix: "10.77.0.0/16"},
		Self:    api.Self{ListenPort: 40001, Interface: "gw7"},
		Peers:   []api.Peer{{Name: "bob", State: "connected"}},
	}
}

func TestHealthyMachine(t *testing.T) {
	for _, r := range Check(t.Context(), healthy(), "/state", running()) {
		if r.Grade != OK {
			t.Errorf("%s: %s: %s", r.Topic, r.Grade, r.Finding)
		}
	}
}

func TestEachFaultIsNamedWithItsRemedy(t *testing.T) {
	only := func(prog, sub, out string) func(context.Context, string, ...string) (string, error) {
		return func(_ context.Context, name string, args ...string) (string, error) {
			if name == prog && strings.Contains(strings.Join(args, " "), sub) {
				return out, nil
			}
			return "", fs.ErrNotExist
		}
	}
	for name, tc := range map[string]struct {
		spoil  func(*Machine)
		topic  string
		grade  Grade
		remedy string
	}{
		"no rights":          {func(m *Machine) { m.ReadFile = caps("0000000000000400", m.ReadFile) }, "rights", Warn, "systemd service"},
		"no tun":             {func(m *Machine) { m.Stat = func(string) (fs.FileInfo, error) { return nil, fs.ErrNotExist } }, "/dev/net/tun", Bad, "modprobe tun"},
		"tun for root alone": {func(m *Machine) { m.Stat = rootsTUN }, "/dev/net/tun", Warn, "chmod 0666 /dev/net/tun"},
		"clock":              {func(m *Machine) { m.Now = func() time.Time { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) } }, "clock", Warn, "set-ntp"},
		"ufw":                {func(m *Machine) { m.Run = only("ufw", "status", "Status: active\n22/tcp ALLOW Anywhere\n") }, "firewall", Warn, "ufw allow 40001/udp && ufw allow in on gw7"},
		"firewalld":          {func(m *Machine) { m.Run = only("firewall-cmd", "--state", "running\n") }, "firewall", Warn, "--add-port=40001/udp"},
		"nftables": {func(m *Machine) {
			m.Run = only("nft", "list", "\ttype filter hook input priority filter; policy drop;\n")
		}, "firewall", Warn, "udp dport 40001 accept"},
		"no ipv6": {func(m *Machine) {
			m.ReadFile = caps("0000000000001400", func(string) ([]byte, error) { return nil, fs.ErrNotExist })
		}, "IPv6", Bad, "ipv6.disable"},
		"ipv4 clash": {func(m *Machine) {
			m.Clash = func(netip.Prefix, string) (string, error) { return "10.0.0.0/8 via eth0", nil }
		}, "IPv4 addresses", Warn, "--ipv4"},
		"wide folder": {func(m *Machine) { m.Stat = wide }, "state folder", Bad, "chmod 700"},
	} {
		t.Run(name, func(t *testing.T) {
			m := healthy()
			tc.spoil(&m)
			for _, r := range Check(t.Context(), m, "/state", running()) {
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

func caps(eff string, rest func(string) ([]byte, error)) func(string) ([]byte, error) {
	return func(p string) ([]byte, error) {
		if p == "/proc/self/status" {
			return []byte("CapEff:\t" + eff + "\n"), nil
		}
		return rest(p)
	}
}

func wide(p string) (fs.FileInfo, error) {
	if p == "/dev/net/tun" {
		return healthy().Stat(p)
	}
	return fs.Stat(fstest.MapFS{"x": {Mode: fs.ModeDir | fs.ModeCharDevice | 0o755}}, "x")
}

func rootsTUN(string) (fs.FileInfo, error) {
	return fs.Stat(fstest.MapFS{"tun": {Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600}}, "tun")
}

func TestNoAgentIsSaid(t *testing.T) {
	rs := Check(t.Context(), healthy(), "/nowhere", nil)
	last := rs[len(rs)-1]
	if last.Grade != Warn || !strings.Contains(last.Remedy, "systemctl") {
		t.Errorf("got %+v", last)
	}
}

func TestFixMendsWhatItNamed(t *testing.T) {
	m := healthy()
	m.Stat = wide
	var mended string
	m.Chmod = func(p string, mode fs.FileMode) error {
		mended = p
		if mode != 0o700 {
			t.Errorf("mode %#o", mode)
		}
		return nil
	}
	for _, r := range Check(t.Context(), m, "/state", running()) {
		if r.Fix != nil {
			if err := r.Fix(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	if mended != "/state" {
		t.Errorf("mended %q", mended)
	}
}
