//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// farm is what joiners come into: a founder with a public address, and a member behind a port-restricted router.
type farm struct {
	*world
	alice, carol         *lab.Host // public; behind a router
	aliceAddr, carolAddr netip.Addr
	carolID              string
	router               *lab.Router // of the joiners
	first                *lab.Host   // behind it; the others are further installations on that machine
}

func (b *bench) newFarm(ctx context.Context, name string, delay time.Duration) (_ *farm, err error) {
	w, err := b.newWorld(name, "debug", delay)
	if err != nil {
		return nil, err
	}
	f := &farm{world: w}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if f.alice, err = w.Public("alice"); err != nil {
		return nil, err
	}
	if f.carol, _, err = w.home("carol"); err != nil {
		return nil, err
	}
	if f.first, f.router, err = w.home("bob"); err != nil {
		return nil, err
	}
	if _, err = w.found(ctx, f.alice); err != nil {
		return nil, err
	}
	if _, err = w.join(ctx, f.carol); err != nil {
		return nil, err
	}
	if err = w.linked(ctx, f.carol, f.alice); err != nil {
		return nil, err
	}
	if f.aliceAddr, err = overlay(ctx, f.alice); err != nil {
		return nil, err
	}
	if f.carolAddr, err = overlay(ctx, f.carol); err != nil {
		return nil, err
	}
	s, err := f.carol.Status(ctx)
	if err == nil && len(s.Self.ID) < 8 {
		err = fmt.Errorf("carol's node ID is %q", s.Self.ID)
	}
	f.carolID = s.Self.ID[:min(8, len(s.Self.ID))]
	return f, err
}

// timed is one start of an agent, and when its first pings were answered: seconds from just before the process is started.
type timed struct {
	agent        *lab.Agent
	public, home float64
}

// launch starts an agent on h and pings both members of the farm from then on, each 10 ms.
func (f *farm) launch(ctx context.Context, h *lab.Host, args ...string) (timed, error) {
	ctx, cancel := context.WithTimeout(ctx, linkLimit)
	defer cancel()
	type answer struct {
		to  netip.Addr
		at  time.Time
		err error
	}
	answers := make(chan answer, 2)
	start := time.Now()
	for _, to := range []netip.Addr{f.aliceAddr, f.carolAddr} {
		go func() { // both are received below
			_, err := f.WaitPing(ctx, h, to.String())
			answers <- answer{to, time.Now(), err}
		}()
	}
	agent, err := h.StartAgent(append(slices.Clone(noMetrics), args...)...)
	if err != nil {
		cancel()
	}
	t := timed{agent: agent}
	for range 2 {
		a := <-answers
		if err == nil {
			err = a.err
		}
		if a.to == f.aliceAddr {
			t.public = a.at.Sub(start).Seconds()
		} else {
			t.home = a.at.Sub(start).Seconds()
		}
	}
	if err != nil && agent != nil {
		return t, fmt.Errorf("%w\nlog:\n%s", err, agent.Log())
	}
	return t, err
}

// breath is a pause between joiners: all come from one address, and an issuer limits how often strangers may ask from one.
const breath = 2 * time.Second

// farAway is the one-way delay of the internet in the variants that are far from here: 40 ms there and back.
const farAway = 20 * time.Millisecond

// measureJoin lets new members join, one after the other, from behind a router that has forgotten the one before.
func measureJoin(ctx context.Context, b *bench) error {
	public, homes, err := b.joins(ctx, "join", 0)
	if err != nil {
		return err
	}
	b.atMost("join to first ping, public member", " s", "%.3f", public, 0.5)
	b.atMost("join to first ping, between two port-restricted routers", " s", "%.3f", homes, 1.0)
	if public, homes, err = b.joins(ctx, "join-far", farAway); err != nil {
		return err
	}
	b.inform("the same with 40 ms round trips: public member", " s", "%.3f", public)
	b.inform("the same with 40 ms round trips: between two port-restricted routers", " s", "%.3f", homes)
	return nil
}

func (b *bench) joins(ctx context.Context, name string, delay time.Duration) (public, homes []float64, err error) {
	f, err := b.newFarm(ctx, name, delay)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	var lines timelines
	for i := range b.rounds {
		h, err := f.first.Another(fmt.Sprintf("bob-%d", i))
		if err != nil {
			return nil, nil, err
		}
		token, err := f.token(ctx, h.Label())
		if err != nil {
			return nil, nil, err
		}
		if err := f.router.Forget(); err != nil {
			return nil, nil, err
		}
		err = b.alone(func() error {
			start := time.Now()
			t, err := f.launch(ctx, h, "--join", token)
			if err != nil {
				return err
			}
			public, homes = append(public, t.public), append(homes, t.home)
			lines.add(start, t.agent.Log(), joinSteps(f.carolID))
			b.progress("%s %d: %.3f s to a public member, %.3f s to one behind another router", name, i, t.public, t.home)
			return nil
		})
		if err == nil {
			err = f.retire(ctx, h)
		}
		if err == nil {
			err = pause(ctx, breath)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	title := "Where the time of a join goes"
	if delay > 0 {
		title += fmt.Sprintf(" where a round trip takes %v", 2*delay)
	}
	lines.note(b, title, joinSteps(f.carolID))
	return public, homes, nil
}

// retire makes a member leave and waits until the others have forgotten it, so that the next one finds the same network.
func (f *farm) retire(ctx context.Context, h *lab.Host) error {
	if _, err := h.Gridwire(ctx, "leave"); err != nil {
		return err
	}
	for _, other := range []*lab.Host{f.alice, f.carol} {
		err := eventually(ctx, linkLimit, func() (bool, error) {
			s, err := other.Status(ctx)
			_, there := s.Peer(h.Label())
			return !there, err
		})
		if err != nil {
			return fmt.Errorf("%s still sees %s: %w", other.Label(), h.Label(), err)
		}
	}
	return nil
}

// eventually asks until the answer is yes.
func eventually(ctx context.Context, limit time.Duration, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if ok, err := cond(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// measureRestart restarts one member again and again: in the orderly way, after a SIGKILL, and far away from the others.
func measureRestart(ctx context.Context, b *bench) error {
	kill := func(a *lab.Agent) error { a.Kill(); return nil }
	for _, way := range []struct {
		name, world string
		end         func(*lab.Agent) error
		delay       time.Duration
	}{
		{"restart", "restart", (*lab.Agent).Stop, 0},
		{"restart after SIGKILL", "restart-kill", kill, 0},
		{"restart with 40 ms round trips", "restart-far", (*lab.Agent).Stop, farAway},
	} {
		public, homes, err := b.restarts(ctx, way.name, way.world, way.end, way.delay)
		if err != nil {
			return err
		}
		if way.delay > 0 {
			b.inform(way.name+" to first ping, public member", " s", "%.3f", public)
			b.inform(way.name+" to first ping, between two port-restricted routers", " s", "%.3f", homes)
			continue
		}
		b.atMost(way.name+" to first ping, public member", " s", "%.3f", public, 0.2)
		b.atMost(way.name+" to first ping, between two port-restricted routers", " s", "%.3f", homes, 0.4)
	}
	return nil
}

// lived is how long an agent has run before it is restarted: what it has learned of the others is on disk.
const lived = 3 * time.Second

func (b *bench) restarts(ctx context.Context, name, world string, end func(*lab.Agent) error, delay time.Duration) (public, homes []float64, err error) {
	f, err := b.newFarm(ctx, world, delay)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	agent, err := f.join(ctx, f.first)
	if err != nil {
		return nil, nil, err
	}
	var lines timelines
	for i := range b.rounds {
		if err := f.linked(ctx, f.first, f.alice, f.carol); err != nil {
			return nil, nil, err
		}
		if err := pause(ctx, lived); err != nil {
			return nil, nil, err
		}
		err := b.alone(func() error {
			if err := end(agent); err != nil {
				return err
			}
			start := time.Now()
			t, err := f.launch(ctx, f.first)
			if err != nil {
				return err
			}
			agent = t.agent
			public, homes = append(public, t.public), append(homes, t.home)
			lines.add(start, t.agent.Log(), restartSteps(f.carolID))
			b.progress("%s %d: %.3f s to a public member, %.3f s to one behind another router", name, i, t.public, t.home)
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	lines.note(b, "Where the time of a "+name+" goes", restartSteps(f.carolID))
	return public, homes, nil
}
