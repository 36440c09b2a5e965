//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// in returns the world as a subtest sees it: what fails ends the subtest.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.T = t
	return &sub
}

// flow is a ping that goes on through the overlay until it is ended: the traffic of somebody who does not stop because a path did.
type flow struct {
	w        *world
	from, to *lab.Host
	cmd      *exec.Cmd
	done     chan struct{}

	mu  sync.Mutex // guards out
	out bytes.Buffer
}

// Write takes what ping prints.
func (f *flow) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Write(b)
}

// flow starts a ping from one host to the member on another. It waits for the first answer.
func (w *world) flow(from, to *lab.Host, every time.Duration) *flow {
	w.Helper()
	p := w.peer(from, to.Label())
	if len(p.Addresses) == 0 {
		w.Fatalf("%s knows no address of %s", from.Label(), to.Label())
	}
	f := &flow{w: w, from: from, to: to, done: make(chan struct{})}
	f.cmd = from.Command(context.Background(), "ping", "-n", "-D", "-i", fmt.Sprint(every.Seconds()), p.Addresses[0].Addr().String())
	f.cmd.Stdout, f.cmd.Stderr = f, f
	if err := f.cmd.Start(); err != nil {
		w.Fatal(err)
	}
	go func() { // end waits for it
		_ = f.cmd.Wait() // what counts is what it printed
		close(f.done)
	}()
	w.Cleanup(func() { f.end() })
	w.eventually(3*time.Second, f.String()+": the first answer", func() bool { return len(f.answers()) > 0 })
	return f
}

func (f *flow) String() string {
	return fmt.Sprintf("pings from %s to %s", f.from.Label(), f.to.Label())
}

// answer is one that came back.
type answer struct {
	seq int
	at  time.Time
}

// answers returns those so far, in the order in which they came.
func (f *flow) answers() []answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []answer
	for line := range strings.Lines(f.out.String()) {
		var at float64
		var seq int
		_, rest, ok := strings.Cut(line, "icmp_seq=")
		if n, _ := fmt.Sscanf(line, "[%f]", &at); n != 1 || !ok || !strings.Contains(rest, "time=") {
			continue
		}
		if n, _ := fmt.Sscanf(rest, "%d", &seq); n == 1 {
			out = append(out, answer{seq, time.Unix(0, int64(at*1e9))})
		}
	}
	return out
}

// end stops the ping.
func (f *flow) end() {
	_ = f.cmd.Process.Signal(syscall.SIGINT) // fails only if it has ended
	<-f.done
}

// lost ends the flow and returns the numbers of the pings that were not answered, other than the last ones, still on their way.
func (f *flow) lost() []int {
	f.end()
	var lost []int
	seen := map[int]bool{}
	last := 0
	for _, a := range f.answers() {
		seen[a.seq] = true
		last = max(last, a.seq)
	}
	for seq := 1; seq < last; seq++ {
		if !seen[seq] {
			lost = append(lost, seq)
		}
	}
	return lost
}

// silence returns the longest time without an answer from since on, and whether any came after that.
func (f *flow) silence(since time.Time) (longest time.Duration) {
	last := since
	for _, a := range f.answers() {
		if a.at.Before(since) {
			continue
		}
		longest = max(longest, a.at.Sub(last))
		last = a.at
	}
	return max(longest, time.Since(last))
}
