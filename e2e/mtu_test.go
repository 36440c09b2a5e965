//go:build linux

package e2e

import (
	"fmt"
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
