//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// inside is the path MTU inside the tunnel for an underlay: less IP, UDP and WireGuard headers, in whole multiples of 16 bytes up to the
// interface's own.
func inside(underlay int, six bool) int {
	room := underlay - 60
	if six {
		room -= 20
	}
	if room >= 1420 {
		return 1420
	}
	return room / 16 * 16
}

// TestPathMTU: bob's router gets a smaller uplink while bob and carol talk, and a better one by another way. With ICMP and without.
func TestPathMTU(t *testing.T) {
	t.Parallel()
	for _, six := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[six], func(t *testing.T) { pathMTU(t, six) })
	}
}

func pathMTU(t *testing.T, six bool) {
	w := newWorld(t, lab.Options{IPv6: six})
	home := lab.NATConfig{Kind: lab.PortRestricted}
	if six {
		home = lab.NATConfig{Kind: lab.Symmetric, IPv6: true} // so that there is no way but by IPv6
	}
	router := w.router("r", home, nil)
	alice, bob, carol := w.public("alice"), must(router.Host("bob"))(t), w.home("carol", home)
	w.mesh(alice, bob, carol)
	w.linked(bob, carol, 20*time.Second)
	both := func(w *world, limit time.Duration, underlay int) {
		w.Helper()
		w.eventually(limit, fmt.Sprintf("both know that a path of %d carries %d bytes", underlay, inside(underlay, six)), func() bool {
			return w.peer(bob, "carol").MTU == inside(underlay, six) && w.peer(carol, "bob").MTU == inside(underlay, six)
		})
	}
	both(w, 5*time.Second, 1500)
	for _, blocked := range []bool{false, true} {
		if six && !blocked {
			continue // to save time: nothing rests on ICMP
		}
		t.Run(map[bool]string{false: "with ICMP", true: "without ICMP"}[blocked], func(t *testing.T) {
			w := w.in(t)
			if err := w.BlockTooBig(blocked); err != nil {
				t.Fatal(err)
			}
			up, down := w.stream(bob, carol, true), w.stream(carol, bob, true)
			defer up.close()
			defer down.close()
			w.moves(up, 1<<20, 5*time.Second, "before the change, bob to carol")
			w.moves(down, 1<<20, 5*time.Second, "before the change, carol to bob")
			for _, underlay := range []int{1400, 1280} {
				up.silence()
				down.silence()
				if err := router.SetMTU(underlay); err != nil {
					t.Fatal(err)
				}
				both(w, 10*time.Second, underlay)
				w.moves(up, 1<<20, 10*time.Second, "after the change, bob to carol")
				w.moves(down, 1<<20, 10*time.Second, "after the change, carol to bob")
				t.Logf("%d: nothing arrived for %v and %v", underlay, up.silence(), down.silence())
				for _, inner := range []bool{false, true} {
					w.datagram(bob, carol, inner, 3000)
					w.datagram(carol, bob, inner, 1300)
					s := w.stream(bob, carol, inner)
					w.moves(s, 1<<20, 5*time.Second, "a new connection")
					s.close()
				}
			}
			up.close()
			down.close()
			// Another provider: a new address, and a path as it should be.
			if err := router.SetMTU(1500); err != nil {
				t.Fatal(err)
			}
			if err := router.Renumber(); err != nil {
				t.Fatal(err)
			}
			if six { // the router's prefix is as it was: the host moves in it
				if err := bob.Move(router); err != nil {
					t.Fatal(err)
				}
			}
			w.moves(w.stream(bob, carol, true), 1<<20, 20*time.Second, "by the new path")
			both(w, 10*time.Second, 1500)
		})
	}
}

// TestSmallUnderlay: bob's own network carries 1280 bytes, less than IPv6 in WireGuard needs, and nobody says so. He joins, and workloads on
// both sides reach each other with whatever IPv6 promises.
func TestSmallUnderlay(t *testing.T) {
	t.Parallel()
	for _, six := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[six], func(t *testing.T) { smallUnderlay(t, six) })
	}
}

func smallUnderlay(t *testing.T, six bool) {
	w := newWorld(t, lab.Options{IPv6: six})
	home := lab.NATConfig{Kind: lab.PortRestricted}
	if six {
		home = lab.NATConfig{Kind: lab.Symmetric, IPv6: true}
	}
	alice, bob, carol := w.public("alice"), w.home("bob", home), w.home("carol", home)
	for _, err := range []error{w.BlockTooBig(true), bob.SetMTU(1280)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w.mesh(alice, bob, carol)
	w.linked(bob, carol, 20*time.Second)
	want := inside(1280, six)
	w.eventually(10*time.Second, fmt.Sprintf("both know that the path carries %d bytes", want), func() bool {
		return w.peer(bob, "carol").MTU == want && w.peer(carol, "bob").MTU == want
	})
	if text := w.run(bob, "explain", "carol"); !strings.Contains(text, fmt.Sprintf("MTU              %d bytes", want)) {
		t.Errorf("explain:\n%s", text)
	}
	to := w.address(bob, "carol", true)
	route := string(must(bob.Exec(w.ctx(5*time.Second), "ip", "-6", "route", "get", to.String()))(t))
	if !strings.Contains(route, fmt.Sprintf(" mtu %d advmss %d ", want, want-60)) {
		t.Errorf("bob's route to carol: %s", route)
	}
	if link := string(must(bob.Exec(w.ctx(5*time.Second), "ip", "-6", "addr", "show", "dev", bob.Interface()))(t)); !strings.Contains(link, "mtu 1420") || !strings.Contains(link, "inet6 fd") {
		t.Errorf("the interface lost its MTU or its address: %s", link)
	}
	inB, inC := w.namespace(bob, "b"), w.namespace(carol, "c")
	w.run(bob, "workload", "add", "b", "--netns", inB.Path())
	w.run(carol, "workload", "add", "c", "--netns", inC.Path())
	b, c := w.workloads(bob)["b"].Addresses[0].Addr(), w.workloads(carol)["c"].Addresses[0].Addr()
	for what, x := range map[string]struct {
		from, to place
		addr     netip.Addr
	}{
		"node to node": {bob, carol, to}, "node to workload": {carol, inB, b}, "workload to node": {inB, carol, to},
		"workload to workload": {inB, inC, c}, "and back": {inC, inB, b},
	} {
		t.Run(what, func(t *testing.T) {
			w := w.in(t)
			w.datagramTo(x.from, x.to, x.addr, 100) // until both know the workload
			w.moves(w.streamTo(x.from, x.to, x.addr), 1<<20, 5*time.Second, "TCP")
			for _, size := range []int{1232, 3000} { // 1232: a packet of 1280
				w.datagramTo(x.from, x.to, x.addr, size)
			}
		})
	}
}
