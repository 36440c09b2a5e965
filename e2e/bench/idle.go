//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

const (
	idlePeers  = 10
	idlePublic = 2 // of all members; the others are behind port-restricted routers of their own
	// settling is how long a network needs to become quiet: sessions linger, connections that nobody needs are closed after a minute.
	settling = 100 * time.Second
)

// idler is one member of the idle network.
type idler struct {
	host   *lab.Host
	agent  *lab.Agent
	public bool

	cpu         float64 // per cent of a core
	rss         float64 // MB
	control     float64 // bytes per second that it sends, with IP headers
	wireguard   float64
	other       float64
	connections float64
}

// measureIdle watches a network of 11 members in which every pair is linked and nobody has anything to say.
func measureIdle(ctx context.Context, b *bench) error {
	w, err := b.newWorld("idle", "info", 0)
	if err != nil {
		return err
	}
	defer w.Close()
	members, err := w.idlers(ctx)
	if err != nil {
		return err
	}
	settle := settling
	if b.quick {
		settle = settling / 3
	}
	b.progress("idle: %d members are linked; %v to settle, then %v to measure", len(members), settle, b.window)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	if err := watch(ctx, members, b.window); err != nil {
		return err
	}
	for _, m := range members {
		b.progress("idle: %s (public: %v): %.1f MB, %.2f %% of a core, sends %.1f B/s control over %.0f connections, %.1f B/s WireGuard, %.1f B/s other",
			m.host.Label(), m.public, m.rss, m.cpu, m.control, m.connections, m.wireguard, m.other)
	}
	homes := slices.DeleteFunc(slices.Clone(members), func(m *idler) bool { return m.public })
	publics := slices.DeleteFunc(slices.Clone(members), func(m *idler) bool { return !m.public })
	what := fmt.Sprintf("idle, %d linked peers: ", idlePeers)
	b.worst(what+"resident memory", " MB", "%.1f", pick(members, func(m *idler) float64 { return m.rss }), 45)
	b.worst(what+"processor", " % of a core", "%.2f", pick(members, func(m *idler) float64 { return m.cpu }), 0.3)
	b.worst(what+"control connections of a member behind a NAT", "", "%.0f", pick(homes, func(m *idler) float64 { return m.connections }), 4)
	b.worst(what+"sent over them", " B/s", "%.1f", pick(homes, func(m *idler) float64 { return m.control }), 60)
	b.worst(what+"WireGuard sent per link behind a NAT", " B/s", "%.1f", pick(homes, func(m *idler) float64 { return m.wireguard / idlePeers }), 12)
	b.inform(what+"anything else sent (multicast DNS on the LAN, STUN)", " B/s", "%.1f", pick(homes, func(m *idler) float64 { return m.other }))
	b.inform(fmt.Sprintf("the same, one of %d public members that %d others rely on: control connections", idlePublic, idlePeers+1-idlePublic), "", "%.0f",
		pick(publics, func(m *idler) float64 { return m.connections }))
	b.inform("the same: sent over them", " B/s", "%.1f", pick(publics, func(m *idler) float64 { return m.control }))
	return nil
}

func pick(members []*idler, of func(*idler) float64) []float64 {
	out := make([]float64, len(members))
	for i, m := range members {
		out[i] = of(m)
	}
	return out
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idlers makes the network and waits until every pair is linked.
func (w *world) idlers(ctx context.Context) ([]*idler, error) {
	var members []*idler
	for i := range idlePeers + 1 {
		m := &idler{public: i < idlePublic}
		var err error
		if name := fmt.Sprintf("node-%d", i); m.public {
			m.host, err = w.Public(name)
		} else {
			m.host, _, err = w.home(name)
		}
		if err != nil {
			return nil, err
		}
		// Metrics are on, as they are by default; they also say how many control connections there are.
		args := []string{"--metrics", "127.0.0.1:9586"}
		if i == 0 {
			m.agent, err = w.foundWith(ctx, m.host, args...)
		} else {
			m.agent, err = w.joinWith(ctx, m.host, args...)
		}
		if err != nil {
			return nil, err
		}
		members = append(members, m)
		if err := m.count(ctx); err != nil {
			return nil, err
		}
	}
	for _, m := range members {
		if _, err := m.host.Gridwire(ctx, "wait", "--all", "--timeout", linkLimit.String()); err != nil {
			return nil, err
		}
		s, err := m.host.Status(ctx)
		if err != nil {
			return nil, err
		}
		if len(s.Peers) != idlePeers {
			return nil, fmt.Errorf("%s has %d peers, want %d", m.host.Label(), len(s.Peers), idlePeers)
		}
	}
	return members, nil
}

// rules count what a host sends by what it is, as the shared socket sorts it: WireGuard (types 1 to 4, then three zero bytes), QUIC (the
// second bit is set), anything else; multicast DNS, which begins with a random number, comes before. In the output hook a packet has its IP header and no Ethernet header yet.
const rules = `
table inet bench {
	counter wireguard {}
	counter quic {}
	counter other {}
	chain output {
		type filter hook output priority 300; policy accept;
		oifname != "eth0" accept
		meta l4proto != udp counter name other accept
		udp dport 5353 counter name other accept
		@th,64,8 1-4 @th,72,24 0 counter name wireguard accept
		@th,65,1 1 counter name quic accept
		counter name other
	}
}
`

func (m *idler) count(ctx context.Context) error {
	cmd := m.host.Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("count what %s sends: %w: %s", m.host.Label(), err, out)
	}
	return nil
}

// sent reads the counters, in bytes.
func (m *idler) sent(ctx context.Context) (map[string]float64, error) {
	out, err := m.host.Exec(ctx, "nft", "--json", "list", "counters", "table", "inet", "bench")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Nftables []struct {
			Counter *struct {
				Name  string  `json:"name"`
				Bytes float64 `json:"bytes"`
			} `json:"counter"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return nil, err
	}
	sent := map[string]float64{}
	for _, n := range doc.Nftables {
		if n.Counter != nil {
			sent[n.Counter.Name] = n.Counter.Bytes
		}
	}
	if len(sent) != 3 {
		return nil, errors.New("nft did not list three counters")
	}
	return sent, nil
}

// watch fills in what the members do in the window.
func watch(ctx context.Context, members []*idler, window time.Duration) error {
	type reading struct {
		at   time.Time
		cpu  time.Duration
		sent map[string]float64
	}
	read := func(m *idler) (r reading, err error) {
		if r.sent, err = m.sent(ctx); err == nil {
			r.at = time.Now()
			r.cpu, err = cpuTime(m.agent.PID())
		}
		return r, err
	}
	before := make([]reading, len(members))
	for i, m := range members {
		var err error
		if before[i], err = read(m); err != nil {
			return err
		}
	}
	if err := pause(ctx, window); err != nil {
		return err
	}
	for i, m := range members {
		after, err := read(m)
		if err != nil {
			return err
		}
		took := after.at.Sub(before[i].at).Seconds()
		rate := func(class string) float64 { return (after.sent[class] - before[i].sent[class]) / took }
		m.cpu = (after.cpu - before[i].cpu).Seconds() / took * 100
		m.control, m.wireguard, m.other = rate("quic"), rate("wireguard"), rate("other")
		rss, _, err := resident(m.agent.PID())
		if err != nil {
			return err
		}
		m.rss = rss / 1e6
	}
	for _, m := range members { // only now: a scrape costs
		var err error
		if m.connections, err = metric(ctx, m.host, "gridwire_control_connections"); err != nil {
			return err
		}
	}
	return nil
}

// metric scrapes one value without labels.
func metric(ctx context.Context, h *lab.Host, name string) (float64, error) {
	text, err := scrape(ctx, h)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		var v float64
		if n, _ := fmt.Sscanf(line, name+" %g", &v); n == 1 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", h.Label(), name)
}
