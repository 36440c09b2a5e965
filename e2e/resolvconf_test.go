//go:build linux

package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestResolvconf: with resolvconf, Debian's or openresolv, which merge what DHCP clients and others hand in, the agent hands in a record of its own.
func TestResolvconf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, pkg, link, start, by string }{
		{"Debian", "resolvconf", "/run/resolvconf/resolv.conf", "mkdir -p /run/resolvconf/interface && resolvconf --enable-updates", "resolvconf"},
		{"openresolv", "openresolv", "", "true", "resolvconf (openresolv)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, lab.Options{})
			a, b := w.public("alice"), w.home("bob", home)
			w.found(a)
			isp := w.isp("isp")
			p := w.pc(b, lab.MachineConfig{Hosts: "files dns", Packages: []string{debian(t, c.pkg)}})
			if c.link != "" {
				if err := os.Remove(p.Etc("resolv.conf")); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(c.link, p.Etc("resolv.conf")); err != nil {
					t.Fatal(err)
				}
			}
			sh := func(script string) string {
				t.Helper()
				return string(must(p.Exec(w.ctx(10*time.Second), "sh", "-ec", script))(t))
			}
			sh("mkdir -p /run/resolvconf && mount -n -t tmpfs tmpfs /run/resolvconf\n" + c.start + "\nprintf 'nameserver " + isp.addr + "\\n' | resolvconf -a eth0.dhcp")
			before := sh("cat /etc/resolv.conf")
			if !strings.Contains(before, isp.addr) {
				t.Fatalf("this is no working resolvconf:\n%s", before)
			}
			alice := w.status(a).Self.Addresses[0].Addr().String()
			agent := p.start(nil, "--join", w.token("bob"))
			if by := p.configured(); by != c.by {
				t.Errorf("configured by %q, want %q", by, c.by)
			}
			p.finds("alice.farm.internal", alice)
			p.finds(www, wwwAddr)
			// Another network: the DHCP client hands in another record, and the agent stays in front of it.
			sh("printf 'nameserver " + isp.addr + "\\nsearch example.org\\n' | resolvconf -a eth0.dhcp")
			p.finds("alice.farm.internal", alice)
			p.finds("www", wwwAddr)
			sh("printf 'nameserver " + isp.addr + "\\n' | resolvconf -a eth0.dhcp")
			if err := agent.Stop(); err != nil {
				t.Error(err)
			}
			if got := sh("cat /etc/resolv.conf"); got != before {
				t.Errorf("after the end:\n%s\nwant\n%s", got, before)
			}
			agent = p.start(nil)
			p.configured()
			agent.Kill()
			p.finds(www, wwwAddr)
			w.says("doctor", p.doctor(), "resolvconf has the record ")
			w.says("doctor --fix", p.doctor("--fix"), "mended")
			if got := sh("cat /etc/resolv.conf"); got != before {
				t.Errorf("after doctor --fix:\n%s\nwant\n%s", got, before)
			}
		})
	}
}
