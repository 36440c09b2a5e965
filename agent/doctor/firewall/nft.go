package firewall

import (
	"encoding/json"
	"fmt"
	"strings"
)

type nftObject struct {
	Chain *struct {
		Family, Table, Name, Hook, Policy, Type string
		Prio                                    int
	}
	Rule *struct {
		Family, Table, Chain string
		Expr                 []map[string]json.RawMessage
	}
	Set *struct {
		Family, Table, Name string
		Elem                []json.RawMessage
	}
}

// ParseNFT reads `nft -j list ruleset`.
func ParseNFT(out []byte) (*Ruleset, error) {
	var doc struct{ Nftables []nftObject }
	if err := json.Unmarshal(out, &doc); err != nil {
		return nil, fmt.Errorf("read the rules of nftables: %w", err)
	}
	r := &Ruleset{chains: map[string]*Chain{}}
	sets := map[string][]json.RawMessage{}
	for _, o := range doc.Nftables {
		switch {
		case o.Set != nil:
			sets[o.Set.Family+" "+o.Set.Table+" "+o.Set.Name] = o.Set.Elem
		case o.Chain != nil:
			c := &Chain{Family: o.Chain.Family, Table: o.Chain.Table, Name: o.Chain.Name, prio: o.Chain.Prio}
			if o.Chain.Policy == "drop" {
				c.policy = Dropped
			}
			r.chains[c.Family+" "+c.Table+" "+c.Name] = c
			if c.hook = o.Chain.Hook; c.hook != "" && o.Chain.Type == "filter" {
				r.bases = append(r.bases, c)
			}
		}
	}
	for _, o := range doc.Nftables {
		if o.Rule == nil {
			continue
		}
		if c := r.chains[o.Rule.Family+" "+o.Rule.Table+" "+o.Rule.Chain]; c != nil {
			scope := nftScope{sets: sets, prefix: c.Family + " " + c.Table + " "}
			c.rules = append(c.rules, scope.rule(o.Rule.Expr))
		}
	}
	return r, nil
}

// nftScope is where a rule looks up named sets.
type nftScope struct {
	sets   map[string][]json.RawMessage
	prefix string
}

func unknown(Packet) tri { return maybe }

// harmless statements neither decide nor limit whom a rule is for.
var harmless = map[string]bool{"counter": true, "log": true, "mangle": true, "notrack": true, "ct helper": true}

func (s nftScope) rule(expr []map[string]json.RawMessage) rule {
	var r rule
	for _, e := range expr {
		for kind, body := range e {
			switch kind {
			case "match":
				r.conditions = append(r.conditions, s.match(body))
			case "vmap":
				r.choose = s.vmap(body)
			default:
				if do, target, ok := nftVerdict(kind, body); ok {
					r.do, r.target = do, target
				} else if !harmless[kind] {
					r.conditions = append(r.conditions, unknown) // limit, xt, fib and so on
				}
			}
		}
	}
	return r
}

func nftVerdict(kind string, body json.RawMessage) (verdict, string, bool) {
	switch kind {
	case "accept":
		return accept, "", true
	case "drop", "reject":
		return drop, "", true
	case "return":
		return ret, "", true
	case "jump", "goto":
		var to struct{ Target string }
		_ = json.Unmarshal(body, &to) // an empty target is no chain
		if kind == "goto" {
			return gotoChain, to.Target, true
		}
		return jump, to.Target, true
	}
	return next, "", false
}

func (s nftScope) vmap(body json.RawMessage) func(Packet) (verdict, string, tri) {
	var m struct {
		Key  json.RawMessage
		Data struct{ Set [][2]json.RawMessage }
	}
	if json.Unmarshal(body, &m) != nil || len(m.Data.Set) == 0 {
		return func(Packet) (verdict, string, tri) { return accept, "", maybe }
	}
	value, ok := key(m.Key)
	return func(p Packet) (verdict, string, tri) {
		if !ok {
			return accept, "", maybe
		}
		for _, entry := range m.Data.Set {
			if s.is(value(p), entry[0]) != yes {
				continue
			}
			var do map[string]json.RawMessage
			if json.Unmarshal(entry[1], &do) != nil {
				return accept, "", maybe
			}
			for kind, body := range do {
				if v, target, ok := nftVerdict(kind, body); ok {
					return v, target, yes
				}
			}
		}
		return next, "", no
	}
}

func (s nftScope) match(body json.RawMessage) func(Packet) tri {
	var m struct {
		Op          string
		Left, Right json.RawMessage
	}
	if json.Unmarshal(body, &m) != nil {
		return unknown
	}
	value, ok := key(m.Left)
	if !ok || m.Op != "==" && m.Op != "in" && m.Op != "!=" {
		return unknown
	}
	return func(p Packet) tri {
		t := s.is(value(p), m.Right)
		if m.Op == "!=" && t != maybe {
			t = yes - t
		}
		return t
	}
}

// key returns how to read from a packet what an expression reads; false where packets here do not have it.
func key(left json.RawMessage) (func(Packet) any, bool) {
	var l struct {
		Meta    *struct{ Key string }
		Ct      *struct{ Key string }
		Payload *struct{ Protocol, Field string }
	}
	if json.Unmarshal(left, &l) != nil {
		return nil, false
	}
	switch {
	case l.Meta != nil:
		return metaKey(l.Meta.Key)
	case l.Ct != nil && l.Ct.Key == "state":
		return func(Packet) any { return "new" }, true
	case l.Ct != nil && l.Ct.Key == "status":
		return func(Packet) any { return "" }, true // neither dnat nor snat: it is the first packet of a plain flow
	case l.Payload != nil:
		return payloadKey(l.Payload.Protocol, l.Payload.Field)
	}
	return nil, false
}

func metaKey(k string) (func(Packet) any, bool) {
	switch k {
	case "iif", "iifname":
		return func(p Packet) any {
			if p.Out {
				return ""
			}
			return p.Interface
		}, true
	case "oif", "oifname":
		return func(p Packet) any {
			if p.Out {
				return p.Interface
			}
			return ""
		}, true
	case "l4proto":
		return func(Packet) any { return "udp" }, true
	case "nfproto":
		return func(p Packet) any {
			if p.V6 {
				return "ipv6"
			}
			return "ipv4"
		}, true
	}
	return nil, false
}

func payloadKey(proto, field string) (func(Packet) any, bool) {
	switch {
	case proto == "udp" || proto == "th":
		switch field {
		case "dport":
			return func(p Packet) any { return p.DstPort }, true
		case "sport":
			return func(p Packet) any { return p.SrcPort }, true
		}
	case proto == "ip" && field == "protocol" || proto == "ip6" && field == "nexthdr":
		return func(Packet) any { return "udp" }, true
	case proto != "ip" && proto != "ip6" && proto != "ether":
		return func(Packet) any { return nil }, true // another transport protocol: never equal to anything
	}
	return nil, false
}

// is compares a packet's value with the right side of a match: a value, a set, a range or the name of a set.
func (s nftScope) is(value any, right json.RawMessage) tri {
	if value == nil {
		return no
	}
	var text string
	if json.Unmarshal(right, &text) == nil {
		if name, ok := strings.CutPrefix(text, "@"); ok {
			return s.any(value, s.sets[s.prefix+name])
		}
		v, ok := value.(string)
		return truth(ok && same(v, text))
	}
	var number int
	if json.Unmarshal(right, &number) == nil {
		return truth(value == number)
	}
	var list []json.RawMessage
	if json.Unmarshal(right, &list) == nil {
		return s.any(value, list)
	}
	var o struct {
		Set   []json.RawMessage
		Range []int
		Elem  *struct{ Val json.RawMessage }
	}
	if json.Unmarshal(right, &o) != nil {
		return maybe
	}
	switch n, isNumber := value.(int); {
	case o.Set != nil:
		return s.any(value, o.Set)
	case o.Elem != nil:
		return s.is(value, o.Elem.Val)
	case len(o.Range) == 2:
		return truth(isNumber && n >= o.Range[0] && n <= o.Range[1])
	}
	return maybe
}

func (s nftScope) any(value any, list []json.RawMessage) tri {
	out := no
	for _, e := range list {
		switch s.is(value, e) {
		case yes:
			return yes
		case maybe:
			out = maybe
		}
	}
	return out
}

// same compares names; a trailing asterisk stands for any rest (iifname "gw*").
func same(v, pattern string) bool {
	if start, ok := strings.CutSuffix(pattern, "*"); ok {
		return v != "" && strings.HasPrefix(v, start)
	}
	return v == pattern
}
