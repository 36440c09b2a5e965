package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gridwire/gridwire/agent/api"
)

// TestStatusFitsATerminal: what a network of short names and IPv4 addresses looks like in 100 columns, with the widest usual values.
func TestStatusFitsATerminal(t *testing.T) {
	expires := time.Date(2026, 12, 20, 10, 0, 0, 0, time.UTC)
	peer := func(name, state string, path api.Path, rtt, loss float64) api.Peer {
		return api.Peer{
			Name: name, State: state, Path: path, RTT: rtt, Loss: loss, ReceiveBytes: 1023 << 20, TransmitBytes: 1023,
			Addresses: []string{"fd00:25c9:a9cc:9e15:1bca:44a1:2b7e:1/128", "10.100.16.12/32"},
		}
	}
	st := &api.Status{
		Network: &api.Network{Name: "farm", Domain: "farm.internal"},
		Self: api.Self{
			Name: "laptop", Addresses: []string{"fd00:25c9:a9cc:d66e:5223:2afe:29a9:1/128", "10.100.0.5/32"}, Interface: "gw0",
			ListenPort: 51820, NAT: "endpoint-independent", CertificateExpires: &expires,
		},
		Peers: []api.Peer{
			peer("dana", "connected", api.Path{Kind: "direct", Remote: "198.51.100.111:51820", RemoteType: "host"}, 0.0246, 0),
			peer("bob", "connected", api.Path{Kind: "direct", Remote: "198.51.100.112:51820", RemoteType: "srflx"}, 0.1246, 0.034),
			peer("alice", "unreachable", api.Path{Kind: "none"}, 0, 0),
		},
		Warnings: []string{strings.Repeat("many words that say what may happen ", 8) + "and what to do: gridwire issuer add NAME"},
	}
	st.Peers[2].Reason = strings.Repeat("a reason of many words ", 9)
	var b bytes.Buffer
	printStatus(&b, st)
	text := b.String()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{
		"laptop in farm.internal   fd00:25c9:a9cc:d66e:5223:2afe:29a9:1  10.100.0.5\n",
		"\nalice  10.100.16.12  unreachable  -            -  ",
		"\nbob    10.100.16.12  connected    direct, NAT  125 ms, 3 %  1023 MiB  1023 B  198.51.100.112:51820\n",
		"\ndana   10.100.16.12  connected    direct       24.6 ms",
		"\nalice: a reason of many words",
		"\nwarning: many words",
		"gridwire issuer add NAME\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
