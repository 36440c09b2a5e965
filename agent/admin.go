package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// admin carries out what changes the network or this node: the verbs of the command line.
type admin struct{ *node }

func refusef(format string, a ...any) error {
	return &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf(format, a...)}
}

// find returns the member with this name, which may be written with the domain.
func (n admin) find(name string) (*mesh.Member, error) {
	label := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(name), "."), "."+n.root.Network.Domain)
	m, ok := n.dir.View().ByName(mesh.Name(label))
	if d, device := n.findDevice(name); !ok && device {
		return nil, &api.Error{Code: api.CodeMissing, Message: fmt.Sprintf("%s is a device, not a member: `gridwire status` on its gateway says how it is", d.Name)}
	}
	if !ok {
		return nil, &api.Error{Code: api.CodeMissing, Message: fmt.Sprintf("no member is named %q; see `gridwire members`", name)}
	}
	return m, nil
}

func (n admin) invite(ctx context.Context, r api.InviteRequest) (*api.InviteResponse, error) {
	iss := n.issuer.soon(ctx)
	if iss == nil {
		return nil, refusef("this node is no issuer, so it cannot invite; run this on %s", n.issuerNames())
	}
	req := enrol.InviteRequest{Name: r.Name, Tags: r.Tags, Uses: r.Uses, Expires: r.Expires, Offline: r.Offline, Members: n.tokenMembers()}
	for _, s := range r.Routes {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("--route %q is no prefix like 192.0.2.0/24", s)}
		}
		req.Routes = append(req.Routes, p.Masked())
	}
	if err := errors.Join(pki.CheckTags(req.Tags), pki.CheckRoutes(req.Routes, n.root.Network)); err != nil {
		return nil, &api.Error{Code: api.CodeUsage, Message: err.Error()}
	}
	if r.Name != "" {
		if m, ok := n.dir.View().ByName(r.Name); ok {
			return nil, refusef("the name %s is taken by a member (%s); choose another, or, if that machine is gone, put it out first: gridwire revoke %[1]s",
				r.Name, m.ID.Short())
		}
		if _, ok := n.dir.View().DeviceByName(r.Name); ok {
			return nil, refusef("the name %s is taken by a device; choose another, or put it out first: gridwire revoke %[1]s", r.Name)
		}
	}
	token, expires, err := iss.Invite(req)
	if err != nil {
		return nil, asRefusal(err)
	}
	return &api.InviteResponse{Token: token, Expires: expires}, nil
}

func (n admin) issuerNames() string {
	var names []string
	for m := range n.dir.View().All() {
		if m.Issuer {
			names = append(names, string(m.Name))
		}
	}
	if len(names) == 0 {
		return "an issuer (none is known now)"
	}
	return strings.Join(names, " or ")
}

// tokenMembers are where a joiner may ask.
func (n admin) tokenMembers() []*wire.TokenMember {
	var own []netip.AddrPort
	own = append(own, n.self.advertised()...)
	if r := n.reach.prober.Report(); r.Reachable {
		own = append(own, r.Mapped...)
	}
	own = append(own, n.localAddrPorts()...)
	return whereToAsk(n.membership.Load().ID(), own, n.dir.View().Peers(), n.control.Connections())
}

// whereToAsk lists this node, then members that strangers reach, then those that this node itself has dialled: a member that has only just
// started has not found out yet that strangers reach it. At most four, with the best of their addresses.
func whereToAsk(id mesh.NodeID, own []netip.AddrPort, peers iter.Seq[*mesh.Member], conns []control.Connection) []*wire.TokenMember {
	out := []*wire.TokenMember{{NodeId: id[:], Addresses: wire.AddrPortsBytes(clip(dedup(own), 4))}}
	add := func(id mesh.NodeID, addrs []netip.AddrPort) {
		if len(addrs) > 0 && len(out) < 4 {
			out = append(out, &wire.TokenMember{NodeId: id[:], Addresses: wire.AddrPortsBytes(clip(addrs, 2))})
		}
	}
	told := map[mesh.NodeID]bool{}
	for m := range peers {
		if m.Reachable {
			told[m.ID] = true
			add(m.ID, m.Endpoints)
		}
	}
	for _, c := range conns {
		if !c.Inbound && !told[c.ID] {
			add(c.ID, []netip.AddrPort{c.Remote})
		}
	}
	return out
}

func dedup[T comparable](in []T) []T {
	seen := map[T]bool{}
	var out []T
	for _, x := range in {
		if !seen[x] {
			seen[x] = true
			out = append(out, x)
		}
	}
	return out
}

func (n admin) addIssuer(ctx context.Context, r api.NameRequest) error {
	m, err := n.find(r.Name)
	if err != nil {
		return err
	}
	if n.dismissed(m.ID) {
		return refusef("%s was dismissed as an issuer, and with the keys that it has that is for good: let it leave and join again first", m.Name)
	}
	key, err := readRootKey(n.store, n.root)
	if err != nil {
		return refusef("%v", err)
	}
	der, err := enrol.Appoint(n.root, key, m, n.dir.Issuers(), n.dir.View(), n.dir.Now())
	if err != nil {
		return refusef("%v", err)
	}
	if err := n.control.Publish(ctx, &wire.Item{Item: &wire.Item_Issuer{Issuer: der}}); err != nil {
		return err
	}
	n.log.Info("appointed an issuer", "name", m.Name, "id", m.ID.Short())
	return nil
}

// farewellLimit is how long a node that leaves waits for the members it is connected to.
const farewellLimit = 2 * time.Second

// leave tells the others, then wipes the keys. The root key stays where it is: it is the network's, not this node's.
func (n admin) leave(ctx context.Context) error {
	if err := n.self.leave(ctx); err != nil {
		return err
	}
	// GossipSub has it on the way, but not over connections that are younger than its heartbeat.
	tctx, cancel := context.WithTimeout(ctx, farewellLimit)
	n.control.SyncAll(tctx)
	cancel()
	if err := n.store.WipeExcept(enrol.FileRootKey); err != nil {
		return fmt.Errorf("the others know that this node left, but its keys could not be wiped: %w", err)
	}
	n.log.Info("left the network")
	n.left.say()
	return nil
}

func (n admin) want(_ context.Context, r api.NameRequest) error {
	m, err := n.find(r.Name)
	if err != nil {
		return err
	}
	n.links.Post(links.Wanted{Peer: m.ID})
	return nil
}

var errNotMember = errors.New("this machine is no member of a network yet: gridwire join TOKEN")
