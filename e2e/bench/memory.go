//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

const (
	burst     = 10 * time.Second // of full speed
	memoryIn  = 30 * time.Second // after which memory must be back
	memoryMax = 80.0             // MB
)

// measureMemory loads a tunnel and watches the resident sets of both ends afterwards.
func measureMemory(ctx context.Context, b *bench) error {
	d, err := b.newDuel(ctx, "memory")
	if err != nil {
		return err
	}
	defer d.close()
	for _, streams := range []int{1, 4} {
		for _, c := range []*contender{&d.bare, &d.mesh} {
			err := b.alone(func() error {
				_, err := iperf(ctx, c.from, c.to, "--time", seconds(burst), "--parallel", strconv.Itoa(streams))
				return err
			})
			if err != nil {
				return err
			}
		}
		b.release() // others do no harm from here on
		back, err := d.comesBack(ctx)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("%.0f s of TCP at full speed, %d streams: ", burst.Seconds(), streams)
		mesh, err := d.mesh.memory()
		if err != nil {
			return err
		}
		bare, err := d.bare.memory()
		if err != nil {
			return err
		}
		b.worst(what+fmt.Sprintf("resident memory %.0f s later", memoryIn.Seconds()), " MB", "%.1f", mesh[:2], memoryMax)
		b.inform(what+"peak of the process", " MB", "%.0f", mesh[2:])
		b.inform(what+fmt.Sprintf("time until below %.0f MB", memoryMax), " s", "%.1f", back)
		b.inform(what+"bare wireguard-go later than that", " MB", "%.0f", bare[:2])
	}
	return nil
}

// memory returns the resident sets of both ends in MB, then their peaks.
func (c *contender) memory() ([]float64, error) {
	out := make([]float64, 4)
	for i, pid := range c.pids {
		now, peak, err := resident(pid)
		if err != nil {
			return nil, err
		}
		out[i], out[2+i] = now/1e6, peak/1e6
	}
	return out, nil
}

// comesBack waits until the time is over and returns when each end was below the limit for good.
func (d *duel) comesBack(ctx context.Context) ([]float64, error) {
	start := time.Now()
	since := []float64{0, 0}
	for time.Since(start) < memoryIn {
		for i, pid := range d.mesh.pids {
			now, _, err := resident(pid)
			if err != nil {
				return nil, err
			}
			if now/1e6 >= memoryMax {
				since[i] = time.Since(start).Seconds()
			}
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return since, nil
}
