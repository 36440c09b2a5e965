// Package health judges what an agent says about itself: the first line of `gridwire status`, and the list at the top of the page, in the same
// words. It is pure. What it judges is api.Status; the checks of the machine below it are package doctor's.
package health

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

// Grade is how good or bad a finding is.
type Grade string

// The grades.
const (
	Good   Grade = "good"
	Notice Grade = "notice" // works, but something wants attention, or is under way
	Bad    Grade = "bad"
)

// Finding is one sentence about this node, and what to do about it.
type Finding struct {
	Grade  Grade    `json:"level"`
	Text   string   `json:"text"`
	Remedy string   `json:"remedy,omitempty"` // empty: nothing is to be done
	About  []string `json:"about,omitempty"`  // the members that it is about, where it is about some
}

// Judge says in one finding whether this node is fine, for somebody who looks once and wants to know whether the box is all right.
func Judge(st *api.Status, now time.Time) Finding {
	v := headline(st, now)
	if down := missing(st.Peers); v.Grade == Good && len(down.About) > 0 {
		v.Text += " " + down.Text
		v.Remedy, v.About = down.Remedy, down.About
	}
	return v
}

// Findings says all there is to say: what Judge says first, then the rest, the worst first.
func Findings(st *api.Status, now time.Time) []Finding {
	out := []Finding{headline(st, now)}
	if st.Network == nil {
		return out
	}
	var rest []Finding
	if down := missing(st.Peers); out[0].Grade == Good && len(down.About) > 0 {
		rest = append(rest, down)
	}
	rest = append(rest, append(lossy(st.Peers), symmetric(st)...)...)
	for _, w := range st.Warnings {
		if putOut(w) || expired(st, now) && strings.HasPrefix(w, "this node's certificate expired") {
			continue // the headline says it
		}
		text, remedy, _ := strings.Cut(w, "; ")
		rest = append(rest, Finding{Grade: Notice, Text: sentence(text), Remedy: remedy})
	}
	slices.SortStableFunc(rest, func(a, b Finding) int { return rank[a.Grade] - rank[b.Grade] })
	return append(out, rest...)
}

var rank = map[Grade]int{Bad: 0, Notice: 1, Good: 2}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + strings.TrimSuffix(s[1:], ".") + "."
}

func putOut(warning string) bool {
	return strings.Contains(warning, "put out of the network") || strings.Contains(warning, "out of the network;")
}

func headline(st *api.Status, now time.Time) Finding {
	switch {
	case st.Network == nil:
		return Finding{Grade: Notice, Text: "This machine is no member of a network yet.", Remedy: "gridwire join TOKEN, or gridwire init NETWORK"}
	case slices.ContainsFunc(st.Warnings, putOut):
		return Finding{Grade: Bad, Text: "This node is out of its network: no member talks to it.", Remedy: "gridwire leave, then gridwire join with a new token"}
	}
	if f, ok := certificate(st, now); ok {
		return f
	}
	return links(st)
}

func expired(st *api.Status, now time.Time) bool {
	return st.Self.CertificateExpires != nil && now.After(*st.Self.CertificateExpires)
}

func certificate(st *api.Status, now time.Time) (Finding, bool) {
	end, start := st.Self.CertificateExpires, st.Self.CertificateIssued
	if end == nil {
		return Finding{}, false
	}
	day := end.Local().Format("2 January")
	if expired(st, now) {
		return Finding{Grade: Bad, Text: fmt.Sprintf("This node's certificate expired on %s: other members do not talk to it.", day),
			Remedy: "start an issuer (gridwire issuer list); within 7 days it renews by itself, later: gridwire leave, then gridwire join TOKEN"}, true
	}
	// Renewal is due at two thirds of its life, and tried each minute. Half of the rest without an issuer is a fault that somebody must know of.
	if start != nil && now.After(end.Add(-end.Sub(*start)/6)) {
		return Finding{Grade: Notice, Text: fmt.Sprintf("This node works, but no issuer has renewed its certificate: it ends on %s.", day),
			Remedy: "start an issuer: gridwire issuer list names them"}, true
	}
	return Finding{}, false
}

// links says how many work. Those that do not are missing's, as long as some do.
func links(st *api.Status) Finding {
	var waiting []string
	up, down, relayed := 0, 0, 0
	for _, p := range st.Peers {
		switch p.State {
		case "connected", "idle":
			up++
			if p.Path.Kind == "relay" {
				relayed++
			}
		case "unreachable":
			down++
		default:
			waiting = append(waiting, p.Name)
		}
	}
	n := len(st.Peers)
	switch {
	case n == 0:
		return Finding{Grade: Good, Text: "This node is fine: it is the only member so far.", Remedy: "gridwire invite --name NAME lets another machine in"}
	case st.Self.NAT == "blocked" && up == 0:
		return Finding{Grade: Bad, Text: "This node reaches nobody: no member answers by UDP.",
			Remedy: "allow outgoing UDP on this network's firewall, or use another network; gridwire netcheck tells more"}
	case up == 0 && down == 0:
		return Finding{Grade: Notice, Text: "This node is connecting: no link is up yet."}
	case up == 0:
		return Finding{Grade: Bad, Text: fmt.Sprintf("This node reaches none of the other members (%d).", n), Remedy: "look whether it has internet: gridwire netcheck, gridwire doctor"}
	case up == n && relayed == 0:
		return Finding{Grade: Good, Text: fmt.Sprintf("This node is fine: %s up, direct.", count(n))}
	case up == n:
		return Finding{Grade: Good, Text: fmt.Sprintf("This node is fine: %s up, %d of them by way of a relay.", count(n), relayed)}
	case down == 0:
		return Finding{Grade: Good, Text: fmt.Sprintf("This node is fine: %d of %s up; connecting to %s.", up, count(n), list(waiting))}
	}
	return Finding{Grade: Good, Text: fmt.Sprintf("This node is fine: %d of %s up.", up, count(n))}
}

// missing is about the links that do not work.
func missing(peers []api.Peer) Finding {
	var down []string
	for _, p := range peers {
		if p.State == "unreachable" {
			down = append(down, p.Name)
		}
	}
	if len(down) == 0 {
		return Finding{}
	}
	return Finding{Notice, fmt.Sprintf("No link to %s.", list(down)),
		fmt.Sprintf("gridwire explain %s says why; that it is switched off is no fault of this node", down[0]), down}
}

// notableLoss is from where people notice.
const notableLoss = 0.05

func lossy(peers []api.Peer) []Finding {
	var said, names []string
	for _, p := range peers {
		if p.State == "connected" && p.Loss >= notableLoss {
			said, names = append(said, fmt.Sprintf("%s (%.0f %%)", p.Name, p.Loss*100)), append(names, p.Name)
		}
	}
	if len(said) == 0 {
		return nil
	}
	return []Finding{{Notice, "Packets are lost on the way to " + list(said) + ".",
		"look for weak Wi-Fi, a full line or a bad cable at one of the two ends; the link's last 24 hours show since when", names}}
}

func symmetric(st *api.Status) []Finding {
	if st.Self.NAT != "endpoint-dependent" {
		return nil
	}
	return []Finding{{Grade: Notice, Text: "This machine's router gives every destination another port (a symmetric NAT): some members cannot be reached directly.",
		Remedy: fmt.Sprintf("forward UDP port %d on the router to this machine and start the agent with --advertise ADDRESS:%[1]d, or use a connection with IPv6", st.Self.ListenPort)}}
}

func count(n int) string {
	if n == 1 {
		return "1 link is"
	}
	return fmt.Sprintf("%d links are", n)
}

// maxNames is how many members a sentence names.
const maxNames = 3

func list(names []string) string {
	if len(names) > maxNames {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
	}
	return strings.Join(names, ", ")
}
