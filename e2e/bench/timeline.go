//go:build linux

package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// step is something that an agent's debug log shows.
type step struct {
	name  string
	match *regexp.Regexp
}

var joinSteps = []step{
	{"shared socket open", regexp.MustCompile(`msg="shared socket open"`)},
	{"control connection to a member", regexp.MustCompile(`msg="connected to a member"`)},
	{"link up", regexp.MustCompile(`msg="link up"`)},
}

var restartSteps = joinSteps

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
			if m == nil || !s.match.MatchString(line) {
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
	var parts []string
	for _, s := range steps {
		if at := t.at[s.name]; len(at) > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f ms", s.name, median(at)*1000))
		}
	}
	b.notef("%s (medians from the start of the process): %s.", title, strings.Join(parts, ", "))
}
