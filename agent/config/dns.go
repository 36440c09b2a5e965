package config

import (
	"fmt"
	"net/netip"
)

// DNS configures the name server on the overlay addresses. It has no flags: it is the table [dns] of the configuration file.
type DNS struct {
	Serve    bool             // answer for the network's domain
	Upstream []netip.AddrPort // asked for all other names; empty: they are refused
}

type rawDNS struct {
	Serve    bool     `toml:"serve"`
	Upstream []string `toml:"upstream"`
}

const dnsPort = 53

func (r rawDNS) check() (DNS, error) {
	d := DNS{Serve: r.Serve}
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
	return d, nil
}
