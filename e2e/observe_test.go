//go:build linux

package e2e

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
	"github.com/gridwire/gridwire/e2e/observe"
)

// watched is a mesh of three with a real Prometheus on alice.
type watched struct {
	*world
	prometheus        *observe.Prometheus
	alice, bob, carol *lab.Host
}

// everywhere are the flags of agents that Prometheus can scrape.
var everywhere = []string{"--metrics", "127.0.0.1:9586,overlay"}

func newWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{world: newWorld(t, lab.Options{Delay: 2 * time.Millisecond})}
	w.alice, w.bob, w.carol = w.public("alice"), w.home("bob", home), w.home("carol", home)
	w.found(w.alice, everywhere...)
	w.join(w.bob, everywhere...)
	w.join(w.carol, everywhere...)
	w.linkedAll(10*time.Second, w.alice, w.bob, w.carol)
	w.prometheus = must(observe.Start(w.ctx(20*time.Second), w.alice, observe.Config{
		Deploy: prometheusFolder, Interval: time.Second, Before: func(dir string) error { return remember(dir, "alice", "bob", "carol") },
	}))(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Prometheus' log:\n%s", w.prometheus.Log())
		}
		if err := w.prometheus.Stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// remember gives Prometheus two hours of links to learn from, which end half an hour ago: what is learned is otherwise there after that time only.
func remember(data string, names ...string) error {
	var b strings.Builder
	for metric, value := range map[string]float64{"gridwire:peer_rtt_seconds:mean5m": 0.012, "gridwire:peer_loss_ratio:recent": 0.001} {
		fmt.Fprintf(&b, "# TYPE %s gauge\n", metric)
		for _, node := range names {
			for _, peer := range names {
				for at := time.Now().Add(-150 * time.Minute); node != peer && time.Since(at) > 31*time.Minute; at = at.Add(time.Minute) {
					fmt.Fprintf(&b, "%s{network=\"farm\",node=%q,peer=%q} %g %d\n", metric, node, peer, value, at.Unix())
				}
			}
		}
	}
	b.WriteString("# EOF\n")
	text := filepath.Join(filepath.Dir(data), "history")
	if err := os.WriteFile(text, []byte(b.String()), 0o644); err != nil {
		return err
	}
	program, err := observe.Tool("promtool")
	if err != nil {
		return err
	}
	if out, err := exec.Command(program, "tsdb", "create-blocks-from", "openmetrics", "--quiet", text, data).CombinedOutput(); err != nil {
		return fmt.Errorf("give Prometheus a history: %w\n%s", err, out)
	}
	return nil
}

// ask returns the values of an expression by one of its labels.
func (w *watched) ask(expr, label string) map[string]float64 {
	w.Helper()
	out := map[string]float64{}
	for _, s := range must(w.prometheus.Query(w.ctx(10*time.Second), expr))(w) {
		out[s.Labels[label]] = s.Value
	}
	return out
}

// shows waits until an expression has exactly these values.
func (w *watched) shows(limit time.Duration, expr, label string, want map[string]float64) {
	w.Helper()
	w.becomes(limit, expr, label, want, maps.Equal[map[string]float64, map[string]float64])
}

// names waits until an expression has any values for exactly these.
func (w *watched) names(limit time.Duration, expr, label string, want ...string) {
	w.Helper()
	named := map[string]float64{}
	for _, name := range want {
		named[name] = math.NaN()
	}
	w.becomes(limit, expr, label, named, func(a, b map[string]float64) bool {
		return maps.EqualFunc(a, b, func(float64, float64) bool { return true })
	})
}

func (w *watched) becomes(limit time.Duration, expr, label string, want map[string]float64, equal func(a, b map[string]float64) bool) {
	w.Helper()
	var got map[string]float64
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if got = w.ask(expr, label); equal(got, want) {
			return
		}
	}
	w.Errorf("not within %v: %s is %v, want %v", limit, expr, got, want)
}

// TestPrometheusWatchesTheMesh: a real Prometheus with the configuration that we ship finds all members through one, scrapes them over the
// overlay, and runs our rules; it sees when a member dies; and every query of every dashboard has an answer.
func TestPrometheusWatchesTheMesh(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	w.shows(15*time.Second, `up{job="gridwire"}`, "node", map[string]float64{"alice": 1, "bob": 1, "carol": 1})
	w.shows(10*time.Second, `gridwire_members{network="farm"}`, "node", map[string]float64{"alice": 3, "bob": 3, "carol": 3})
	w.shows(10*time.Second, `gridwire_peer_up{node="bob"}`, "peer", map[string]float64{"alice": 1, "carol": 1})
	w.busy()
	w.rulesRun()

	// Two that are both well, and nothing gets through between them.
	w.part(w.bob, w.remote(w.bob, "carol").Addr())
	w.names(20*time.Second, `ALERTS{alertname="GridwireLinkDown"}`, "node", "bob", "carol")

	w.agents[w.carol].Kill()
	w.shows(20*time.Second, `up{job="gridwire"}`, "node", map[string]float64{"alice": 1, "bob": 1, "carol": 0})
	w.shows(20*time.Second, `max by (peer) (gridwire_peer_up)`, "peer", map[string]float64{"alice": 1, "bob": 1, "carol": 0})
	// A dead member is one alert, when it has been silent for long, and not one for each of its links.
	w.names(20*time.Second, `gridwire:member_silence_seconds:min > 5`, "node", "carol")
	w.names(10*time.Second, `ALERTS{alertname="GridwireLinkDown"}`, "node")
	w.lossShows()
	w.dashboards()
}

// busy makes everything happen that the dashboards show of bob.
func (w *watched) busy() {
	w.Helper()
	// Bob's agent begins anew at another address, so his paths change.
	if err := w.agents[w.bob].Stop(); err != nil {
		w.Fatal(err)
	}
	if err := w.bob.SetAddr(netip.Prefix{}); err != nil {
		w.Fatal(err)
	}
	w.start(w.bob, everywhere...)
	w.linkedAll(20*time.Second, w.alice, w.bob, w.carol)

	web := w.namespace(w.bob, "web")
	w.run(w.bob, "workload", "add", "web", "--netns", web.Path(), "--port", "http=8080/tcp")
	w.dig(w.bob, "alice.farm.internal", "AAAA")
	for to, from := range map[string]*lab.Host{
		w.peer(w.bob, "alice").Addresses[0].Addr().String():    w.bob,
		w.peer(w.bob, "carol").Addresses[0].Addr().String():    w.bob,
		w.workloads(w.bob)["web"].Addresses[0].Addr().String(): w.alice,
	} {
		ping := from.Command(w.Context(), "ping", "-n", "-q", "-i", "0.05", "-s", "1000", to)
		if err := ping.Start(); err != nil {
			w.Fatal(err)
		}
		w.Cleanup(func() { _ = ping.Process.Kill(); _ = ping.Wait() })
	}
	w.disturb()
}

// disturb makes bob lose a probe or two. He then probes more often for a quarter of a minute, which gives the samples that a loss needs to be shown.
func (w *watched) disturb() {
	w.Helper()
	if err := w.bob.Cut(); err != nil {
		w.Fatal(err)
	}
	time.Sleep(1300 * time.Millisecond) // long enough for a link in use to be probed, too short to be given up
	if err := w.bob.Reconnect(); err != nil {
		w.Fatal(err)
	}
}

// lossShows waits until what bob lost is known, and disturbs him again should he have been lucky.
func (w *watched) lossShows() {
	w.Helper()
	for range 3 {
		for start := time.Now(); time.Since(start) < 14*time.Second; time.Sleep(200 * time.Millisecond) {
			if w.ask(`gridwire:peer_loss_ratio:recent{node="bob"}`, "peer")["alice"] > 0 {
				return
			}
		}
		w.disturb()
	}
	w.Error("bob loses packets and nobody says so")
}

// part makes h and an address unreachable for each other.
func (w *watched) part(h *lab.Host, from netip.Addr) {
	w.Helper()
	rules := fmt.Sprintf("table ip parted { chain in { type filter hook input priority 0; ip saddr %[1]v drop; }; chain out { type filter hook output priority 0; ip daddr %[1]v drop; }; }", from)
	if _, err := h.Exec(w.ctx(5*time.Second), "nft", rules); err != nil {
		w.Fatal(err)
	}
}

// rulesRun checks that every rule is evaluated without an error, and that what can be learned is learned.
func (w *watched) rulesRun() {
	w.Helper()
	w.eventually(15*time.Second, "every rule is evaluated", func() bool {
		rules := must(w.prometheus.Rules(w.ctx(5 * time.Second)))(w)
		if len(rules) < 20 {
			w.Fatalf("Prometheus has %d rules only", len(rules))
		}
		for _, r := range rules {
			if r.Health == "err" {
				w.Fatalf("%s: %s", r.Name, r.LastError)
			}
			if r.State == "firing" {
				w.Errorf("%s fires in a mesh that is well", r.Name)
			}
		}
		return !slices.ContainsFunc(rules, func(r observe.Rule) bool { return r.Health != "ok" })
	})
	limit := w.ask(`gridwire:peer_rtt_seconds:limit{node="alice"}`, "peer")
	if got := limit["bob"]; math.Abs(got-0.038) > 1e-6 {
		w.Errorf("round trips from alice to bob are too slow above %v s; with 12 ms learned, want 0.038", got)
	}
}
