package route

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/gridwire/gridwire/agent/sysctl"
)

// Forward switches this machine's forwarding of packets between interfaces on for who (a concern, such as "workloads"), or says that who
// needs it no more. It is on as long as anybody needs it; then, and at Close, everything is as it was. What a killed process left on is put
// back by the next Up.
//
// Linux ignores router advertisements on an interface that forwards (RFC 4861, 6.2.7: routers do not configure themselves by them), and
// throws away the default routes it had learned when forwarding is switched on: a farmer's box on a home network would lose its IPv6. With
// accept_ra=2 it keeps and follows them, if that is set first. Interfaces whose accept_ra is 0 are looked after by somebody else
// (systemd-networkd, NetworkManager) and left alone; those that appear later inherit both settings.
//
// Where forwarding is on already, nothing is changed but the IPv4 setting of our own interface.
func (r *Router) Forward(who string, on bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("forwarding for %s: interface %s is closed", who, r.cfg.Interface)
	}
	return r.forwards.set(who, on)
}

// forwarding is who needs it, and what was changed for them.
type forwarding struct {
	iface   string // the tunnel's
	users   map[string]bool
	sysctls *sysctl.Keeper
}

func (f *forwarding) set(who string, on bool) error {
	if f.users[who] == on {
		return nil
	}
	if !on {
		delete(f.users, who)
		if len(f.users) > 0 {
			return nil
		}
		return f.stop()
	}
	if len(f.users) == 0 {
		if err := f.start(); err != nil {
			return errors.Join(err, f.stop())
		}
	}
	f.users[who] = true
	return nil
}

func (f *forwarding) start() error {
	if err := f.ipv6(); err != nil {
		return fmt.Errorf("switching IPv6 forwarding on: %w", err)
	}
	if err := f.ipv4(); err != nil {
		return fmt.Errorf("switching IPv4 forwarding on: %w", err)
	}
	return nil
}

// on reports whether all that start switches on is on.
func (f *forwarding) on() bool {
	_, err := os.Stat(sysctlRoot + "/ipv6/conf/all/forwarding")
	return is(sysctlRoot+"/ipv4/ip_forward", "1") && is(sysctlRoot+"/ipv4/conf/"+f.iface+"/forwarding", "1") &&
		(errors.Is(err, fs.ErrNotExist) || is(sysctlRoot+"/ipv6/conf/all/forwarding", "1"))
}

func (f *forwarding) stop() error {
	if err := f.sysctls.Restore(); err != nil {
		return fmt.Errorf("switching forwarding off again: %w", err)
	}
	return nil
}

func (f *forwarding) ipv6() error {
	if is(sysctlRoot+"/ipv6/conf/all/forwarding", "1") {
		return nil
	}
	names, err := confNames("ipv6")
	if err != nil || len(names) == 0 {
		return err // none: a kernel without IPv6
	}
	var accept []sysctl.Setting
	forward := []sysctl.Setting{{Key: "ipv6/conf/all/forwarding", Value: "1"}} // which sets all others
	for _, name := range names {
		heeded := is(sysctlRoot+"/ipv6/conf/"+name+"/accept_ra", "1") && is(sysctlRoot+"/ipv6/conf/"+name+"/forwarding", "0")
		if name != f.iface && heeded {
			accept = append(accept, sysctl.Setting{Key: "ipv6/conf/" + name + "/accept_ra", Value: "2"})
		}
		forward = append(forward, sysctl.Setting{Key: "ipv6/conf/" + name + "/forwarding", Value: "1"})
	}
	if err := f.sysctls.Change(accept); err != nil {
		return err
	}
	return f.sysctls.Change(forward)
}

func (f *forwarding) ipv4() error {
	own := sysctl.Setting{Key: "ipv4/conf/" + f.iface + "/forwarding", Value: "1"}
	if is(sysctlRoot+"/ipv4/ip_forward", "1") {
		return f.sysctls.Change([]sysctl.Setting{own})
	}
	names, err := confNames("ipv4")
	if err != nil {
		return err
	}
	// It sets all others, and accept_redirects of "all": to 0 when it is switched on, to 1 when it is switched off, whatever that was.
	forward := []sysctl.Setting{{Key: "ipv4/ip_forward", Value: "1"}, {Key: "ipv4/conf/all/accept_redirects", Value: "0"}}
	for _, name := range names {
		forward = append(forward, sysctl.Setting{Key: "ipv4/conf/" + name + "/forwarding", Value: "1"})
	}
	return f.sysctls.Change(forward)
}

// LeftSettings lists the kernel settings that Forward changed in a process that was killed. RestoreSettings puts them back.
func LeftSettings(notes sysctl.Notes) []string {
	return sysctl.New(sysctlRoot, sysctl.Life(), notes, slog.New(slog.DiscardHandler)).Left()
}

// RestoreSettings puts back what LeftSettings lists. The caller holds the lock of the state folder in which the notes are.
func RestoreSettings(notes sysctl.Notes) error {
	return sysctl.New(sysctlRoot, sysctl.Life(), notes, slog.New(slog.DiscardHandler)).Recover()
}

const sysctlRoot = "/proc/sys/net"

// confNames lists "default" and the interfaces that have settings of a family, sorted.
func confNames(family string) ([]string, error) {
	entries, err := os.ReadDir(sysctlRoot + "/" + family + "/conf")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.Name() != "all" {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out, nil
}

// is reports whether a setting begins with value, which all of one digit do.
func is(path, value string) bool {
	b, err := os.ReadFile(path)
	return err == nil && len(b) > 0 && string(b[:1]) == value
}
