//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// contender is one of the two that are compared: a pair of processes with a tunnel between them.
type contender struct {
	name string
	from *lab.Host
	to   netip.Addr // the inner address of the other end
	pids [2]int
}

// duel is a gridwire pair and a bare pair on four machines of one internet, with the same way between both.
type duel struct {
	*world
	mesh, bare contender
	stops      []func()
}

// mtu is gridwire's default, and wireguard-go's.
const mtu = 1420

func (b *bench) newDuel(ctx context.Context, name string) (_ *duel, err error) {
	w, err := b.newWorld(name, "info", 0)
	if err != nil {
		return nil, err
	}
	d := &duel{world: w}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err = d.startMesh(ctx); err != nil {
		return nil, err
	}
	return d, d.startBare(ctx)
}

func (d *duel) close() {
	for _, stop := range d.stops {
		stop()
	}
	_ = d.Close() // nothing is measured any more
}

func (d *duel) startMesh(ctx context.Context) error {
	var hosts [2]*lab.Host
	for i, name := range []string{"alice", "bob"} {
		h, err := d.Public(name)
		if err != nil {
			return err
		}
		hosts[i] = h
	}
	alice, err := d.found(ctx, hosts[0])
	if err != nil {
		return err
	}
	bob, err := d.join(ctx, hosts[1])
	if err != nil {
		return err
	}
	if err := d.linked(ctx, hosts[0], hosts[1]); err != nil {
		return err
	}
	to, err := overlay(ctx, hosts[1])
	if err != nil {
		return err
	}
	d.mesh = contender{name: "gridwire", from: hosts[0], to: to, pids: [2]int{alice.PID(), bob.PID()}}
	return d.serve(ctx, hosts[1])
}

func (d *duel) serve(ctx context.Context, h *lab.Host) error {
	stop, err := serve(ctx, h)
	if err == nil {
		d.stops = append(d.stops, stop)
	}
	return err
}

// startBare makes the other pair: the same library in a process with nothing else in it.
func (d *duel) startBare(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	var hosts [2]*lab.Host
	var ks [2]keys
	for i := range hosts {
		h, err := d.Public(fmt.Sprintf("bare-%d", i))
		if err != nil {
			return err
		}
		if ks[i], err = newKeys(); err != nil {
			return err
		}
		hosts[i] = h
	}
	d.bare = contender{name: "bare wireguard-go", from: hosts[0], to: bareAddr[1]}
	for i, h := range hosts {
		other := 1 - i
		iface := fmt.Sprintf("%s%d", bareInterface, i)
		cmd := h.Command(ctx, program, bareCommand, iface, strconv.Itoa(mtu), strconv.Itoa(barePort),
			ks[i].private, ks[other].public, netip.AddrPortFrom(hosts[other].Addr(), barePort).String())
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		d.stops = append(d.stops, func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		})
		if s := bufio.NewScanner(out); !s.Scan() || s.Text() != "ready" {
			return fmt.Errorf("bare WireGuard on %s does not start", h.Label())
		}
		d.bare.pids[i] = cmd.Process.Pid
		for _, line := range [][]string{
			{"addr", "add", bareAddr[i].String() + "/64", "dev", iface, "nodad"}, {"link", "set", iface, "up"},
		} {
			if _, err := h.Exec(ctx, "ip", line...); err != nil {
				return err
			}
		}
	}
	if _, err := d.WaitPing(ctx, hosts[0], bareAddr[1].String()); err != nil {
		return err
	}
	return d.serve(ctx, hosts[1])
}

// speed is one run over one contender's tunnel.
type speed struct {
	bps    float64 // payload received
	cpu    float64 // seconds of both ends together, per unit: 1e9 bytes received
	pps    float64
	loss   float64
	cpuPer float64 // seconds of both ends together for a million packets received
}

// tcp measures one direction with a number of streams. The first second does not count for the rate; the processor time is that of the
// whole run, and so are the bytes it is divided by.
func (c *contender) tcp(ctx context.Context, streams int, length time.Duration) (speed, error) {
	before, err := cpuTime(c.pids[:]...)
	if err != nil {
		return speed{}, err
	}
	r, err := iperf(ctx, c.from, c.to, "--omit", "1", "--time", seconds(length), "--parallel", strconv.Itoa(streams))
	if err != nil {
		return speed{}, err
	}
	after, err := cpuTime(c.pids[:]...)
	if err != nil {
		return speed{}, err
	}
	var bytes float64
	for _, i := range r.Intervals {
		bytes += i.Sum.Bytes
	}
	return speed{bps: r.End.Received.BPS, cpu: (after - before).Seconds() / (bytes / 1e9)}, nil
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// versus runs pairs, one contender directly after the other, and returns the pairs' results. Which is first alternates.
func (d *duel) versus(ctx context.Context, b *bench, what string, pairs int, run func(*contender) (speed, error)) (mesh, bare []speed, err error) {
	for i := range pairs {
		err := b.alone(func() error {
			order := []*contender{&d.mesh, &d.bare}
			if i%2 == 1 {
				order[0], order[1] = order[1], order[0]
			}
			for _, c := range order {
				s, err := run(c)
				if err != nil {
					return fmt.Errorf("%s over %s: %w", what, c.name, err)
				}
				if c == &d.mesh {
					mesh = append(mesh, s)
				} else {
					bare = append(bare, s)
				}
			}
			return ctx.Err()
		})
		if err != nil {
			return mesh, bare, err
		}
		m, r := mesh[i], bare[i]
		b.progress("%s %d: gridwire %s, bare %s", what, i, m, r)
	}
	return mesh, bare, nil
}

func (s speed) String() string {
	if s.pps > 0 {
		return fmt.Sprintf("%.1f kpps (%.2f %% lost), %.1f s/Mpkt", s.pps/1e3, s.loss*100, s.cpuPer)
	}
	return fmt.Sprintf("%.0f Mbit/s, %.2f s/GB", s.bps/1e6, s.cpu)
}

// column takes one quantity out of all results, and ratio divides two columns pair by pair.
func column(all []speed, of func(speed) float64) []float64 {
	out := make([]float64, len(all))
	for i, s := range all {
		out[i] = of(s)
	}
	return out
}

func ratio(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}

func bps(s speed) float64    { return s.bps / 1e9 }
func cpu(s speed) float64    { return s.cpu }
func pps(s speed) float64    { return s.pps / 1e3 }
func cpuPer(s speed) float64 { return s.cpuPer }

// measureThroughput compares TCP.
func measureThroughput(ctx context.Context, b *bench) error {
	d, err := b.newDuel(ctx, "throughput")
	if err != nil {
		return err
	}
	defer d.close()
	for _, streams := range []int{1, 4} {
		what := fmt.Sprintf("TCP, %d stream", streams)
		if streams > 1 {
			what += "s"
		}
		mesh, bare, err := d.versus(ctx, b, what, b.pairs, func(c *contender) (speed, error) { return c.tcp(ctx, streams, b.length) })
		if err != nil {
			return err
		}
		b.atLeast(what+": throughput, gridwire / bare", ratio(column(mesh, bps), column(bare, bps)), 0.95)
		b.atMost(what+": processor time per byte, gridwire / bare", "", "%.3f", ratio(column(mesh, cpu), column(bare, cpu)), 1.05)
		b.inform(what+": gridwire", " Gbit/s", "%.2f", column(mesh, bps))
		b.inform(what+": bare wireguard-go", " Gbit/s", "%.2f", column(bare, bps))
		b.inform(what+": gridwire", " CPU s/GB (both ends)", "%.2f", column(mesh, cpu))
		b.inform(what+": bare wireguard-go", " CPU s/GB (both ends)", "%.2f", column(bare, cpu))
	}
	return nil
}
