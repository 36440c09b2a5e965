package doctor

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/dns/osconf"
)

// resolver is one without faults; each case breaks one thing.
func goodResolver() Resolver {
	return Resolver{
		Manager: func() (string, error) { return "systemd-resolved", nil },
		Left:    func() []string { return nil },
		Ask:     func(context.Context, string, string) []string { return []string{"fd00::1"} },
		Lookup:  func(context.Context, string) ([]string, error) { return []string{"fd00::1", "10.64.0.1"}, nil },
		Helper:  func() bool { return true },
		Run:     func(context.Context, string, ...string) (string, error) { return "", nil },
	}
}

func TestNames(t *testing.T) {
	status := &api.Status{Network: &api.Network{}, Self: api.Self{Name: "bob", Interface: "gw0", Addresses: []string{"fd00::1/128", "10.64.0.1/32"}}}
	good := api.Names{Domain: "farm.internal", Serve: true, Serving: []string{"fd00::1"}, Configure: true, Configured: true, Resolver: "systemd-resolved"}
	for what, tc := range map[string]struct {
		change func(*Resolver, *api.Names)
		grade  Grade // the worst
		want   string
		fix    bool
	}{
		"all is well": {func(*Resolver, *api.Names) {}, OK, "programs find bob.farm.internal", false},
		"not served":  {func(_ *Resolver, n *api.Names) { n.Serving = nil }, Bad, "another DNS server", false},
		"silent":      {func(r *Resolver, _ *api.Names) { r.Ask = func(context.Context, string, string) []string { return nil } }, Bad, "does not answer", false},
		"never served": {func(_ *Resolver, n *api.Names) {
			n.Serve, n.Serving, n.Configure, n.Configured = false, nil, false, false
		}, OK, "as the configuration says", false},
		"left out":     {func(_ *Resolver, n *api.Names) { n.LeftOut = []string{"member x"} }, Warn, "left out: member x", false},
		"switched off": {func(_ *Resolver, n *api.Names) { n.Configure, n.Configured = false, false }, OK, "left alone", false},
		"not found": {func(r *Resolver, _ *api.Names) {
			r.Lookup = func(context.Context, string) ([]string, error) { return nil, nil }
		}, Warn, "nsswitch", false},
		"no getent": {func(r *Resolver, _ *api.Names) {
			r.Lookup = func(context.Context, string) ([]string, error) { return nil, errors.New("not installed") }
		}, OK, "asks this node for farm.internal", false},
		"no right": {func(_ *Resolver, n *api.Names) {
			n.Configured, n.Reason = false, "edit /etc/resolv.conf: "+osconf.ErrRights.Error()
		}, Warn, "systemctl enable --now gridwire-resolver.socket", true},
		"no helper": {func(r *Resolver, n *api.Names) {
			n.Configured, n.Reason = false, "edit /etc/resolv.conf: "+osconf.ErrRights.Error()
			r.Helper = func() bool { return false }
		}, Warn, "make install", false},
		"another program": {func(_ *Resolver, n *api.Names) { n.Configured, n.Reason = false, "another program has changed it" }, Warn, "another program", false},
	} {
		r, n := goodResolver(), good
		tc.change(&r, &n)
		var all strings.Builder
		worst, fix := OK, false
		for _, got := range r.Names(t.Context(), status, func(context.Context) *api.Names { return &n }) {
			all.WriteString(got.Finding + " -> " + got.Remedy + "\n")
			if got.Grade == Bad || got.Grade == Warn && worst == OK {
				worst = got.Grade
			}
			fix = fix || got.Fix != nil
		}
		if worst != tc.grade || fix != tc.fix || !strings.Contains(all.String(), tc.want) {
			t.Errorf("%s: %s, can be mended %v:\n%s", what, worst, fix, all.String())
		}
	}
}

// TestNamesWaits: an agent that has just started is not judged by its first moment.
func TestNamesWaits(t *testing.T) {
	status := &api.Status{Network: &api.Network{}, Self: api.Self{Name: "bob", Addresses: []string{"fd00::1/128"}}}
	asked := 0
	got := goodResolver().Names(t.Context(), status, func(context.Context) *api.Names {
		asked++
		n := &api.Names{Domain: "farm.internal", Serve: true, Configure: true}
		if asked > 1 {
			n.Serving, n.Configured = []string{"fd00::1"}, true
		}
		return n
	})
	if asked != 2 || got[0].Grade != OK || got[1].Grade != OK {
		t.Errorf("asked %d times: %+v", asked, got)
	}
}

func none(context.Context) *api.Names { return nil }

func TestNamesWithoutAnAgent(t *testing.T) {
	r := goodResolver()
	if got := r.Names(t.Context(), nil, none); len(got) != 1 || got[0].Grade != OK || got[0].Fix != nil {
		t.Errorf("%+v", got)
	}
	restored := false
	r.Left = func() []string { return []string{"/etc/resolv.conf has lines for gw0"} }
	r.Restore = func(context.Context) error { restored = true; return nil }
	got := r.Names(t.Context(), nil, none)
	if len(got) != 1 || got[0].Grade != Warn || !strings.Contains(got[0].Finding, "lines for gw0") || got[0].Fix == nil {
		t.Fatalf("%+v", got)
	}
	if err := got[0].Fix(t.Context()); err != nil || !restored {
		t.Error("not put back:", err)
	}
}
