package osconf

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

const ownerChanged = "/org/freedesktop/DBus org.freedesktop.DBus.NameOwnerChanged org.freedesktop.resolve1"

// fakeResolved is systemd-resolved on a fake bus: it keeps what it is told about link 7.
type fakeResolved struct {
	bus     *fakeBus
	refuse  string // this method, with this error's name
	refusal string
}

func newFakeResolved() *fakeResolved {
	r := &fakeResolved{bus: newFakeBus()}
	r.start()
	return r
}

func (r *fakeResolved) start() {
	r.bus.set(func() {
		r.bus.services[resolvedName] = r.handle
		r.forget()
	})
}

func (r *fakeResolved) stop() { r.bus.set(func() { delete(r.bus.services, resolvedName) }) }

const linkPath = "/org/freedesktop/resolve1/link/_37"

func (r *fakeResolved) forget() {
	r.bus.properties[resolvedName+linkPath+" Domains"] = [][]any{}
	r.bus.properties[resolvedName+linkPath+" DNS"] = [][]any{}
}

func (r *fakeResolved) handle(_, method string, args []any) ([]any, error) {
	if method == r.refuse {
		return nil, &BusError{r.refusal, "no"}
	}
	switch method {
	case "SetLinkDomains":
		var domains [][]any
		for _, d := range args[1].([]linkDomain) {
			domains = append(domains, []any{d.Domain, d.RoutingOnly})
		}
		r.bus.properties[resolvedName+linkPath+" Domains"] = domains
	case "SetLinkDNS":
		var dns [][]any
		for _, d := range args[1].([]linkDNS) {
			dns = append(dns, []any{d.Family, d.Address})
		}
		r.bus.properties[resolvedName+linkPath+" DNS"] = dns
	case "RevertLink":
		r.forget()
	case "GetLink":
		return []any{linkPath}, nil
	}
	return nil, nil
}

const applyCalls = `SetLinkDefaultRoute 7 false
SetLinkDomains 7 [{farm.internal true} {64.10.in-addr.arpa true} {2.1.d.f.ip6.arpa true}]
SetLinkDNSSEC 7 no
SetLinkDNSOverTLS 7 no
SetLinkLLMNR 7 no
SetLinkMulticastDNS 7 no
SetLinkDNS 7 [{2 [10 64 0 1]} {10 [253 18 0 0 0 0 0 0 0 0 0 0 0 0 0 1]}]
FlushCaches`

func TestResolved(t *testing.T) {
	ctx := context.Background()
	r := newFakeResolved()
	k := newKeeper(&resolved{Env{Bus: r.bus.connect}})
	if k.NeedsUpstream() {
		t.Error("needs an upstream")
	}
	noError(t, k.Apply(ctx, settings()))
	if got := r.bus.take(); got != applyCalls {
		t.Errorf("calls\n%s\nwant\n%s", got, applyCalls)
	}
	s := settings()
	s.Search = true
	noError(t, k.Apply(ctx, s))
	if got := r.bus.take(); !strings.Contains(got, "{farm.internal false} {64.10.in-addr.arpa true}") {
		t.Error(got)
	}
	noError(t, k.Revert(ctx))
	if got := r.bus.take(); got != "RevertLink 7\nFlushCaches" {
		t.Error(got)
	}
	if n := r.bus.connections(); n != 0 {
		t.Errorf("%d connections are left open", n)
	}
	s.Index = 0
	wantError(t, k.Apply(ctx, s), "0 is not the number")
}

func TestResolvedRefuses(t *testing.T) {
	ctx := context.Background()
	for _, tc := range []struct{ method, name, want, calls string }{
		{"SetLinkDefaultRoute", "org.freedesktop.resolve1.LinkBusy", "Unmanaged=yes", "SetLinkDefaultRoute"},
		{"SetLinkDNS", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", "org.freedesktop.resolve1.set-dns-servers", "RevertLink"},
		{"SetLinkDomains", "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.resolve1.set-domains", "RevertLink"},
		{"SetLinkLLMNR", "org.freedesktop.DBus.Error.UnknownMethod", "SetLinkLLMNR for gw0", "RevertLink"},
		{"SetLinkDNSOverTLS", "org.freedesktop.DBus.Error.UnknownMethod", "", "FlushCaches"}, // an old version
		{"SetLinkDefaultRoute", "org.freedesktop.DBus.Error.UnknownMethod", "", "FlushCaches"},
		{"FlushCaches", "org.freedesktop.DBus.Error.AccessDenied", "", "FlushCaches"},
	} {
		r := newFakeResolved()
		r.refuse, r.refusal = tc.method, tc.name
		k := newKeeper(&resolved{Env{Bus: r.bus.connect}})
		err := k.Apply(ctx, settings())
		if tc.want == "" {
			noError(t, err)
		} else {
			wantError(t, err, tc.want)
		}
		calls := strings.Split(r.bus.take(), "\n")
		if last := calls[len(calls)-1]; !strings.HasPrefix(last, tc.calls) {
			t.Errorf("%s refused: last call is %q, want %q", tc.method, last, tc.calls)
		}
	}
	// The interface has gone, and its settings with it.
	r := newFakeResolved()
	k := newKeeper(&resolved{Env{Bus: r.bus.connect}})
	noError(t, k.Apply(ctx, settings()))
	r.refuse, r.refusal = "RevertLink", "org.freedesktop.resolve1.NoSuchLink"
	noError(t, k.Revert(ctx))
	noError(t, k.Apply(ctx, settings()))
	r.stop()
	noError(t, k.Revert(ctx))
}

func TestResolvedRestarts(t *testing.T) {
	defer goleak.VerifyNone(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		r := newFakeResolved()
		k := newKeeper(&resolved{Env{Bus: r.bus.connect}})
		noError(t, k.Apply(ctx, settings()))
		var reports []State
		ended := make(chan error, 1)
		report := func(s State) { r.bus.set(func() { reports = append(reports, s) }) }
		go func() { ended <- k.Watch(ctx, report) }() // the test waits for it
		synctest.Wait()
		r.bus.take()

		r.stop()
		r.bus.signal(ownerChanged)
		synctest.Wait()
		r.start()
		r.bus.signal(ownerChanged)
		synctest.Wait()
		if got := r.bus.take(); !strings.HasSuffix(got, applyCalls) {
			t.Errorf("after the restart:\n%s", got)
		}
		r.bus.mu.Lock()
		if len(reports) != 3 || !reports[0].Applied || reports[1].Applied || !strings.Contains(reports[1].Reason, "not running") || !reports[2].Applied {
			t.Errorf("reports: %+v", reports)
		}
		r.bus.mu.Unlock()

		r.bus.signal(ownerChanged) // another start, but it had kept everything
		synctest.Wait()
		if got := r.bus.take(); got != "GetLink 7" {
			t.Errorf("applied again without need:\n%s", got)
		}

		r.bus.set(func() { r.bus.down = true })
		r.bus.lose() // the bus itself restarts, and resolved with it
		time.Sleep(2 * lookEvery)
		r.start()
		r.bus.set(func() { r.bus.down = false })
		time.Sleep(lookEvery)
		synctest.Wait()
		if got := r.bus.take(); !strings.HasSuffix(got, applyCalls) {
			t.Errorf("after the bus came back:\n%s", got)
		}
		r.bus.set(r.forget)
		r.bus.signal(ownerChanged)
		synctest.Wait()
		if got := r.bus.take(); !strings.HasSuffix(got, applyCalls) {
			t.Errorf("the new connection does not follow:\n%s", got)
		}
		cancel()
		noError(t, <-ended)
		if n := r.bus.connections(); n != 0 {
			t.Errorf("%d connections are left open", n)
		}
	})
}

func TestLinkCallsHaveAllServers(t *testing.T) {
	s, err := settings().check()
	noError(t, err)
	calls := linkCalls(s)
	last := calls[len(calls)-1]
	if last.method != "SetLinkDNS" {
		t.Error("the servers come before what they are for")
	}
	if n := len(last.args[0].([]linkDNS)); n != 2 {
		t.Errorf("%d servers", n)
	}
	if !slices.ContainsFunc(calls, func(c linkCall) bool { return c.method == "SetLinkDefaultRoute" && c.args[0] == false }) {
		t.Error("would be asked for everything")
	}
}
