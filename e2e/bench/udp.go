//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Small datagrams: 64 bytes of payload.
const (
	small = 64
	// steady is an offered load that both contenders carry (packets per second): here the processor time per packet is compared.
	steady = 20_000
	// flood is one that neither does: what arrives is the rate that the tunnel can do.
	flood = 150_000
	// floodPairs is how many times more pairs that takes: four programs fight for the processor, and the ratio of one pair is 6 % off the
	// median as a rule, three times as much as TCP's.
	floodPairs = 3
)

// udp offers a load of small datagrams and measures what arrives.
func (c *contender) udp(ctx context.Context, rate int, length time.Duration) (speed, error) {
	before, err := cpuTime(c.pids[:]...)
	if err != nil {
		return speed{}, err
	}
	r, err := iperf(ctx, c.from, c.to, "--udp", "--length", strconv.Itoa(small), "--bitrate", strconv.Itoa(rate*small*8), "--time", seconds(length))
	if err != nil {
		return speed{}, err
	}
	after, err := cpuTime(c.pids[:]...)
	if err != nil {
		return speed{}, err
	}
	arrived := r.End.Sum.Packets - r.End.Sum.Lost
	if arrived <= 0 {
		return speed{}, fmt.Errorf("of %.0f packets none arrived", r.End.Sum.Packets)
	}
	return speed{pps: arrived / r.End.Sum.Seconds, loss: r.End.Sum.Lost / r.End.Sum.Packets, cpuPer: (after - before).Seconds() / (arrived / 1e6)}, nil
}

// measureUDP compares small datagrams: how many get through, and what one costs.
func measureUDP(ctx context.Context, b *bench) error {
	d, err := b.newDuel(ctx, "udp")
	if err != nil {
		return err
	}
	defer d.close()
	what := fmt.Sprintf("UDP, %d byte datagrams, more offered than fit", small)
	mesh, bare, err := d.versus(ctx, b, what, floodPairs*b.pairs, func(c *contender) (speed, error) { return c.udp(ctx, flood, b.length) })
	if err != nil {
		return err
	}
	b.atLeast(what+": packets through, gridwire / bare", ratio(column(mesh, pps), column(bare, pps)), 0.95)
	b.inform(what+": gridwire", " kpps", "%.1f", column(mesh, pps))
	b.inform(what+": bare wireguard-go", " kpps", "%.1f", column(bare, pps))
	what = fmt.Sprintf("UDP, %d byte datagrams, %d per second offered", small, steady)
	mesh, bare, err = d.versus(ctx, b, what, b.pairs, func(c *contender) (speed, error) { return c.udp(ctx, steady, b.length) })
	if err != nil {
		return err
	}
	b.atLeast(what+": packets through, gridwire / bare", ratio(column(mesh, pps), column(bare, pps)), 0.95)
	b.atMost(what+": processor time per packet, gridwire / bare", "", "%.3f", ratio(column(mesh, cpuPer), column(bare, cpuPer)), 1.05)
	b.inform(what+": gridwire", " CPU s/Mpkt (both ends)", "%.1f", column(mesh, cpuPer))
	b.inform(what+": bare wireguard-go", " CPU s/Mpkt (both ends)", "%.1f", column(bare, cpuPer))
	return nil
}
