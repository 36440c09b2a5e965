package workload

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

var (
	now  = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	farm = Node{Block: netip.MustParsePrefix("fd00:1:2:3:4:5:6:0/112")}
)

func attached(name string) Request {
	return Request{Name: mesh.Name(name), Netns: "/run/netns/" + name}
}

// add plans and commits, and looks: its interface is there.
func add(t *testing.T, c *core, r Request, n Node) *entry {
	t.Helper()
	i, err := c.plan(r, n, now)
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.commit(i.Name, now)
	if err != nil {
		t.Fatal(err)
	}
	look(c, n)
	return e
}

// look sees every interface up, but those named.
func look(c *core, n Node, gone ...string) {
	s := sight{links: map[string]bool{}, reasons: map[netip.Addr]string{}}
	for _, e := range c.items {
		if !slices.Contains(gone, e.Interface) {
			s.links[e.Interface] = true
		}
	}
	c.observe(s, n, now)
}

func refusedWith(t *testing.T, err error, kind error, words string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), words) {
		t.Errorf("error %v, want %v about %q", err, kind, words)
	}
}

func TestAddressesStayWithTheirNames(t *testing.T) {
	c := newCore("gw0")
	web, db := add(t, c, attached("web"), farm), add(t, c, attached("db"), farm)
	if web.Addrs[0] != netip.MustParseAddr("fd00:1:2:3:4:5:6:2") || web.Interface != "gw0-2" || db.Addrs[0] != web.Addrs[0].Next() || db.Interface != "gw0-3" {
		t.Fatalf("%+v %+v", web.Item, db.Item)
	}
	c.remove("web")
	if other := add(t, c, attached("other"), farm); other.Addrs[0] != db.Addrs[0].Next() {
		t.Errorf("another name got %v, which is kept for web", other.Addrs)
	}
	if again := add(t, c, attached("web"), farm); again.Addrs[0] != web.Addrs[0] || len(c.memory) != 0 {
		t.Errorf("web came back with %v, had %v; remembered %v", again.Addrs, web.Addrs, c.memory)
	}
	look(c, farm, "gw0-3")
	if again := add(t, c, attached("db"), farm); again.Addrs[0] != db.Addrs[0] {
		t.Errorf("attached again: %v", again.Addrs)
	}
	for i := range 3 * maxMemory { // names that come and go, as containers' do
		add(t, c, attached(fmt.Sprint("c", i)), farm)
		c.remove(mesh.Name(fmt.Sprint("c", i)))
	}
	if len(c.memory) != maxMemory {
		t.Errorf("%d names are remembered", len(c.memory))
	}
	small := Node{Block: netip.MustParsePrefix("fd00:1:2:3:4:5:6:0/126")} // ::2 and ::3
	c = newCore("gw0")
	add(t, c, attached("a"), small)
	add(t, c, attached("b"), small)
	c.remove("a")
	if e := add(t, c, attached("x"), small); e.Addrs[0] != netip.MustParseAddr("fd00:1:2:3:4:5:6:2") {
		t.Errorf("with no other free: %v", e.Addrs)
	}
	_, err := c.plan(attached("y"), small, now)
	refusedWith(t, err, ErrRefused, "no address is free")
}

func TestIPv4OnlyWhereThereIsAPrefixForIt(t *testing.T) {
	c := newCore("gw0")
	n := farm
	n.Routes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/30"), netip.MustParsePrefix("2001:db8::/64")}
	n.IPv4 = n.Routes[:1]
	for i, want := range []string{"192.0.2.1", "192.0.2.2", ""} { // not the network's, nor the broadcast address
		e := add(t, c, attached(fmt.Sprint("w", i)), n)
		got := ""
		if len(e.Addrs) > 1 {
			got = e.Addrs[1].String()
		}
		if got != want || !farm.Block.Contains(e.Addrs[0]) {
			t.Errorf("workload %d: %v, want IPv4 %q", i, e.Addrs, want)
		}
	}
	look(c, farm) // renewed without the routes
	if got := c.announced(); len(got) != 1 || got[0].Name != "w2" || c.items["w0"].health != Refused {
		t.Errorf("announced %v, w0 %v", got, c.items["w0"].health)
	}
}

func TestNamesAndLimits(t *testing.T) {
	c := newCore("gw0")
	add(t, c, attached("web"), farm)
	_, err := c.plan(attached("web"), farm, now)
	refusedWith(t, err, ErrRefused, "has a workload web already")
	if _, err = c.plan(attached("slow"), farm, now); err != nil {
		t.Fatal(err)
	}
	_, err = c.plan(attached("slow"), farm, now.Add(planLife-1))
	refusedWith(t, err, ErrRefused, "being attached right now")
	_, err = c.commit("slow", now.Add(planLife))
	refusedWith(t, err, ErrRefused, "took longer")
	if late := c.overdue(now.Add(planLife)); len(late) != 1 || late[0].Name != "slow" || late[0].Interface == "" {
		t.Errorf("overdue: %+v", late)
	}
	if got := c.cancel("slow"); got != nil {
		t.Errorf("cancelled twice: %+v", got)
	}
	owner := &Owner{"mesh", "0123456789abcdef", "eth0"}
	named := Request{Name: "web", Owner: owner, Rename: true}
	e := add(t, c, named, farm)
	if !strings.HasPrefix(string(e.Name), "web-") || len(e.Name) != len("web-1234") || c.byOwner(*owner) != e {
		t.Errorf("a container's name that is taken became %q", e.Name)
	}
	_, err = c.plan(named, farm, now)
	refusedWith(t, err, ErrRefused, "attached already, as workload "+string(e.Name))
	named.Owner, named.Name = &Owner{"mesh", "f", "eth0"}, mesh.Name(strings.Repeat("x", 62))
	add(t, c, named, farm)
	named.Owner = &Owner{"mesh", "g", "eth0"}
	if e := add(t, c, named, farm); len(e.Name) > 63 {
		t.Errorf("name of %d characters", len(e.Name))
	}
	for i := len(c.items); i < mesh.MaxWorkloads; i++ {
		add(t, c, attached(fmt.Sprint("w", i)), farm)
	}
	_, err = c.plan(attached("toomany"), farm, now)
	refusedWith(t, err, ErrRefused, "has 256 workloads, which is the limit")
	look(c, farm, c.items["web"].Interface)
	add(t, c, attached("web"), farm) // in place of the one that is gone
}

func TestNamedAddresses(t *testing.T) {
	c := newCore("gw0")
	n := farm
	n.Routes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	at := func(a string) Request { return Request{Name: "nas", Address: netip.MustParseAddr(a)} }
	for _, a := range []string{"198.51.100.1", "fd00:1:2:3:4:5:6:1", "fd00:1:2:3:4:5:6:0", "fd00:1:2:3:4:5:7:2"} {
		_, err := c.plan(at(a), n, now)
		refusedWith(t, err, ErrRefused, a+" is not this node's to name: its certificate authorises fd00:1:2:3:4:5:6:0/112, 192.0.2.0/24")
	}
	e := add(t, c, at("192.0.2.10"), n)
	if e.Interface != "" || e.health != Up {
		t.Errorf("%+v", e)
	}
	twice := at("192.0.2.10")
	twice.Name = "other"
	_, err := c.plan(twice, n, now)
	refusedWith(t, err, ErrRefused, "workload nas's already")
	c.observe(sight{reasons: map[netip.Addr]string{e.Addrs[0]: "no route"}}, n, now.Add(time.Hour))
	if e.health != Down || e.reason != "no route" || !e.since.Equal(now.Add(time.Hour)) || len(c.announced()) != 0 {
		t.Errorf("%+v", e)
	}
	c.remove("nas")
	if len(c.memory) != 0 {
		t.Error("an address that somebody chose is kept")
	}
}

func TestContainersThatAreGoneAreForgotten(t *testing.T) {
	c := newCore("gw0")
	add(t, c, attached("web"), farm)
	add(t, c, Request{Name: "pod", Owner: &Owner{"mesh", "abc", "eth0"}}, farm)
	gone := c.observe(sight{links: map[string]bool{}}, farm, now)
	if len(gone) != 1 || gone[0] != "pod" || c.items["web"].health != Gone {
		t.Errorf("gone for good: %v; web is %v", gone, c.items["web"].health)
	}
	down := c.observe(sight{links: map[string]bool{"gw0-2": false, "gw0-3": false}}, farm, now)
	if len(down) != 0 || c.items["web"].health != Down || len(c.announced()) != 0 {
		t.Errorf("down: %v, %+v", down, c.items["web"])
	}
}

func TestStateComesBack(t *testing.T) {
	c := newCore("gw0")
	r := attached("web")
	r.Ports = []mesh.Port{{Name: "http", Number: 8080, Protocol: "tcp"}}
	r.Owner = &Owner{"mesh", "abc", "eth0"}
	e := add(t, c, r, farm)
	add(t, c, attached("was"), farm)
	c.remove("was")
	b, err := c.save()
	if err != nil {
		t.Fatal(err)
	}
	d := newCore("gw0")
	if err := d.load(b, now); err != nil {
		t.Fatal(err)
	}
	look(d, farm)
	got := d.items["web"]
	if got == nil || !equal(got.workload(), e.workload()) || *got.Owner != *e.Owner || got.Interface != e.Interface || len(d.memory) != 1 {
		t.Errorf("came back as %+v, %+v", got, d.memory)
	}
	for words, text := range map[string]string{
		"version 2": `{"version":2}`, "unexpected end": `{`, "DNS label": `{"version":1,"workloads":[{"name":"a_b","addresses":["fd00::2"]}]}`,
	} {
		if err := newCore("gw0").load([]byte(text), now); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestInterfaceNamesFit(t *testing.T) {
	seen := map[string]bool{}
	for _, iface := range []string{"gw0", "0123456789", "0123456789a", "0123456789b", "0123456789abcde"} {
		name := InterfacePrefix(iface) + "ffff"
		if len(name) > 15 || seen[name] {
			t.Errorf("%s: %s", iface, name)
		}
		seen[name] = true
	}
}
