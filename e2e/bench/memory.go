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
		err := b.alone(func() error {
			_, err := iperf(ctx, d.mesh.from, d.mesh.to, "--time", seconds(burst), "--parallel", strconv.Itoa(streams))
			return err
		})
		if err != nil {
			return err
		}
		what := fmt.Sprintf("%v of TCP at full speed, %d streams: ", burst, streams)
		var back, peaks, after []float64
		back, err = d.comesBack(ctx)
		if err != nil {
			return err
		}
		for _, pid := range d.mesh.pids {
			now, peak, err := resident(pid)
			if err != nil {
				return err
			}
			after, peaks = append(after, now/1e6), append(peaks, peak/1e6)
		}
		b.worst(what+fmt.Sprintf("resident memory %v later (worse end)", memoryIn), " MB", "%.1f", after, memoryMax)
		b.inform(what+"peak so far", " MB", "%.0f", peaks)
		b.inform(what+fmt.Sprintf("time until below %.0f MB", memoryMax), " s", "%.1f", back)
	}
	for i, pid := range d.bare.pids {
		now, _, err := resident(pid)
		if err != nil {
			return err
		}
		b.progress("memory: bare end %d, which had no load, has %.1f MB", i, now/1e6)
	}
	return nil
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
