package health

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

var noon = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func node(states ...string) *api.Status {
	issued, ends := noon.Add(-5*24*time.Hour), noon.Add(25*24*time.Hour)
	st := &api.Status{Network: &api.Network{Name: "farm"}, Self: api.Self{Name: "alice", CertificateIssued: &issued, CertificateExpires: &ends}}
	for i, s := range states {
		st.Peers = append(st.Peers, api.Peer{Name: "peer" + string(rune('a'+i)), State: s})
	}
	return st
}

func TestJudge(t *testing.T) {
	in := func(change func(*api.Status)) *api.Status {
		st := node("connected", "connected")
		change(st)
		return st
	}
	expires := func(d time.Duration) *api.Status {
		return in(func(st *api.Status) { at := noon.Add(d); st.Self.CertificateExpires = &at })
	}
	for name, tc := range map[string]struct {
		st     *api.Status
		grade  Grade
		text   string
		remedy string
	}{
		"no member": {&api.Status{}, Notice, "no member of a network yet", "gridwire join"},
		"alone":     {node(), Good, "only member", "gridwire invite"},
		"one":       {node("connected"), Good, "This node is fine: 1 link is up", ""},
		"all":       {node("connected", "idle"), Good, "This node is fine: 2 links are up", ""},
		"one down":  {node("connected", "unreachable", "connected"), Good, "2 of 3 links are up. No link to peerb.", "gridwire explain peerb"},
		"one comes": {node("connected", "connecting"), Good, "connecting to peerb", ""},
		"many down": {node("connected", "unreachable", "unreachable", "unreachable", "unreachable"), Good, "peerb, peerc, peerd and 1 more", "peerb"},
		"none up":   {node("unreachable", "connecting"), Bad, "reaches none", "gridwire netcheck"},
		"fresh":     {node("connecting", "connecting"), Notice, "connecting", ""},
		"UDP is blocked": {in(func(st *api.Status) {
			st.Self.NAT = "blocked"
			st.Peers[0].State, st.Peers[1].State = "unreachable", "unreachable"
		}), Bad, "by UDP", "outgoing UDP"},
		"put out":     {in(func(st *api.Status) { st.Warnings = []string{"this node has been put out of the network: revoked"} }), Bad, "out of its network", "gridwire leave"},
		"expired":     {expires(-time.Hour), Bad, "expired on", "issuer"},
		"not renewed": {expires(17 * time.Hour), Notice, "no issuer has renewed", "gridwire issuer list"},
		"relayed":     {in(func(st *api.Status) { st.Peers[0].Path.Kind = "relay" }), Good, "1 of them by way of a relay", ""},
		"another's":   {in(func(st *api.Status) { st.Warnings = []string{"the clocks differ"} }), Good, "fine", ""},
	} {
		if v := Judge(tc.st, noon); v.Grade != tc.grade || !strings.Contains(v.Text, tc.text) || !strings.Contains(v.Remedy, tc.remedy) || tc.remedy == "" && v.Remedy != "" {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// TestFindings: the page begins with what status says, and tells the rest, the worst first.
func TestFindings(t *testing.T) {
	with := func(change func(*api.Status), states ...string) *api.Status {
		st := node(states...)
		change(st)
		return st
	}
	nothing := func(*api.Status) {}
	for name, tc := range map[string]struct {
		st     *api.Status
		grade  Grade // of the first
		says   []string
		others int
	}{
		"no member yet": {&api.Status{}, Notice, []string{"gridwire join"}, 0},
		"alone":         {node(), Good, []string{"gridwire invite"}, 0},
		"all well":      {node("connected", "idle"), Good, []string{"2 links are up, direct"}, 0},
		"blocked":       {with(func(st *api.Status) { st.Self.NAT = "blocked" }, "unreachable"), Bad, []string{"UDP"}, 0},
		"one without":   {with(nothing, "unreachable", "idle"), Good, []string{"1 of 2 links", "No link to peera", "explain peera", "[peera]"}, 1},
		"lossy":         {with(func(st *api.Status) { st.Peers[0].Loss = 0.2 }, "connected"), Good, []string{"peera (20 %)", "[peera]"}, 1},
		"symmetric":     {with(func(st *api.Status) { st.Self.NAT, st.Self.ListenPort = "endpoint-dependent", 7 }, "connected"), Good, []string{"--advertise ADDRESS:7"}, 1},
		"warned": {with(func(st *api.Status) { st.Warnings = []string{"the network has one issuer; appoint another"} }, "connected"), Good,
			[]string{"The network has one issuer.", "appoint another"}, 1},
		"put out": {with(func(st *api.Status) {
			st.Warnings = []string{"this node has been put out of the network: revoked", "the clocks differ"}
		}, "unreachable"), Bad, []string{"gridwire leave", "clocks"}, 1},
		"expired": {with(func(st *api.Status) {
			end := noon.Add(-time.Hour)
			st.Self.CertificateExpires, st.Warnings = &end, []string{"this node's certificate expired on some day"}
		}, "unreachable"), Bad, []string{"within 7 days"}, 0},
	} {
		got := Findings(tc.st, noon)
		if got[0].Grade != tc.grade || len(got) != 1+tc.others || !strings.HasPrefix(Judge(tc.st, noon).Text, got[0].Text) {
			t.Errorf("%s: %v", name, got)
			continue
		}
		for _, want := range tc.says {
			if !strings.Contains(fmt.Sprint(got), want) {
				t.Errorf("%s: %v does not say %q", name, got, want)
			}
		}
		for i := 2; i < len(got); i++ {
			if rank[got[i-1].Grade] > rank[got[i].Grade] {
				t.Errorf("%s: good news come before bad: %v", name, got)
			}
		}
	}
}
