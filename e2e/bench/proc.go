//go:build linux

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticks per second of /proc/PID/stat. The kernel's USER_HZ is 100 on every architecture that Go runs on.
const ticks = 100

// cpuTime returns the processor time that processes have used so far, in user and kernel mode. The kernel scales both so that their sum
// is exact (not counted by ticks).
func cpuTime(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// The second field, the name in parentheses, may hold anything; utime and stime are fields 14 and 15 (proc(5)).
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		for _, f := range fields[11:13] {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("the processor time of process %d: %w", pid, err)
			}
			sum += time.Duration(n) * time.Second / ticks
		}
	}
	return sum, nil
}

// resident returns a process's resident set and its high-water mark in bytes, file-mapped pages included.
func resident(pid int) (now, peak float64, err error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	for name, to := range map[string]*float64{"VmRSS:": &now, "VmHWM:": &peak} {
		var kib int
		if _, err := fmt.Sscanf(field(path, name), "%d", &kib); err != nil {
			return 0, 0, fmt.Errorf("the memory of process %d: %w", pid, err)
		}
		*to = float64(kib) * 1024
	}
	return now, peak, nil
}
