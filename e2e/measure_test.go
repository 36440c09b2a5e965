//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/e2e/lab"
)

// TestLossIsMeasured: a router drops one WireGuard packet in twelve in each direction. One end probes, both know the loss of the minute.
func TestLossIsMeasured(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	router := w.router("bob-r", home, nil)
	bob := must(router.Host("bob"))(t)
	args := []string{"--metrics", "127.0.0.1:9586"}
	w.found(alice, args...)
	w.join(bob, args...)
	w.linked(alice, bob, 10*time.Second)
	value := func(h *lab.Host, series string) (v float64, ok bool) {
		page := string(must(h.Exec(w.ctx(10*time.Second), "curl", "-s", "-S", "--fail", "http://127.0.0.1:9586/metrics"))(w))
		_, rest, ok := strings.Cut(page, "\n"+series+" ")
		if ok {
			_, err := fmt.Sscan(rest, &v)
			ok = err == nil
		}
		return v, ok
	}
	for _, h := range []*lab.Host{alice, bob} {
		for _, window := range []string{"1m", "5m", "15m"} {
			if v, ok := value(h, `gridwire_peer_loss_ratio{peer="`+peerOf(h, alice, bob)+`",window="`+window+`"}`); ok && v > 0 {
				t.Errorf("%s shows a loss of %v before there is one", h.Label(), v)
			}
		}
	}
	lossy := "meta l4proto udp @th,64,8 4 @th,72,24 0 numgen random mod 12 == 0"
	defer w.drop(router, "inet", "forward", lossy)()
	sent, _ := value(alice, "gridwire_probes_sent_total")
	known := func(h *lab.Host) bool {
		loss, ok := value(h, `gridwire_peer_loss_ratio{peer="`+peerOf(h, alice, bob)+`",window="1m"}`)
		return ok && loss > 0 && loss < 0.6
	}
	w.eventually(30*time.Second, "both ends know the loss of the last minute", func() bool {
		// As `gridwire wait` does: each look is a probe. At rest it would take a minute or two until the first is lost.
		body, _ := json.Marshal(api.NameRequest{Name: "bob"})
		must(alice.Exec(w.ctx(5*time.Second), "curl", "-s", "--fail", "--unix-socket", alice.Socket(), "-d", string(body), "http://agent/v1/want"))(w)
		time.Sleep(200 * time.Millisecond)
		return known(alice) && known(bob)
	})
	if now, _ := value(alice, "gridwire_probes_sent_total"); now <= sent {
		t.Errorf("%v probes are said to have been sent, %v before", now, sent)
	}
	for _, series := range []string{"gridwire_peer_jitter_seconds", "gridwire_peer_rtt_seconds_sum"} {
		if v, ok := value(bob, series+`{peer="alice"}`); !ok || v <= 0 {
			t.Errorf("%s is %v, %v", series, v, ok)
		}
	}
}

// peerOf returns the name of the other one.
func peerOf(h, a, b *lab.Host) string {
	if h == a {
		return b.Label()
	}
	return a.Label()
}
