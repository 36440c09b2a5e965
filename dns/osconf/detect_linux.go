package osconf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// System is the machine this program runs on.
func System(log *slog.Logger) Env {
	return Env{Root: "/", Bus: systemBus, Run: run, Exists: interfaceExists, Shared: shared, Log: log}
}

// Detect finds out which mechanism is in charge of names on this machine, by what /etc/resolv.conf is and who answers on D-Bus. It
// changes nothing. ErrUnavailable means that the one in charge is not up yet: ask again later, as anything else would be wrong then.
// Call Restore before it: a killed agent's lines would mislead it.
func Detect(e Env) (Manager, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	b, err := detect(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("find what resolves names on this machine: %w", err)
	}
	return newKeeper(b), nil
}

func detect(ctx context.Context, e Env) (backend, error) {
	if err := e.ours(); err != nil {
		return nil, err
	}
	raw, _ := e.read(resolvConf)
	text := foreign(raw)
	var bus Bus
	noBus := errors.New("there is no D-Bus")
	if e.Bus != nil {
		if bus, noBus = e.Bus(ctx); noBus == nil {
			defer bus.Close()
		} else {
			bus = nil
		}
	}
	stub := asksResolved(text)
	if stub || asksNSSResolve(e) {
		up, err := false, noBus
		if bus != nil {
			up, err = running(ctx, bus, resolvedName)
		}
		switch {
		case up:
			return &resolved{e}, nil
		case stub && err != nil:
			return nil, fmt.Errorf("%s leaves names to systemd-resolved, which is %w: %w", resolvConf, ErrUnavailable, err)
		}
	}
	if bus != nil {
		if nm, ok := askNM(ctx, bus); ok && nm.rcManager != "unmanaged" {
			switch {
			case nm.mode == "dnsmasq" && onlyLoopback(text):
				return &dnsmasq{e}, nil
			case nm.mode == "default" && nm.rcManager != "resolvconf" && header(text, "NetworkManager"):
				return &plain{env: e, author: "NetworkManager"}, nil
			}
		}
	}
	if link, err := e.follow(resolvConf); !e.shared(resolvconfFolder) && (header(text, "resolvconf") || err == nil && strings.HasSuffix(link, "/resolvconf/resolv.conf")) {
		out, err := e.run(ctx, "resolvconf", "--version")
		switch {
		case err == nil && strings.HasPrefix(out, "openresolv"):
			return &resolvconf{env: e, open: true}, nil
		case err == nil && strings.HasPrefix(out, "Debian resolvconf"):
			return &resolvconf{env: e}, nil
		}
		// Not installed any more, or resolvectl under its name: what it left is a plain file.
	}
	return &plain{env: e, author: dhcpClient(e, text)}, nil
}

// dhcpClient names the DHCP client that writes resolv.conf anew, whole, with each lease and each renewal of one. dhcpcd says so in the file;
// dhclient (Debian's ifupdown) does not, so that only its running tells.
func dhcpClient(e Env, text string) string {
	if header(text, "dhcpcd") {
		return "dhcpcd"
	}
	names, _ := filepath.Glob(e.path("/proc/[0-9]*/comm"))
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) == "dhclient" && sameNetwork(e, filepath.Dir(name)) {
			return "dhclient"
		}
	}
	return ""
}

// sameNetwork reports whether a process, by its folder in /proc, is in this program's network namespace, as far as may be seen.
func sameNetwork(e Env, process string) bool {
	here, err := os.Stat(e.path("/proc/thread-self/ns/net"))
	there, terr := os.Stat(filepath.Join(process, "ns/net"))
	return err != nil || terr != nil || os.SameFile(here, there)
}

// ours returns an error if resolv.conf is not for this program to change.
func (e Env) ours() error {
	name, err := e.follow(resolvConf)
	if err == nil && e.shared(name) {
		return fmt.Errorf("%s is the whole machine's, and this program runs in a network namespace of its own (bind a file over it, as "+
			"`ip netns exec` does with /etc/netns/NAME/resolv.conf): %w", name, ErrUnsupported)
	}
	return nil
}

func (e Env) run(ctx context.Context, program string, args ...string) (string, error) {
	if e.Run == nil {
		return "", ErrUnsupported
	}
	return e.Run(ctx, "", program, args...)
}

// running asks the bus for a service. The error says why it is not there.
func running(ctx context.Context, bus Bus, name string) (bool, error) {
	var up bool
	err := bus.Call(ctx, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner", []any{name}, &up)
	if err == nil && !up {
		err = errors.New("it is not running")
	}
	return up, err
}

// asksResolved reports that all questions go to systemd-resolved's stub listener. Only then is it in charge: its resolv.conf without
// the stub (uplink mode) names the real servers.
func asksResolved(text string) bool {
	list := nameservers(text)
	for _, a := range list {
		if a != netip.AddrFrom4([4]byte{127, 0, 0, 53}) && a != netip.AddrFrom4([4]byte{127, 0, 0, 54}) {
			return false
		}
	}
	return len(list) > 0
}

// asksNSSResolve reports that the C library asks resolved without DNS (nss-resolve(8)) before it asks resolv.conf's servers.
func asksNSSResolve(e Env) bool {
	text, _ := e.read("/etc/nsswitch.conf")
	for line := range strings.SplitSeq(text, "\n") {
		sources, ok := strings.CutPrefix(strings.TrimSpace(line), "hosts:")
		if !ok {
			continue
		}
		sources, _, _ = strings.Cut(sources, "#")
		for source := range strings.FieldsSeq(sources) {
			switch source {
			case "resolve":
				return true
			case "dns":
				return false
			}
		}
	}
	return false
}

func onlyLoopback(text string) bool {
	for _, a := range nameservers(text) {
		if !a.IsLoopback() {
			return false
		}
	}
	return len(nameservers(text)) > 0
}

// header reports whether a comment at the file's top names a program as its author: "# Generated by NetworkManager".
func header(text, program string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != ';' {
			return false
		}
		if strings.Contains(line, "enerated by "+program) {
			return true
		}
	}
	return false
}

// Restore undoes what agents left that were killed: whatever carries the mark of an interface that exists no more. It says what it did,
// and, in the error, what it left alone and why. Call it before Detect.
func Restore(ctx context.Context, e Env) (done []string, err error) {
	var errs []error
	for _, restore := range []func() ([]string, error){
		func() ([]string, error) { return restoreResolvconf(ctx, e) },
		func() ([]string, error) { return restoreDnsmasq(ctx, e) },
		func() ([]string, error) {
			if e.ours() != nil {
				return nil, nil
			}
			return restorePlain(e)
		},
	} {
		d, err := restore()
		done, errs = append(done, d...), append(errs, err)
	}
	return done, errors.Join(errs...)
}

// Left says what Restore would find to put back: what agents left that were killed. It changes nothing.
func Left(e Env) []string {
	var out []string
	if !e.shared(resolvconfFolder) {
		for _, rec := range e.records() {
			if !e.alive(rec.iface) {
				out = append(out, "resolvconf has the record "+rec.name)
			}
		}
	}
	if !e.shared(nmFolder) {
		out = append(out, e.leftIn(nmFolder)...)
	}
	if e.ours() == nil {
		out = append(out, leftInPlain(e)...)
	}
	return out
}
