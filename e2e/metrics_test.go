//go:build linux

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestMetricsOverTheOverlay: a member scrapes another through the mesh and learns there whom else to scrape; a stranger gets nothing.
func TestMetricsOverTheOverlay(t *testing.T) {
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
		if page := get(h, url); !strings.Contains(page, `gridwire_peer_up{peer="bob"} 1`) {
			t.Errorf("%s does not show the link to bob:\n%s", url, page)
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
