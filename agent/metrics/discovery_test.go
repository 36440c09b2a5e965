package metrics

import (
	"encoding/json"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func discover(t *testing.T, members ...Member) (body string, groups []targetGroup) {
	t.Helper()
	w := httptest.NewRecorder()
	Discovery(func() (string, []Member) { return "farm", members }).ServeHTTP(w, httptest.NewRequest("GET", "/sd", nil))
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q: Prometheus takes application/json only", got)
	}
	body = w.Body.String()
	if err := json.Unmarshal([]byte(body), &groups); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return body, groups
}

func TestEveryMemberIsATargetWithItsLabels(t *testing.T) {
	_, groups := discover(t,
		Member{Name: "bob", ID: "02", Version: "1.2", Addr: netip.MustParseAddr("fd01::2"), Tags: []string{"barn", "big"}, NAT: "open", Issuer: true},
		Member{Name: "alice", ID: "01", Addr: netip.MustParseAddr("fd01::1"), Self: true},
	)
	if len(groups) != 2 {
		t.Fatalf("%d targets, want 2", len(groups))
	}
	alice, bob := groups[0], groups[1] // sorted, so that a proxy or a diff sees no change where there is none
	if got := bob.Targets; len(got) != 1 || got[0] != "[fd01::2]:9586" {
		t.Errorf("bob is scraped at %v", got)
	}
	for label, want := range map[string]string{
		"instance": "bob", "__meta_gridwire_network": "farm", "__meta_gridwire_member": "bob", "__meta_gridwire_id": "02",
		"__meta_gridwire_tags": ",barn,big,", "__meta_gridwire_version": "1.2", "__meta_gridwire_nat": "open",
		"__meta_gridwire_issuer": "true", "__meta_gridwire_self": "false",
	} {
		if got, ok := bob.Labels[label]; !ok || got != want {
			t.Errorf("bob's %s is %q, want %q", label, got, want)
		}
	}
	if alice.Labels["__meta_gridwire_tags"] != "" || alice.Labels["__meta_gridwire_self"] != "true" {
		t.Errorf("alice: %v", alice.Labels)
	}
}

func TestNobodyIsAnEmptyList(t *testing.T) {
	if body, _ := discover(t); strings.TrimSpace(body) != "[]" {
		t.Errorf("got %s, which Prometheus refuses", body)
	}
}
