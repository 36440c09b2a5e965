//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// farmLAN is what many home routers give out.
var farmLAN = netip.MustParsePrefix("192.168.1.0/24")

// lan6 is added to the hosts of a LAN by hand.
const lan6 = "2001:db8:77::/64"

// farm is a home network with boxes that run gridwire and a printer that does not.
func (w *world) farm(name string, boxes ...string) (hosts []*lab.Host, printer *lab.Host) {
	w.Helper()
	r := w.router(name+"-r", lab.NATConfig{Kind: lab.PortRestricted, LAN: farmLAN}, nil)
	for i, b := range append(boxes, name+"-printer") {
		h := must(r.Host(b))(w)
		w.exec(h, "ip", "address", "add", fmt.Sprintf("2001:db8:77::%d/64", i+1), "dev", "eth0", "nodad")
		hosts = append(hosts, h)
	}
	return hosts[:len(boxes)], hosts[len(boxes)]
}

func (w *world) exec(h *lab.Host, name string, args ...string) string {
	w.Helper()
	return string(must(h.Exec(w.ctx(10*time.Second), name, args...))(w))
}

// joinRouting joins h as a member that may route prefixes.
func (w *world) joinRouting(h *lab.Host, prefixes ...string) {
	w.Helper()
	var args []string
	for _, p := range prefixes {
		args = append(args, "--route", p)
	}
	w.start(h, "--join", w.token(h.Label(), args...))
}

// answers reports whether addr answers a ping of h.
func (w *world) answers(h *lab.Host, addr string) bool {
	_, err := h.Exec(w.ctx(5*time.Second), "ping", "-n", "-c", "1", "-W", "0.3", addr)
	return err == nil
}

type routeStatus struct {
	Prefix, State, Via, Reason string
	Routers                    []string
}

// route returns what h's status says about a network.
func (w *world) route(h *lab.Host, prefix string) routeStatus {
	w.Helper()
	var st struct{ Routes []routeStatus }
	if err := json.Unmarshal([]byte(w.run(h, "status", "--json")), &st); err != nil {
		w.Fatal(err)
	}
	i := slices.IndexFunc(st.Routes, func(r routeStatus) bool { return r.Prefix == prefix })
	if i < 0 {
		return routeStatus{}
	}
	return st.Routes[i]
}

// sysctls are all settings that forwarding may touch, of interfaces that are there with and without an agent.
func (w *world) sysctls(h *lab.Host) string {
	w.Helper()
	return w.exec(h, "bash", "-c", "cd /proc/sys/net && grep -H . ipv4/ip_forward ipv[46]/conf/{all,default,lo,eth0}/forwarding "+
		"ipv6/conf/{all,default,lo,eth0}/accept_ra ipv4/conf/all/accept_redirects 2>&1 || true")
}

// TestNetworkBehindMembers: a laptop in a hotel reaches a printer on a farmer's LAN, on which nothing is configured, through whichever of
// the farmer's two boxes is there; revocation ends it; and the boxes are left as they were.
func TestNetworkBehindMembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	hub, laptop := w.public("hub"), w.home("laptop", home)
	boxes, printer := w.farm("farm", "box1", "box2")
	for _, b := range boxes { // as a machine of its own has it
		w.exec(b, "sysctl", "-w", "net.ipv6.conf.eth0.accept_ra=1")
	}
	before := w.sysctls(boxes[0])
	if !strings.Contains(before, "ip_forward:0") || !strings.Contains(before, "ipv6/conf/eth0/accept_ra:1") {
		t.Fatalf("the boxes' settings are unexpected:\n%s", before)
	}
	w.mesh(hub, laptop)
	for _, b := range boxes {
		w.joinRouting(b, farmLAN.String(), lan6)
	}
	w.linked(laptop, boxes[0], 15*time.Second)
	w.linked(laptop, boxes[1], 15*time.Second)
	w.eventually(5*time.Second, "the laptop reaches the printer", func() bool { return w.answers(laptop, printer.Addr().String()) })
	w.eventually(5*time.Second, "the laptop reaches the printer by IPv6", func() bool { return w.answers(laptop, "2001:db8:77::3") })
	if got := w.run(boxes[0], "members"); !strings.Contains(got, farmLAN.String()) {
		t.Errorf("members does not show who routes what:\n%s", got)
	}
	if now := w.sysctls(boxes[0]); !strings.Contains(now, "ip_forward:1") || !strings.Contains(now, "ipv6/conf/eth0/accept_ra:2") {
		t.Errorf("settings while forwarding:\n%s", now)
	}
	first := w.route(laptop, farmLAN.String())
	if first.State != "active" || len(first.Routers) != 2 {
		t.Fatalf("status of the network: %+v", first)
	}
	active, other := boxes[0], boxes[1]
	if first.Via == other.Label() {
		active, other = other, active
	}
	if err := active.Cut(); err != nil {
		t.Fatal(err)
	}
	took := w.eventually(10*time.Second, "the other box takes over", func() bool { return w.answers(laptop, printer.Addr().String()) })
	t.Logf("taken over in %v", took)
	if took > 5*time.Second {
		t.Errorf("the other box took over in %v, 5 s are allowed", took)
	}
	if err := active.Reconnect(); err != nil {
		t.Fatal(err)
	}

	// SIGTERM puts everything back; after kill -9 the next start does.
	if err := w.agents[active].Stop(); err != nil {
		t.Error(err)
	}
	w.agents[other].Kill()
	w.sameSettings(active, "after SIGTERM", before)
	if now := w.sysctls(other); !strings.Contains(now, "ip_forward:1") {
		t.Errorf("the test proves nothing: after kill -9:\n%s", now)
	}
	w.start(other)
	w.linked(laptop, other, 15*time.Second)
	w.eventually(5*time.Second, "the printer is reached again", func() bool { return w.answers(laptop, printer.Addr().String()) })
	w.run(hub, "revoke", other.Label())
	w.eventually(5*time.Second, "the revoked box's routes go", func() bool {
		r := w.route(laptop, farmLAN.String())
		return r.State == "unreachable" && slices.Equal(r.Routers, []string{active.Label()})
	})
	if w.answers(laptop, printer.Addr().String()) {
		t.Error("the printer is reached through a revoked member")
	}
	w.run(hub, "revoke", active.Label())
	w.eventually(5*time.Second, "no network is left", func() bool { return w.route(laptop, farmLAN.String()).State == "" })
	if rules := w.exec(laptop, "ip", "rule"); strings.Contains(rules, "suppress_prefixlength") {
		t.Errorf("rules are left on the laptop:\n%s", rules)
	}
	if err := w.agents[other].Stop(); err != nil {
		t.Error(err)
	}
	w.sameSettings(other, "after kill -9, a new start and SIGTERM", before)
	if left, _ := filepath.Glob(other.State() + "/sysctl*"); len(left) != 0 {
		t.Errorf("left in the state folder: %v", left)
	}
}

func (w *world) sameSettings(h *lab.Host, when, before string) {
	w.Helper()
	if now := w.sysctls(h); now != before {
		w.Errorf("%s: settings of %s:\n%s\nbefore:\n%s", when, h.Label(), now, before)
	}
}

// TestTwoFarmersWithOnePrefix: each goes on reaching his own 192.168.1.0/24, and the laptop in a third one its own; they reach each other
// through the mesh all the same.
func TestTwoFarmersWithOnePrefix(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	hub := w.public("hub")
	alices, alicePrinter := w.farm("alice", "alice-box")
	bobs, bobPrinter := w.farm("bob", "bob-box")
	laptops, laptopPrinter := w.farm("hotel", "laptop")
	alice, bob, laptop := alices[0], bobs[0], laptops[0]
	w.found(hub)
	for _, h := range []*lab.Host{alice, bob} {
		w.joinRouting(h, farmLAN.String())
	}
	w.join(laptop)
	w.linkedAll(15*time.Second, alice, bob, laptop)
	for _, c := range []struct{ h, printer *lab.Host }{{alice, alicePrinter}, {bob, bobPrinter}, {laptop, laptopPrinter}} {
		mac := strings.TrimSpace(w.exec(c.printer, "cat", "/sys/class/net/eth0/address"))
		if !w.answers(c.h, c.printer.Addr().String()) {
			t.Errorf("%s does not reach its own printer any more", c.h.Label())
		}
		if neigh := w.exec(c.h, "ip", "neighbour", "show", c.printer.Addr().String()); !strings.Contains(neigh, mac) {
			t.Errorf("%s asked another printer than its own (%s): %s", c.h.Label(), mac, neigh)
		}
	}
	for h, state := range map[*lab.Host]string{alice: "own", bob: "own", laptop: "local"} {
		w.eventually(3*time.Second, h.Label()+" says that the network is its own", func() bool { return w.route(h, farmLAN.String()).State == state })
	}
	// The laptop goes home, to another network: now it reaches one of the two.
	if err := laptop.Move(w.router("home-r", home, nil)); err != nil {
		t.Fatal(err)
	}
	w.eventually(15*time.Second, "the laptop reaches a printer", func() bool { return w.answers(laptop, alicePrinter.Addr().String()) })
	if r := w.route(laptop, farmLAN.String()); r.State != "active" || len(r.Routers) != 2 {
		t.Errorf("status %+v", r)
	}
}
