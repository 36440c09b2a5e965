package osconf

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
	"go.uber.org/goleak"
)

// privateBus starts a message bus of this test's own, and has systemBus find it.
func privateBus(t *testing.T) {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("no dbus-daemon here (Debian: apt-get install --no-install-recommends dbus-daemon); the fake bus has tested all but the wire")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "bus.conf")
	noError(t, os.WriteFile(conf, []byte(`<busconfig><listen>unix:path=`+dir+`/bus</listen>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`), 0o600))
	cmd := exec.Command(program, "--nofork", "--nosyslog", "--print-address=1", "--config-file="+conf)
	stdout, err := cmd.StdoutPipe()
	noError(t, err)
	noError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(stdout).ReadString('\n')
	noError(t, err)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", strings.TrimSpace(address))
}

// wireResolved is a systemd-resolved with the real one's signatures (org.freedesktop.resolve1(5)).
type wireResolved struct {
	mu      sync.Mutex
	conn    *dbus.Conn
	dns     []linkDNS
	domains []linkDomain
	route   *bool
	modes   map[string]string
	flushed int
	props   *prop.Properties
	applied chan struct{} // a value after SetLinkDNS
}

func (w *wireResolved) do(change func()) *dbus.Error {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	return nil
}

func (w *wireResolved) SetLinkDNS(index int32, dns []linkDNS) *dbus.Error {
	if index != 7 {
		return dbus.NewError("org.freedesktop.resolve1.NoSuchLink", []any{"Link 9 not known"})
	}
	w.props.SetMust("org.freedesktop.resolve1.Link", "DNS", dns)
	defer func() { w.applied <- struct{}{} }()
	return w.do(func() { w.dns = dns })
}

func (w *wireResolved) SetLinkDomains(_ int32, domains []linkDomain) *dbus.Error {
	w.props.SetMust("org.freedesktop.resolve1.Link", "Domains", domains)
	return w.do(func() { w.domains = domains })
}

func (w *wireResolved) SetLinkDefaultRoute(_ int32, yes bool) *dbus.Error {
	return w.do(func() { w.route = &yes })
}

func (w *wireResolved) set(what, mode string) *dbus.Error {
	return w.do(func() { w.modes[what] = mode })
}

func (w *wireResolved) SetLinkDNSSEC(_ int32, m string) *dbus.Error       { return w.set("DNSSEC", m) }
func (w *wireResolved) SetLinkDNSOverTLS(_ int32, m string) *dbus.Error   { return w.set("TLS", m) }
func (w *wireResolved) SetLinkLLMNR(_ int32, m string) *dbus.Error        { return w.set("LLMNR", m) }
func (w *wireResolved) SetLinkMulticastDNS(_ int32, m string) *dbus.Error { return w.set("mDNS", m) }
func (w *wireResolved) FlushCaches() *dbus.Error                          { return w.do(func() { w.flushed++ }) }

func (w *wireResolved) RevertLink(int32) *dbus.Error {
	w.forget()
	return nil
}

func (w *wireResolved) GetLink(int32) (dbus.ObjectPath, *dbus.Error) { return linkPath, nil }

func (w *wireResolved) forget() {
	_ = w.do(func() { w.dns, w.domains, w.route, w.modes = nil, nil, nil, map[string]string{} })
	w.props.SetMust("org.freedesktop.resolve1.Link", "DNS", []linkDNS{})
	w.props.SetMust("org.freedesktop.resolve1.Link", "Domains", []linkDomain{})
}

func startWireResolved(t *testing.T) *wireResolved {
	t.Helper()
	conn, err := dbus.ConnectSystemBus()
	noError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	w := &wireResolved{conn: conn, modes: map[string]string{}, applied: make(chan struct{}, 8)}
	w.props, err = prop.Export(conn, linkPath, prop.Map{"org.freedesktop.resolve1.Link": {
		"DNS":     {Value: []linkDNS{}, Emit: prop.EmitFalse},
		"Domains": {Value: []linkDomain{}, Emit: prop.EmitFalse},
	}})
	noError(t, err)
	noError(t, conn.Export(w, resolvedPath, resolvedManager))
	w.own(t)
	return w
}

func (w *wireResolved) own(t *testing.T) {
	t.Helper()
	if _, err := w.conn.RequestName(resolvedName, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
}

func TestResolvedOnTheWire(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	privateBus(t)
	m := newMachine(t)
	m.env.Bus = systemBus
	m.write(resolvConf, "nameserver 127.0.0.53\n")
	if _, err := Detect(m.env); !errors.Is(err, ErrUnavailable) {
		t.Fatal("found it before it was there:", err)
	}
	w := startWireResolved(t)
	defer func() { noError(t, w.conn.Close()) }() // before the leak check
	k, err := Detect(m.env)
	noError(t, err)
	if k.Name() != "systemd-resolved" {
		t.Fatal("found", k.Name())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	noError(t, k.Apply(ctx, settings()))
	<-w.applied
	w.mu.Lock()
	if want := []linkDNS{{2, []byte{10, 64, 0, 1}}, {10, addrs("fd12::1")[0].AsSlice()}}; !reflect.DeepEqual(w.dns, want) {
		t.Errorf("servers %v", w.dns)
	}
	if want := []linkDomain{{"farm.internal", true}, {"64.10.in-addr.arpa", true}, {"2.1.d.f.ip6.arpa", true}}; !reflect.DeepEqual(w.domains, want) {
		t.Errorf("domains %v", w.domains)
	}
	if want := map[string]string{"DNSSEC": "no", "TLS": "no", "LLMNR": "no", "mDNS": "no"}; !reflect.DeepEqual(w.modes, want) {
		t.Errorf("modes %v", w.modes)
	}
	if w.route == nil || *w.route || w.flushed != 1 {
		t.Error("default route or cache is wrong:", w.route, w.flushed)
	}
	w.mu.Unlock()

	watching, stop := context.WithCancel(ctx)
	reports, ended := make(chan State, 8), make(chan error, 1)
	go func() { ended <- k.Watch(watching, func(s State) { reports <- s }) }() // the test waits for it
	if s := <-reports; !s.Applied {
		t.Errorf("%+v", s)
	}
	_, err = w.conn.ReleaseName(resolvedName)
	noError(t, err)
	if s := <-reports; s.Applied || !strings.Contains(s.Reason, "not running") {
		t.Errorf("%+v", s)
	}
	w.forget()
	w.own(t)
	select {
	case <-w.applied:
	case <-ctx.Done():
		t.Fatal("not applied again after the restart")
	}
	if s := <-reports; !s.Applied {
		t.Errorf("%+v", s)
	}
	stop()
	noError(t, <-ended)
	noError(t, k.Revert(ctx))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dns != nil || w.domains != nil {
		t.Error("still there after Revert")
	}
}

func TestBusErrors(t *testing.T) {
	privateBus(t)
	bus, err := systemBus(context.Background())
	noError(t, err)
	defer bus.Close()
	err = bus.Call(context.Background(), resolvedName, resolvedPath, resolvedManager+".FlushCaches", nil)
	if !notRunning(err) {
		t.Errorf("%T %v", err, err)
	}
	_, err = bus.Property(context.Background(), "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Nothing")
	var b *BusError
	if !errors.As(err, &b) {
		t.Errorf("%T %v", err, err)
	}
	news, err := bus.Follow(context.Background(), "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameOwnerChanged", resolvedName)
	noError(t, err)
	noError(t, bus.Close())
	if _, open := <-news; open {
		t.Error("news on a closed connection")
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
	_, err = systemBus(context.Background())
	wantError(t, err, "connect to D-Bus")
}
