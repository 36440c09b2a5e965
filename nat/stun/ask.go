package stun

import (
	"context"
	"slices"

	"github.com/gridwire/gridwire/nat"
)

// Ask starts a round now and returns what the whole of it found out, or what is known when ctx ends first. Who asks while another waits waits for
// the same round: each new one would end the one before, and nobody would ever get an answer.
func (p *Prober) Ask(ctx context.Context) nat.Report {
	done := make(chan struct{})
	p.mu.Lock()
	first := len(p.asked) == 0
	p.asked = append(p.asked, done)
	p.mu.Unlock()
	if first {
		p.Trigger()
	}
	select {
	case <-done:
	case <-ctx.Done():
		p.mu.Lock()
		p.asked = slices.DeleteFunc(p.asked, func(c chan struct{}) bool { return c == done })
		p.mu.Unlock()
	}
	return p.Report()
}

// answer ends every Ask: a round is complete.
func (p *Prober) answer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, done := range p.asked {
		close(done)
	}
	p.asked = nil
}
