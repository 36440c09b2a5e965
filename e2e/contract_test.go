//go:build linux

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// contract is what DESIGN section 4 promises to scripts, dashboards and alerts outside this repository: metrics with their types and labels.
var contract = map[string]struct{ kind, labels string }{
	"gridwire_peer_up":                               {"gauge", "peer"},
	"gridwire_peer_path_info":                        {"gauge", "family kind local_type peer remote_type"},
	"gridwire_peer_rtt_seconds":                      {"histogram", "peer"},
	"gridwire_peer_loss_ratio":                       {"gauge", "peer window"},
	"gridwire_peer_receive_bytes_total":              {"counter", "peer"},
	"gridwire_peer_transmit_bytes_total":             {"counter", "peer"},
	"gridwire_peer_last_handshake_timestamp_seconds": {"gauge", "peer"},
	"gridwire_peer_time_to_connect_seconds":          {"gauge", "peer"},
	"gridwire_nat_info":                              {"gauge", "type"},
	"gridwire_members":                               {"gauge", ""},
	"gridwire_certificate_expiry_timestamp_seconds":  {"gauge", ""},
	"gridwire_dns_queries_total":                     {"counter", "rcode type"},
	"gridwire_relayed_bytes_total":                   {"counter", ""},
	"gridwire_control_connections":                   {"gauge", ""},
	"gridwire_build_info":                            {"gauge", "version"},
}

// shape is a value of JSON: its fields with their shapes, a list's first element, or a type's name.
type shape = any

var statusContract = map[string]shape{
	"network": map[string]shape{"name": "string", "id": "string", "domain": "string", "ipv6_prefix": "string", "ipv4_prefix": "string"},
	"self": map[string]shape{
		"name": "string", "id": "string", "wireguard_public_key": "string", "addresses": []shape{"string"}, "interface": "string", "listen_port": "number",
		"backend": "string", "nat": "string", "issuer": "bool", "certificate_expires": "time",
	},
	"peers": []shape{map[string]shape{
		"name": "string", "id": "string", "wireguard_public_key": "string", "addresses": []shape{"string"}, "tags": []shape{"string"}, "state": "string",
		"path":        map[string]shape{"kind": "string", "local": "string", "remote": "string", "via": "string"},
		"rtt_seconds": "number", "loss_ratio": "number", "last_handshake": "time", "receive_bytes": "number", "transmit_bytes": "number",
	}},
}

// TestContract: a real agent shows every name of the contract, as the type that was promised.
func TestContract(t *testing.T) {
	w := newWorld(t, lab.Options{})
	r := w.router("r", home, nil)
	alice, bob := w.public("alice"), must(r.Host("bob"))(t)
	w.found(alice, "--metrics", "127.0.0.1:9586")
	w.start(bob, "--join", w.token("bob", "--tag", "barn"))
	w.linked(alice, bob, 10*time.Second)
	w.exec(alice, "dig", "+time=2", "+tries=1", "@"+w.status(alice).Self.Addresses[0].Addr().String(), "bob.farm.internal", "AAAA")
	// Loss is exported from 20 probes on, and a lost one raises their rate.
	defer w.drop(r, "inet", "forward", "meta l4proto udp @th,64,8 4 @th,72,24 0 numgen random mod 6 == 0")()

	var page string
	w.eventually(60*time.Second, "every metric of the contract", func() bool {
		_, _ = alice.Gridwire(w.ctx(10*time.Second), "ping", "bob", "--count", "2", "--timeout", "1s") // traffic, some of which is lost
		page = w.exec(alice, "curl", "-s", "--max-time", "5", "http://127.0.0.1:9586/metrics")
		for name := range contract {
			if !strings.Contains(page, "\n"+name) {
				return false
			}
		}
		return true
	})
	for name, want := range contract {
		if !strings.Contains(page, "\n# TYPE "+name+" "+want.kind+"\n") {
			t.Errorf("%s is no %s", name, want.kind)
		}
		if got := labelsOf(page, name); got != want.labels {
			t.Errorf("%s has the labels %q, want %q", name, got, want.labels)
		}
	}
	var st any
	if err := json.Unmarshal([]byte(w.run(alice, "status", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	for _, fault := range unlike("status", st, statusContract) {
		t.Error(fault)
	}
}

// labelsOf are the names of the labels of a metric's first sample, sorted as the exposition format has them.
func labelsOf(page, name string) string {
	for line := range strings.Lines(page) {
		rest, ok := strings.CutPrefix(line, name)
		rest = strings.TrimPrefix(rest, "_count") // of a histogram, whose buckets have one more
		if !ok || !strings.HasPrefix(rest, "{") && !strings.HasPrefix(rest, " ") {
			continue
		}
		list, _, _ := strings.Cut(strings.TrimPrefix(rest, "{"), "}")
		var names []string
		for _, pair := range strings.Split(list, ",") {
			if label, _, ok := strings.Cut(pair, "="); ok {
				names = append(names, label)
			}
		}
		return strings.Join(names, " ")
	}
	return "(no sample)"
}

// unlike says where a value differs from a shape. More fields than promised are none of its business.
func unlike(where string, v any, want shape) (faults []string) {
	wrong := func() []string { return []string{where + " is no " + kindOf(want)} }
	switch want := want.(type) {
	case map[string]shape:
		m, ok := v.(map[string]any)
		if !ok {
			return wrong()
		}
		for field, s := range want {
			if f, ok := m[field]; ok {
				faults = append(faults, unlike(where+"."+field, f, s)...)
			} else {
				faults = append(faults, where+" has no "+field)
			}
		}
	case []shape:
		list, ok := v.([]any)
		if !ok || len(list) == 0 {
			return wrong()
		}
		return unlike(where+"[0]", list[0], want[0])
	case string:
		if want == "time" {
			text, _ := v.(string)
			if _, err := time.Parse(time.RFC3339, text); err != nil {
				return wrong()
			}
			return nil
		}
		if kindOf(v) != want {
			return wrong()
		}
	}
	return faults
}

func kindOf(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "list with something in it"
	case float64:
		return "number"
	case bool:
		return "bool"
	case string:
		switch v {
		case "time", "number", "bool": // in a shape
			return v
		}
		return "string"
	}
	return "null"
}
