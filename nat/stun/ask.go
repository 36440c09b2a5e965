package stun

import (
	"context"

	"github.com/gridwire/gridwire/nat"
)

// Ask starts a round now and returns what the whole of it found out, or what is known when ctx ends first.
func (p *Prober) Ask(ctx context.Context) nat.Report {
	done := make(chan struct{})
	p.mu.Lock()
	p.asked = append(p.asked, done)
	p.mu.Unlock()
	p.Trigger()
	select {
	case <-done:
	case <-ctx.Done():
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
