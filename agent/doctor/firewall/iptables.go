package firewall

import (
	"slices"
	"strconv"
	"strings"
)

// ParseIPTables reads `iptables -S` (family ip) or `ip6tables -S` (family ip6).
func ParseIPTables(out, family string) *Ruleset {
	r := &Ruleset{chains: map[string]*Chain{}}
	chain := func(name string) *Chain {
		k := family + " filter " + name
		if r.chains[k] == nil {
			r.chains[k] = &Chain{Family: family, Table: "filter", Name: name}
		}
		return r.chains[k]
	}
	for line := range strings.Lines(out) {
		w := words(line)
		if len(w) < 2 {
			continue
		}
		switch w[0] {
		case "-P":
			c := chain(w[1])
			c.hook = map[string]string{"INPUT": "input", "FORWARD": "forward", "OUTPUT": "output"}[w[1]]
			if len(w) > 2 && w[2] == "DROP" {
				c.policy = Dropped
			}
			r.bases = append(r.bases, c)
		case "-N":
			chain(w[1])
		case "-A":
			c := chain(w[1])
			c.rules = append(c.rules, iptablesRule(w[2:]))
		}
	}
	return r
}

// words splits a line as a shell would, as far as iptables quotes (comments).
func words(line string) []string {
	var out []string
	rest := strings.TrimSpace(line)
	for rest != "" {
		if rest[0] == '"' {
			end := strings.IndexByte(rest[1:], '"')
			if end < 0 {
				return append(out, rest)
			}
			out = append(out, rest[1:end+1])
			rest = strings.TrimSpace(rest[end+2:])
			continue
		}
		word, after, _ := strings.Cut(rest, " ")
		out = append(out, word)
		rest = strings.TrimSpace(after)
	}
	return out
}

// options that take one value and limit nothing, or only name a module whose own options follow.
var idle = []string{"-m", "--comment", "--reject-with", "--log-prefix", "--log-level"}

func iptablesRule(w []string) rule {
	r := rule{}
	negate := false
	add := func(f func(Packet) tri) {
		if negate {
			g := f
			f = func(p Packet) tri {
				if t := g(p); t != maybe {
					return yes - t
				}
				return maybe
			}
		}
		negate = false
		r.conditions = append(r.conditions, f)
	}
	for i := 0; i < len(w); i++ {
		if w[i] == "!" {
			negate = true
			continue
		}
		value := ""
		if i+1 < len(w) {
			value = w[i+1]
		}
		switch {
		case w[i] == "-j" || w[i] == "-g":
			r.do, r.target = iptablesTarget(w[i], value)
			i++
		case slices.Contains(idle, w[i]):
			i++
		default:
			add(iptablesMatch(w[i], value))
			if value != "" && !strings.HasPrefix(value, "-") && value != "!" {
				i++
			}
		}
	}
	return r
}

func iptablesTarget(option, target string) (verdict, string) {
	switch target {
	case "ACCEPT":
		return accept, ""
	case "DROP", "REJECT":
		return drop, ""
	case "RETURN":
		return ret, ""
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TRACE":
		return next, ""
	}
	if option == "-g" {
		return gotoChain, target
	}
	return jump, target
}

func iptablesMatch(option, value string) func(Packet) tri {
	fixed := func(b bool) func(Packet) tri { return func(Packet) tri { return truth(b) } }
	switch option {
	case "-p":
		return fixed(value == "udp" || value == "all" || value == "17")
	case "-i", "-o":
		pattern := value
		if s, ok := strings.CutSuffix(value, "+"); ok {
			pattern = s + "*"
		}
		return func(p Packet) tri { return truth(p.Out == (option == "-o") && same(p.Interface, pattern)) }
	case "--dport", "--dports":
		return func(p Packet) tri { return truth(inPorts(p.DstPort, value)) }
	case "--sport", "--sports":
		return func(p Packet) tri { return truth(inPorts(p.SrcPort, value)) }
	case "--ctstate", "--state":
		return fixed(slices.Contains(strings.Split(value, ","), "NEW"))
	}
	return unknown
}

func inPorts(port int, list string) bool {
	for part := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(part, ":")
		if !ranged {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err1 == nil && err2 == nil && port >= a && port <= b {
			return true
		}
	}
	return false
}
