//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// overlay returns the IPv4 address in the mesh of a peer of m.
func (m *machine) overlay(ctx context.Context, peer string) (string, error) {
	st, err := m.status(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range st.Peers {
		if p.Name == peer && len(p.Addresses) > 0 {
			addr, _, _ := strings.Cut(p.Addresses[len(p.Addresses)-1], "/")
			return addr, nil
		}
	}
	return "", fmt.Errorf("%s does not know %s", m.Label(), peer)
}

var rttLine = regexp.MustCompile(`rtt min/avg/max/mdev = ([0-9.]+)/`)

// roundTrip pings twice and returns the shorter round trip in milliseconds.
func (m *machine) roundTrip(ctx context.Context, peer string) (string, error) {
	addr, err := m.overlay(ctx, peer)
	if err != nil {
		return "", err
	}
	out, err := m.Exec(ctx, "ping", "-n", "-q", "-c", "2", "-i", "0.2", "-W", "2", addr)
	if err != nil {
		return "", err
	}
	got := rttLine.FindSubmatch(out)
	if got == nil {
		return "", fmt.Errorf("ping from %s to %s: no times in %q", m.Label(), peer, out)
	}
	ms, err := strconv.ParseFloat(string(got[1]), 64)
	return fmt.Sprintf("%.1f ms", ms), err
}

// stream is a ping that goes on until it is stopped.
type stream struct {
	pair
	cmd  *exec.Cmd
	done chan struct{} // closed when its output has been read

	mu    sync.Mutex    // guards what follows
	sent  int           // the summary's
	got   map[int]bool  // answered, by sequence number
	last  time.Time     // of the newest answer
	pause time.Duration // the longest between two answers
}

const streamInterval = 50 * time.Millisecond

// begin starts a stream from p.a to p.b. ctx ends it, too, but without a summary.
func begin(ctx context.Context, p pair) (*stream, error) {
	addr, err := p.a.overlay(ctx, p.b.Label())
	if err != nil {
		return nil, err
	}
	s := &stream{pair: p, done: make(chan struct{}), got: map[int]bool{}}
	s.cmd = p.a.Command(ctx, "ping", "-n", "-i", fmt.Sprint(streamInterval.Seconds()), addr)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("ping from %s: %w", p.a.Label(), err)
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("ping from %s: %w", p.a.Label(), err)
	}
	go func() { // stop waits
		defer close(s.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.line(lines.Text(), time.Now())
		}
	}()
	return s, nil
}

var answerLine = regexp.MustCompile(`icmp_seq=([0-9]+) ttl`)

func (s *stream) line(text string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := answerLine.FindStringSubmatch(text); m != nil {
		seq, _ := strconv.Atoi(m[1]) // digits, by the expression
		s.got[seq] = true
		if !s.last.IsZero() {
			s.pause = max(s.pause, now.Sub(s.last))
		}
		s.last = now
	}
	_, _ = fmt.Sscanf(text, "%d packets transmitted", &s.sent)
}

func (s *stream) answered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

// stop ends the stream and returns how many were sent and answered, and the longest time without an answer. Those that were on their way
// when it was told to stop do not count.
func (s *stream) stop() (sent, answered int, pause time.Duration, err error) {
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		return 0, 0, 0, fmt.Errorf("stop the ping from %s: %w", s.a.Label(), err)
	}
	<-s.done
	_ = s.cmd.Wait() // 1 if nothing was answered; the summary says so, too
	s.mu.Lock()
	defer s.mu.Unlock()
	flying := int(2*delay/streamInterval) + 1
	sent = s.sent
	for ; flying > 0 && sent > 0 && !s.got[sent]; flying-- {
		sent--
	}
	return sent, len(s.got), s.pause, nil
}
