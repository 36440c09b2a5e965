package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/directory"
)

var noAddr netip.AddrPort

// maxSkew is the clock difference from which it is shown: certificates are backdated by a day, so more than this is only a nuisance for
// others.
const maxSkew = 5 * time.Minute

// report says how this node and its links are, to the command line and to metrics. It changes nothing.
type report struct{ *node }

func (n report) status(ctx context.Context) (*api.Status, error) {
	m := n.membership.Load()
	_, leaf, _, err := m.Leaf()
	if err != nil {
		return nil, err
	}
	view := n.dir.View()
	st := &api.Status{
		Network: &api.Network{
			Name: string(n.root.Network.Name), ID: n.root.Network.ID.String(), Domain: n.root.Network.Domain,
			IPv6Prefix: n.root.Network.IPv6.String(),
		},
		Self: api.Self{
			Name: string(leaf.Name), ID: m.ID().String(), WireGuardPublicKey: m.Public().String(), Addresses: prefixes(n.addrs(leaf.Addrs)),
			Interface: n.cfg.Interface, ListenPort: n.base.tun.Port(), Backend: "userspace", NAT: string(n.reach.prober.Report().Type),
			Issuer: n.issuer.current() != nil, CertificateExpires: &leaf.NotAfter, CertificateIssued: &leaf.Issued, Version: Version,
		},
		Peers: []api.Peer{},
	}
	if n.root.Network.IPv4.IsValid() {
		st.Network.IPv4Prefix = n.root.Network.IPv4.String()
	}
	if me, ok := view.Me(); ok {
		st.Self.Name, st.Self.Workloads = string(me.Name), offers(me, view.Network.Domain)
	}
	table, paths := n.links.Snapshot(ctx), n.pmtu.Paths()
	for p := range view.Peers() {
		row := peerStatus(p, table[p.ID])
		row.MTU, row.Workloads, row.LastDay = paths[p.ID].MTU, offers(p, view.Network.Domain), remembering(n).day(p.ID)
		st.Peers = append(st.Peers, row)
	}
	slices.SortFunc(st.Peers, func(a, b api.Peer) int { return strings.Compare(a.Name, b.Name) })
	st.Routes = append([]api.Route{}, n.routing.status(view, st.Self.Name)...)
	st.Warnings = n.warnings(view)
	st.Self.Gateway, st.Devices = n.gateway.On(), n.devices(ctx)
	return st, nil
}

// addrs leaves out IPv4 where it is off on this machine.
func (n report) addrs(all []netip.Addr) []netip.Addr {
	if n.router.IPv4Off() == "" {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), netip.Addr.Is4)
}

func peerStatus(p *mesh.Member, l links.Status) api.Peer {
	out := api.Peer{
		Name: string(p.Name), ID: p.ID.String(), WireGuardPublicKey: p.WireGuard.String(), Addresses: prefixes(p.Addrs), Tags: p.Tags,
		State: string(l.State), Reason: l.Reason, RTT: l.RTT.Seconds(), Loss: l.Loss, LastHandshake: l.LastHandshake.UTC(),
		ReceiveBytes: l.RxBytes, TransmitBytes: l.TxBytes, TimeToConnect: l.TimeToConnect.Seconds(), NAT: p.NAT, Issuer: p.Issuer, Version: p.Software,
		Path: api.Path{Kind: "none"},
	}
	if out.Tags == nil {
		out.Tags = []string{}
	}
	if out.State == "" {
		out.State = string(links.Connecting)
	}
	if l.Path.Kind == "direct" {
		out.Path = api.Path{
			Kind: "direct", Local: addrText(l.Path.Local), Remote: addrText(l.Path.Remote),
			LocalType: string(l.Path.LocalType), RemoteType: string(l.Path.RemoteType),
		}
	}
	return out
}

func offers(m *mesh.Member, domain string) []api.Offer {
	var out []api.Offer
	for _, w := range m.Workloads {
		o := api.Offer{Name: string(w.Name), DNSName: fmt.Sprintf("%s.%s.%s", w.Name, m.Name, domain), Addresses: prefixes(w.Addrs), Ports: []string{}}
		for _, p := range w.Ports {
			o.Ports = append(o.Ports, p.String())
		}
		out = append(out, o)
	}
	return out
}

func addrText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (n report) warnings(view *mesh.View) []string {
	var out []string
	now := n.dir.Now()
	issuers, end := 0, time.Time{}
	for m := range view.All() {
		if m.Issuer {
			issuers++
		}
		if m.NotAfter.After(end) {
			end = m.NotAfter
		}
	}
	switch issuers {
	case 0:
		out = append(out, fmt.Sprintf("the network has no issuer: it ends on %s, when the last certificate does", end.Format("2 January 2006")))
	case 1:
		out = append(out, fmt.Sprintf("the network has one issuer: should it be lost, the network ends on %s, when the last certificate does; "+
			"appoint another: gridwire issuer add NAME", end.Format("2 January 2006")))
	}
	if err := n.dir.Revoked(n.membership.Load().Chain); err != nil {
		out = append(out, "this node has been put out of the network: "+err.Error()+toReturn)
	}
	out = append(out, n.refusals(view)...)
	out = append(out, n.deviceWarnings(view)...)
	out = append(out, n.names.warning()...)
	out = append(out, n.usageWarnings(view)...)
	if _, leaf, _, err := n.membership.Load().Leaf(); err == nil && now.After(leaf.NotAfter) {
		out = append(out, fmt.Sprintf("this node's certificate expired on %s and no issuer could be reached to renew it", leaf.NotAfter.Format(time.RFC3339)))
	}
	if off := n.router.IPv4Off(); off != "" {
		out = append(out, "IPv4 is off on this machine: "+off)
	}
	for id, skew := range n.control.Skew() {
		if m, ok := view.Member(id); ok && skew.Abs() > maxSkew {
			out = append(out, fmt.Sprintf("the clocks of this node and %s differ by %v", m.Name, skew.Abs().Round(time.Second)))
		}
	}
	for _, c := range n.dir.Conflicts() {
		out = append(out, c.String())
	}
	if me, ok := view.Me(); ok && me.Name != me.CertName {
		out = append(out, fmt.Sprintf("another member has the name %s by right, so this one is shown as %s", me.CertName, me.Name))
	}
	slices.Sort(out)
	return out
}

const toReturn = ". If this machine is to return: gridwire leave, then gridwire join with a new token"

// refusals says which members do not accept this node, those with one reason together: where it was put out, or has left, while it was
// off, that is all it hears of it.
func (n report) refusals(view *mesh.View) []string {
	by := map[string][]string{}
	for id, reason := range n.control.Refused() {
		if m, ok := view.Member(id); ok {
			by[reason] = append(by[reason], string(m.Name))
		}
	}
	var out []string
	for reason, names := range by {
		slices.Sort(names)
		text := fmt.Sprintf("not accepted by %s: %s", strings.Join(names, ", "), reason)
		if strings.Contains(reason, directory.ErrRevoked.Error()) || strings.Contains(reason, directory.ErrLeft.Error()) {
			text = "this node seems to be out of the network; " + text + toReturn
		}
		out = append(out, text)
	}
	return out
}

func (n report) members(ctx context.Context) ([]api.Member, error) {
	table := n.links.Snapshot(ctx)
	var out []api.Member
	for m := range n.dir.View().All() {
		state := "self"
		if m.ID != n.membership.Load().ID() {
			state = string(table[m.ID].State)
		}
		out = append(out, api.Member{
			Name: string(m.Name), ID: m.ID.String(), Address: prefixes(m.Addrs), Standing: "member", State: state, Issuer: m.Issuer,
			Expires: &m.NotAfter, Tags: orEmpty(m.Tags), Software: m.Software, Updated: &m.Updated, Routes: prefixTexts(m.Routes),
		})
	}
	out = append(out, n.deviceMembers()...)
	for _, g := range n.dir.Gone() {
		out = append(out, api.Member{Name: string(g.Name), ID: g.ID.String(), Address: []string{}, Standing: string(g.Why), Tags: []string{}, Updated: &g.When})
	}
	return out, nil
}

func prefixTexts(ps []netip.Prefix) []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.String())
	}
	return out
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func (n report) issuers(context.Context) ([]api.Issuer, error) {
	out := []api.Issuer{}
	for _, i := range n.dir.Issuers() {
		row := api.Issuer{Name: string(i.Name), ID: i.NodeID.String(), KeyID: i.KeyID.String(), Expires: i.Cert.NotAfter}
		if i.IPv4.IsValid() {
			row.IPv4 = i.IPv4.String()
		}
		out = append(out, row)
	}
	slices.SortFunc(out, func(a, b api.Issuer) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (n report) joined() *api.JoinResponse {
	resp, err := joinResponse(n.membership.Load())
	if err != nil {
		return &api.JoinResponse{}
	}
	return resp
}
