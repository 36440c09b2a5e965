package metrics

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/nat"
)

var noon = time.Unix(1_800_000_000, 0)

// example has a value for every metric.
func example(context.Context) Snapshot {
	yes, no, skew := true, false, -3*time.Second
	s := links.Status{
		State: links.Connected, LastHandshake: noon, TimeToConnect: 300 * time.Millisecond,
		Path: links.Path{Kind: "direct", Remote: netip.MustParseAddrPort("198.51.100.1:51820"), LocalType: nat.Host, RemoteType: nat.ServerReflexive},
	}
	s.RTTCounts[0], s.RTTCounts[2], s.RTTSum, s.Jitter, s.PathChanges = 1, 2, 30*time.Millisecond, 2*time.Millisecond, 4
	s.Losses = [3]links.Loss{{Probes: 19, Lost: 1}, {Probes: 20, Lost: 5}, {Probes: 100, Lost: 1}}
	return Snapshot{
		Now: noon, Started: noon.Add(-time.Minute), Version: "1", NAT: "open", Members: 2, CertificateExpires: time.Unix(1_900_000_000, 0),
		ControlConnections: 1, ProbesSent: 5, ProbeBytes: 960, Interfaces: []Interface{{"eth0", 125e6}},
		DNS: DNS{Queries: []Queries{{"AAAA", "NOERROR", 7}}, Serving: &yes, Resolver: &no},
		Peers: []Peer{
			{Name: "bob", Status: s, Traffic: ledger.Counters{ReceiveBytes: 10, TransmitBytes: 20, ReceivePackets: 1, TransmitPackets: 2},
				LastSeen: noon, MTU: 1420, Skew: &skew, Disputed: &no},
			{Name: "eve", Status: links.Status{State: links.Unreachable}},
		},
		Workloads: []Workload{{Name: "web", Up: true, Traffic: ledger.Counters{ReceiveBytes: 1, TransmitBytes: 2, ReceivePackets: 3, TransmitPackets: 4}}},
	}
}

func get(t testing.TB, h http.Handler, accept string) string {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", accept)
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// series drops comments and what is not ours.
func series(page string) (out []string) {
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "gridwire_") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func TestNamesAndValues(t *testing.T) {
	page := get(t, Handler(example), "")
	for _, want := range []string{
		`gridwire_peer_up{peer="bob"} 1`, `gridwire_peer_up{peer="eve"} 0`,
		`gridwire_peer_path_info{family="ipv4",kind="direct",local_type="host",peer="bob",remote_type="srflx"} 1`,
		`gridwire_peer_path_info{family="",kind="none",local_type="",peer="eve",remote_type=""} 1`,
		`gridwire_peer_receive_bytes_total{peer="bob"} 10`, `gridwire_peer_transmit_packets_total{peer="bob"} 2`,
		`gridwire_peer_loss_ratio{peer="bob",window="5m"} 0.25`, `gridwire_peer_loss_ratio{peer="bob",window="15m"} 0.01`,
		`gridwire_peer_jitter_seconds{peer="bob"} 0.002`, `gridwire_peer_path_changes_total{peer="bob"} 4`,
		`gridwire_peer_last_handshake_timestamp_seconds{peer="bob"} 1.8e+09`, `gridwire_peer_last_seen_timestamp_seconds{peer="bob"} 1.8e+09`,
		`gridwire_peer_rtt_seconds_count{peer="bob"} 3`, `gridwire_peer_rtt_seconds_bucket{peer="bob",le="0.0025"} 3`,
		`gridwire_peer_mtu_bytes{peer="bob"} 1420`, `gridwire_peer_clock_skew_seconds{peer="bob"} -3`, `gridwire_usage_disputed{peer="bob"} 0`,
		`gridwire_nat_info{type="open"} 1`, `gridwire_members 2`, `gridwire_certificate_expiry_timestamp_seconds 1.9e+09`,
		`gridwire_control_connections 1`, `gridwire_dns_queries_total{rcode="NOERROR",type="AAAA"} 7`, `gridwire_build_info{version="1"} 1`,
		`gridwire_peer_time_to_connect_seconds{peer="bob"} 0.3`, `gridwire_uptime_seconds 60`, `gridwire_probes_sent_total 5`, `gridwire_probe_bytes_total 960`,
		`gridwire_relayed_bytes_total 0`, `gridwire_interface_speed_bytes_per_second{interface="eth0"} 1.25e+08`, `gridwire_dns_serving 1`,
		`gridwire_dns_resolver_configured 0`, `gridwire_peers{state="connected"} 1`, `gridwire_peers{state="unreachable"} 1`, `gridwire_peers{state="idle"} 0`,
		`gridwire_workload_up{workload="web"} 1`, `gridwire_workload_receive_bytes_total{workload="web"} 1`,
		`gridwire_workload_transmit_bytes_total{workload="web"} 2`, `gridwire_workload_receive_packets_total{workload="web"} 3`,
		`gridwire_workload_transmit_packets_total{workload="web"} 4`, "process_resident_memory_bytes ",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("missing %s in\n%s", want, page)
		}
	}
	for _, never := range []string{`window="1m"`, `loss_ratio{peer="eve"`, `mtu_bytes{peer="eve"`, `skew_seconds{peer="eve"`, `jitter_seconds{peer="eve"`, "go_gc"} {
		if strings.Contains(page, never) {
			t.Errorf("%s in\n%s", never, page)
		}
	}
}

func TestLint(t *testing.T) {
	page := get(t, Handler(example), "")
	problems, err := promlint.New(strings.NewReader(page)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestOpenMetrics is what a Prometheus asks for; there are no exemplars.
func TestOpenMetrics(t *testing.T) {
	page := get(t, Handler(example), "application/openmetrics-text;version=1.0.0")
	if !strings.HasSuffix(page, "# EOF\n") {
		t.Errorf("this is not OpenMetrics:\n%s", page)
	}
	for _, line := range series(page) {
		if strings.Contains(line, " # ") {
			t.Errorf("exemplar: %s", line)
		}
	}
}

// TestTheTableInTheDocs has every metric, with the words that Prometheus shows.
func TestTheTableInTheDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| metric | type | labels | |\n|---|---|---|---|\n")
	page := get(t, Handler(example), "")
	for _, s := range specs {
		fmt.Fprintf(&table, "| `gridwire_%s` | %s | %s | %s |\n", s.name, s.kind, strings.Join(s.labels, ", "), s.help)
		if !strings.Contains(page, "\n# TYPE gridwire_"+s.name+" "+s.kind+"\n") {
			t.Errorf("the example shows no %s %s, so other tests have not seen it", s.kind, s.name)
		}
	}
	if !strings.Contains(string(b), table.String()) {
		t.Errorf("docs/operations.md must have this table:\n%s", table.String())
	}
}

func TestEverySpecIsUsed(t *testing.T) {
	for i, s := range specs {
		if s.name == "" || s.help == "" || s.kind == "" {
			t.Errorf("metric %d has no name, kind or help", i)
		}
	}
}
