package web

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gridwire/gridwire/agent/api"
)

// Finding is one sentence about this node's health, and what to do about it.
type Finding struct {
	Level  string `json:"level"` // good, notice, bad
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// Health says in plain words how this node is, the worst first.
func Health(st *api.Status) []Finding {
	if st.Network == nil {
		return []Finding{{"notice", "This machine is no member of a network yet.", "Ask a member for an invitation, then run: gridwire join TOKEN"}}
	}
	out := append(linkFindings(st.Peers), natFindings(st)...)
	for _, w := range st.Warnings {
		text, remedy, _ := strings.Cut(w, "; ")
		out = append(out, Finding{"notice", sentence(text), sentence(remedy)})
	}
	rank := map[string]int{"bad": 0, "notice": 1, "good": 2}
	slices.SortStableFunc(out, func(a, b Finding) int { return rank[a.Level] - rank[b.Level] })
	return out
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// maxNames is how many members a sentence names; the table has the others.
const maxNames = 4

func linkFindings(peers []api.Peer) []Finding {
	if len(peers) == 0 {
		return []Finding{{"notice", "This node is the only member of its network.", "Let another machine in: gridwire invite --name NAME"}}
	}
	var out []Finding
	by := map[string][]string{}
	var lossy []string
	for _, p := range peers {
		by[p.State] = append(by[p.State], p.Name)
		if p.State == "connected" && p.Loss >= 0.05 {
			lossy = append(lossy, fmt.Sprintf("%s (%.0f %%)", p.Name, p.Loss*100))
		}
	}
	up := len(by["connected"]) + len(by["idle"])
	switch {
	case up == len(peers):
		out = append(out, Finding{Level: "good", Text: fmt.Sprintf("All links work (%d).", len(peers))})
	case up == 0:
		out = append(out, Finding{"bad", "No link works: this machine reaches none of the other members.", "Look whether it has internet, and whether its network lets UDP through: gridwire netcheck"})
	default:
		out = append(out, Finding{Level: "good", Text: fmt.Sprintf("%d of %d links work.", up, len(peers))})
	}
	if n := by["unreachable"]; len(n) > 0 && up > 0 {
		out = append(out, Finding{"bad", fmt.Sprintf("No link to %s.", list(n)), "Choose it in the table below to see why, and what would help. A machine that is switched off is no fault."})
	}
	if len(lossy) > 0 {
		out = append(out, Finding{"notice", "Packets are lost on the way to " + list(lossy) + ".", "Wi-Fi, a full line or a bad cable at one of the two ends; the link's chart shows since when."})
	}
	return out
}

func list(names []string) string {
	if len(names) > maxNames {
		return fmt.Sprintf("%s and %d others", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
	}
	return strings.Join(names, ", ")
}

func natFindings(st *api.Status) []Finding {
	switch st.Self.NAT {
	case "blocked":
		return []Finding{{"bad", "No member answers by UDP. This network blocks it, or all other members are off.", "Use another network, or ask whoever runs this one to let UDP out."}}
	case "endpoint-dependent":
		return []Finding{{"notice", "This machine's router gives every destination another port (a symmetric NAT). Some members cannot be reached directly.",
			fmt.Sprintf("Forward UDP port %d on the router to this machine and start the agent with --advertise ADDRESS:%d, or use a connection with IPv6.", st.Self.ListenPort, st.Self.ListenPort)}}
	}
	return nil
}
