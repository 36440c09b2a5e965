//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// iperfReport is what `iperf3 --json` prints, as far as it is read here.
type iperfReport struct {
	Intervals []struct {
		Sum struct {
			Bytes   float64 `json:"bytes"`
			Packets float64 `json:"packets"`
			Omitted bool    `json:"omitted"`
			BPS     float64 `json:"bits_per_second"`
		} `json:"sum"`
	} `json:"intervals"`
	End struct {
		Received struct {
			BPS   float64 `json:"bits_per_second"`
			Bytes float64 `json:"bytes"`
		} `json:"sum_received"`
		Sum struct { // UDP
			Packets float64 `json:"packets"`
			Lost    float64 `json:"lost_packets"`
			Seconds float64 `json:"seconds"`
		} `json:"sum"`
	} `json:"end"`
	Error string `json:"error"`
}

// serve starts an iperf3 server on h, and returns when it listens.
func serve(ctx context.Context, h *lab.Host) (stop func(), err error) {
	cmd := h.Command(ctx, "iperf3", "--server", "--forceflush")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start iperf3: %w (apt-get install --no-install-recommends iperf3)", err)
	}
	lines := bufio.NewScanner(out)
	listening := make(chan bool, 1)
	done := make(chan struct{})
	go func() { // ends with the process, which stop ends; stop waits
		defer close(done)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "Server listening") {
				select {
				case listening <- true:
				default:
				}
			}
		}
		select {
		case listening <- false:
		default:
		}
	}()
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
		<-done
		_ = cmd.Wait() // how it ends is of no interest
	}
	if !<-listening {
		stop()
		return nil, fmt.Errorf("iperf3 on %s does not listen", h.Label())
	}
	return stop, nil
}

// iperf runs a client on h. The server may need a moment after the test before, so it is tried again when it is busy.
func iperf(ctx context.Context, h *lab.Host, to netip.Addr, args ...string) (*iperfReport, error) {
	all := append([]string{"--client", to.String(), "--json", "--connect-timeout", "2000"}, args...)
	for tries := 0; ; tries++ {
		cmd := h.Command(ctx, "iperf3", all...)
		out, err := cmd.Output()
		r := &iperfReport{}
		if jerr := json.Unmarshal(out, r); jerr != nil {
			return nil, fmt.Errorf("iperf3 on %s: %w, %w: %s", h.Label(), err, jerr, stderrOf(err))
		}
		if r.Error == "" && err == nil {
			return r, nil
		}
		if tries == 20 || !strings.Contains(r.Error, "busy") && !strings.Contains(r.Error, "unable to connect") {
			return nil, fmt.Errorf("iperf3 on %s: %s (%v)", h.Label(), r.Error, err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func stderrOf(err error) string {
	if e, ok := err.(*exec.ExitError); ok {
		return string(e.Stderr)
	}
	return ""
}
