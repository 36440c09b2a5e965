//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// What the issue gives a member that moves.
const (
	roamLimit  = 3 * time.Second
	quietLimit = 25 * time.Second // one keepalive interval
)

// roamers are alice, who is public, and bob and carol behind routers; bob is who moves.
type roamers struct {
	*world
	alice, bob, carol *lab.Host
	first, second     *lab.Router // bob's, and one where nobody is
}

func newRoamers(t *testing.T, bobs lab.NATConfig) *roamers {
	t.Helper()
	w := newWorld(t, lab.Options{})
	r := &roamers{world: w, alice: w.public("alice"), carol: w.home("carol", home)}
	r.first, r.second = w.router("first", bobs, nil), w.router("second", bobs, nil)
	r.bob = must(r.first.Host("bob"))(t)
	w.mesh(r.alice, r.bob, r.carol)
	w.linkedAll(10*time.Second, r.alice, r.bob, r.carol)
	return r
}

// reaches fails unless a ping that begins now is answered within the limit.
func (w *world) reaches(t *testing.T, limit time.Duration, from, to *lab.Host) {
	t.Helper()
	took, err := w.WaitPing(w.in(t).ctx(limit), from, to.Label())
	if err != nil {
		t.Fatalf("not within %v: %v", limit, err)
	}
	t.Logf("after %v", took.Round(time.Millisecond))
}

// TestRoaming changes the network under bob in every way in which it changes under a laptop, and then one side alone sends: packets cross
// again within 3 s, whichever side that is. The peers are carol, behind a router of hers, and alice, who is public. Each case has an
// internet of its own: what one leaves in a router's conntrack clashes with the ports of the next towards some peers and not others,
// which makes an ordinary NAT behave as a symmetric one.
func TestRoaming(t *testing.T) {
	for _, change := range []struct {
		name       string
		before, do func(*roamers) error
	}{
		{"to another router", nil, func(r *roamers) error { return r.bob.Move(r.second) }},
		{"another address behind the same router", nil, func(r *roamers) error { return r.bob.SetAddr(netip.Prefix{}) }},
		{"cable out and in", nil, func(r *roamers) error { return replug(r.bob) }},
		{"from a router to the internet itself", nil, func(r *roamers) error { return r.bob.Move(r.WAN()) }},
		{"from the internet to a router", func(r *roamers) error { return r.bob.Move(r.WAN()) }, func(r *roamers) error { return r.bob.Move(r.first) }},
	} {
		for _, pair := range [][2]string{{"bob", "carol"}, {"carol", "bob"}, {"bob", "alice"}, {"alice", "bob"}} {
			t.Run(fmt.Sprintf("%s, %s sends to %s", change.name, pair[0], pair[1]), func(t *testing.T) {
				r := newRoamers(t, home)
				pid := r.agents[r.bob].PID()
				if change.before != nil {
					check(t, change.before(r))
				}
				r.settle(t)
				check(t, change.do(r))
				r.reaches(t, roamLimit, r.host(pair[0]), r.host(pair[1]))
				if !r.agents[r.bob].Running() || r.agents[r.bob].PID() != pid {
					t.Error("bob's agent did not live through it")
				}
			})
		}
	}
}

func (r *roamers) host(name string) *lab.Host {
	return map[string]*lab.Host{"alice": r.alice, "bob": r.bob, "carol": r.carol}[name]
}

// replug pulls the cable and puts it back.
func replug(h *lab.Host) error {
	if err := h.Unplug(); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond) // a person's hand; nothing waits for this
	return h.Plug()
}

// TestForgetfulNAT makes bob's router forget its mappings, and get another address from its provider: nobody on the inside is told. Packets
// cross again 3 s after bob's first one.
func TestForgetfulNAT(t *testing.T) {
	for name, cfg := range map[string]lab.NATConfig{"port-restricted": home, "full cone": cone, "symmetric": symmetric} {
		for what, forget := range map[string]func(*lab.Router) error{"forgets": (*lab.Router).Forget, "is renumbered": (*lab.Router).Renumber} {
			for _, to := range []string{"alice", "carol"} {
				t.Run(fmt.Sprintf("%s %s, bob sends to %s", name, what, to), func(t *testing.T) {
					r := newForgetful(t, cfg)
					r.settle(t)
					check(t, forget(r.first))
					r.reaches(t, roamLimit, r.bob, r.host(to))
				})
			}
		}
	}
}

// settle waits until bob is linked with everybody after whatever the case before has left behind. He pings: after some cases only his packets
// can repair a link, and what it was is no news to those who have not tried.
func (r *roamers) settle(t *testing.T) {
	t.Helper()
	w := r.in(t)
	for _, peer := range r.peers() {
		if _, err := w.WaitPing(w.ctx(10*time.Second), r.bob, peer.Label()); err != nil {
			t.Fatal(err)
		}
		w.eventually(10*time.Second, "bob and "+peer.Label()+" are connected", func() bool {
			return w.peer(r.bob, peer.Label()).State == "connected" && w.peer(peer, "bob").State == "connected"
		})
	}
}

// newForgetful is newRoamers where bob may have a symmetric NAT: carol then has a full-cone one, because they could not be linked
// otherwise.
func newForgetful(t *testing.T, cfg lab.NATConfig) *roamers {
	t.Helper()
	if cfg.Kind != lab.Symmetric {
		return newRoamers(t, cfg)
	}
	w := newWorld(t, lab.Options{})
	r := &roamers{world: w, alice: w.public("alice"), carol: w.home("carol", cone), first: w.router("first", cfg, nil)}
	r.bob = must(r.first.Host("bob"))(t)
	w.mesh(r.alice, r.bob, r.carol)
	w.linkedAll(10*time.Second, r.alice, r.bob, r.carol)
	return r
}

func (r *roamers) peers() []*lab.Host { return []*lab.Host{r.alice, r.carol} }

// TestQuietLinkSurvivesAForgetfulNAT: where bob sends nothing after his router got another address, his keepalive finds out, and the link is
// repaired within one keepalive interval, so that then a single packet to him arrives at once.
func TestQuietLinkSurvivesAForgetfulNAT(t *testing.T) {
	r := newRoamers(t, home)
	check(t, r.first.Renumber())
	start := time.Now()
	for _, peer := range r.peers() {
		r.eventually(quietLimit-time.Since(start), peer.Label()+" knows bob's new address", func() bool {
			return r.remote(peer, "bob").Addr() == r.first.Addr() && r.peer(peer, "bob").State == "connected" && r.peer(r.bob, peer.Label()).State == "connected"
		})
		t.Logf("%s after %v", peer.Label(), time.Since(start).Round(10*time.Millisecond))
		r.reaches(t, time.Second, peer, r.bob)
	}
}

// TestOthersSendToAForgetfulNAT: the same where carol sends all the time and bob's programs do not; what reaches bob's agent by way of the
// control plane depends on its next sign of life.
func TestOthersSendToAForgetfulNAT(t *testing.T) {
	for _, forget := range []string{"forgets", "is renumbered"} {
		t.Run(forget, func(t *testing.T) {
			r := newRoamers(t, home)
			do := r.first.Forget
			if forget == "is renumbered" {
				do = r.first.Renumber
			}
			check(t, do())
			r.reaches(t, quietLimit, r.carol, r.bob)
		})
	}
}
