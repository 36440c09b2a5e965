//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/e2e/lab"
)

// TestMetricsOverTheOverlay: a member scrapes another through the mesh and learns there whom else to scrape; a stranger gets nothing.
func TestMetricsOverTheOverlay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	w.found(alice, "--metrics", "127.0.0.1:9586,overlay")
	w.join(bob)
	w.linked(alice, bob, 10*time.Second)
	addr := w.peer(bob, "alice").Addresses[0].Addr().String()
	get := func(h *lab.Host, url string) string {
		return string(must(h.Exec(w.ctx(10*time.Second), "curl", "-s", "-S", "--fail", "--max-time", "5", url))(w))
	}
	for _, url := range []string{"http://127.0.0.1:9586/metrics", "http://[" + addr + "]:9586/metrics"} {
		h := alice
		if strings.Contains(url, addr) {
			h = bob
		}
		page := get(h, url)
		if !strings.Contains(page, `gridwire_peer_up{peer="bob"} 1`) {
			t.Errorf("%s does not show the link to bob:\n%s", url, page)
		}
		problems, err := promlint.New(strings.NewReader(page)).Lint()
		for _, p := range problems {
			err = errors.Join(err, fmt.Errorf("%s: %s", p.Metric, p.Text))
		}
		if err != nil {
			t.Errorf("what an agent really shows: %v", err)
		}
	}
	var targets []struct {
		Targets []string
		Labels  map[string]string
	}
	if err := json.Unmarshal([]byte(get(bob, "http://["+addr+"]:9586/sd")), &targets); err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, x := range targets {
		seen[x.Labels["__meta_gridwire_member"]] = strings.Join(x.Targets, " ")
	}
	if len(seen) != 2 || seen["alice"] != "["+addr+"]:9586" || seen["bob"] == "" {
		t.Errorf("service discovery: %v, want alice at %s and bob", seen, addr)
	}
	carol := w.public("carol") // no member, on alice's network
	if out, err := carol.Exec(w.ctx(10*time.Second), "curl", "-s", "--max-time", "2", "http://"+alice.Addr().String()+":9586/metrics"); err == nil {
		t.Errorf("a stranger reads alice's metrics:\n%s", out)
	}
}

// TestCountersAndHistoryOutliveTheAgent: what was counted and seen before a restart is there after it.
func TestCountersAndHistoryOutliveTheAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.home("bob", home)
	w.found(alice, "--metrics", "127.0.0.1:9586")
	w.join(bob)
	w.linked(alice, bob, 10*time.Second)
	if err := w.Ping(w.ctx(10*time.Second), alice, "bob", 10); err != nil {
		t.Fatal(err)
	}
	counters := func() map[string]float64 {
		page := string(must(alice.Exec(w.ctx(10*time.Second), "curl", "-s", "-S", "--fail", "http://127.0.0.1:9586/metrics"))(w))
		out := map[string]float64{}
		for line := range strings.Lines(page) {
			for _, name := range []string{"receive_bytes", "transmit_bytes", "receive_packets", "transmit_packets"} {
				if value, ok := strings.CutPrefix(line, "gridwire_peer_"+name+"_total{peer=\"bob\"} "); ok {
					out[name], _ = strconv.ParseFloat(strings.TrimSpace(value), 64)
				}
			}
		}
		return out
	}
	history := func() []api.LinkSample {
		out := must(alice.Exec(w.ctx(10*time.Second), "curl", "-s", "-S", "--fail", "--unix-socket", alice.Socket(), "http://agent/v1/history?peer=bob&minutes=10"))(w)
		var h api.History
		if err := json.Unmarshal(out, &h); err != nil || len(h.Links) != 1 {
			t.Fatalf("history: %s, %v", out, err)
		}
		return h.Links[0].Samples
	}
	var before map[string]float64
	w.eventually(5*time.Second, "10 pings and their answers are counted", func() bool {
		before = counters()
		return before["receive_packets"] >= 10 && before["transmit_packets"] >= 10 && before["receive_bytes"] > 10*100 && before["transmit_bytes"] > 10*100
	})
	if err := w.agents[alice].Stop(); err != nil {
		t.Fatal(err)
	}
	w.agents[alice] = must(alice.StartAgent("--metrics", "127.0.0.1:9586"))(w)
	if err := w.agents[alice].WaitReady(w.ctx(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	after := counters()
	for name, n := range before {
		if after[name] < n || after[name] > n+10_000 {
			t.Errorf("%s: %v before the restart, %v after it", name, n, after[name])
		}
	}
	// What was flushed is there after a crash, too; that is every 10 s, so the agent dies as soon as the newest pings are on disk.
	ledger := filepath.Join(alice.State(), "ledger")
	if err := w.Ping(w.ctx(10*time.Second), alice, "bob", 3); err != nil {
		t.Fatal(err)
	}
	pinged, before := time.Now(), counters()
	w.eventually(15*time.Second, "the counters are flushed", func() bool {
		st, err := os.Stat(ledger)
		return err == nil && st.ModTime().After(pinged.Add(time.Second)) // they are read from the tunnel twice a second
	})
	w.agents[alice].Kill()
	w.agents[alice] = must(alice.StartAgent("--metrics", "127.0.0.1:9586"))(w)
	if err := w.agents[alice].WaitReady(w.ctx(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	after = counters()
	for name, n := range before {
		if after[name] < n || after[name] > n+10_000 {
			t.Errorf("%s: %v before the crash, %v after it", name, n, after[name])
		}
	}
	samples := history()
	if len(samples) == 0 {
		t.Fatal("nothing is remembered of the link before the restart")
	}
	if s := samples[0]; s.State != "connected" || s.Path != "direct" || s.Probes == 0 || s.RTTAvg <= 0 || s.RTTMin > s.RTTMax || s.ReceiveBytes < 10*100 {
		t.Errorf("the minute before the restart: %+v", s)
	}
}
