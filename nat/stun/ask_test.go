package stun

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridwire/gridwire/nat"
)

// TestAskWaitsForAWholeRound: what stands may be minutes old, and the first answers of a round do not tell whether strangers get in.
func TestAskWaitsForAWholeRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &internet{}
		servers := []netip.AddrPort{ap("198.51.100.11:10"), ap("198.51.100.12:20")}
		mapped := ap("203.0.113.9:51820")
		i.servers.Store(&servers)
		i.mapped.Store(&mapped)
		p := i.prober(t)
		time.Sleep(5 * time.Second)
		i.reach.Store(true) // the owner has just forwarded a port
		if p.Report().Reachable {
			t.Fatal("known before anybody asked")
		}
		before := time.Now()
		r := p.Ask(t.Context())
		if !r.Reachable || r.Type != nat.EndpointIndependent || r.At.Before(before) {
			t.Errorf("%+v", r)
		}
		if took := time.Since(before); took < time.Second || took > 2*time.Second {
			t.Errorf("took %v, want the second that the test of reachability takes", took)
		}
		i.mapped.Store(nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r := p.Ask(ctx); !r.Reachable || len(r.Mappings) != 2 {
			t.Errorf("cut short: %+v, want what was known", r)
		}
		answers := make(chan nat.Report)
		for range 5 { // one each second, where a round takes three
			go func() { answers <- p.Ask(t.Context()) }()
			time.Sleep(time.Second)
		}
		for range 5 {
			if r := <-answers; r.Type != nat.Blocked || len(r.Silent) != 2 {
				t.Errorf("with nobody answering: %+v", r)
			}
		}
	})
}

// TestSilenceCountsOnOverDoubts: links that die one after another ask again and again, and each question ends the round before.
func TestSilenceCountsOnOverDoubts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &internet{}
		servers := []netip.AddrPort{ap("198.51.100.11:10"), ap("198.51.100.12:20")}
		mapped := ap("203.0.113.9:51820")
		i.servers.Store(&servers)
		i.mapped.Store(&mapped)
		p := i.prober(t)
		time.Sleep(5 * time.Second)
		i.mapped.Store(nil)
		for range 4 {
			if r := p.Report(); r.Type != nat.EndpointIndependent {
				t.Fatalf("too soon: %+v", r)
			}
			p.Doubt()
			time.Sleep(time.Second)
		}
		if r := p.Report(); r.Type != nat.Blocked || len(r.Silent) != 2 || len(r.Mapped) != 0 {
			t.Errorf("4 s after the first doubt: %+v", r)
		}
		i.mapped.Store(&mapped)
		p.Doubt()
		time.Sleep(100 * time.Millisecond)
		if r := p.Report(); r.Type != nat.EndpointIndependent {
			t.Errorf("after the first answer: %+v", r)
		}
		// What was not answered in another place says nothing about this one.
		i.mapped.Store(nil)
		p.Trigger()
		for range 3 {
			time.Sleep(2 * time.Second)
			p.Trigger()
		}
		if r := p.Report(); r.Type != nat.EndpointIndependent {
			t.Errorf("while the network changes: %+v", r)
		}
	})
}
