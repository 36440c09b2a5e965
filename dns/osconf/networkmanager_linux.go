package osconf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

const (
	nmName   = "org.freedesktop.NetworkManager"
	nmPath   = "/org/freedesktop/NetworkManager"
	nmDNS    = "/org/freedesktop/NetworkManager/DnsManager"
	nmDNSIf  = "org.freedesktop.NetworkManager.DnsManager"
	nmFolder = "/etc/NetworkManager/dnsmasq.d"
	// NM_MANAGER_RELOAD_FLAG_DNS_FULL: starts the DNS plugin again, which dnsmasq needs in order to read its files.
	nmReloadDNS = uint32(4)
)

// What NetworkManager can do for us, when it is in charge of resolv.conf and does not leave DNS to systemd-resolved:
//
//   - dns=dnsmasq: it runs dnsmasq, which can tell domains apart and reads files in dnsmasq.d. That is the dnsmasq backend below.
//   - dns=default: it writes resolv.conf and can tell nothing apart. Its D-Bus offers two ways to put a server first, both worse than
//     editing the file it wrote and editing it again when it writes it anew (backend plain with an author): GlobalDnsConfiguration is
//     saved to disk, replaces what DHCP says, and so would leave a machine without a resolver after the agent was killed; Reapply with
//     other DNS settings for our interface makes it NetworkManager's own, which takes its IPv6 addresses away.
//   - dns=none, or rc-manager=unmanaged: it is not in charge.
//   - rc-manager=resolvconf: resolvconf is.
type nmState struct{ mode, rcManager string }

func askNM(ctx context.Context, bus Bus) (nmState, bool) {
	mode, err := bus.Property(ctx, nmName, nmDNS, nmDNSIf, "Mode")
	if err != nil {
		return nmState{}, false
	}
	rc, err := bus.Property(ctx, nmName, nmDNS, nmDNSIf, "RcManager")
	if err != nil {
		return nmState{}, false
	}
	m, _ := mode.(string)
	r, _ := rc.(string)
	return nmState{m, r}, true
}

// dnsmasq adds a file for the dnsmasq that NetworkManager runs. Search has no effect here: short names are completed by resolv.conf.
type dnsmasq struct{ env Env }

func (d *dnsmasq) name() string                    { return "NetworkManager (dnsmasq)" }
func (d *dnsmasq) needsUpstream() bool             { return false }
func (d *dnsmasq) upstream() ([]netip.Addr, error) { return nil, nil }

func dnsmasqFile(iface string) string { return filepath.Join(nmFolder, "gridwire-"+iface+".conf") }

// dnsmasqConf returns the file: server=/farm.internal/reverse.zone/address for each of our addresses.
func dnsmasqConf(s Settings) string {
	var b strings.Builder
	for _, a := range s.Servers {
		fmt.Fprintf(&b, "server=/%s/%s\n", strings.Join(s.domains(), "/"), a)
	}
	return block(s.Interface, b.String())
}

func (d *dnsmasq) apply(ctx context.Context, s Settings) error {
	file, text := dnsmasqFile(s.Interface), dnsmasqConf(s)
	if was, ok := d.env.read(file); ok && was == text {
		return nil
	}
	if err := d.env.writeOwn(file, text); err != nil {
		return err
	}
	if err := d.reload(ctx); err != nil {
		return errors.Join(err, os.Remove(d.env.path(file)))
	}
	return nil
}

func (d *dnsmasq) revert(ctx context.Context, s Settings) error {
	if err := d.env.removeOwn(dnsmasqFile(s.Interface)); err != nil {
		return err
	}
	return d.reload(ctx)
}

// reload is no error if NetworkManager is not running: it reads the folder when it starts.
func (d *dnsmasq) reload(ctx context.Context) error {
	bus, err := d.env.Bus(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	err = bus.Call(ctx, nmName, nmPath, nmName+".Reload", []any{nmReloadDNS})
	if err == nil || notRunning(err) {
		return nil
	}
	if isBusError(err, "PermissionDenied") || isBusError(err, "AccessDenied") {
		return fmt.Errorf("reload NetworkManager: %w: %w: it takes root, or a polkit rule that allows %s.reload", err, ErrRights, nmName)
	}
	return fmt.Errorf("reload NetworkManager: %w", err)
}

func (d *dnsmasq) refresh(_ context.Context, s Settings) error {
	file := dnsmasqFile(s.Interface)
	if now, _ := d.env.read(file); now != dnsmasqConf(s) {
		return fmt.Errorf("%s: %w; gridwire steps back", file, ErrChanged)
	}
	return nil
}

func (d *dnsmasq) wake(context.Context) (<-chan struct{}, func(), error) { return nil, nil, nil }

func restoreDnsmasq(ctx context.Context, e Env) (done []string, err error) {
	if e.shared(nmFolder) {
		return nil, nil
	}
	done, err = e.removeDead(nmFolder)
	if len(done) == 0 || e.Bus == nil {
		return done, err
	}
	return done, errors.Join(err, (&dnsmasq{e}).reload(ctx))
}
