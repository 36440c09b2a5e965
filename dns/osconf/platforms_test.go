package osconf

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// macOS.
func TestResolverDir(t *testing.T) {
	ctx := context.Background()
	m := newMachine(t)
	m.write("/etc/resolver/example.com", "nameserver 192.0.2.1\n")
	k := newKeeper(&resolverDir{m.env})
	noError(t, k.Apply(ctx, settings()))
	m.wantOnly(resolverFolder, "2.1.d.f.ip6.arpa", "64.10.in-addr.arpa", "example.com", "farm.internal")
	m.wantText("/etc/resolver/farm.internal", block("gw0", "nameserver 10.64.0.1\nnameserver fd12::1\ntimeout 1\n"))
	noError(t, k.back.refresh(ctx, settings()))

	s := settings()
	s.ReverseZones = s.ReverseZones[:1]
	noError(t, k.Apply(ctx, s)) // one zone fewer
	m.wantOnly(resolverFolder, "64.10.in-addr.arpa", "example.com", "farm.internal")
	m.write("/etc/resolver/farm.internal", "nameserver 192.0.2.2\n")
	wantError(t, k.back.refresh(ctx, s), "steps back")
	noError(t, k.Revert(ctx))
	m.wantOnly(resolverFolder, "example.com", "farm.internal")
	m.wantText("/etc/resolver/farm.internal", "nameserver 192.0.2.2\n")
	err := k.Apply(ctx, settings())
	wantError(t, err, "/etc/resolver/farm.internal")
	if !errors.Is(err, ErrChanged) {
		t.Error("not ErrChanged")
	}
	m.wantOnly(resolverFolder, "example.com", "farm.internal")

	s.Domain = "other.internal"
	noError(t, k.Apply(ctx, s))
	m.alive["gw0"] = true
	if done, err := m.env.removeDead(resolverFolder); err != nil || len(done) > 0 {
		t.Error(done, err)
	}
	m.alive["gw0"] = false
	m.write("/etc/resolver/64.10.in-addr.arpa", m.text("/etc/resolver/64.10.in-addr.arpa")+"port 5353\n")
	done, err := m.env.removeDead(resolverFolder)
	wantError(t, err, "/etc/resolver/64.10.in-addr.arpa is not as gridwire wrote it")
	if !slices.Equal(done, []string{"/etc/resolver/other.internal: removed"}) {
		t.Errorf("%q", done)
	}
	m.wantOnly(resolverFolder, "64.10.in-addr.arpa", "example.com", "farm.internal")
}

// fakeRegistry is HKEY_LOCAL_MACHINE: values by folder, by path.
type fakeRegistry map[string]map[string]map[string]any

func (f fakeRegistry) open(path string) (Registry, error) { return fakeFolder{f, path}, nil }

type fakeFolder struct {
	reg  fakeRegistry
	path string
}

func (f fakeFolder) Folders() ([]string, error) {
	return slices.Sorted(maps.Keys(f.reg[f.path])), nil
}

func (f fakeFolder) Read(folder string) (map[string]any, error) { return f.reg[f.path][folder], nil }

func (f fakeFolder) Write(folder string, values map[string]any) error {
	if f.reg[f.path] == nil {
		f.reg[f.path] = map[string]map[string]any{}
	}
	f.reg[f.path][folder] = values
	return nil
}

func (f fakeFolder) Delete(folder string) error {
	delete(f.reg[f.path], folder)
	return nil
}

func (f fakeFolder) Close() error { return nil }

// Windows.
func TestNRPT(t *testing.T) {
	ctx := context.Background()
	m := newMachine(t)
	reg := fakeRegistry{nrptLocal: {"{other}": {"Comment": "mine", "Name": []string{".example"}}}}
	refreshed := 0
	m.env.Registry, m.env.Refresh = reg.open, func(context.Context) error { refreshed++; return nil }
	k := newKeeper(&nrpt{m.env})
	key := nrptKey("gw0")
	if !regexp.MustCompile(`^\{[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\}$`).MatchString(key) || key == nrptKey("gw1") {
		t.Error("not a GUID of this interface's own:", key)
	}
	noError(t, k.Apply(ctx, settings()))
	noError(t, k.Apply(ctx, settings()))
	rule := reg[nrptLocal][key]
	if rule["GenericDNSServers"] != "10.64.0.1;fd12::1" || rule["ConfigOptions"] != uint32(8) || rule["Comment"] != "gridwire gw0" ||
		!slices.Equal(rule["Name"].([]string), []string{".farm.internal", ".64.10.in-addr.arpa", ".2.1.d.f.ip6.arpa"}) {
		t.Errorf("%v", rule)
	}
	if refreshed != 2 || len(reg[nrptPolicy]) != 0 {
		t.Error(refreshed, reg)
	}
	noError(t, k.back.refresh(ctx, settings()))

	// A group policy makes the machine's own rules count for nothing.
	reg[nrptPolicy] = map[string]map[string]any{"{policy}": {"Comment": "company"}}
	wantError(t, k.back.refresh(ctx, settings()), "steps back")
	noError(t, k.Apply(ctx, settings()))
	noError(t, k.back.refresh(ctx, settings()))
	if reg[nrptLocal][key] != nil || reg[nrptPolicy][key] == nil {
		t.Error("not where it counts")
	}
	noError(t, k.Revert(ctx))
	if len(reg[nrptLocal]) != 1 || len(reg[nrptPolicy]) != 1 {
		t.Errorf("left behind: %v", reg)
	}

	// Our own rule, alone among the policies, is no policy.
	delete(reg[nrptPolicy], "{policy}")
	reg[nrptPolicy][key] = map[string]any{"Comment": "gridwire gw0"}
	noError(t, k.Apply(ctx, settings()))
	if reg[nrptLocal][key] == nil || len(reg[nrptPolicy]) != 0 {
		t.Errorf("%v", reg)
	}

	m.alive["gw0"] = true
	if done, err := restoreNRPT(ctx, m.env); err != nil || len(done) > 0 {
		t.Error(done, err)
	}
	m.alive["gw0"] = false
	done, err := restoreNRPT(ctx, m.env)
	noError(t, err)
	if len(done) != 1 || !strings.Contains(done[0], key) || len(reg[nrptLocal]) != 1 {
		t.Errorf("%q %v", done, reg)
	}

	reg[nrptLocal][key] = map[string]any{"Comment": "mine now"}
	wantError(t, k.Apply(ctx, settings()), "another program")
	if _, err := restoreNRPT(ctx, m.env); err != nil || reg[nrptLocal][key] == nil {
		t.Error("somebody else's rule is gone")
	}
}
