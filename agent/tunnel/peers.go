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
		if err := t.freshEndpoint(p.Key); err != nil {
			return err
		}
	}
	if err := t.configure("setting", p.Key, c); err != nil {
		return err
	}
	t.tun.meter.SetPeer(p.Key, p.AllowedIPs)
	return nil
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
	if err := t.freshEndpoint(key); err != nil {
		return err
	}
	return t.configure("setting the endpoint of", key, wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), UpdateOnly: true, Endpoint: udpAddr(to)})
}

// RemovePeer ends a peer's sessions and forgets it. A peer that is not there is no error.
func (t *Tunnel) RemovePeer(key mesh.WGKey) error {
	t.mu.Lock()
	delete(t.tried, key)
	t.mu.Unlock()
	if err := t.configure("removing", key, wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), Remove: true}); err != nil {
		return err
	}
	t.tun.meter.RemovePeer(key)
	return nil
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

// attempt is what the device had sent to a peer when the peer got its present endpoint, or when Handshake last did something.
type attempt struct {
	sent uint64 // bytes
	at   time.Time
	born bool // the peer was made at that moment, with its endpoint: nothing can have failed yet
}

// attemptLife is how long an initiation that the device sent by itself may be on its way.
const attemptLife = time.Second

// freshEndpoint notes that what the peer is sent from now on goes to another place.
func (t *Tunnel) freshEndpoint(key mesh.WGKey) error {
	if t.dev.LookupPeer(device.NoisePublicKey(key)) == nil {
		t.try(key, attempt{born: true})
		return nil
	}
	peers, err := t.Stats()
	if err != nil {
		return err
	}
	t.try(key, attempt{sent: peers[key].TxBytes})
	return nil
}

// try notes an attempt and returns the one before.
func (t *Tunnel) try(key mesh.WGKey, a attempt) attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.tried[key]
	a.at = time.Now()
	t.tried[key] = a
	return old
}

// Handshake sends a handshake initiation to the peer's endpoint now.
//
// wireguard-go notes the time of an attempt before it finds that there is no endpoint, and refuses another for 5 s (RekeyTimeout). So
// without a live session this first expires the keys, which is the only way to reset that time. It also abandons an initiation that is
// not answered yet: call it once for each new endpoint, or not more often than the round trip takes. With a live session, sent
// initiations keep their 5 s distance and the session goes on until the new one is there.
//
// A packet of this machine's may have made the device send an initiation by itself as soon as the peer had its endpoint. That one is left
// to do its work: a second one would carry the same time stamp (wireguard-go rounds it to 17 ms), be refused as a replay, and make
// this side refuse the answer to the first.
//
// Only one side of a pair should call it: crossed initiations answer each other and neither side gets a session until the retry.
func (t *Tunnel) Handshake(key mesh.WGKey) error {
	peer := t.dev.LookupPeer(device.NoisePublicKey(key))
	if peer == nil {
		return t.missing("starting a handshake with", key)
	}
	peers, err := t.Stats()
	if err != nil {
		return err
	}
	now := peers[key]
	if time.Since(now.LastHandshake) > device.RejectAfterTime {
		last := t.try(key, attempt{sent: now.TxBytes})
		recent := time.Since(last.at) < attemptLife
		switch {
		case recent && last.born: // of this call and a packet's the device lets the first one send
		case recent && now.TxBytes > last.sent:
			return nil
		default:
			peer.ExpireCurrentKeypairs()
		}
	}
	if err := peer.SendHandshakeInitiation(false); err != nil {
		return fmt.Errorf("starting a handshake with peer %v of %s: %w", key, t.name, err)
	}
	if peers, err = t.Stats(); err != nil {
		return err
	}
	t.try(key, attempt{sent: peers[key].TxBytes}) // ours is counted, and must not be taken for the device's own next time
	return nil
}
