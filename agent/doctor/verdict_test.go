package doctor

import (
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

func TestVerdict(t *testing.T) {
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
		level  Grade
		text   string
		remedy string
	}{
		"no member": {&api.Status{}, Warn, "no member of a network yet", "gridwire join"},
		"alone":     {node(), OK, "only member", "gridwire invite"},
		"one":       {node("connected"), OK, "This node is fine: 1 link is up", ""},
		"all":       {node("connected", "idle"), OK, "This node is fine: 2 links are up", ""},
		"one down":  {node("connected", "unreachable", "connected"), OK, "2 of 3 links are up. No link to peerb.", "gridwire explain peerb"},
		"one comes": {node("connected", "connecting"), OK, "connecting to peerb", ""},
		"many down": {node("connected", "unreachable", "unreachable", "unreachable", "unreachable"), OK, "peerb, peerc, peerd and 1 more", "peerb"},
		"none up":   {node("unreachable", "connecting"), Bad, "reaches none", "gridwire netcheck"},
		"fresh":     {node("connecting", "connecting"), Warn, "connecting", ""},
		"UDP is blocked": {in(func(st *api.Status) {
			st.Self.NAT = "blocked"
			st.Peers[0].State, st.Peers[1].State = "unreachable", "unreachable"
		}), Bad, "by UDP", "outgoing UDP"},
		"put out":     {in(func(st *api.Status) { st.Warnings = []string{"this node has been put out of the network: revoked"} }), Bad, "out of its network", "gridwire leave"},
		"expired":     {expires(-time.Hour), Bad, "expired on", "issuer"},
		"not renewed": {expires(17 * time.Hour), Warn, "no issuer has renewed", "gridwire issuer list"},
		"another's":   {in(func(st *api.Status) { st.Warnings = []string{"the clocks differ"} }), OK, "fine", ""},
	} {
		if v := Judge(tc.st, noon); v.Grade != tc.level || !strings.Contains(v.Text, tc.text) || !strings.Contains(v.Remedy, tc.remedy) || tc.remedy == "" && v.Remedy != "" {
			t.Errorf("%s: %+v", name, v)
		}
	}
}
