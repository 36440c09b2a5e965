package metrics

import (
	"context"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/nat"
)

func example(context.Context) Snapshot {
	s := links.Status{
		State: links.Connected, Figures: links.Figures{Loss: 0.25}, LastHandshake: time.Unix(1_800_000_000, 0), TimeToConnect: 300 * time.Millisecond,
		Path: links.Path{Kind: "direct", Remote: netip.MustParseAddrPort("198.51.100.1:51820"), LocalType: nat.Host, RemoteType: nat.ServerReflexive},
	}
	s.RTTCounts[0], s.RTTCounts[2], s.RTTSum = 1, 2, 30*time.Millisecond
	return Snapshot{Version: "1", NAT: "open", Members: 2, CertificateExpires: time.Unix(1_900_000_000, 0), ControlConnections: 1, Queries: []Queries{{"AAAA", "NOERROR", 7}}, Peers: []Peer{
		{Name: "bob", Status: s, Traffic: ledger.Counters{ReceiveBytes: 10, TransmitBytes: 20}}, {Name: "eve", Status: links.Status{State: links.Unreachable}}}}
}

func TestNamesAndValues(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(example).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`gridwire_peer_up{peer="bob"} 1`, `gridwire_peer_up{peer="eve"} 0`,
		`gridwire_peer_path_info{family="ipv4",kind="direct",local_type="host",peer="bob",remote_type="srflx"} 1`,
		`gridwire_peer_receive_bytes_total{peer="bob"} 10`, `gridwire_peer_loss_ratio{peer="bob"} 0.25`,
		`gridwire_peer_last_handshake_timestamp_seconds{peer="bob"} 1.8e+09`, `gridwire_peer_rtt_seconds_count{peer="bob"} 3`,
		`gridwire_nat_info{type="open"} 1`, `gridwire_members 2`, `gridwire_certificate_expiry_timestamp_seconds 1.9e+09`,
		`gridwire_control_connections 1`, `gridwire_dns_queries_total{rcode="NOERROR",type="AAAA"} 7`, `gridwire_build_info{version="1"} 1`, `gridwire_peer_time_to_connect_seconds{peer="bob"} 0.3`,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("missing %s in\n%s", want, w.Body.String())
		}
	}
}

func TestLint(t *testing.T) {
	problems, err := testutil.CollectAndLint(newCollector(example))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
