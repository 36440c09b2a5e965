package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/gridwire/gridwire/dns/osconf"
)

// served starts a helper over a pipe. When wait returns, it has ended.
func startHelper(t *testing.T, f *fake, detect error) (conn net.Conn, wait func()) {
	t.Helper()
	here, there := net.Pipe()
	m := Machine{
		Detect: func() (osconf.Manager, error) {
			if detect != nil {
				return nil, detect
			}
			return f, nil
		},
		Restore: func(context.Context) ([]string, error) { return nil, f.note("restore") },
		Check: func(s osconf.Settings) (osconf.Settings, error) {
			if s.Interface != "gw0" {
				return s, fmt.Errorf("%s is no interface of this machine", s.Interface)
			}
			return s, nil
		},
	}
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), there, m) }() // wait waits for it
	return here, func() {
		t.Helper()
		_ = here.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestHelper(t *testing.T) {
	ctx := context.Background()
	f := newFake()
	conn, wait := startHelper(t, f, nil)
	h, err := meet(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	if h.Name() != "fake" || !h.NeedsUpstream() {
		t.Errorf("met %q, %v", h.Name(), h.NeedsUpstream())
	}
	if up, err := h.Upstream(); err != nil || fmt.Sprint(up) != "[192.0.2.1]" {
		t.Errorf("upstream %v, %v", up, err)
	}
	settings := osconf.Settings{Interface: "gw0", Servers: []netip.Addr{netip.MustParseAddr("fd00::1")}, Domain: "farm.internal"}
	if err := h.Apply(ctx, settings); err != nil {
		t.Error(err)
	}
	f.watch <- osconf.State{Reason: "changed"}
	watching, stop := context.WithCancel(ctx)
	got, ended := make(chan osconf.State, 1), make(chan error, 1)
	go func() { ended <- h.Watch(watching, func(s osconf.State) { got <- s }) }() // awaited below
	if s := <-got; s.Reason != "changed" {
		t.Errorf("told %+v", s)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	wrong := settings
	wrong.Interface = "eth0"
	if err := h.Apply(ctx, wrong); err == nil || !strings.Contains(err.Error(), "no interface of this machine") {
		t.Errorf("another interface: %v", err)
	}
	for _, kind := range kinds {
		f.set(fmt.Errorf("as it happens: %w", kind))
		if err := h.Apply(ctx, settings); !errors.Is(err, kind) || !strings.Contains(err.Error(), "as it happens") {
			t.Errorf("%v arrived as %v", kind, err)
		}
	}
	f.set(nil)
	if got, want := f.take(), "restore apply fd00::1 apply fd00::1 apply fd00::1 apply fd00::1 apply fd00::1"; got != want {
		t.Errorf("it did %q, want %q", got, want)
	}
	wait() // the agent is killed
	if got := f.take(); got != "revert" {
		t.Errorf("when the agent was killed, the helper did %q", got)
	}
	<-h.gone
	if _, err := h.Upstream(); err == nil {
		t.Error("a helper that is gone answered")
	}
	if err := h.Watch(ctx, func(osconf.State) {}); !errors.Is(err, errHelperGone) {
		t.Errorf("Watch: %v", err)
	}
}

func TestHelperCannotTell(t *testing.T) {
	conn, wait := startHelper(t, newFake(), fmt.Errorf("systemd-resolved is %w", osconf.ErrUnavailable))
	if _, err := meet(context.Background(), conn); !errors.Is(err, osconf.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	wait()
}

// TestHelperRefuses: what is no question of ours gets an error, or ends the connection, and nothing is applied.
func TestHelperRefuses(t *testing.T) {
	f := newFake()
	conn, wait := startHelper(t, f, nil)
	d := json.NewDecoder(conn)
	for _, tc := range []struct{ say, want string }{
		{`{"op":"apply"}`, "before detect"},
		{`{"op":"detect"}`, ""},
		{`{"op":"detect"}`, "twice"},
		{`{"op":"apply"}`, "without settings"},
		{`{"op":"run","settings":{}}`, "does not know"},
	} {
		if _, err := conn.Write([]byte(tc.say)); err != nil {
			t.Fatal(err)
		}
		var a answer
		if err := d.Decode(&a); err != nil || !strings.Contains(a.Error, tc.want) || tc.want == "" && a.Error != "" {
			t.Errorf("%s: %+v, %v", tc.say, a, err)
		}
	}
	wait()
	if got := f.take(); got != "restore revert" {
		t.Errorf("it did %q", got)
	}
	here, there := net.Pipe()
	go func() { _, _ = here.Write([]byte("GET / HTTP/1.0\r\n")) }() // ends with the pipe
	err := Serve(context.Background(), there, Machine{Restore: func(context.Context) ([]string, error) { return nil, nil }})
	if err == nil {
		t.Error("nonsense is no error")
	}
	_, _ = here.Close(), there.Close()
}

func TestCheckInterface(t *testing.T) {
	for _, tc := range []struct{ iface, addr, want string }{
		{"lo", "127.0.0.1", ""},
		{"lo", "192.0.2.1", "no address of lo"},
		{"nosuch0", "127.0.0.1", "no interface"},
	} {
		s, err := checkInterface(osconf.Settings{Interface: tc.iface, Servers: []netip.Addr{netip.MustParseAddr(tc.addr)}})
		if tc.want == "" && (err != nil || s.Index == 0) || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %+v, %v", tc, s, err)
		}
	}
}
