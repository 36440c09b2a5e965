package agent

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// resolve turns HOST:PORT into addresses; a host name is looked up each time, because a farmer's address changes.
func (s *self) resolve(hostPort string) []netip.AddrPort {
	if ap, err := netip.ParseAddrPort(hostPort); err == nil {
		return []netip.AddrPort{ap}
	}
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil // checked by config
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		s.n.log.Warn("cannot look up the advertised name", "name", host, "err", err)
		return nil
	}
	var out []netip.AddrPort
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a.Unmap(), uint16(p)))
	}
	return out
}
