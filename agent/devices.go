package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/gateway"
	"github.com/gridwire/gridwire/agent/workload/host"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/directory"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/store"
	"github.com/gridwire/gridwire/mesh/wire"
)

const gatewayFile = "gateway"

// buildGateway makes the part that serves devices. Until run, it only knows whether it is to do so.
func (n *node) buildGateway(m *enrol.Membership) (err error) {
	n.gateway, err = gateway.New(gateway.Config{
		Self: m.ID(), Tunnel: n.base.tun, Watch: n.dir.Watch,
		Route:   func(p map[mesh.NodeID][]netip.Prefix) { n.extra.Set("devices", p) },
		Forward: func(on bool) error { return n.router.Forward("devices", on) },
		Changed: func() { n.self.nudge() },
		Save:    func(b []byte) error { return n.store.Write(gatewayFile, b) },
		Load:    func() ([]byte, error) { return n.store.Read(gatewayFile) },
		Seen:    loadSeen(n.store), Remember: n.saveSeen,
		Log: n.log.With("part", "gateway"),
	})
	return err
}

const seenFile = "device-endpoints"

// loadSeen reads where the devices were last; without it they come back by themselves.
func loadSeen(st *store.Store) map[mesh.WGKey]netip.AddrPort {
	b, err := st.ReadCache(seenFile)
	if err != nil {
		return nil
	}
	out := map[mesh.WGKey]netip.AddrPort{}
	if json.Unmarshal(b, &out) != nil {
		return nil // of another version; it will be written anew
	}
	return out
}

func (n *node) saveSeen(m map[mesh.WGKey]netip.AddrPort) {
	b, err := json.Marshal(m)
	if err == nil {
		err = n.store.WriteCache(seenFile, b)
	}
	if err != nil {
		n.log.Warn("could not store where the devices are", "err", err)
	}
}

// exporter carries out what concerns devices that cannot run an agent.
type exporter struct{ *node }

// gatewayWait is how long an export waits for a gateway that was turned on just now: its record has to come here.
const gatewayWait = 3 * time.Second

func (n exporter) export(ctx context.Context, r api.ExportRequest) (*api.ExportResponse, error) {
	iss := n.issuer.soon(ctx)
	if iss == nil {
		return nil, refusef("this node is no issuer, so it cannot certify a device; run this on %s", admin(n).issuerNames())
	}
	if name, err := mesh.ParseName(string(r.Name)); err != nil || name != r.Name {
		return nil, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%q is no name for a device: want a DNS label of letters, digits and inner hyphens", r.Name)}
	}
	if r.Extend {
		return n.extend(ctx, iss, r.Name)
	}
	if r.WireGuard.IsZero() {
		return nil, &api.Error{Code: api.CodeUsage, Message: "the device's WireGuard key is missing"}
	}
	if err := n.nameFree(r); err != nil {
		return nil, err
	}
	var out api.ExportResponse
	gateways, err := n.chooseGateways(ctx, r, &out)
	if err != nil {
		return nil, err
	}
	all, own := n.dir.DeviceCount(n.issuerKey())
	if all >= directory.MaxDevices || own >= directory.MaxDevicesPerIssuer {
		return nil, refusef("the network has %d devices, %d of them by this issuer, and at most %d and %d are kept; those that were revoked count until "+
			"their certificates end. Export on another issuer", all, own, directory.MaxDevices, directory.MaxDevicesPerIssuer)
	}
	if r.Replace {
		if err := n.putOut(ctx, iss, r.Name); err != nil {
			return nil, err
		}
	}
	req := enrol.DeviceRequest{Name: r.Name, WireGuard: r.WireGuard}
	for _, g := range gateways {
		req.Gateways = append(req.Gateways, g.member.ID)
	}
	d, err := n.certify(ctx, iss, req)
	if err != nil {
		return nil, err
	}
	n.describe(&out, d)
	for i, g := range gateways {
		out.Profiles = append(out.Profiles, n.profile(g, d.Profiles[i]))
	}
	return &out, nil
}

// certify makes the certificate and spreads it.
func (n exporter) certify(ctx context.Context, iss *enrol.Issuer, req enrol.DeviceRequest) (*pki.Device, error) {
	der, d, err := iss.Export(req)
	if err != nil {
		return nil, asRefusal(err)
	}
	if err := n.control.Publish(ctx, &wire.Item{Item: &wire.Item_Device{Device: der}}); err != nil {
		return nil, fmt.Errorf("the device %s is certified, but the others could not be told: %w; say the same again with --replace", d.Name, err)
	}
	return d, nil
}

func (n exporter) describe(out *api.ExportResponse, d *pki.Device) {
	out.Name, out.Network, out.Domain, out.Expires = pki.DNSName(d.Name, n.root.Network), string(n.root.Network.Name), n.root.Network.Domain, d.NotAfter
}

func (n exporter) issuerKey() mesh.KeyID {
	if iss := n.myIssuer(); iss != nil {
		return iss.KeyID
	}
	return mesh.KeyID{}
}

// nameFree refuses a name that is taken, with the way out. What it lets through the issuer may still refuse.
func (n exporter) nameFree(r api.ExportRequest) error {
	if m, ok := n.dir.View().ByName(r.Name); ok {
		return refusef("the name %s is taken by a member (%s); choose another", r.Name, m.ID.Short())
	}
	if r.Replace {
		return nil
	}
	const how = "To let it go on with the configuration that it has: gridwire export %[1]s --extend. To make it anew, with another key: gridwire export %[1]s --replace"
	if d, ok := n.dir.View().DeviceByName(r.Name); ok {
		return refusef("the device %s exists, until %[2]s. "+how, r.Name, d.NotAfter.Format(time.DateOnly))
	}
	if d, why, ok := n.dir.GoneDevice(r.Name); ok && why == directory.WhyExpired {
		return refusef("the device %s exists, and expired on %[2]s. "+how, r.Name, d.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// extend makes a device's certificate last longer. Nothing else about it changes, so that its configuration stays as it is.
func (n exporter) extend(ctx context.Context, iss *enrol.Issuer, name mesh.Name) (*api.ExportResponse, error) {
	held, ok := n.dir.View().DeviceByName(name)
	if !ok {
		var why directory.Why
		if held, why, ok = n.dir.GoneDevice(name); ok && why != directory.WhyExpired {
			return nil, refusef("the device %s is %s: it cannot be extended. Make it anew: gridwire export %[1]s", name, why)
		}
	}
	if !ok {
		return nil, &api.Error{Code: api.CodeMissing, Message: fmt.Sprintf("no device is named %q; see `gridwire members`", name)}
	}
	d, err := n.certify(ctx, iss, enrol.DeviceRequest{Extends: held})
	if err != nil {
		return nil, err
	}
	var out api.ExportResponse
	n.describe(&out, d)
	out.Warnings = gatewayless(n.dir.View(), held)
	return &out, nil
}

// putOut revokes whatever device has a name: in force, expired, or certified and never spread.
func (n exporter) putOut(ctx context.Context, iss *enrol.Issuer, name mesh.Name) error {
	var entries []pki.Revoked
	add := func(d *mesh.Device) {
		entries = append(entries, pki.Revoked{Issuer: d.IssuerID, Serial: d.Serial, ID: d.ID, Kind: pki.Member})
	}
	if d, ok := n.dir.View().DeviceByName(name); ok {
		add(d)
	} else if d, why, ok := n.dir.GoneDevice(name); ok && why == directory.WhyExpired {
		add(d)
	}
	if e, ok := iss.CertifiedDevice(name); ok {
		entries = append(entries, e)
	}
	for _, e := range entries {
		e.At = n.dir.Now().Truncate(time.Second)
		if err := (admin(n)).addRevocation(ctx, e); err != nil {
			return fmt.Errorf("the device %s that is to be replaced could not be revoked: %w", name, err)
		}
		n.log.Info("revoked a device", "name", name)
	}
	return nil
}

func (n admin) findDevice(name string) (*mesh.Device, bool) {
	label := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(name), "."), "."+n.root.Network.Domain)
	return n.dir.View().DeviceByName(mesh.Name(label))
}

// certificateOf gives a device the form in which revoke handles members: what a revocation names.
func certificateOf(d *mesh.Device) *mesh.Member {
	return &mesh.Member{ID: d.ID, Name: d.Name, IssuerID: d.IssuerID, Serial: d.Serial}
}

func (n exporter) turnGateway(ctx context.Context, r api.GatewayRequest) (*api.GatewayResponse, error) {
	if err := n.gateway.Turn(ctx, r.On); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, refusef("%v", err)
		}
		return nil, err
	}
	out := &api.GatewayResponse{Devices: []string{}}
	self := n.membership.Load().ID()
	for d := range n.dir.View().Devices() {
		if _, ok := d.At(self); ok {
			out.Devices = append(out.Devices, string(d.Name))
		}
	}
	slices.Sort(out.Devices)
	switch {
	case !r.On && len(out.Devices) > 0:
		out.Warnings = append(out.Warnings, fmt.Sprintf("%s came into the network through this node, and can no more by way of it", strings.Join(out.Devices, ", ")))
	case r.On:
		if _, why := n.endpointOf(n.me()); why != "" {
			out.Warnings = append(out.Warnings, why)
		}
		if what := host.Obstacle(); what != "" {
			out.Warnings = append(out.Warnings, "another firewall of this machine drops what passes through it unless a rule lets it through, devices' packets too: "+what)
		}
	}
	return out, nil
}

// me is this node as others see it, with what has not reached the View yet.
func (n exporter) me() *mesh.Member {
	me, ok := n.dir.View().Me()
	if !ok {
		return &mesh.Member{ID: n.membership.Load().ID()}
	}
	now := *me
	now.Gateway = n.gateway.On()
	return &now
}

// devices says how the devices are that this node serves.
func (n report) devices(ctx context.Context) []api.Device {
	var out []api.Device
	for _, s := range n.gateway.Devices(ctx) {
		d := api.Device{
			Name: string(s.Device.Name), WireGuardPublicKey: s.Device.WireGuard.String(), Addresses: prefixes(s.Addrs), State: aliveText(s.Alive),
			Endpoint: addrText(s.Endpoint), ReceiveBytes: s.RxBytes, TransmitBytes: s.TxBytes, Expires: s.Device.NotAfter,
		}
		if !s.Heard.IsZero() {
			d.LastHeard = &s.Heard
		}
		if !s.LastHandshake.IsZero() {
			d.LastHandshake = &s.LastHandshake
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b api.Device) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func aliveText(alive bool) string {
	if alive {
		return "connected"
	}
	return "offline"
}

// deviceMembers are the devices as rows of `gridwire members`. Their gateways say whether they are connected.
func (n report) deviceMembers() []api.Member {
	var out []api.Member
	view := n.dir.View()
	for d := range view.Devices() {
		state := aliveText(false)
		for _, p := range d.Profiles {
			if g, ok := view.Member(p.Gateway); ok && g.Gateway && slices.Contains(g.Connected, d.WireGuard) {
				state = aliveText(true)
			}
		}
		out = append(out, api.Member{
			Name: string(d.Name), ID: d.ID.String(), Address: prefixes(dedup(append(reachAddrs(view, d), d.Addrs()...))), Standing: "device", State: state, Expires: &d.NotAfter,
			Tags: []string{}, Updated: &d.Issued,
		})
	}
	return out
}

// reachAddrs are the addresses that a device's name leads to: where it is at the moment, as far as its gateways say.
func reachAddrs(v *mesh.View, d *mesh.Device) []netip.Addr {
	var out []netip.Addr
	for _, p := range v.Reach(d) {
		out = append(out, p.Addrs...)
	}
	return out
}

// expiresSoon is how long before its end a device is named: nobody renews it but a person.
const expiresSoon = 30 * 24 * time.Hour

// deviceWarnings are for those who can do something about it: issuers, and the gateway itself.
func (n report) deviceWarnings(view *mesh.View) []string {
	var out []string
	if t := n.gateway.Trouble(); t != "" {
		out = append(out, t)
	}
	if n.issuer.current() == nil {
		return out
	}
	for d := range view.Devices() {
		if d.NotAfter.Sub(n.dir.Now()) < expiresSoon {
			out = append(out, fmt.Sprintf("the certificate of the device %s ends on %s; to let it go on: gridwire export %[1]s --extend",
				d.Name, d.NotAfter.Format(time.DateOnly)))
		}
		out = append(out, gatewayless(view, d)...)
	}
	return out
}

// gatewayless says if a device has no way into the network.
func gatewayless(view *mesh.View, d *mesh.Device) []string {
	var names []string
	for _, p := range d.Profiles {
		g, ok := view.Member(p.Gateway)
		switch {
		case ok && g.Gateway:
			return nil
		case ok:
			names = append(names, string(g.Name)+" (gridwire gateway on)")
		}
	}
	if len(names) == 0 {
		return []string{fmt.Sprintf("the device %s has no gateway any more: make it anew (gridwire export %[1]s --replace) or put it out (gridwire revoke %[1]s)", d.Name)}
	}
	return []string{fmt.Sprintf("the device %s has no gateway that is on: it was made for %s", d.Name, strings.Join(names, ", "))}
}
