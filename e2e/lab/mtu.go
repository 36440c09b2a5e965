//go:build linux

package lab

import "fmt"

// SetMTU limits what fits through the node's cable, both ways, without anybody else being told: what a router's uplink (PPPoE, a tunnel) or a
// host's own interface carries. Not with Options.Delay, whose lines carry anything.
func (n *node) SetMTU(bytes int) error {
	if err := runIP(n.ns, fmt.Sprintf("link set %s mtu %d", n.ifname, bytes)); err != nil {
		return fmt.Errorf("set the MTU of %s: %w", n.name, err)
	}
	if err := runIP(n.at.far(), fmt.Sprintf("link set %s mtu %d", n.port(), bytes)); err != nil {
		return fmt.Errorf("set the MTU of %s: %w", n.name, err)
	}
	// Who was told of another one forgets it, as everybody does in time.
	tryIP(n.ns, "route flush cache", "-6 route flush cache")
	return nil
}

// BlockTooBig makes the internet and every router so far keep to themselves that a packet did not fit (ICMP "fragmentation needed", ICMPv6
// "packet too big"), as many firewalls do; false ends that.
func (l *Lab) BlockTooBig(on bool) error {
	l.mu.Lock()
	spaces := []string{l.wan.core}
	for _, r := range l.routers {
		spaces = append(spaces, r.ns)
	}
	l.mu.Unlock()
	rules := "table inet toobig\ndelete table inet toobig\n"
	if on {
		rules += `table inet toobig {
	chain output {
		type filter hook output priority 0
		icmp type destination-unreachable icmp code frag-needed counter drop
		icmpv6 type packet-too-big counter drop
	}
	chain forward {
		type filter hook forward priority 0
		icmp type destination-unreachable icmp code frag-needed counter drop
		icmpv6 type packet-too-big counter drop
	}
}
`
	}
	for _, ns := range spaces {
		if err := runNFT(ns, rules); err != nil {
			return fmt.Errorf("block ICMP: %w", err)
		}
	}
	return nil
}
