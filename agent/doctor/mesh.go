package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

func agent(s Subject) Result {
	r := Result{Topic: "agent"}
	switch {
	case s.forbidden():
		return fail(r, Warn, "runs, but "+s.Asked.Error(), `sudo gridwire doctor; or join the group: sudo usermod -aG gridwire "$USER", and log in again`)
	case !s.running():
		return fail(r, Warn, "is not running", "systemctl enable --now gridwire   (or: gridwire agent)")
	case !s.member():
		return fail(r, Warn, "runs, and this machine is no member yet", "gridwire join TOKEN")
	}
	up := 0
	for _, p := range s.Status.Peers {
		if p.State == "connected" || p.State == "idle" {
			up++
		}
	}
	if s.Status.Self.NAT == "blocked" {
		return fail(r, Bad, "no member answers by UDP: this network blocks it, or all of them are off", "allow outgoing UDP on this network's firewall; gridwire netcheck")
	}
	text := fmt.Sprintf("runs; %d of %d links are up", up, len(s.Status.Peers))
	if up < len(s.Status.Peers) {
		return fail(r, Warn, text, "gridwire status, gridwire explain NAME")
	}
	return ok("agent", text)
}

// certificate says how old this node's certificate is. It is renewed from two thirds of its life on; later than that, no issuer was reached.
func (m Machine) certificate(s Subject) Result {
	r := Result{Topic: "certificate"}
	end, start := s.Status.Self.CertificateExpires, s.Status.Self.CertificateIssued
	if end == nil || start == nil {
		return ok("certificate", "the agent has not told")
	}
	now := m.Now()
	due := start.Add(end.Sub(*start) / 3 * 2)
	age, left := now.Sub(*start), end.Sub(now)
	late := now.Sub(due)
	switch {
	case left <= 0:
		return fail(r, Bad, fmt.Sprintf("expired on %s and could not be renewed: other members talk to this machine no more", end.UTC().Format("2 January 2006")),
			"start an issuer (gridwire issuer list); within 7 days it renews by itself, later: gridwire leave, gridwire join TOKEN")
	case late > end.Sub(due)/3:
		return fail(r, Warn, fmt.Sprintf("is %s old and should have been renewed %s ago: no issuer was reached; it ends on %s", days(age), days(late), end.UTC().Format("2 January 2006")),
			"start an issuer: gridwire issuer list names them")
	}
	return ok("certificate", fmt.Sprintf("renewed %s ago, valid for another %s", days(age), days(left)))
}

func days(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// versions compares what the members run. Messages carry versions and old members are understood, so a difference is no fault; a member that
// is behind lacks what this one has.
func versions(s Subject) Result {
	r := Result{Topic: "versions"}
	by := map[string][]string{}
	for _, p := range s.Status.Peers {
		if p.Version != "" && p.Version != s.Status.Self.Version {
			by[p.Version] = append(by[p.Version], p.Name)
		}
	}
	if len(by) == 0 {
		return ok("versions", "every member that is known runs "+s.Status.Self.Version)
	}
	var parts []string
	for v, names := range by {
		slices.Sort(names)
		if len(names) > 5 {
			names = append(names[:5], fmt.Sprintf("and %d more", len(names)-5))
		}
		parts = append(parts, v+" on "+strings.Join(names, ", "))
	}
	slices.Sort(parts)
	return fail(r, Warn, fmt.Sprintf("differ: %s here, %s; they understand each other", s.Status.Self.Version, strings.Join(parts, "; ")), "update the older ones, an issuer last")
}
