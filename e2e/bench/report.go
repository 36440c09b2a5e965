//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
)

// row is one line of the table.
type row struct {
	what     string
	target   string
	measured string
	interval string
	samples  int
	verdict  bool
	info     bool // there is no target
}

// atLeast adds a ratio whose lower bound must reach a limit.
func (b *bench) atLeast(what string, ratios []float64, limit float64) {
	low, high := between(ratios)
	b.rows = append(b.rows, row{
		what: what, target: fmt.Sprintf("lower bound ≥ %.2f", limit), measured: fmt.Sprintf("%.3f", median(ratios)),
		interval: fmt.Sprintf("≥ %s (two-sided %s .. %s)", number(lower(ratios)), number(low), number(high)),
		samples:  len(ratios), verdict: lower(ratios) >= limit,
	})
}

// atMost adds a quantity whose median must not be above a limit.
func (b *bench) atMost(what, unit, format string, values []float64, limit float64) {
	low, high := between(values)
	show := func(v float64) string {
		if math.IsInf(v, 0) {
			return "?"
		}
		return fmt.Sprintf(format, v)
	}
	interval := "-"
	if len(values) > 1 {
		interval = show(low) + " .. " + show(high)
	}
	b.rows = append(b.rows, row{
		what: what, target: "≤ " + show(limit) + unit, measured: show(median(values)) + unit, interval: interval,
		samples: len(values), verdict: median(values) <= limit,
	})
}

// reaches adds a quantity whose median must not be below a limit.
func (b *bench) reaches(what, unit, format string, values []float64, limit float64) {
	low, high := between(values)
	interval := "-"
	if !math.IsInf(low, 0) && !math.IsInf(high, 0) {
		interval = fmt.Sprintf(format+" .. "+format, low, high)
	}
	b.rows = append(b.rows, row{
		what: what, target: fmt.Sprintf("≥ "+format, limit) + unit, measured: fmt.Sprintf(format, median(values)) + unit, interval: interval,
		samples: len(values), verdict: median(values) >= limit,
	})
}

// worst adds a quantity of several processes, none of which may be above a limit.
func (b *bench) worst(what, unit, format string, values []float64, limit float64) {
	low, high := slices.Min(values), slices.Max(values)
	b.rows = append(b.rows, row{
		what: what, target: fmt.Sprintf("all ≤ "+format, limit) + unit, measured: fmt.Sprintf(format, median(values)) + unit,
		interval: fmt.Sprintf("all are "+format+" .. "+format, low, high), samples: len(values), verdict: high <= limit,
	})
}

// inform adds a quantity without a target.
func (b *bench) inform(what, unit, format string, values []float64) {
	low, high := between(values)
	interval := "-"
	if !math.IsInf(low, 0) {
		interval = fmt.Sprintf(format+" .. "+format, low, high)
	}
	b.rows = append(b.rows, row{
		what: what, target: "-", measured: fmt.Sprintf(format, median(values)) + unit, interval: interval, samples: len(values), info: true,
	})
}

func number(v float64) string {
	if math.IsInf(v, 0) {
		return "?"
	}
	return fmt.Sprintf("%.3f", v)
}

func (b *bench) notef(format string, args ...any) {
	b.note = append(b.note, fmt.Sprintf(format, args...))
}

// print writes the report as Markdown.
func (b *bench) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", machine())
	fmt.Fprintln(w, "| what | target | median | 95 % interval of the median | samples | verdict |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|")
	for _, r := range b.rows {
		verdict := "missed"
		switch {
		case r.info:
			verdict = ""
		case r.verdict:
			verdict = "reached"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %d | %s |\n", r.what, r.target, r.measured, r.interval, r.samples, verdict)
	}
	for _, n := range b.note {
		fmt.Fprintf(w, "\n%s\n", n)
	}
}

// machine describes where this ran: what a number means depends on it.
func machine() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	release, _, _ := strings.Cut(strings.TrimSpace(string(kernel)), "-")
	parts := []string{
		fmt.Sprintf("%d cores (%s)", runtime.NumCPU(), field("/proc/cpuinfo", "model name")),
		memory(), field("/etc/os-release", "PRETTY_NAME"), "Linux " + release, "Go " + strings.TrimPrefix(runtime.Version(), "go"),
	}
	if hypervisor() {
		parts = append(parts, "virtual machine")
	}
	return "Machine: " + strings.Join(parts, ", ") + "; both ends, iperf3 and everything else share it."
}

// field returns the value of the first line "name : value" or "name=value" of a file.
func field(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return string(bytes.Trim(bytes.TrimSpace(rest), "=:\t \""))
		}
	}
	return "unknown " + name
}

func memory() string {
	var kib int
	if _, err := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%d", &kib); err != nil {
		return "unknown memory"
	}
	return fmt.Sprintf("%d GiB", (kib+512<<10)>>20)
}

func hypervisor() bool {
	return strings.Contains(field("/proc/cpuinfo", "flags"), "hypervisor")
}
