package enrol

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// DeviceRequest asks for the certificate of a device. Nobody proves that he holds its private key: whoever may ask the issuer could make
// the key himself.
type DeviceRequest struct {
	Name      mesh.Name
	WireGuard mesh.WGKey
	Gateways  []mesh.NodeID
	Lifetime  time.Duration // 0: pki.DeviceLifetime
	// Extends is the certificate that the new one follows: same key, same name, same gateways, and the same addresses, which stand in the
	// device's configuration. Only Lifetime is read besides it.
	Extends *mesh.Device
}

// Export certifies a device. What it returns is certified, on this issuer's disk, and not yet known to anybody else.
func (i *Issuer) Export(r DeviceRequest) ([]byte, *pki.Device, error) {
	if r.Extends != nil {
		r.Name, r.WireGuard, r.Gateways = r.Extends.CertName, r.Extends.WireGuard, nil
		for _, p := range r.Extends.Profiles {
			r.Gateways = append(r.Gateways, p.Gateway)
		}
	}
	now := i.cfg.Now().UTC()
	f := i.facts(r.Name)
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.current.Load()
	gateways, cursor, refusal := s.export(r, f, now)
	if refusal != nil {
		return nil, nil, refusal
	}
	der, err := i.cfg.Issuer.SignDevice(i.cfg.Key, i.cfg.Root, pki.DeviceRequest{
		WireGuard: r.WireGuard, Name: r.Name, Gateways: gateways, Lifetime: r.Lifetime,
	}, now)
	if err != nil {
		return nil, nil, refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the issuer cannot certify this: %v", err)
	}
	d, err := i.cfg.Issuer.VerifyDevice(der, i.cfg.Root)
	if err != nil {
		return nil, nil, refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the issuer cannot certify this: %v", err)
	}
	if err := i.store(s.exported(d, cursor, now)); err != nil {
		return nil, nil, cannotWrite(err)
	}
	i.cfg.Log.Info("certified a device", "name", d.Name, "until", d.NotAfter, "extended", r.Extends != nil)
	return der, d, nil
}

// export decides about a device, and chooses its IPv4 addresses.
func (s *state) export(r DeviceRequest, f facts, now time.Time) ([]pki.DeviceGateway, uint32, *Error) {
	id := mesh.DeviceID(r.WireGuard)
	if holder, ok := s.holder(id, r.Name, f, now); ok {
		return nil, 0, refuse(wire.EnrolError_ENROL_NAME_TAKEN, "the name %s is taken by node %s; choose another one, or, if that is gone, put it "+
			"out first (`gridwire revoke %s`)", r.Name, holder, r.Name)
	}
	if len(s.issued) >= maxIssued {
		return nil, 0, refuse(wire.EnrolError_ENROL_RATE_LIMITED, "the issuer holds %d certificates, which is its limit; use another issuer", len(s.issued))
	}
	if err := s.wireGuardFree(id, r.WireGuard, id, f, now); err != nil {
		return nil, 0, err
	}
	if r.Extends == nil {
		if s.issued[id] != nil {
			return nil, 0, refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the device's WireGuard key is not new: make another one, or extend the device")
		}
		gs, cursor := s.freshIPv4(r.Gateways, id, f, now)
		return gs, cursor, nil
	}
	var gs []pki.DeviceGateway
	for _, p := range r.Extends.Profiles {
		g := pki.DeviceGateway{Node: p.Gateway}
		for _, a := range p.Addrs {
			if a.Is4() {
				g.IPv4 = a
			}
		}
		if g.IPv4.IsValid() && !f.prefix.Contains(g.IPv4) {
			return nil, 0, refuse(wire.EnrolError_ENROL_BAD_REQUEST, "%s has the address %v, which only the issuer that gave it may give again: extend it "+
				"there, or make it anew here (gridwire export %s --replace)", r.Name, g.IPv4, r.Name)
		}
		gs = append(gs, g)
	}
	return gs, s.cursor, nil
}

// freshIPv4 gives the device an address at each gateway, as long as there are any: IPv6 alone will do.
func (s *state) freshIPv4(gateways []mesh.NodeID, id mesh.NodeID, f facts, now time.Time) ([]pki.DeviceGateway, uint32) {
	cursor := s.cursor
	var out []pki.DeviceGateway
	used := s.usedIPv4(id, f, now)
	for _, node := range gateways {
		g := pki.DeviceGateway{Node: node}
		if f.prefix.IsValid() {
			g.IPv4, cursor = nextIPv4(f.prefix, used, cursor)
			used[g.IPv4] = true
		}
		out = append(out, g)
	}
	return out, cursor
}

// exported returns the state after a device was certified.
func (s *state) exported(d *pki.Device, cursor uint32, now time.Time) *state {
	n := s.next(now)
	e := &issued{ID: d.ID, Name: d.Name, WireGuard: d.WireGuard[:], Serial: d.Serial, At: now, NotAfter: d.NotAfter, Device: true}
	for _, p := range d.Profiles {
		for _, a := range p.Addrs {
			switch {
			case !a.Is4():
			case !e.IPv4.IsValid():
				e.IPv4 = a
			default:
				e.MoreIPv4 = append(e.MoreIPv4, a)
			}
		}
	}
	n.issued[e.ID] = e
	n.cursor = cursor
	return n
}

// addrs returns all IPv4 addresses that the certificate has.
func (e *issued) addrs() []netip.Addr {
	if !e.IPv4.IsValid() {
		return e.MoreIPv4
	}
	return append([]netip.Addr{e.IPv4}, e.MoreIPv4...)
}

func (e *issued) checkDevice() error {
	if len(e.MoreIPv4) >= mesh.MaxGateways || slices.ContainsFunc(e.MoreIPv4, func(a netip.Addr) bool { return !a.Is4() }) {
		return fmt.Errorf("%v are not the IPv4 addresses of a device", e.MoreIPv4)
	}
	if e.Device && e.ID != mesh.DeviceID(mesh.WGKey(e.WireGuard)) {
		return fmt.Errorf("the ID %s does not follow from the device's key", strings.ToLower(e.ID.Short()))
	}
	return nil
}

// CertifiedDevice is Certified for devices alone: one whose certificate never got into the network.
func (i *Issuer) CertifiedDevice(name mesh.Name) (pki.Revoked, bool) {
	r, ok := i.Certified(name)
	return r, ok && i.current.Load().issued[r.ID].Device
}
