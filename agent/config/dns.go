package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// DefaultResolverHelper is where deploy/gridwire-resolver.socket listens.
const DefaultResolverHelper = "/run/gridwire-resolver.sock"

// DNS configures the name server on the overlay addresses: the table [dns] of the configuration file. Only Configure has a flag, --resolver.
type DNS struct {
	Serve     bool             // answer for the network's domain
	Upstream  []netip.AddrPort // asked for all other names; empty: those of the system where its resolver cannot tell domains apart, else nobody
	Configure bool             // point this machine's resolver here for the network's domain
	Helper    string           // socket of the root helper that does it where the agent may not
}

type rawDNS struct {
	Serve     bool     `toml:"serve"`
	Upstream  []string `toml:"upstream"`
	Configure bool     `toml:"configure"`
	Helper    string   `toml:"helper"`
}

var defaultDNS = rawDNS{Serve: true, Configure: true, Helper: DefaultResolverHelper}

const dnsPort = 53

func (r rawDNS) check() (DNS, error) {
	d := DNS{Serve: r.Serve, Configure: r.Configure, Helper: r.Helper}
	for _, s := range r.Upstream {
		if a, err := netip.ParseAddr(s); err == nil {
			d.Upstream = append(d.Upstream, netip.AddrPortFrom(a, dnsPort))
			continue
		}
		ap, err := netip.ParseAddrPort(s)
		if err != nil || ap.Port() == 0 {
			return d, fmt.Errorf("dns.upstream %q: want an address like 192.0.2.53, or ADDRESS:PORT", s)
		}
		d.Upstream = append(d.Upstream, ap)
	}
	if len(d.Upstream) > 0 && !d.Serve {
		return d, fmt.Errorf("dns.upstream contradicts dns.serve = false: nobody would be asked")
	}
	if !filepath.IsAbs(d.Helper) {
		return d, fmt.Errorf("dns.helper %q: want the path of a socket", d.Helper)
	}
	return d, nil
}

// onOff reads a switch.
func onOff(what, value string) (bool, error) {
	switch value {
	case "on":
		return true, nil
	case "off":
		return false, nil
	}
	return false, fmt.Errorf("%s %q: want 'on' or 'off'", what, value)
}
