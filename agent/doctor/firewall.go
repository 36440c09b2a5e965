package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/gridwire/gridwire/agent/config"
	"github.com/gridwire/gridwire/agent/doctor/firewall"
)

// probePort is the link probe's, inside the overlay (agent/links).
const probePort = 9584

// host is what the firewall is asked about.
type host struct {
	port  int
	iface string
	own   []string // networks that this node gives the mesh access to
	front string   // "ufw", "firewalld" or nothing: who keeps the rules
}

// firewall follows packets through the host's rules: a stranger's to the shared port, a member's probe on the overlay interface, the agent's
// own, and one for a network behind this node. It prints the command for whoever keeps the rules.
func (m Machine) firewall(ctx context.Context, s Subject) []Result {
	h := host{port: config.DefaultPort, iface: config.DefaultInterface}
	if s.running() && s.Status.Self.ListenPort != 0 {
		h.port, h.iface = int(s.Status.Self.ListenPort), s.Status.Self.Interface
		for _, r := range s.Status.Routes {
			if r.State == "own" {
				h.own = append(h.own, r.Prefix)
			}
		}
	}
	status, err := m.Run(ctx, "ufw", "status")
	ufw := err == nil && strings.Contains(status, "Status: active")
	state, err := m.Run(ctx, "firewall-cmd", "--state")
	switch {
	case ufw:
		h.front = "ufw"
	case err == nil && strings.Contains(state, "running") && !strings.Contains(state, "not running"):
		h.front = "firewalld"
	}
	rules, err := m.rules(ctx)
	r := Result{Topic: "firewall"}
	switch {
	case errors.Is(err, fs.ErrNotExist) && h.front == "":
		return []Result{ok("firewall", "neither nftables nor iptables, ufw or firewalld is installed")}
	case err != nil && h.front != "":
		return []Result{m.frontEnd(ctx, h, status)}
	case err != nil && !m.Root:
		return []Result{fail(r, Warn, "its rules are for root alone to read", "sudo gridwire doctor")}
	case err != nil:
		return []Result{fail(r, Warn, "its rules cannot be read: "+err.Error(), "")}
	}
	return h.judge(rules)
}

// rules reads all that filters: nftables, and iptables where it is installed. The tables that iptables keeps in nftables are judged by its own
// words, which name what nft cannot show.
func (m Machine) rules(ctx context.Context) (func(firewall.Packet) firewall.Verdict, error) {
	type source struct {
		rules *firewall.Ruleset
		skip  func(*firewall.Chain) bool
	}
	var sources []source
	told := map[string]bool{} // families whose table filter iptables has told of
	for family, tool := range map[string]string{"ip": "iptables", "ip6": "ip6tables"} {
		if out, err := m.Run(ctx, tool, "-S"); err == nil {
			sources = append(sources, source{rules: firewall.ParseIPTables(out, family)})
			told[family] = true
		}
	}
	out, err := m.Run(ctx, "nft", "-j", "list", "ruleset")
	if err == nil {
		set, err := firewall.ParseNFT([]byte(out))
		if err != nil {
			return nil, err
		}
		sources = append(sources, source{set, func(c *firewall.Chain) bool { return c.Table == "filter" && told[c.Family] }})
	} else if len(sources) == 0 {
		return nil, err
	}
	return func(p firewall.Packet) firewall.Verdict {
		worst := firewall.Verdict{}
		for _, s := range sources {
			switch v := s.rules.Judge(p, s.skip); v.Fate {
			case firewall.Dropped:
				return v
			case firewall.Unknown:
				worst = v
			}
		}
		return worst
	}, nil
}

func (h host) judge(fate func(firewall.Packet) firewall.Verdict) []Result {
	r := Result{Topic: "firewall"}
	var out []Result
	dropped := func(p firewall.Packet) (firewall.Verdict, bool) {
		for _, six := range []bool{false, true} {
			p.V6 = six
			if v := fate(p); v.Fate == firewall.Dropped {
				return v, true
			}
		}
		return firewall.Verdict{}, false
	}
	if v, bad := dropped(firewall.Packet{Out: true, SrcPort: h.port, DstPort: config.DefaultPort}); bad {
		out = append(out, fail(r, Bad, fmt.Sprintf("%s drops what the agent sends (UDP from port %d): no link can work", chainText(v), h.port), h.letOut(v)))
	}
	if v, bad := dropped(firewall.Packet{Interface: h.iface, SrcPort: probePort, DstPort: probePort}); bad {
		out = append(out, fail(r, Bad, fmt.Sprintf("%s drops what members send to this machine through %s, their link probes too: links do not come up, and nobody reaches a service here", chainText(v), h.iface), h.trust(v)))
	}
	if v, bad := dropped(firewall.Packet{SrcPort: 40000, DstPort: h.port}); bad {
		out = append(out, fail(r, Warn, fmt.Sprintf("%s lets no stranger's packet in at UDP %d: links still come up from both sides at once, but not to members behind a symmetric NAT, and nobody can join by way of this machine", chainText(v), h.port), h.open(v)))
	}
	if v, bad := dropped(firewall.Packet{Forwarded: true, Interface: h.iface, DstPort: 40000}); bad && len(h.own) > 0 {
		out = append(out, fail(r, Bad, fmt.Sprintf("%s drops what this machine passes on: members do not reach %s through it", chainText(v), strings.Join(h.own, ", ")), h.passOn(v)))
	}
	if len(out) == 0 {
		return []Result{ok("firewall", fmt.Sprintf("lets in UDP %d and what comes through %s", h.port, h.iface))}
	}
	return out
}

func chainText(v firewall.Verdict) string {
	return fmt.Sprintf("the chain %s of table %s %s", v.Chain.Name, v.Chain.Family, v.Chain.Table)
}

// permanent reminds that a rule given by hand is gone after the next boot.
const permanent = "   (and add it to /etc/nftables.conf, to keep it after a reboot)"

func (h host) open(v firewall.Verdict) string {
	switch {
	case h.front == "ufw":
		return fmt.Sprintf("ufw allow %d/udp", h.port)
	case h.front == "firewalld":
		return fmt.Sprintf("firewall-cmd --permanent --add-port=%d/udp && firewall-cmd --reload", h.port)
	case iptablesOwned(v):
		return both(v, fmt.Sprintf("-I INPUT -p udp --dport %d -j ACCEPT", h.port))
	}
	return fmt.Sprintf("nft insert rule %s %s %s udp dport %d accept%s", v.Chain.Family, v.Chain.Table, v.Chain.Name, h.port, permanent)
}

func (h host) trust(v firewall.Verdict) string {
	switch {
	case h.front == "ufw":
		return "ufw allow in on " + h.iface
	case h.front == "firewalld":
		return fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", h.iface)
	case iptablesOwned(v):
		return both(v, fmt.Sprintf("-I INPUT -i %s -j ACCEPT", h.iface))
	}
	return fmt.Sprintf("nft insert rule %s %s %s iifname %s accept%s", v.Chain.Family, v.Chain.Table, v.Chain.Name, h.iface, permanent)
}

func (h host) passOn(v firewall.Verdict) string {
	switch {
	case h.front == "ufw":
		return fmt.Sprintf("ufw route allow in on %s && ufw route allow out on %[1]s", h.iface)
	case h.front == "firewalld":
		return fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", h.iface)
	case iptablesOwned(v):
		return both(v, fmt.Sprintf("-I FORWARD -i %s -j ACCEPT", h.iface)) + " && " + both(v, fmt.Sprintf("-I FORWARD -o %s -j ACCEPT", h.iface))
	}
	return fmt.Sprintf("nft insert rule %s %s %s iifname %s accept; nft insert rule %[1]s %[2]s %[3]s oifname %[4]s accept%[5]s", v.Chain.Family, v.Chain.Table,
		v.Chain.Name, h.iface, permanent)
}

func (h host) letOut(v firewall.Verdict) string {
	switch {
	case h.front == "ufw":
		return fmt.Sprintf("ufw allow out proto udp from any port %d", h.port)
	case iptablesOwned(v):
		return both(v, fmt.Sprintf("-I OUTPUT -p udp --sport %d -j ACCEPT", h.port))
	}
	return fmt.Sprintf("nft insert rule %s %s %s udp sport %d accept%s", v.Chain.Family, v.Chain.Table, v.Chain.Name, h.port, permanent)
}

// iptablesOwned reports whether the chain's name is one that only iptables uses.
func iptablesOwned(v firewall.Verdict) bool {
	return v.Chain.Table == "filter" && v.Chain.Family != "inet" && strings.ToUpper(v.Chain.Name) == v.Chain.Name
}

func both(v firewall.Verdict, rule string) string {
	if v.Chain.Family == "ip6" {
		return "ip6tables " + rule
	}
	return "iptables " + rule + " && ip6tables " + rule
}

// frontEnd goes by what ufw or firewalld say of themselves, where the rules cannot be read.
func (m Machine) frontEnd(ctx context.Context, h host, ufw string) Result {
	r := Result{Topic: "firewall"}
	open := fmt.Sprintf("%d/udp", h.port)
	if h.front == "ufw" {
		if strings.Contains(ufw, open) {
			return ok("firewall", fmt.Sprintf("ufw lets UDP %d in", h.port))
		}
		return fail(r, Warn, fmt.Sprintf("ufw is active and does not let UDP %d in: links to members behind strict NATs will fail", h.port),
			fmt.Sprintf("ufw allow %s && ufw allow in on %s", open, h.iface))
	}
	if ports, err := m.Run(ctx, "firewall-cmd", "--list-ports"); err == nil && strings.Contains(ports, open) {
		return ok("firewall", fmt.Sprintf("firewalld lets UDP %d in", h.port))
	}
	return fail(r, Warn, fmt.Sprintf("firewalld is running and does not let UDP %d in", h.port),
		fmt.Sprintf("firewall-cmd --permanent --add-port=%s && firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", open, h.iface))
}
