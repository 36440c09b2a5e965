package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/nat"
	"github.com/gridwire/gridwire/nat/stun"
)

// choice is a gateway of a device, and where the device finds it.
type choice struct {
	member   *mesh.Member
	endpoint string // HOST:PORT
}

// chooseGateways finds the gateways of a new device. Those that were named must serve devices and be reachable; of all others those that are
// not are left out, which is said, as long as one remains.
func (n exporter) chooseGateways(ctx context.Context, r api.ExportRequest, out *api.ExportResponse) ([]choice, error) {
	members, err := n.candidates(ctx, r.Gateways)
	if err != nil {
		return nil, err
	}
	if len(members) > mesh.MaxGateways {
		var names []string
		for _, m := range members {
			names = append(names, string(m.Name))
		}
		return nil, refusef("a device has at most %d gateways, and there are %d (%s): choose with --gateway", mesh.MaxGateways, len(members), strings.Join(names, ", "))
	}
	given, err := endpoints(r.Endpoints, members)
	if err != nil {
		return nil, err
	}
	var chosen []choice
	var left []string
	for _, m := range members {
		ep, why := given[m.ID], ""
		if ep == "" {
			ep, why = n.endpointOf(m)
		}
		switch {
		case ep != "":
			chosen = append(chosen, choice{m, ep})
			if why != "" {
				out.Warnings = append(out.Warnings, why)
			}
		case len(r.Gateways) > 0:
			return nil, refusef("%s", why)
		default:
			left = append(left, why)
		}
	}
	if len(chosen) == 0 {
		return nil, refusef("%s", strings.Join(left, "; "))
	}
	out.Warnings = append(out.Warnings, left...)
	return chosen, nil
}

// candidates returns the members that are to be gateways, by name. It waits a moment for those that were turned on just now.
func (n exporter) candidates(ctx context.Context, names []string) ([]*mesh.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, gatewayWait)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		members, err := n.gatewaysNow(names)
		if err == nil {
			return members, nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (n exporter) gatewaysNow(names []string) ([]*mesh.Member, error) {
	var out []*mesh.Member
	if len(names) == 0 {
		for m := range n.dir.View().Peers() {
			if m.Gateway {
				out = append(out, m)
			}
		}
		if me := n.me(); me.Gateway {
			out = append(out, me)
		}
		if len(out) == 0 {
			return nil, refusef("no member serves devices: choose one that is always on and that strangers reach, and say there: gridwire gateway on")
		}
		slices.SortFunc(out, func(a, b *mesh.Member) int { return strings.Compare(string(a.Name), string(b.Name)) })
		return out, nil
	}
	for _, name := range names {
		m, err := admin(n).find(name)
		if err != nil {
			return nil, err
		}
		if m.ID == n.me().ID {
			m = n.me()
		}
		if !m.Gateway {
			return nil, refusef("%s serves no devices: say there: gridwire gateway on", m.Name)
		}
		if slices.ContainsFunc(out, func(o *mesh.Member) bool { return o.ID == m.ID }) {
			return nil, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("--gateway %s is there twice", name)}
		}
		out = append(out, m)
	}
	return out, nil
}

// endpoints reads --endpoint.
func endpoints(given []string, members []*mesh.Member) (map[mesh.NodeID]string, error) {
	bad := func(format string, a ...any) (map[mesh.NodeID]string, error) {
		return nil, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf(format, a...)}
	}
	out := map[mesh.NodeID]string{}
	for _, s := range given {
		who, at, named := strings.Cut(s, "=")
		if !named {
			at = s
		}
		host, port, err := net.SplitHostPort(at)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
			return bad("--endpoint %s: want HOST:PORT or GATEWAY=HOST:PORT, like home.example.org:51820", s)
		}
		if a, err := netip.ParseAddr(host); err != nil || a.Zone() != "" { // a zone means nothing on another machine
			if _, err := mesh.ParseDomain(host); err != nil {
				return bad("--endpoint %s: %q is neither an address nor a host's name", s, host)
			}
		}
		i := slices.IndexFunc(members, func(m *mesh.Member) bool { return !named || string(m.Name) == who })
		switch {
		case i < 0:
			return bad("--endpoint %s: %s is not among the gateways of this device", s, who)
		case !named && len(members) > 1:
			return bad("--endpoint %s: the device has %d gateways; say whose it is: --endpoint %s=%[1]s", s, len(members), members[0].Name)
		case out[members[i].ID] != "":
			return bad("--endpoint %s: %s has one already", s, members[i].Name)
		}
		out[members[i].ID] = at
	}
	return out, nil
}

// endpointOf returns where a device reaches a gateway from anywhere, or why it does not. With both, the address may do, and why says what
// speaks against it.
func (n exporter) endpointOf(m *mesh.Member) (endpoint, why string) {
	if m.ID == n.membership.Load().ID() && len(n.cfg.Advertise) > 0 {
		return n.cfg.Advertise[0], "" // perhaps a host's name, which stays right when the address changes
	}
	return endpointOf(m)
}

func endpointOf(m *mesh.Member) (endpoint, why string) {
	if m.Reachable && len(m.Endpoints) > 0 {
		best := slices.MinFunc(m.Endpoints, func(a, b netip.AddrPort) int { return worth(b.Addr()) - worth(a.Addr()) })
		if stun.Private(best.Addr()) {
			return best.String(), fmt.Sprintf("the address of %s, %v, is private: devices reach it from its own network only", m.Name, best)
		}
		return best.String(), ""
	}
	public := func(a netip.AddrPort) bool { return !stun.Private(a.Addr()) }
	if i := slices.IndexFunc(m.LAN, public); i >= 0 && (m.NAT == string(nat.Unknown) || m.NAT == "") {
		return m.LAN[i].String(), fmt.Sprintf("nobody has tested yet whether strangers reach %s at %v: if a device does not connect, see `gridwire netcheck` there",
			m.Name, m.LAN[i])
	}
	why = fmt.Sprintf("strangers' packets do not reach %s (NAT: %s), so a device could not connect to it from elsewhere. Forward a UDP port on its router "+
		"to it and start its agent with --advertise HOST:PORT", m.Name, nonEmpty(m.NAT, string(nat.Unknown)))
	if len(m.LAN) > 0 {
		why += fmt.Sprintf("; or, for a device that stays in the network of %s: --endpoint %[1]s=%[2]v", m.Name, m.LAN[0])
	}
	return "", why
}

func nonEmpty(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// worth ranks endpoints: an address that means something everywhere, and IPv4, which more networks have.
func worth(a netip.Addr) int {
	w := 0
	if !stun.Private(a) {
		w += 2
	}
	if a.Is4() {
		w++
	}
	return w
}

// profile is what the device's configuration says about one gateway.
func (n exporter) profile(g choice, p mesh.Profile) api.Profile {
	out := api.Profile{
		Gateway: string(g.member.Name), PublicKey: g.member.WireGuard.String(), Endpoint: g.endpoint, Addresses: prefixes(p.Addrs),
	}
	v4 := slices.ContainsFunc(p.Addrs, netip.Addr.Is4)
	for _, a := range g.member.Addrs {
		if a.Is6() || v4 {
			out.DNS = append(out.DNS, a.String())
		}
	}
	host, _, _ := net.SplitHostPort(g.endpoint)
	at, _ := netip.ParseAddr(host)
	for _, prefix := range overlayPrefixes(n.root.Network, p.Addrs) {
		out.AllowedIPs = append(out.AllowedIPs, prefix.String())
	}
	for _, prefix := range n.routedPrefixes() {
		// The gateway itself must not be looked for behind the gateway.
		if !prefix.Contains(at) {
			out.AllowedIPs = append(out.AllowedIPs, prefix.String())
		}
	}
	return out
}

// routedPrefixes are the networks behind members.
func (n exporter) routedPrefixes() []netip.Prefix {
	var out []netip.Prefix
	for m := range n.dir.View().All() {
		for _, p := range m.Routes {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, comparePrefixes)
	return out
}
