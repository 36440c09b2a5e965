//go:build linux

package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestTwoNetworksInUse: the same machine in two networks, with everything in use in both. Neither disturbs the other, nor by its end, and
// packets of one never go through the other.
func TestTwoNetworksInUse(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, zoe, shared := w.public("alice"), w.public("zoe"), w.public("shared")
	w.mesh(alice)
	w.joinRouting(zoe, "198.18.7.0/24")
	// Zoe's machine is in both networks too, and founded the second.
	founder := must(zoe.Another("founder"))(t)
	pool := "10.64.0.0/16" // not the first network's, which is one of 64 by chance: where they clash, the second has no IPv4
	if w.status(alice).Network.IPv4Prefix == pool {
		pool = "10.65.0.0/16"
	}
	w.run(founder, "init", "other", "--node", "founder", "--ipv4", pool)
	w.start(founder, "--page", "off")
	far := w.public("far")
	w.issuer = founder
	w.joinRouting(far, "198.18.8.0/24")
	m := w.lanOf(shared, "192.168.77.0/24")
	p := &pc{m, w, shared}
	before := p.condition()
	one := w.busyMember(shared, m, alice, 9586, "192.168.77.0/24", "198.18.7.0/24", "phone", false)
	second := must(shared.Another("second"))(t)
	two := w.busyMember(second, m, founder, 9686, "192.168.77.0/24", "198.18.8.0/24", "tablet", true)
	one.everything(alice)
	for h, peer := range map[*lab.Host]string{shared: "zoe", second: "founder"} {
		w.linked(h, w.host(peer), 10*time.Second)
		if at := w.remote(h, peer); at.Addr() != zoe.Addr() {
			t.Errorf("%s reaches %s at %v: through the other network", h.Label(), peer, at)
		}
	}
	for _, b := range []*busy{one, two} { // the first to come is the first to go: what it changed first, the second needs still
		other, peer := two, founder
		if b == two {
			other, peer = one, alice
		}
		if err := w.agents[b.h].Stop(); err != nil {
			t.Error(err)
		}
		at := netip.AddrPortFrom(w.workloads(other.h)["web"].Addresses[0].Addr(), 8080)
		w.mirror(other.web, 8080)
		w.sees(peer, w.overlay6(peer), at, 5*time.Second)
		w.eventually(5*time.Second, "a name of the other network is found", func() bool {
			return w.dig(other.h, peer.Label()+"."+w.status(other.h).Network.Domain, "AAAA") == w.overlay6(peer).String()
		})
		other.everything(peer)
		if b == one {
			one.second, two.second = true, false // whoever comes second
			b.start()
			b.everything(alice)
		}
	}
	if err := w.agents[shared].Stop(); err != nil {
		t.Error(err)
	}
	if got := changed(before, p.condition(), p.outlives(shared, second)...); len(got) > 0 {
		t.Errorf("after both: the machine is not as it was:\n%s", strings.Join(got, "\n"))
	}
}

// host returns the host of a label that has an agent.
func (w *world) host(label string) *lab.Host {
	for h := range w.agents {
		if h.Label() == label {
			return h
		}
	}
	w.Fatalf("no agent on %s", label)
	return nil
}
