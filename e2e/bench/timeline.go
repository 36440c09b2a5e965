//go:build linux

package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// step is something that an agent's debug log shows: the first line that contains all the words.
type step struct {
	name  string
	words []string
}

// joinSteps are those of a joiner, in the order in which they usually come; carol is the short node ID of the member behind another
// router.
func joinSteps(carol string) []step {
	return []step{
		{"process started, interface and UDP port open", []string{`msg="shared socket open"`}},
		{"admitted by the issuer, membership on disk", []string{`msg="admitted to the network"`}},
		{"addresses, routes and leak guard set, members known", []string{"msg=member", "name=alice"}},
		{"membership proven to the public member", []string{`msg="connected to a member"`}},
		{"link to the public member up", []string{`msg="link up"`, "peer=alice"}},
		{"own NAT judged", []string{`msg="NAT judged"`}},
		{"offer and answer exchanged with the member behind the other router", []string{`msg="ICE checks begin"`, "peer=" + carol}},
		{"ICE selected a pair", []string{`msg="ICE selected a pair"`, "peer=" + carol}},
		{"link to it up", []string{`msg="link up"`, "peer=carol"}},
	}
}

// restartSteps are those of a member that comes back: it knows everybody's last good endpoint.
func restartSteps(string) []step {
	return []step{
		{"process started, interface and UDP port open", []string{`msg="shared socket open"`}},
		{"addresses, routes and leak guard set, members known", []string{"msg=member", "name=alice"}},
		{"link to the public member up", []string{`msg="link up"`, "peer=alice"}},
		{"link to the member behind the other router up", []string{`msg="link up"`, "peer=carol"}},
		{"membership proven to the public member", []string{`msg="connected to a member"`}},
	}
}

// timelines holds, for each step, when it was first seen: seconds from the start of the process.
type timelines struct{ at map[string][]float64 }

var logTime = regexp.MustCompile(`^time=(\S+)`)

// add reads one agent's log. A step that the log does not show is left out.
func (t *timelines) add(start time.Time, log string, steps []step) {
	if t.at == nil {
		t.at = map[string][]float64{}
	}
	for _, s := range steps {
		for line := range strings.Lines(log) {
			m := logTime.FindStringSubmatch(line)
			if m == nil || slices.ContainsFunc(s.words, func(w string) bool { return !strings.Contains(line, w) }) {
				continue
			}
			if at, err := time.Parse(time.RFC3339Nano, m[1]); err == nil {
				t.at[s.name] = append(t.at[s.name], at.Sub(start).Seconds())
				break
			}
		}
	}
}

// note writes the medians below the table.
func (t *timelines) note(b *bench, title string, steps []step) {
	var text strings.Builder
	fmt.Fprintf(&text, "%s (medians, milliseconds from just before the process is started):\n\n| ms | |\n|---|---|\n", title)
	for _, s := range steps {
		if at := t.at[s.name]; len(at) > 0 {
			fmt.Fprintf(&text, "| %.0f | %s |\n", median(at)*1000, s.name)
		}
	}
	b.notef("%s", strings.TrimSuffix(text.String(), "\n"))
}
