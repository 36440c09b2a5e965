package osconf

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const original = "# my own\ndomain lan\nnameserver 192.0.2.1\nnameserver 2001:db8::53\noptions edns0"

func plainManager(m *machine) *keeper { return newKeeper(&plain{env: m.env}) }

func TestPlainApplyAndRevert(t *testing.T) {
	ctx := context.Background()
	for _, tc := range []struct {
		name, before, after string
		search              bool
	}{
		{"usual", original, "nameserver fd12::1\noptions timeout:1 attempts:3\n" + "|" + original, false},
		{"empty", "", "nameserver fd12::1\nnameserver 127.0.0.1\noptions timeout:1 attempts:3\n|", false},
		{"rotate", "nameserver 192.0.2.1\noptions rotate ndots:2\n",
			"nameserver fd12::1\noptions timeout:1 attempts:3 ndots:2\n|nameserver 192.0.2.1\n#gridwire gw0# options rotate ndots:2\n", false},
		{"search", original, "nameserver fd12::1\nsearch lan farm.internal\noptions timeout:1 attempts:3\n|" +
			strings.Replace(original, "domain", "#gridwire gw0# domain", 1), true},
		{"search by the machine's name", "nameserver 192.0.2.1\n",
			"nameserver fd12::1\nsearch home.example farm.internal\noptions timeout:1 attempts:3\n|nameserver 192.0.2.1\n", true},
		{"CRLF, other keywords", "\tnameserver 192.0.2.9\r\nNAMESERVER 192.0.2.8\nnameserver 192.0.2.7\r\nsortlist 192.0.2.0\n",
			"nameserver fd12::1\noptions timeout:1 attempts:3\n|\tnameserver 192.0.2.9\r\nNAMESERVER 192.0.2.8\nnameserver 192.0.2.7\r\n" +
				"sortlist 192.0.2.0\n", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t)
			m.write(resolvConf, tc.before)
			m.write("/proc/sys/kernel/hostname", "box.home.example\n")
			before, err := os.Stat(m.env.path(resolvConf))
			noError(t, err)
			k := plainManager(m)
			s := settings()
			s.Search = tc.search
			noError(t, k.Apply(ctx, s))
			noError(t, k.Apply(ctx, s)) // changes nothing
			body, rest, _ := strings.Cut(tc.after, "|")
			m.wantText(resolvConf, block("gw0", body)+rest)
			m.wantText(resolvConf+".before-gridwire", tc.before)
			noError(t, k.Revert(ctx))
			noError(t, k.Revert(ctx))
			m.wantText(resolvConf, tc.before)
			m.wantOnly("/etc", "resolv.conf")
			after, err := os.Stat(m.env.path(resolvConf))
			noError(t, err)
			if !os.SameFile(before, after) {
				t.Error("it is a copy, not the original")
			}
		})
	}
}

func TestPlainWithoutFile(t *testing.T) {
	ctx := context.Background()
	m := newMachine(t)
	k := plainManager(m)
	wantError(t, k.Apply(ctx, settings()), "not even the folder")
	m.write("/etc/hosts", "")
	noError(t, k.Apply(ctx, settings()))
	if got := nameservers(m.text(resolvConf)); !slices.Equal(got, addrs("fd12::1", "127.0.0.1")) {
		t.Error(got)
	}
	second := settings()
	second.Servers = addrs("fd12::2")
	noError(t, k.Apply(ctx, second))
	noError(t, k.Revert(ctx))
	m.wantOnly("/etc", "hosts")
}

// The file behind a link is edited: its owner goes on writing it.
func TestPlainFollowsLinks(t *testing.T) {
	ctx := context.Background()
	for _, to := range []string{"../run/net/resolv.conf", "/run/net/resolv.conf"} {
		m := newMachine(t)
		m.link(resolvConf, to)
		m.write("/run/net/resolv.conf", original)
		k := plainManager(m)
		noError(t, k.Apply(ctx, settings()))
		if !strings.HasPrefix(m.text("/run/net/resolv.conf"), opener) {
			t.Error("not edited")
		}
		noError(t, k.Revert(ctx))
		m.wantText("/run/net/resolv.conf", original)
		m.wantOnly("/etc", "resolv.conf")
		m.wantOnly("/run/net", "resolv.conf")
	}
	m := newMachine(t)
	m.link(resolvConf, "resolv.conf")
	wantError(t, plainManager(m).Apply(ctx, settings()), "too many symbolic links")
}

func TestPlainUpstream(t *testing.T) {
	m := newMachine(t)
	k := plainManager(m)
	m.write(resolvConf, original)
	want := addrs("192.0.2.1", "2001:db8::53")
	for range 2 { // before and after
		got, err := k.Upstream()
		noError(t, err)
		if !slices.Equal(got, want) {
			t.Errorf("upstream %v, want %v", got, want)
		}
		noError(t, k.Apply(context.Background(), settings()))
	}
	m.write(resolvConf, strings.Replace(m.text(resolvConf), "timeout:1", "timeout:9", 1)) // not ours any more, but not an upstream either
	if got, _ := k.Upstream(); !slices.Equal(got, want) {
		t.Errorf("upstream %v, want %v", got, want)
	}
}

func TestPlainChangedByOthers(t *testing.T) {
	ctx := context.Background()
	t.Run("a line added", func(t *testing.T) {
		m := newMachine(t)
		m.write(resolvConf, original)
		k := plainManager(m)
		noError(t, k.Apply(ctx, settings()))
		m.write(resolvConf, m.text(resolvConf)+"\nnameserver 192.0.2.77\n")
		noError(t, k.back.refresh(ctx, settings()))
		noError(t, k.Revert(ctx))
		m.wantText(resolvConf, original+"\nnameserver 192.0.2.77\n")
		m.wantOnly("/etc", "resolv.conf")
	})
	t.Run("a line added, then new settings", func(t *testing.T) {
		m := newMachine(t)
		m.write(resolvConf, original)
		k := plainManager(m)
		noError(t, k.Apply(ctx, settings()))
		m.write(resolvConf, m.text(resolvConf)+"\nnameserver 192.0.2.77\n")
		second := settings()
		second.Servers = addrs("fd12::2")
		noError(t, k.Apply(ctx, second))
		m.wantText(resolvConf+".before-gridwire", original+"\nnameserver 192.0.2.77\n")
		noError(t, k.Revert(ctx))
		m.wantText(resolvConf, original+"\nnameserver 192.0.2.77\n")
	})
	t.Run("written anew", func(t *testing.T) {
		m := newMachine(t)
		m.write(resolvConf, original)
		k := plainManager(m)
		noError(t, k.Apply(ctx, settings()))
		m.write(resolvConf, "nameserver 198.51.100.1\n")
		err := k.back.refresh(ctx, settings())
		wantError(t, err, "steps back")
		if !errors.Is(err, ErrChanged) {
			t.Error("not ErrChanged")
		}
		m.wantText(resolvConf, "nameserver 198.51.100.1\n")
		noError(t, k.Apply(ctx, settings())) // the agent wants it again
		if got, _ := k.Upstream(); !slices.Equal(got, addrs("198.51.100.1")) {
			t.Error(got)
		}
		m.write(resolvConf, "nameserver 198.51.100.2\n")
		noError(t, k.Revert(ctx))
		m.wantText(resolvConf, "nameserver 198.51.100.2\n")
		m.wantOnly("/etc", "resolv.conf")
	})
	t.Run("our lines altered", func(t *testing.T) {
		m := newMachine(t)
		m.write(resolvConf, original)
		k := plainManager(m)
		noError(t, k.Apply(ctx, settings()))
		mine := strings.Replace(m.text(resolvConf), "fd12::1", "192.0.2.66", 1)
		m.write(resolvConf, mine)
		wantError(t, k.back.refresh(ctx, settings()), "by hand")
		wantError(t, k.Apply(ctx, settings()), "by hand")
		err := k.Revert(ctx)
		wantError(t, err, "by hand", "before-gridwire")
		if !errors.Is(err, ErrChanged) {
			t.Error("not ErrChanged")
		}
		_, err = restorePlain(m.env)
		wantError(t, err, "by hand")
		m.wantText(resolvConf, mine)
	})
	t.Run("while we write", func(t *testing.T) {
		m := newMachine(t)
		m.write(resolvConf, original)
		f, err := m.env.openConf()
		noError(t, err)
		m.write(resolvConf, "nameserver 198.51.100.1\n")
		wantError(t, (&plain{env: m.env}).put(f, settings()), "this very moment")
		m.wantText(resolvConf, "nameserver 198.51.100.1\n")
		m.wantOnly("/etc", "resolv.conf")
	})
}

// NetworkManager writes the file anew at each change of the network: that is no wish to be rid of us. Up to a limit.
func TestPlainWithAuthor(t *testing.T) {
	ctx := context.Background()
	m := newMachine(t)
	m.write(resolvConf, original)
	k := newKeeper(&plain{env: m.env, author: "NetworkManager"})
	noError(t, k.Apply(ctx, settings()))
	for range 5 {
		m.write(resolvConf, "# Generated by NetworkManager\nnameserver 198.51.100.1\n")
		noError(t, k.back.refresh(ctx, settings()))
		if got := nameservers(m.text(resolvConf)); !slices.Equal(got, addrs("fd12::1", "198.51.100.1")) {
			t.Fatal(got)
		}
	}
	m.write(resolvConf, original)
	wantError(t, k.back.refresh(ctx, settings()), "steps back")
	m.wantText(resolvConf, original)
}

func TestPlainOneNetworkOnly(t *testing.T) {
	ctx := context.Background()
	m := newMachine(t)
	m.write(resolvConf, original)
	noError(t, plainManager(m).Apply(ctx, settings()))
	m.alive["gw0"] = true
	other := settings()
	other.Interface = "gw1"
	wantError(t, plainManager(m).Apply(ctx, other), "gw0", "systemd-resolved")
	m.alive["gw0"] = false
	noError(t, plainManager(m).Apply(ctx, other))
}

func TestRestorePlain(t *testing.T) {
	ctx := context.Background()
	applied := func(t *testing.T) *machine {
		m := newMachine(t)
		m.write(resolvConf, original)
		noError(t, plainManager(m).Apply(ctx, settings()))
		return m
	}
	t.Run("killed", func(t *testing.T) {
		m := applied(t)
		if got := servers(m.text(resolvConf)); !slices.Equal(got, addrs("fd12::1", "192.0.2.1", "2001:db8::53")) {
			t.Errorf("a killed agent leaves %v: the rest of the internet is gone", got)
		}
		m.alive["gw0"] = true // not killed at all
		done, err := restorePlain(m.env)
		noError(t, err)
		if len(done) > 0 || !strings.HasPrefix(m.text(resolvConf), opener) {
			t.Fatal("took a living agent's lines out:", done)
		}
		m.alive["gw0"] = false
		done, err = restorePlain(m.env)
		noError(t, err)
		if len(done) != 1 || !strings.Contains(done[0], "original is back") {
			t.Error(done)
		}
		m.wantText(resolvConf, original)
		m.wantOnly("/etc", "resolv.conf")
		if done, err := restorePlain(m.env); err != nil || len(done) > 0 {
			t.Error(done, err)
		}
	})
	t.Run("killed, then a line added", func(t *testing.T) {
		m := applied(t)
		m.write(resolvConf, m.text(resolvConf)+"\n# note\n")
		done, err := restorePlain(m.env)
		noError(t, err)
		if len(done) != 1 || !strings.Contains(done[0], "another program has changed it") {
			t.Error(done)
		}
		m.wantText(resolvConf, original+"\n# note\n")
		m.wantOnly("/etc", "resolv.conf")
	})
	t.Run("killed, then written anew", func(t *testing.T) {
		m := applied(t)
		m.write(resolvConf, "nameserver 198.51.100.1\n")
		_, err := restorePlain(m.env)
		noError(t, err)
		m.wantText(resolvConf, "nameserver 198.51.100.1\n")
		m.wantOnly("/etc", "resolv.conf")
	})
	t.Run("without the original beside it", func(t *testing.T) {
		m := applied(t)
		noError(t, os.Remove(m.env.path(resolvConf+".before-gridwire")))
		_, err := restorePlain(m.env)
		noError(t, err)
		m.wantText(resolvConf, original)
	})
	t.Run("power cut", func(t *testing.T) {
		m := applied(t)
		whole := m.text(resolvConf)
		for _, torn := range []string{"", whole[:30], whole[:len(block("gw0", ""))], "\x00\x00\x00\x00", strings.ReplaceAll(whole, "n", "\x00")} {
			m.write(resolvConf, torn)
			m.write(resolvConf+".before-gridwire", original)
			done, err := restorePlain(m.env)
			noError(t, err)
			if len(done) != 1 {
				t.Errorf("%q: %q", torn, done)
			}
			m.wantText(resolvConf, original)
			m.wantOnly("/etc", "resolv.conf")
		}
	})
}

// A mount point cannot be replaced. Here a table of mounts says that it is one; TestBindMount has a real one.
func TestPlainInPlace(t *testing.T) {
	ctx := context.Background()
	m := newMachine(t)
	m.write(resolvConf, original)
	m.write("/proc/thread-self/mountinfo", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n36 21 8:1 /docker/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n")
	noError(t, os.Chmod(m.env.path(resolvConf), 0o640))
	before, _ := os.Stat(m.env.path(resolvConf))
	k := plainManager(m)
	noError(t, k.Apply(ctx, settings()))
	if after, _ := os.Stat(m.env.path(resolvConf)); !os.SameFile(before, after) {
		t.Error("replaced")
	}
	copies, _ := filepath.Glob(m.env.path(resolvConf) + ".before-gridwire-*")
	if len(copies) != 1 {
		t.Fatal("no copy beside it:", copies)
	}
	if info, _ := os.Stat(copies[0]); info.Mode() != 0o640 {
		t.Error("the copy may be read by more than the original:", info.Mode())
	}
	noError(t, k.Revert(ctx))
	m.wantText(resolvConf, original)
	m.wantOnly("/etc", "resolv.conf")
}

func TestMountPoint(t *testing.T) {
	table := "36 21 8:1 /a /etc/resolv.conf rw\n37 21 8:1 / /with\\040blank rw\nrubbish\n"
	for name, want := range map[string]bool{"/etc/resolv.conf": true, "/with blank": true, "/etc": false, "/a": false} {
		if mountPoint(table, name) != want {
			t.Error(name, !want)
		}
	}
}

func TestSettingsCheck(t *testing.T) {
	s := settings()
	s.Domain, s.Servers = "Farm.Internal.", addrs("::ffff:10.64.0.1")
	s, err := s.check()
	noError(t, err)
	if s.Domain != "farm.internal" || s.Servers[0] != addrs("10.64.0.1")[0] {
		t.Errorf("%+v", s)
	}
	for want, change := range map[string]func(*Settings){
		"not an interface name": func(s *Settings) { s.Interface = "gw0\nnameserver" },
		"no name server":        func(s *Settings) { s.Servers = nil },
		"cannot be a name":      func(s *Settings) { s.Servers = addrs("::") },
		"is not a domain":       func(s *Settings) { s.Domain = "." },
		"wrong label \"a b\"":   func(s *Settings) { s.Domain = "a b.internal" },
		"wrong label \"\"":      func(s *Settings) { s.Domain = "a..internal" },
		"wrong label \"-a\"":    func(s *Settings) { s.Domain = "-a.internal" },
		"wrong label \"~\"":     func(s *Settings) { s.Domain = "~." },
		"is not a reverse zone": func(s *Settings) { s.ReverseZones = []string{"example.com"} },
		"wrong label \"a/b\"":   func(s *Settings) { s.ReverseZones = []string{"a/b.ip6.arpa"} },
	} {
		s := settings()
		change(&s)
		m := newMachine(t)
		m.write(resolvConf, original)
		wantError(t, plainManager(m).Apply(context.Background(), s), want)
		m.wantText(resolvConf, original)
	}
}

// What we put in comes out again, whatever was there; name servers stay, and ours is first.
func FuzzEdit(f *testing.F) {
	f.Add(original, "box.example", true)
	f.Add("options rotate\nsearch a b\r\ndomain c\n\nnameserver 192.0.2.1", "", false)
	f.Add(block("gw1", "nameserver fd99::1\n")+"nameserver 192.0.2.1\n", "box", true)
	f.Add(opener+"gw0 ", "", false)
	f.Fuzz(func(t *testing.T, base, hostname string, search bool) {
		s, err := settings().check()
		noError(t, err)
		s.Search = search
		for _, m := range marks(foreign(base)) {
			t.Fatal("a mark is left:", m)
		}
		if _, ok := find(base, s.Interface); ok || strings.Contains(base, silencer(s.Interface)) {
			return
		}
		if strings.ContainsAny(hostname, "\r\n") { // the kernel has none such
			return
		}
		text := edit(base, false, s, hostname)
		m, ok := find(text, s.Interface)
		if !ok || !m.intact || m.start != 0 {
			t.Fatalf("no block in\n%s", text)
		}
		if got := strip(text, m); got != base {
			t.Fatalf("%q came back as %q", base, got)
		}
		if list := nameservers(text); list[0] != s.single() {
			t.Fatalf("ours is not the first of %v", list)
		} else {
			for _, a := range servers(base) {
				if !slices.Contains(list, a) {
					t.Fatalf("%v is lost in %v", a, list)
				}
			}
		}
	})
}
