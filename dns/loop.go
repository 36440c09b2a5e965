package dns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// probeEvery is the shortest time between two searches for loops, and how often a looping server is asked whether it still does.
const probeEvery = 30 * time.Second

// loopGuard finds upstream servers that send our questions back to us. It asks each for a name that nobody else can know, outside of
// every zone and new each time, so that no cache on the way can answer, and waits whether somebody asks us for it.
type loopGuard struct {
	servers []*upstream
	log     *slog.Logger
	wake    chan struct{} // something looks like a loop

	mu     sync.Mutex
	asked  map[string]*upstream // names on their way, at most one for each server
	caught map[*upstream]bool   // servers whose name came back in this round
}

func newLoopGuard(servers []*upstream, log *slog.Logger) *loopGuard {
	return &loopGuard{servers: servers, log: log, wake: make(chan struct{}, 1), asked: make(map[string]*upstream), caught: make(map[*upstream]bool)}
}

// suspect has the servers probed soon.
func (g *loopGuard) suspect() {
	select {
	case g.wake <- struct{}{}:
	default: // a probe is due already
	}
}

// seen reports whether name is one of ours that has come back, and takes the server that brought it out of use at once.
func (g *loopGuard) seen(name string) bool {
	g.mu.Lock()
	s := g.asked[strings.ToLower(name)]
	if s != nil {
		g.caught[s] = true
	}
	g.mu.Unlock()
	if s == nil {
		return false
	}
	if !s.looping.Swap(true) {
		g.log.Warn("upstream DNS server sends our questions back to us: it is not used until that ends; remove it from dns.upstream, or point it elsewhere", "server", s.addr)
	}
	return true
}

// run probes at the start and when something looks like a loop, until ctx ends.
func (g *loopGuard) run(ctx context.Context, every time.Duration) {
	pause := time.NewTimer(every)
	defer pause.Stop()
	for {
		looping := g.probe(ctx)
		pause.Reset(every)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		if looping {
			continue
		}
		select {
		case <-g.wake:
		case <-ctx.Done():
			return
		}
	}
}

// probe asks all servers at once and reports whether one of them loops. One that looped and is silent now still counts as looping.
func (g *loopGuard) probe(ctx context.Context) bool {
	var wg sync.WaitGroup
	for _, s := range g.servers {
		name := probeName()
		g.mu.Lock()
		g.asked[name] = s
		g.mu.Unlock()
		wg.Go(func() { // probe waits for it
			_, err := exchange(ctx, s.addr, dns.Question{Name: name, Qtype: dns.TypeA, Qclass: dns.ClassINET}, key{})
			if !g.end(name, s) && err == nil && s.looping.Swap(false) {
				g.log.Info("upstream DNS server no longer sends our questions back to us: it is used again", "server", s.addr)
			}
		})
	}
	wg.Wait()
	for _, s := range g.servers {
		if s.looping.Load() {
			return true
		}
	}
	return false
}

// end ends the wait for a name and reports whether it came back.
func (g *loopGuard) end(name string, s *upstream) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.asked, name)
	caught := g.caught[s]
	delete(g.caught, s)
	return caught
}

// probeName has two labels, because many servers pass no single label on, and no special-use domain (RFC 6761), which they would answer themselves.
func probeName() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return "loop." + hex.EncodeToString(b[:]) + "."
}
