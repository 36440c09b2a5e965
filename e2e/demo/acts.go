//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// play shows everything. It returns at the first thing that is not as it should be.
func (d *demo) play(ctx context.Context) error {
	d.out.heading("gridwire: a mesh with no server of any kind")
	d.out.note("Building an internet on this machine: network namespaces, real NATs by nftables. Nothing outside is touched.")
	d.out.blank()
	if err := d.build(); err != nil {
		return err
	}
	d.picture()
	for _, act := range []func(context.Context) error{d.join, d.everybody, d.statusTable, d.page, barn{d}.publish, d.founderDies, d.powerCut} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// join is act 1.
func (d *demo) join(ctx context.Context) error {
	d.out.heading("1. Alice founds a network; the others join with a token each")
	if _, err := d.gridwire(ctx, d.alice, "init", "farm", "--node", "alice"); err != nil {
		return err
	}
	d.out.command("alice", "gridwire agent", "")
	began, err := d.start(d.alice)
	if err != nil {
		return err
	}
	if err := d.ready(ctx, d.alice, began, "runs"); err != nil {
		return err
	}
	in := []*machine{d.alice}
	for _, m := range []*machine{d.dana, d.bob, d.carol, d.laptop} {
		d.out.blank()
		if err := d.admit(ctx, m, d.alice, in); err != nil {
			return err
		}
		in = append(in, m)
	}
	d.out.blank()
	d.out.note("Times count from the start of `gridwire agent --join` until both sides have the link.")
	return nil
}

// admit invites m at an issuer, starts its agent with the token, and shows whom it finds.
func (d *demo) admit(ctx context.Context, m, issuer *machine, others []*machine) error {
	out, err := d.gridwire(ctx, issuer, "invite", "--name", m.Label())
	if err != nil {
		return err
	}
	token := out[strings.LastIndexByte(out, '\n')+1:]
	d.out.command(m.Label(), "gridwire agent --join "+token[:min(24, len(token))]+"…", "")
	began, err := d.start(m, "--join", token)
	if err != nil {
		return err
	}
	if err := d.ready(ctx, m, began, "is a member"); err != nil {
		return err
	}
	return d.found(ctx, pairsOf(m, others...), func(p pair) { d.out.fact(p.String(), p.how(), seconds(time.Since(began))) })
}

// everybody is act 2.
func (d *demo) everybody(ctx context.Context) error {
	d.out.heading("2. Everybody pings everybody, through the mesh")
	all := []*machine{d.alice, d.dana, d.bob, d.carol, d.laptop}
	times := make([][]string, len(all))
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, from := range all {
		wg.Go(func() {
			for _, to := range all {
				rtt := "·"
				if from != to {
					var err error
					if rtt, err = from.roundTrip(ctx, to.Label()); err != nil {
						errs[i] = err
						return
					}
				}
				times[i] = append(times[i], rtt)
			}
		})
	}
	wg.Wait()
	header := pad("", 12)
	for _, m := range all {
		header += fmt.Sprintf("%12s", m.Label())
	}
	d.out.line("  " + d.out.style(dim, header))
	for i, from := range all {
		if errs[i] != nil {
			return errs[i]
		}
		row := pad("  "+from.Label()+" →", 12)
		for _, t := range times[i] {
			row += fmt.Sprintf("%12s", t)
		}
		d.out.line("  " + row)
	}
	d.out.blank()
	return d.nobodyBetween(ctx)
}

// nobodyBetween sends a lot between two machines behind NATs and counts what all others receive meanwhile.
func (d *demo) nobodyBetween(ctx context.Context) error {
	const count, size = 200, 1000
	addr, err := d.laptop.overlay(ctx, "carol")
	if err != nil {
		return err
	}
	others, carol := []*machine{d.alice, d.dana, d.bob}, []*machine{d.carol}
	before, err := received(ctx, others)
	if err != nil {
		return err
	}
	carolBefore, err := received(ctx, carol)
	if err != nil {
		return err
	}
	if _, err := d.laptop.Exec(ctx, "ping", "-n", "-q", "-c", strconv.Itoa(count), "-i", "0.01", "-s", strconv.Itoa(size), addr); err != nil {
		return err
	}
	after, err := received(ctx, others)
	if err != nil {
		return err
	}
	carolAfter, err := received(ctx, carol)
	if err != nil {
		return err
	}
	// What the others received says something only if the same counters see what carol received.
	if got := carolAfter - carolBefore; got < count*size {
		return fmt.Errorf("the laptop sent carol %d bytes, and her counter shows %d: it cannot tell who carries what", count*size, got)
	}
	if got := after - before; got > count*size/10 {
		return fmt.Errorf("while the laptop sent carol %d bytes, the others received %d: somebody carries them", count*size, got)
	}
	d.out.note("While carol received %d kB, most of it from the laptop, all other machines together received %d bytes: the packets go straight, through three NATs, and nobody carries them.",
		(carolAfter-carolBefore)/1000, after-before)
	return nil
}

// received sums what has arrived on the cables of machines, in bytes.
func received(ctx context.Context, machines []*machine) (int, error) {
	sum := 0
	for _, m := range machines {
		out, err := m.Exec(ctx, "cat", "/sys/class/net/eth0/statistics/rx_bytes")
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil {
			return 0, fmt.Errorf("count what %s received: %w", m.Label(), err)
		}
		sum += n
	}
	return sum, nil
}

// statusTable is act 3.
func (d *demo) statusTable(ctx context.Context) error {
	d.out.heading("3. What the laptop sees")
	out, err := d.gridwire(ctx, d.laptop, "status")
	if err != nil {
		return err
	}
	d.out.blank()
	d.out.text(out)
	return nil
}

// founderDies is act 5.
func (d *demo) founderDies(ctx context.Context) error {
	d.out.heading("5. The founder dies, and nobody notices")
	d.out.note("Alice makes dana an issuer, so that somebody else can admit members. Then pings start, 20 a second each, and alice is killed.")
	d.out.blank()
	if _, err := d.gridwire(ctx, d.alice, "issuer", "add", "dana"); err != nil {
		return err
	}
	if err := d.until(ctx, "dana is an issuer", func() bool {
		st, err := d.dana.status(ctx)
		return err == nil && st.Self.Issuer
	}); err != nil {
		return err
	}
	var streams []*stream
	for _, p := range []pair{{d.laptop, d.bob}, {d.laptop, d.carol}, {d.bob, d.carol}, {d.dana, d.laptop}} {
		s, err := begin(ctx, p)
		if err != nil {
			return err
		}
		streams = append(streams, s)
	}
	answers := func(n int) func() bool {
		return func() bool {
			for _, s := range streams {
				if s.answered() < n {
					return false
				}
			}
			return true
		}
	}
	if err := d.until(ctx, "all pings are answered", answers(20)); err != nil {
		return err
	}
	d.out.command("alice", fmt.Sprintf("kill -9 %d", d.alice.agent.PID()), "")
	d.alice.agent.Kill()
	var err error
	if d.erin, err = d.home("erin", "erin's"); err != nil {
		return err
	}
	d.out.blank()
	d.out.note("Erin, behind a home router of her own, joins now. Dana admits her.")
	d.out.blank()
	if err := d.admit(ctx, d.erin, d.dana, []*machine{d.dana, d.bob, d.carol, d.laptop}); err != nil {
		return err
	}
	if err := d.until(ctx, "five seconds of pings are answered", answers(120)); err != nil {
		return err
	}
	d.out.blank()
	return d.judge(streams)
}

// stall is how long all streams may stand still because this machine, on which the whole internet of the demo runs, is busy. Noticing that
// somebody has died takes longer.
const stall = time.Second

func (d *demo) judge(streams []*stream) error {
	for _, s := range streams {
		sent, answered, pause, err := s.stop()
		if err != nil {
			return err
		}
		d.out.fact(fmt.Sprintf("%s → %s", s.a.Label(), s.b.Label()), fmt.Sprintf("%d of %d pings answered, longest time without an answer", answered, sent), seconds(pause))
		if answered < sent && pause > stall {
			return fmt.Errorf("%s → %s: %d pings were lost when the founder died", s.a.Label(), s.b.Label(), sent-answered)
		}
	}
	return nil
}

// powerCut is act 6.
func (d *demo) powerCut(ctx context.Context) error {
	d.out.heading("6. Power cut: all machines restart at once, the founder stays dead")
	alive := []*machine{d.dana, d.bob, d.carol, d.laptop, d.erin}
	for _, m := range alive {
		m.agent.Kill()
	}
	began := time.Now()
	for _, m := range alive {
		if _, err := d.start(m); err != nil {
			return err
		}
	}
	pairs := allPairs(alive...)
	var last time.Duration
	if err := d.found(ctx, pairs, func(pair) { last = time.Since(began) }); err != nil {
		return err
	}
	d.out.fact("full mesh", fmt.Sprintf("all %d links between the %d are back", len(pairs), len(alive)), seconds(last))
	if last > 10*time.Second {
		return fmt.Errorf("the mesh took %v to come back, want less than 10 s", last)
	}
	if err := d.until(ctx, site+" answers again", func() bool {
		_, _, err := barn{d}.fetch(ctx)
		return err == nil
	}); err != nil {
		return err
	}
	d.out.fact("laptop → web", "http://"+site+" answers again", seconds(time.Since(began)))
	return nil
}

// until waits for cond.
func (d *demo) until(ctx context.Context, what string, cond func() bool) error {
	limit := time.After(15 * time.Second)
	for !cond() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			return fmt.Errorf("not within 15 s: %s", what)
		case <-time.After(lookInterval):
		}
	}
	return nil
}
