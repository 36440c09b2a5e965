package mesh

import (
	"crypto/sha256"
	"net/netip"
	"slices"
	"time"
)

// Device is something that cannot run an agent, a telephone with the plain WireGuard app: it has a certificate, and no record of its own.
// It reaches the network through a member that serves it, its gateway. A Device is immutable once it is in a View.
type Device struct {
	ID        NodeID // DeviceID of its key: no node, but a place among the nodes where names, addresses and revocations are told apart
	Name      Name   // the name in use: CertName, or CertName-xxxx where somebody else rightly holds it
	CertName  Name
	WireGuard WGKey
	Block     netip.Prefix // its /112
	Profiles  []Profile    // one for each gateway, in the certificate's order

	Serial    string // of the certificate, hexadecimal
	IssuerID  KeyID
	Issued    time.Time
	NotBefore time.Time
	NotAfter  time.Time
}

// Profile is a device at one of its gateways. A WireGuard peer gives an address to one peer only, so each gateway has addresses of its own
// for the device: whoever sends to one of them sends through that gateway, and nobody has to know where the device is.
type Profile struct {
	Gateway NodeID
	Addrs   []netip.Addr // IPv6 first
}

// MaxGateways bounds the gateways of one device.
const MaxGateways = 4

// DeviceID stands for a device where nodes are told apart: a hash of its WireGuard key, so that it is no node's ID.
func DeviceID(key WGKey) NodeID {
	return sha256.Sum256(append([]byte("gridwire device v1\n"), key[:]...))
}

// DeviceBlock returns a device's /112, which follows from its WireGuard key as a node's block does from its identity key: whoever holds
// another key cannot have its addresses.
func DeviceBlock(n NetworkID, key WGKey) netip.Prefix { return Block(n, DeviceID(key)) }

// DeviceAddr returns the device's IPv6 address at the gateway with this index in its certificate: ::1, ::2 and so on in its block.
func DeviceAddr(n NetworkID, key WGKey, index int) netip.Addr {
	a := DeviceBlock(n, key).Addr().As16()
	a[15] = byte(index + 1)
	return netip.AddrFrom16(a)
}

// Addrs returns all addresses of the device, those of the first gateway first.
func (d *Device) Addrs() []netip.Addr {
	var out []netip.Addr
	for _, p := range d.Profiles {
		out = append(out, p.Addrs...)
	}
	return out
}

// Reach returns where a device can be reached: at the gateways that say that it is connected to them, else at those that are on, else at all.
func (v *View) Reach(d *Device) []Profile {
	var connected, on []Profile
	for _, p := range d.Profiles {
		g, ok := v.Member(p.Gateway)
		if !ok || !g.Gateway {
			continue
		}
		on = append(on, p)
		if slices.Contains(g.Connected, d.WireGuard) {
			connected = append(connected, p)
		}
	}
	switch {
	case len(connected) > 0:
		return connected
	case len(on) > 0:
		return on
	}
	return d.Profiles
}

// At returns the device's place at a gateway.
func (d *Device) At(gateway NodeID) (Profile, bool) {
	for _, p := range d.Profiles {
		if p.Gateway == gateway {
			return p, true
		}
	}
	return Profile{}, false
}
