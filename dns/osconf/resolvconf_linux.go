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

// resolvconf adds a record of ours to resolvconf(8), Debian's or openresolv. Both merge all records into one resolv.conf without telling
// domains apart, so ours must come first, and the machine's own name servers stay behind it (wg-quick's -x would shut them out, and a
// machine whose agent was killed could resolve nothing).
type resolvconf struct {
	env  Env
	open bool // openresolv
}

func (r *resolvconf) name() string {
	if r.open {
		return "resolvconf (openresolv)"
	}
	return "resolvconf"
}

func (r *resolvconf) needsUpstream() bool { return true }

func (r *resolvconf) upstream() ([]netip.Addr, error) {
	text, ok := r.env.read(resolvConf)
	if !ok {
		return nil, fmt.Errorf("%s cannot be read", resolvConf)
	}
	ours := map[netip.Addr]bool{}
	for _, rec := range r.env.records() {
		for _, a := range rec.servers {
			ours[a] = true
		}
	}
	var others []netip.Addr
	for _, a := range nameservers(foreign(text)) {
		if !ours[a] {
			others = append(others, a)
		}
	}
	return others, nil
}

func (r *resolvconf) apply(ctx context.Context, s Settings) error {
	for _, rec := range r.env.records() {
		if rec.iface != s.Interface && r.env.alive(rec.iface) {
			return fmt.Errorf("resolvconf already sends all questions of this machine to the network on %s: without split DNS there can "+
				"be only one; with systemd-resolved there may be many", rec.iface)
		}
	}
	if _, err := r.env.Run(ctx, record(s), "resolvconf", "-a", r.env.recordName(s.Interface, r.open)); err != nil {
		return errors.Join(programRights(err), r.revert(ctx, s))
	}
	if err := r.refresh(ctx, s); err != nil {
		return errors.Join(err, r.revert(ctx, s))
	}
	return nil
}

func record(s Settings) string {
	text := "nameserver " + s.single().String() + "\noptions " + impatient + "\n"
	if s.Search {
		text = "search " + s.Domain + "\n" + text
	}
	return text
}

func (r *resolvconf) revert(ctx context.Context, s Settings) error {
	return r.env.deleteRecord(ctx, r.env.recordName(s.Interface, r.open), r.open)
}

func (e Env) deleteRecord(ctx context.Context, name string, open bool) error {
	args := []string{"-d", name}
	if open { // for which a record that is gone already is an error otherwise
		args = []string{"-f", "-d", name}
	}
	_, err := e.Run(ctx, "", "resolvconf", args...)
	return programRights(err)
}

// programRights is rights for what a program could not do: it only says so in its own words.
func programRights(err error) error {
	if err != nil && os.Geteuid() > 0 {
		return fmt.Errorf("%w: %w: it takes root", err, ErrRights)
	}
	return err
}

// refresh looks at what resolvconf made of it. A local dnsmasq or unbound, for instance, comes before all others.
func (r *resolvconf) refresh(_ context.Context, s Settings) error {
	text, _ := r.env.read(resolvConf)
	list := nameservers(text)
	switch {
	case len(list) == 0:
		return fmt.Errorf("%s has no name server in it: %w", resolvConf, ErrChanged)
	case list[0] != s.single():
		return fmt.Errorf("%s has %v first and not this node: resolvconf puts another record, or a local resolver, before gridwire's",
			resolvConf, list[0])
	}
	return nil
}

func (r *resolvconf) wake(context.Context) (<-chan struct{}, func(), error) { return nil, nil, nil }

// recordName returns the record's name, on which its place depends. wg-quick finds its place on Debian the same way.
func (e Env) recordName(iface string, open bool) string {
	return e.recordPrefix(open) + iface + recordSuffix
}

const (
	recordSuffix = ".gridwire"
	// openresolv has records of virtual private networks (dynamic_order) before those of real interfaces, with a metric or without. (A
	// metric of our own would be worse than none: of the others, those without one come first.)
	openPrefix = "vpn."
)

// recordPrefix returns, for Debian's resolvconf, the first of interface-order's patterns that is a plain prefix: "tun*", which comes
// before all real interfaces. openresolv reads that file, too, if it has none of its own.
func (e Env) recordPrefix(open bool) string {
	order, ok := e.read("/etc/resolvconf/interface-order")
	if _, own := e.read("/etc/resolvconf.conf"); open && (own || !ok) {
		return openPrefix
	}
	for line := range strings.SplitSeq(order, "\n") {
		prefix, ok := strings.CutSuffix(strings.TrimSpace(line), "*")
		if ok && checkInterface(prefix) == nil {
			return prefix + "."
		}
	}
	return ""
}

const resolvconfFolder = "/run/resolvconf"

// ourRecord is what resolvconf keeps for us.
type ourRecord struct {
	name, iface string
	open        bool
	servers     []netip.Addr
}

// records returns those of ours, of this agent, of others and of killed ones. Debian's resolvconf keeps them in interface, openresolv
// in interfaces.
func (e Env) records() []ourRecord {
	var found []ourRecord
	for _, folder := range []string{resolvconfFolder + "/interface", resolvconfFolder + "/interfaces"} {
		open := strings.HasSuffix(folder, "s")
		entries, _ := os.ReadDir(e.path(folder))
		for _, entry := range entries {
			iface, ok := strings.CutSuffix(entry.Name(), recordSuffix)
			if !ok {
				continue
			}
			text, _ := e.read(filepath.Join(folder, entry.Name()))
			iface = strings.TrimPrefix(iface, e.recordPrefix(open))
			found = append(found, ourRecord{entry.Name(), iface, open, nameservers(text)})
		}
	}
	return found
}

func restoreResolvconf(ctx context.Context, e Env) (done []string, err error) {
	if e.shared(resolvconfFolder) {
		return nil, nil
	}
	var errs []error
	for _, rec := range e.records() {
		if e.alive(rec.iface) {
			continue
		}
		if err := e.deleteRecord(ctx, rec.name, rec.open); err != nil {
			errs = append(errs, fmt.Errorf("delete resolvconf's record %s: %w", rec.name, err))
			continue
		}
		done = append(done, fmt.Sprintf("resolvconf: record %s deleted", rec.name))
	}
	return done, errors.Join(errs...)
}
