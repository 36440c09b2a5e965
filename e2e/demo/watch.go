//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gridwire/gridwire/e2e/observe"
)

// scrapeInterval is short, so that something moves while somebody looks.
const scrapeInterval = 2 * time.Second

// watch is the other play: the mesh forms, and a real Prometheus watches it.
func (d *demo) watch(ctx context.Context) (err error) {
	d.out.heading("gridwire: a mesh with no server of any kind, and a real Prometheus that watches it")
	d.out.note("Building an internet on this machine: network namespaces, real NATs by nftables. Nothing outside is touched.")
	d.out.blank()
	if err := d.build(); err != nil {
		return err
	}
	d.picture()
	if err := d.join(ctx); err != nil {
		return err
	}
	d.out.heading("2. Prometheus watches")
	d.out.note("It runs on dana, a member like any other. It asks dana's agent who there is, and scrapes everybody through the mesh. Nobody had to be told an address, nobody had to open a port.")
	d.out.blank()
	d.out.command("dana", "prometheus --config.file=deploy/prometheus/prometheus.yml", "")
	began := time.Now()
	starting, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	p, err := observe.Start(starting, d.dana.Host, observe.Config{Deploy: filepath.Join(d.observe, "prometheus"), Interval: scrapeInterval})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	busy, stop := context.WithCancel(ctx)
	traffic, err := d.traffic(busy)
	defer func() { stop(); traffic.Wait() }()
	if err != nil {
		return err
	}
	if err := d.scraped(ctx, p, began); err != nil {
		return err
	}
	return d.show(ctx, p)
}

// traffic makes some, so that there is something to see; it ends with ctx.
func (d *demo) traffic(ctx context.Context) (*sync.WaitGroup, error) {
	var running sync.WaitGroup
	for _, flow := range []struct {
		pair
		size, every string
	}{
		{pair{d.laptop, d.bob}, "1000", "0.02"}, {pair{d.bob, d.carol}, "600", "0.05"}, {pair{d.carol, d.dana}, "1200", "0.01"}, {pair{d.alice, d.laptop}, "200", "0.2"},
	} {
		addr, err := flow.a.overlay(ctx, flow.b.Label())
		if err != nil {
			return &running, err
		}
		cmd := flow.a.Command(ctx, "ping", "-n", "-q", "-s", flow.size, "-i", flow.every, addr)
		if err := cmd.Start(); err != nil {
			return &running, fmt.Errorf("make traffic from %s: %w", flow.a.Label(), err)
		}
		running.Go(func() { _ = cmd.Wait() }) // killed with ctx
	}
	return &running, nil
}

// scraped waits until Prometheus has everybody, and shows what it knows.
func (d *demo) scraped(ctx context.Context, p *observe.Prometheus, began time.Time) error {
	all := []*machine{d.alice, d.dana, d.bob, d.carol, d.laptop}
	value := func(expr string) float64 {
		got, err := p.Query(ctx, expr)
		if err != nil || len(got) == 0 {
			return 0
		}
		return got[0].Value
	}
	const members, links = `count(up{job="gridwire"} == 1)`, `sum(gridwire_peer_path_info{kind="direct"})`
	if err := d.until(ctx, "Prometheus scrapes all members", func() bool { return value(members) == float64(len(all)) }); err != nil {
		return err
	}
	d.out.fact("dana", fmt.Sprintf("scrapes all %d members, itself and those behind NATs", len(all)), seconds(time.Since(began)))
	ends := len(all) * (len(all) - 1)
	if err := d.until(ctx, "Prometheus knows all links", func() bool { return value(links) == float64(ends) }); err != nil {
		return err
	}
	if err := d.until(ctx, "Prometheus knows round trip times", func() bool { return value(`count(gridwire:peer_rtt_seconds:mean5m)`) > 0 }); err != nil {
		return err
	}
	d.out.blank()
	for _, q := range [][2]string{
		{links, "ends of links that are direct"},
		{`1000 * max(gridwire:peer_rtt_seconds:mean5m)`, "ms: the slowest link"},
		{`sum(rate(gridwire_peer_transmit_bytes_total[10s])) / 1000`, "kB a second, all together"},
		{`count(ALERTS{alertstate="firing"}) or vector(0)`, "alerts"},
	} {
		v, err := p.Query(ctx, q[0])
		if err != nil {
			return err
		}
		if len(v) != 1 {
			return fmt.Errorf("ask Prometheus for %s: it has %d answers, want one", q[0], len(v))
		}
		d.out.line("  " + d.out.style(cyan, pad(q[0], 62)) + fmt.Sprintf("%7.4g ", v[0].Value) + q[1])
	}
	return nil
}

// show makes Prometheus, and Grafana if there is one, reachable from this machine, says where, and waits until somebody has seen enough. Without
// a terminal nobody looks.
func (d *demo) show(ctx context.Context, p *observe.Prometheus) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var forwards sync.WaitGroup
	defer forwards.Wait()
	defer cancel()
	at, err := forward(ctx, &forwards, p.Forward, "127.0.0.1:9090")
	if err != nil {
		return err
	}
	d.out.heading("3. Look at it")
	d.out.line("  " + d.out.style(bold, pad("Prometheus", 14)) + d.out.style(cyan, "http://"+at.String()) + "   Alerts, Status > Targets, Status > Service Discovery, Graph")
	g, err := observe.StartGrafana(ctx, d.dana.Host, filepath.Join(d.observe, "grafana"))
	switch {
	case errors.Is(err, observe.ErrNoGrafana):
		d.out.line("  " + d.out.style(bold, pad("Grafana", 14)) + "is not installed here (no grafana-server in PATH); its dashboards are in deploy/grafana.")
	case err != nil:
		return err
	default:
		defer func() { err = errors.Join(err, g.Stop()) }()
		at, err := forward(ctx, &forwards, g.Forward, "127.0.0.1:3000")
		if err != nil {
			return err
		}
		d.out.line("  " + d.out.style(bold, pad("Grafana", 14)) + d.out.style(cyan, "http://"+at.String()))
	}
	d.out.blank()
	d.out.note("Both run inside the lab; this program passes connections on from here to there.")
	if !isTerminal(os.Stdin) {
		return nil
	}
	d.staying = true
	d.out.blank()
	d.out.note("Try: kill -9 %d ends carol's agent. Prometheus sees it within seconds; after 15 minutes GridwireMemberSilent fires, and no alert for each of her links.", d.carol.agent.PID())
	d.out.blank()
	d.out.line("  " + d.out.style(bold, "Ctrl-C ends it and cleans up."))
	<-ctx.Done()
	return errInterrupted
}

// forward starts to pass on connections from this machine, at the usual port if it is free, and returns where.
func forward(ctx context.Context, running *sync.WaitGroup, pass func(context.Context, string, func(net.Addr)) error, usual string) (net.Addr, error) {
	var last error
	for _, listen := range []string{usual, "127.0.0.1:0"} {
		at, failed := make(chan net.Addr, 1), make(chan error, 1)
		running.Go(func() { failed <- pass(ctx, listen, func(a net.Addr) { at <- a }) })
		select {
		case a := <-at:
			return a, nil
		case last = <-failed:
		}
	}
	return nil, last
}
