//go:build linux

package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestWorkloadNames: a workload has names, everywhere in the mesh and with its member off, too; it finds those of others itself; and when it moves, or
// goes, nobody keeps the old answer for more than 5 s, also behind the cache of systemd-resolved.
func TestWorkloadNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	p, alice, _ := w.withResolved()
	p.resolved()
	p.start([]string{busAddress}, "--join", w.token("bob"))
	bob, farmer := p.h, w.issuer
	w.linked(farmer, bob, 10*time.Second)
	p.configured()
	web := w.namespace(farmer, "web")
	w.run(farmer, "workload", "add", "web", "--netns", web.Path(), "--port", "http=8080/tcp", "--port", "syslog=514/udp")
	addr := w.workloads(farmer)["web"].Addresses[0].Addr().String()
	const name = "web.alice.farm.internal"
	p.finds(name, addr)
	for _, c := range []struct{ ask, want string }{
		{"blog.web.alice.farm.internal AAAA", addr}, // any name below it
		{"a.b.WEB.Alice.farm.internal AAAA", addr},
		{"_http._tcp.web.alice.farm.internal SRV", "0 1 8080 web.alice.farm.internal."},
		{"_syslog._udp.web.alice.farm.internal SRV", "0 1 514 web.alice.farm.internal."},
		{"_http._tcp.farm.internal SRV", "0 1 8080 web.alice.farm.internal."},
		{"-x " + addr, "web.alice.farm.internal."},
		{"web.bob.farm.internal AAAA", ""},
		{"farm.internal NS", "bob.farm.internal."},
	} {
		for _, h := range []*lab.Host{bob, farmer} {
			want := strings.Replace(c.want, "bob.farm", h.Label()+".farm", 1)
			if got := w.dig(h, strings.Fields(c.ask)...); got != want {
				t.Errorf("%s asks for %s: %q, want %q", h.Label(), c.ask, got, want)
			}
		}
	}
	// International names are A-labels, and programs translate what somebody types.
	books := netip.MustParseAddr(addr).Next().Next().String()
	must(farmer.Exec(w.ctx(5*time.Second), "ip", "addr", "add", books+"/128", "dev", "lo"))(t)
	w.run(farmer, "workload", "add", "xn--bcher-kva", "--address", books)
	w.eventually(5*time.Second, "the international name is found", func() bool {
		out, _ := p.Exec(w.ctx(10*time.Second), "env", "LC_ALL=C.UTF-8", "dig", "+short", "+idnin", "@"+w.overlay6(bob).String(), "bücher.alice.farm.internal", "AAAA")
		return strings.TrimSpace(string(out)) == books
	})
	for ask, want := range map[string]string{"nobody.farm.internal AAAA": "status: NXDOMAIN", "web.alice.farm.internal MX": "status: NOERROR"} {
		out := string(must(bob.Exec(w.ctx(10*time.Second), "dig", append([]string{"@" + w.overlay6(bob).String()}, strings.Fields(ask)...)...))(t))
		w.says("dig "+ask, out, want)
		w.says("dig "+ask, out, "ANSWER: 0, AUTHORITY: 1")
		w.says("dig "+ask, out, "farm.internal.\t\t2\tIN\tSOA\tbob.farm.internal. hostmaster.farm.internal. ")
	}
	// From inside the namespace, where the packets do not come from the overlay's own interface.
	w.eventually(5*time.Second, "the workload finds a member", func() bool {
		out, _ := web.Exec(w.ctx(10*time.Second), "dig", "+short", "+time=1", "+tries=1", "@"+w.overlay6(farmer).String(), "bob.farm.internal", "AAAA")
		return strings.TrimSpace(string(out)) == w.overlay6(bob).String()
	})
	// It moves to another address, and then to another member. Somebody asks all the time, so that every cache is full.
	moved := netip.MustParseAddr(addr).Next().String()
	must(farmer.Exec(w.ctx(5*time.Second), "ip", "addr", "add", moved+"/128", "dev", "lo"))(t)
	w.run(farmer, "workload", "remove", "web")
	w.run(farmer, "workload", "add", "web", "--address", moved, "--port", "http=8081/tcp")
	took := w.eventually(5*time.Second, "the moved workload is found", func() bool { return p.getent(name) == moved })
	t.Logf("found at another address after %v", took)
	w.run(farmer, "workload", "remove", "web")
	inner := w.namespace(bob, "web")
	w.run(bob, "workload", "add", "web", "--netns", inner.Path(), "--port", "http=8082/tcp")
	took = w.eventually(5*time.Second, "its name on the old member is gone", func() bool { return p.getent(name) == "" })
	t.Logf("its old name was gone after %v", took)
	took = w.eventually(5*time.Second, "its service is found at the other member", func() bool {
		return w.dig(farmer, "_http._tcp.farm.internal", "SRV") == "0 1 8082 web.bob.farm.internal."
	})
	t.Logf("its service was found there %v later", took)
	w.eventually(5*time.Second, "the workload on the machine with systemd-resolved finds members", func() bool {
		out, _ := inner.Exec(w.ctx(10*time.Second), "dig", "+short", "+time=1", "+tries=1", "@"+w.overlay6(bob).String(), "alice.farm.internal", "AAAA")
		return strings.TrimSpace(string(out)) == alice
	})
	w.agents[farmer].Kill()
	if got := p.getent("alice.farm.internal"); got != alice {
		t.Errorf("with alice off: %q", got)
	}
}
