package doctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

// Verdict says in one sentence whether this node is fine, and what to do where it is not: the first line of `gridwire status`, for somebody who
// looks once and wants to know whether the box is all right.
type Verdict struct {
	Grade  Grade // Warn: works, but something wants attention, or is under way
	Text   string
	Remedy string // empty: nothing is to be done
}

// Judge takes what the agent says about itself, the worst first. It is pure.
func Judge(st *api.Status, now time.Time) Verdict {
	if st.Network == nil {
		return Verdict{Warn, "This machine is no member of a network yet.", "gridwire join TOKEN, or gridwire init NETWORK"}
	}
	for _, w := range st.Warnings {
		if strings.Contains(w, "put out of the network") || strings.Contains(w, "out of the network;") {
			return Verdict{Bad, "This node is out of its network: no member talks to it.", "gridwire leave, then gridwire join with a new token"}
		}
	}
	if v, ok := certificateVerdict(st, now); ok {
		return v
	}
	return linkVerdict(st)
}

func certificateVerdict(st *api.Status, now time.Time) (Verdict, bool) {
	end, start := st.Self.CertificateExpires, st.Self.CertificateIssued
	if end == nil {
		return Verdict{}, false
	}
	day := end.Local().Format("2 January")
	if now.After(*end) {
		return Verdict{Bad, fmt.Sprintf("This node's certificate expired on %s: other members do not talk to it.", day),
			"start an issuer (gridwire issuer list); within 7 days it renews by itself, later: gridwire leave, then gridwire join TOKEN"}, true
	}
	// Renewal is due at two thirds of its life, and tried each minute. Half of the rest without an issuer is a fault that somebody must know of.
	if start != nil && now.After(end.Add(-end.Sub(*start)/6)) {
		return Verdict{Warn, fmt.Sprintf("This node works, but no issuer has renewed its certificate: it ends on %s.", day), "start an issuer: gridwire issuer list names them"}, true
	}
	return Verdict{}, false
}

// maxNames is how many members the sentence names.
const maxNames = 3

func linkVerdict(st *api.Status) Verdict {
	var down, waiting []string
	up := 0
	for _, p := range st.Peers {
		switch p.State {
		case "connected", "idle":
			up++
		case "unreachable":
			down = append(down, p.Name)
		default:
			waiting = append(waiting, p.Name)
		}
	}
	n := len(st.Peers)
	switch {
	case n == 0:
		return Verdict{OK, "This node is fine: it is the only member so far.", "gridwire invite --name NAME lets another machine in"}
	case st.Self.NAT == "blocked" && up == 0:
		return Verdict{Bad, "This node reaches nobody: no member answers by UDP.", "allow outgoing UDP on this network's firewall, or use another network; gridwire netcheck tells more"}
	case up == 0 && len(down) == 0:
		return Verdict{Warn, "This node is connecting: no link is up yet.", ""}
	case up == 0:
		return Verdict{Bad, fmt.Sprintf("This node reaches none of the other members (%d).", n), "look whether it has internet: gridwire netcheck, gridwire doctor"}
	case up == n:
		return Verdict{OK, fmt.Sprintf("This node is fine: %s up, direct.", count(n)), ""}
	case len(down) == 0:
		return Verdict{OK, fmt.Sprintf("This node is fine: %d of %s up; connecting to %s.", up, count(n), list(waiting)), ""}
	}
	return Verdict{OK, fmt.Sprintf("This node is fine: %d of %s up. No link to %s.", up, count(n), list(down)),
		fmt.Sprintf("gridwire explain %s says why; that it is switched off is no fault of this node", down[0])}
}

func count(n int) string {
	if n == 1 {
		return "1 link is"
	}
	return fmt.Sprintf("%d links are", n)
}

func list(names []string) string {
	if len(names) > maxNames {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
	}
	return strings.Join(names, ", ")
}
