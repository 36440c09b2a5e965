package osconf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = "/org/freedesktop/resolve1"
	resolvedManager = "org.freedesktop.resolve1.Manager"
)

// resolved gives systemd-resolved settings for our link (org.freedesktop.resolve1(5)). It forgets them when the link goes, so that a
// killed agent leaves nothing.
type resolved struct{ env Env }

// linkDNS and linkDomain are what D-Bus calls (iay) and (sb).
type linkDNS struct {
	Family  int32
	Address []byte
}

type linkDomain struct {
	Domain      string
	RoutingOnly bool
}

func (r *resolved) name() string                    { return "systemd-resolved" }
func (r *resolved) needsUpstream() bool             { return false }
func (r *resolved) upstream() ([]netip.Addr, error) { return nil, nil }

func (r *resolved) apply(ctx context.Context, s Settings) error {
	if s.Index <= 0 {
		return fmt.Errorf("%d is not the number of an interface", s.Index)
	}
	bus, err := r.env.Bus(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	for _, c := range linkCalls(s) {
		err := bus.Call(ctx, resolvedName, resolvedPath, resolvedManager+"."+c.method, append([]any{int32(s.Index)}, c.args...))
		if err == nil || c.optional && isBusError(err, "UnknownMethod") {
			continue
		}
		err = fmt.Errorf("%s for %s: %w", c.method, s.Interface, explain(err, c.action))
		if c.method != linkCalls(s)[0].method { // half of it is done
			err = errors.Join(err, r.revertLink(ctx, bus, s))
		}
		return err
	}
	return r.flush(ctx, bus)
}

type linkCall struct {
	method   string
	args     []any
	optional bool   // older versions do not have it
	action   string // what polkit calls the right
}

// linkCalls are in an order in which resolved never has our servers without knowing what they are for.
func linkCalls(s Settings) []linkCall {
	var (
		dns     []linkDNS
		domains []linkDomain
	)
	for _, a := range s.Servers {
		family := int32(unix.AF_INET6)
		if a.Is4() {
			family = unix.AF_INET
		}
		dns = append(dns, linkDNS{family, a.AsSlice()})
	}
	for i, d := range s.domains() {
		domains = append(domains, linkDomain{d, i > 0 || !s.Search})
	}
	return []linkCall{
		{"SetLinkDefaultRoute", []any{false}, true, "set-default-route"}, // version 240
		{"SetLinkDomains", []any{domains}, false, "set-domains"},
		// .internal does not exist under the signed root, so whoever validates would not believe us (RFC 4035 section 5.4).
		{"SetLinkDNSSEC", []any{"no"}, false, "set-dnssec"},
		// The tunnel is encrypted already, and our server speaks plain DNS. Version 239.
		{"SetLinkDNSOverTLS", []any{"no"}, true, "set-dns-over-tls"},
		// Nobody listens to multicast in the overlay.
		{"SetLinkLLMNR", []any{"no"}, false, "set-llmnr"},
		{"SetLinkMulticastDNS", []any{"no"}, false, "set-mdns"},
		{"SetLinkDNS", []any{dns}, false, "set-dns-servers"},
	}
}

func (r *resolved) revert(ctx context.Context, s Settings) error {
	bus, err := r.env.Bus(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	if err := r.revertLink(ctx, bus, s); err != nil {
		return err
	}
	return r.flush(ctx, bus)
}

func (r *resolved) revertLink(ctx context.Context, bus Bus, s Settings) error {
	err := bus.Call(ctx, resolvedName, resolvedPath, resolvedManager+".RevertLink", []any{int32(s.Index)})
	if isBusError(err, "NoSuchLink") || notRunning(err) { // it forgets with the link
		return nil
	}
	if err != nil {
		return fmt.Errorf("RevertLink for %s: %w", s.Interface, explain(err, "revert"))
	}
	return nil
}

// flush drops what resolved learned about our names before or after we were there.
func (r *resolved) flush(ctx context.Context, bus Bus) error {
	if err := bus.Call(ctx, resolvedName, resolvedPath, resolvedManager+".FlushCaches", nil); err != nil && !notRunning(err) {
		r.env.log().Debug("systemd-resolved keeps its cache", "error", err) // answers of ours live for seconds anyway
	}
	return nil
}

// refresh is called at each restart, and else now and then. One property tells whether resolved still knows us, so that a healthy one
// is not made to write its state again and again.
func (r *resolved) refresh(ctx context.Context, s Settings) error {
	bus, err := r.env.Bus(ctx)
	if err != nil {
		return err
	}
	ok, err := r.knows(ctx, bus, s)
	if err = errors.Join(err, bus.Close()); ok || err != nil {
		return err
	}
	return r.apply(ctx, s)
}

// knows reports whether all of the link's domains and the number of its servers are as we set them.
func (r *resolved) knows(ctx context.Context, bus Bus, s Settings) (bool, error) {
	var link string
	err := bus.Call(ctx, resolvedName, resolvedPath, resolvedManager+".GetLink", []any{int32(s.Index)}, &link)
	if err != nil {
		return false, explain(err, "")
	}
	const iface = "org.freedesktop.resolve1.Link"
	domains, err := bus.Property(ctx, resolvedName, link, iface, "Domains")
	if err != nil {
		return false, explain(err, "")
	}
	dns, err := bus.Property(ctx, resolvedName, link, iface, "DNS")
	if err != nil {
		return false, explain(err, "")
	}
	have, _ := domains.([][]any)
	addresses, _ := dns.([][]any)
	names := map[string]bool{}
	for _, d := range have {
		if len(d) > 0 {
			name, _ := d[0].(string)
			names[name] = true
		}
	}
	for _, d := range s.domains() {
		if !names[d] {
			return false, nil
		}
	}
	return len(addresses) == len(s.Servers), nil
}

func (r *resolved) wake(ctx context.Context) (<-chan struct{}, func(), error) {
	return ownerChanges(ctx, r.env, resolvedName)
}

// ownerChanges says when a service has come or gone.
func ownerChanges(ctx context.Context, e Env, name string) (<-chan struct{}, func(), error) {
	bus, err := e.Bus(ctx)
	if err != nil {
		return nil, nil, err
	}
	changes, err := bus.Follow(ctx, "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameOwnerChanged", name)
	if err != nil {
		return nil, nil, errors.Join(err, bus.Close())
	}
	return changes, func() { _ = bus.Close() }, nil
}

// isBusError compares the last part of an error's name.
func isBusError(err error, last string) bool {
	var b *BusError
	return errors.As(err, &b) && b.Name[strings.LastIndexByte(b.Name, '.')+1:] == last
}

func notRunning(err error) bool {
	return isBusError(err, "ServiceUnknown") || isBusError(err, "NameHasNoOwner")
}

// explain says what to do about a refusal.
func explain(err error, action string) error {
	switch {
	case isBusError(err, "LinkBusy"):
		return fmt.Errorf("%w: systemd-networkd manages the interface: exclude it in the .network file that matches it (Unmanaged=yes)", err)
	case isBusError(err, "AccessDenied") || isBusError(err, "InteractiveAuthorizationRequired"):
		if action == "" {
			return fmt.Errorf("%w: %w: it takes root", err, ErrRights)
		}
		return fmt.Errorf("%w: %w: it takes root, or a polkit rule that allows %s.%s", err, ErrRights, resolvedName, action)
	case notRunning(err):
		return fmt.Errorf("it is not running: %w", err)
	}
	return err
}
