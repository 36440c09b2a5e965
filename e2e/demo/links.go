//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

const (
	lookInterval = 20 * time.Millisecond // how finely the time to a link is measured
	linkLimit    = 20 * time.Second      // then the demo has failed
)

// pair is two machines that should find each other.
type pair struct{ a, b *machine }

func (p pair) String() string { return p.a.Label() + " ↔ " + p.b.Label() }

// pairsOf returns m with each of the others.
func pairsOf(m *machine, others ...*machine) []pair {
	var out []pair
	for _, o := range others {
		out = append(out, pair{m, o})
	}
	return out
}

// allPairs returns each machine with each other one.
func allPairs(machines ...*machine) []pair {
	var out []pair
	for i, m := range machines {
		out = append(out, pairsOf(m, machines[i+1:]...)...)
	}
	return out
}

// found waits until each pair is connected, as both sides see it, and calls seen for each as it happens. A path that does not lead straight
// to the other side is an error: nobody carries packets for others here.
func (d *demo) found(ctx context.Context, pairs []pair, seen func(pair)) error {
	ctx, cancel := context.WithTimeout(ctx, linkLimit)
	defer cancel()
	for len(pairs) > 0 {
		states := map[*machine]*api.Status{}
		look := func(m *machine) *api.Status {
			if states[m] == nil {
				st, err := m.status(ctx)
				if err != nil {
					st = &api.Status{} // not up yet
				}
				states[m] = st
			}
			return states[m]
		}
		var missing []pair
		for _, p := range pairs {
			there, okA := connected(look(p.a), p.b.Label())
			back, okB := connected(look(p.b), p.a.Label())
			if !okA || !okB {
				missing = append(missing, p)
				continue
			}
			if err := errors.Join(straight(p.a, p.b, there), straight(p.b, p.a, back)); err != nil {
				return err
			}
			seen(p)
		}
		pairs = missing
		if len(pairs) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return d.notFound(pairs, states)
		case <-time.After(lookInterval):
		}
	}
	return nil
}

func connected(st *api.Status, name string) (api.Peer, bool) {
	for _, p := range st.Peers {
		if p.Name == name {
			return p, p.State == "connected"
		}
	}
	return api.Peer{}, false
}

// straight checks that what from sends to to goes where the internet sees to.
func straight(from, to *machine, p api.Peer) error {
	remote, err := netip.ParseAddrPort(p.Path.Remote)
	if err != nil || p.Path.Kind != "direct" || remote.Addr() != to.outer {
		return fmt.Errorf("%s sends what is for %s to %q (%s); %s is at %v", from.Label(), to.Label(), p.Path.Remote, p.Path.Kind, to.Label(), to.outer)
	}
	return nil
}

func (d *demo) notFound(pairs []pair, states map[*machine]*api.Status) error {
	var why []string
	for _, p := range pairs {
		text := p.String()
		for _, q := range states[p.a].Peers {
			if q.Name == p.b.Label() && q.Reason != "" {
				text += ": " + q.Reason
			}
		}
		why = append(why, text)
	}
	return fmt.Errorf("not linked within %v: %s", linkLimit, strings.Join(why, "; "))
}

// how says what the packets of a pair cross: the lab's doing, which straight has confirmed from both sides.
func (p pair) how() string {
	nats := append(append([]string(nil), p.a.nats...), reversed(p.b.nats)...)
	switch len(nats) {
	case 0:
		return "direct, no NAT between"
	case 1:
		return "direct through " + nats[0] + " NAT"
	}
	return fmt.Sprintf("direct through %d NATs: %s", len(nats), strings.Join(nats, ", "))
}

func reversed(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[len(in)-1-i] = s
	}
	return out
}
