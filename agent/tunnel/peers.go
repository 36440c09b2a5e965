package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/gridwire/gridwire/mesh"
)

// PeerConfig is what a peer is to be.
type PeerConfig struct {
	Key        mesh.WGKey
	Endpoint   netip.AddrPort // invalid: none yet, or keep the present one
	AllowedIPs []netip.Prefix // its overlay addresses and routes; taken from any other peer that had them
	Keepalive  time.Duration  // persistent keepalive in whole seconds; 0: off
}

// SetPeer adds a peer, or replaces all of its configuration. Sessions of an existing peer go on.
func (t *Tunnel) SetPeer(p PeerConfig) error {
	if p.Key.IsZero() {
		return fmt.Errorf("setting a peer of %s: its WireGuard key is not set", t.name)
	}
	if p.Keepalive < 0 || p.Keepalive > 65535*time.Second {
		return fmt.Errorf("setting peer %v of %s: keepalive %v, want 0 to 65535 s", p.Key, t.name, p.Keepalive)
	}
	allowed := make([]net.IPNet, 0, len(p.AllowedIPs))
	for _, prefix := range p.AllowedIPs {
		if !prefix.IsValid() {
			return fmt.Errorf("setting peer %v of %s: an allowed prefix is not valid", p.Key, t.name)
		}
		prefix = prefix.Masked()
		allowed = append(allowed, net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())})
	}
	c := wgtypes.PeerConfig{
		PublicKey: wgtypes.Key(p.Key), ReplaceAllowedIPs: true, AllowedIPs: allowed, PersistentKeepaliveInterval: &p.Keepalive,
	}
	if p.Endpoint.IsValid() {
		c.Endpoint = udpAddr(p.Endpoint)
	}
	return t.configure("setting", p.Key, c)
}

// SetEndpoint says where to send to a peer from now on. The device follows the peer's own packets afterwards (roaming): an authenticated
// packet from elsewhere moves the endpoint there.
func (t *Tunnel) SetEndpoint(key mesh.WGKey, to netip.AddrPort) error {
	if !to.IsValid() || to.Port() == 0 || to.Addr().IsUnspecified() {
		return fmt.Errorf("setting the endpoint of peer %v of %s: %v is no address to send to", key, t.name, to)
	}
	if t.dev.LookupPeer(device.NoisePublicKey(key)) == nil {
		return t.missing("setting the endpoint of", key)
	}
	return t.configure("setting the endpoint of", key, wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), UpdateOnly: true, Endpoint: udpAddr(to)})
}

// RemovePeer ends a peer's sessions and forgets it. A peer that is not there is no error.
func (t *Tunnel) RemovePeer(key mesh.WGKey) error {
	return t.configure("removing", key, wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), Remove: true})
}

// configure changes one peer through the UAPI socket, as `wg set` would.
func (t *Tunnel) configure(doing string, key mesh.WGKey, c wgtypes.PeerConfig) error {
	err := t.wg.ConfigureDevice(t.name, wgtypes.Config{Peers: []wgtypes.PeerConfig{c}})
	switch {
	case err == nil:
		return nil
	case t.closed():
		return fmt.Errorf("%s peer %v of %s: %w", doing, key, t.name, ErrClosed)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s peer %v of %s: the socket %s is gone; it is made again within %v: %w", doing, key, t.name, sockPath(t.name), trimInterval, err)
	}
	return fmt.Errorf("%s peer %v of %s: %w", doing, key, t.name, err)
}

func (t *Tunnel) missing(doing string, key mesh.WGKey) error {
	if t.closed() {
		return fmt.Errorf("%s peer %v of %s: %w", doing, key, t.name, ErrClosed)
	}
	return fmt.Errorf("%s peer %v of %s: %w", doing, key, t.name, ErrNoPeer)
}

// udpAddr unmaps: the bind would send a v4-mapped address through its IPv6-only socket.
func udpAddr(a netip.AddrPort) *net.UDPAddr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
}

// Handshake sends a handshake initiation to the peer's endpoint now.
//
// wireguard-go notes the time of an attempt before it finds that there is no endpoint, and refuses another for 5 s (RekeyTimeout). So
// without a live session this first expires the keys, which is the only way to reset that time. It also abandons an initiation that is
// not answered yet: call it once for each new endpoint, or not more often than the round trip takes. With a live session, sent
// initiations keep their 5 s distance and the session goes on until the new one is there.
//
// Only one side of a pair should call it: crossed initiations answer each other and neither side gets a session until the retry.
func (t *Tunnel) Handshake(key mesh.WGKey) error {
	peer := t.dev.LookupPeer(device.NoisePublicKey(key))
	if peer == nil {
		return t.missing("starting a handshake with", key)
	}
	last, err := t.lastHandshake(key)
	if err != nil {
		return err
	}
	if time.Since(last) > device.RejectAfterTime {
		peer.ExpireCurrentKeypairs()
	}
	if err := peer.SendHandshakeInitiation(false); err != nil {
		return fmt.Errorf("starting a handshake with peer %v of %s: %w", key, t.name, err)
	}
	return nil
}
