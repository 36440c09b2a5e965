package osconf

import (
	"net/netip"
	"strings"
)

// The format of resolv.conf(5), as glibc reads it: a keyword in the first column, blanks, values. Of several `search` and `domain` lines
// the last counts, of several `options` each, the later ones winning.

const (
	wasAbsent = "# there was no such file before\n"
	// Of our address nothing may be heard when the agent was killed. glibc then goes on to the next server after this, instead of after
	// 5 s; three rounds make up for the shorter wait where the others are slow. It stands before the machine's own options, which win.
	impatient = "timeout:1 attempts:3"
)

// keyword splits a line of resolv.conf; comments and blank lines have none.
func keyword(line string) (word string, values []string) {
	f := strings.Fields(line)
	if len(f) == 0 || !strings.HasPrefix(line, f[0]) || f[0][0] == '#' || f[0][0] == ';' {
		return "", nil
	}
	return f[0], f[1:]
}

// nameservers returns those of a resolv.conf, in order, without doubles.
func nameservers(text string) []netip.Addr {
	var found []netip.Addr
	seen := map[netip.Addr]bool{}
	for line := range strings.SplitSeq(text, "\n") {
		word, values := keyword(line)
		if word != "nameserver" || len(values) == 0 {
			continue
		}
		a, err := netip.ParseAddr(values[0])
		if err != nil || seen[a] {
			continue
		}
		seen[a] = true
		found = append(found, a)
	}
	return found
}

// servers returns whom a machine with this resolv.conf asks: without a name server in it, one on the machine itself.
func servers(text string) []netip.Addr {
	if found := nameservers(text); len(found) > 0 {
		return found
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
}

// searchList returns what short names are completed with, from resolv.conf or else the machine's own name.
func searchList(text, hostname string) []string {
	var list []string
	said := false
	for line := range strings.SplitSeq(text, "\n") {
		switch word, values := keyword(line); {
		case word == "search":
			list, said = values, true
		case word == "domain" && len(values) > 0:
			list, said = values[:1], true
		}
	}
	if _, domain, ok := strings.Cut(strings.TrimSpace(hostname), "."); ok && !said && domain != "" {
		list = []string{domain}
	}
	return list
}

// rotates reports an options line that has glibc take the servers in turn, in which case ours would be asked only now and then.
func rotates(line string) bool {
	word, values := keyword(line)
	if word != "options" {
		return false
	}
	for _, v := range values {
		if v == "rotate" {
			return true
		}
	}
	return false
}

// edit returns a resolv.conf with our block at its top. base is the file without it, absent that there is none. For all base without a
// mark, strip(edit(base)) is base again.
func edit(base string, absent bool, s Settings, hostname string) string {
	var body strings.Builder
	if absent {
		body.WriteString(wasAbsent)
	}
	body.WriteString("nameserver " + s.single().String() + "\n")
	if len(nameservers(base)) == 0 {
		for _, a := range servers(base) {
			body.WriteString("nameserver " + a.String() + "\n")
		}
	}
	if s.Search {
		// Last, so that no short name of ours hides one that was found before.
		body.WriteString("search " + strings.Join(append(searchList(base, hostname), s.Domain), " ") + "\n")
	}
	options := []string{impatient}
	var rest strings.Builder
	for line := range strings.SplitAfterSeq(base, "\n") {
		word, values := keyword(line)
		switch {
		case rotates(line):
			for _, v := range values {
				if v != "rotate" {
					options = append(options, v)
				}
			}
			rest.WriteString(silencer(s.Interface))
		case s.Search && (word == "search" || word == "domain"):
			rest.WriteString(silencer(s.Interface))
		}
		rest.WriteString(line)
	}
	body.WriteString("options " + strings.Join(options, " ") + "\n")
	return block(s.Interface, body.String()) + rest.String()
}
