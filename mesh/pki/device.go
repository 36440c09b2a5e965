package pki

import (
	"bytes"
	"cmp"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// DeviceRequest is what an issuer certifies about a device.
type DeviceRequest struct {
	WireGuard mesh.WGKey
	Name      mesh.Name
	Gateways  []DeviceGateway // 1 to mesh.MaxGateways; the order decides which address is for which
	Lifetime  time.Duration   // 0: DeviceLifetime
	Serial    *big.Int        // nil: random
}

// DeviceGateway is a member that serves the device, and the IPv4 address that the device has there.
type DeviceGateway struct {
	Node mesh.NodeID
	IPv4 netip.Addr // optional; of the issuer's part of the pool
}

// Device is a device's certificate, checked. It is immutable.
type Device struct {
	Cert      *x509.Certificate
	ID        mesh.NodeID // mesh.DeviceID of its key
	Name      mesh.Name
	WireGuard mesh.WGKey
	Profiles  []mesh.Profile
	Issuer    mesh.KeyID
	Serial    string    // hexadecimal
	Issued    time.Time // when it was signed: NotBefore is earlier, by Backdate
	NotBefore time.Time // of the whole chain: the latest NotBefore in it
	NotAfter  time.Time // of the whole chain: the earliest NotAfter in it
}

// SignDevice makes a device's certificate. key is the issuer's. Whoever asks need not prove that he holds the device's private key: with the
// certificate alone nothing can be done, and where somebody else's key is certified the issuer has shut that one out at most.
func (i *Issuer) SignDevice(key Key, root *Root, r DeviceRequest, now time.Time) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("signing a certificate for the device %q: %w", r.Name, err)
	}
	if err := i.maySign(key, root, now); err != nil {
		return fail(err)
	}
	if err := r.check(i); err != nil {
		return fail(err)
	}
	valid, err := i.validity(root, cmp.Or(r.Lifetime, DeviceLifetime), now)
	if err != nil {
		return fail(err)
	}
	t, err := r.template(i, root.Network, now)
	if err != nil {
		return fail(err)
	}
	t.NotBefore, t.NotAfter = valid.from, valid.to
	der, err := createX25519(t, i.Cert, r.WireGuard, key)
	if err != nil {
		return fail(err)
	}
	if len(der) > MaxDevice {
		return fail(fmt.Errorf("it would have %d bytes, the limit is %d", len(der), MaxDevice))
	}
	return der, nil
}

// createX25519 makes a certificate whose subject has an X25519 key (RFC 8410). crypto/x509 can encode and parse such keys, but CreateCertificate
// refuses them. So the certificate is made as if the key were an Ed25519 key, which has the same form but for its object identifier; then
// the key is put in and the whole is signed again.
func createX25519(t, parent *x509.Certificate, subject mesh.WGKey, key Key) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, ed25519.PublicKey(subject[:]), key)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pub, err := ecdh.X25519().NewPublicKey(subject[:])
	if err != nil {
		return nil, err
	}
	info, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	if len(info) != len(c.RawSubjectPublicKeyInfo) {
		return nil, errors.New("the two kinds of keys are not encoded in the same length")
	}
	// Only a wrong key could stand there twice, and then the certificate would be refused when it is read.
	tbs := bytes.Replace(c.RawTBSCertificate, c.RawSubjectPublicKeyInfo, info, 1)
	return encodeSigned(tbs, ed25519.Sign(key, tbs))
}

func (r *DeviceRequest) template(i *Issuer, n mesh.Network, now time.Time) (*x509.Certificate, error) {
	ext := deviceExtension{Version: extensionVersion, Issued: now.Unix()}
	var ips []net.IP
	for k, g := range r.Gateways {
		ext.Gateways = append(ext.Gateways, deviceGateway{Node: g.Node[:], IPv4: g.IPv4.AsSlice()})
		ips = append(ips, mesh.DeviceAddr(n.ID, r.WireGuard, k).AsSlice())
		if g.IPv4.IsValid() {
			ips = append(ips, g.IPv4.AsSlice())
		}
	}
	value, err := marshalExtension(oidDevice, ext)
	if err != nil {
		return nil, err
	}
	serial := r.Serial
	if serial == nil {
		if serial, err = newSerial(); err != nil {
			return nil, err
		}
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{string(n.Name)}, CommonName: string(r.Name)},
		KeyUsage:              x509.KeyUsageKeyAgreement, // RFC 8410, section 5
		BasicConstraintsValid: true,
		AuthorityKeyId:        i.KeyID[:],
		DNSNames:              []string{DNSName(r.Name, n)},
		IPAddresses:           ips,
		ExtraExtensions:       []pkix.Extension{value},
	}, nil
}

func (r *DeviceRequest) check(i *Issuer) error {
	if r.WireGuard.IsZero() {
		return errors.New("the WireGuard key is all zeros")
	}
	if err := checkName(string(r.Name)); err != nil {
		return err
	}
	if err := checkGateways(r.Gateways, i); err != nil {
		return err
	}
	if r.Lifetime < 0 {
		return fmt.Errorf("a lifetime of %v is negative", r.Lifetime)
	}
	if r.Serial != nil {
		return checkSerial(r.Serial)
	}
	return nil
}

func checkGateways(gs []DeviceGateway, i *Issuer) error {
	if len(gs) == 0 || len(gs) > mesh.MaxGateways {
		return fmt.Errorf("%d gateways, want 1 to %d", len(gs), mesh.MaxGateways)
	}
	nodes, addrs := make(map[mesh.NodeID]bool), make(map[netip.Addr]bool)
	for _, g := range gs {
		if g.Node.IsZero() || nodes[g.Node] {
			return errors.New("a gateway is not named, or named twice")
		}
		nodes[g.Node] = true
		if !g.IPv4.IsValid() {
			continue
		}
		if addrs[g.IPv4] {
			return fmt.Errorf("the address %v is there twice: each gateway needs its own", g.IPv4)
		}
		addrs[g.IPv4] = true
		if err := i.checkIPv4(g.IPv4); err != nil {
			return err
		}
	}
	return nil
}

// VerifyDevice judges the certificate of a device, as VerifyAtAnyTime does a member's: signature, constraints, addresses, our extension. It
// asks neither about time nor about revocation.
func (i *Issuer) VerifyDevice(der []byte, root *Root) (*Device, error) {
	if i.anchor == nil {
		return nil, errors.New("checking a device's certificate: the issuer was not made by ParseIssuer")
	}
	if i.root != root.KeyID() {
		return nil, fmt.Errorf("checking a certificate by issuer %s: %w than %s", i.Name, ErrWrongNetwork, root.Network.Name)
	}
	c, err := parseSigned(der, "device's", MaxDevice)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(c.AuthorityKeyId, i.KeyID[:]) {
		return nil, fmt.Errorf("device's certificate was signed by the key %x, not by issuer %s (%v)", c.AuthorityKeyId, i.Name, i.KeyID)
	}
	w := windowOf(c, i.Cert, root.Cert)
	if w.to.Before(w.from) {
		return nil, errors.New("device's certificate and its issuer's are never valid at the same time")
	}
	// As in Issuer.VerifyAtAnyTime.
	if _, err := c.Verify(x509.VerifyOptions{
		Roots: i.anchor, CurrentTime: w.from, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return nil, fmt.Errorf("device's certificate is not validly signed by issuer %s: %w", i.Name, err)
	}
	d, err := i.readDevice(c, root.Network)
	if err != nil {
		return nil, err
	}
	d.NotBefore, d.NotAfter = w.from, w.to
	return d, nil
}

// DeviceSigner returns the key identifier that a device's certificate names as its signer's. Nothing else about it is checked.
func DeviceSigner(der []byte) (mesh.KeyID, error) {
	c, err := parseSigned(der, "device's", MaxDevice)
	if err != nil {
		return mesh.KeyID{}, err
	}
	if len(c.AuthorityKeyId) != len(mesh.KeyID{}) {
		return mesh.KeyID{}, fmt.Errorf("device's certificate names its signer by %d bytes, want a key identifier of %d", len(c.AuthorityKeyId), len(mesh.KeyID{}))
	}
	return mesh.KeyID(c.AuthorityKeyId), nil
}

// readDevice takes the meaning out of a certificate whose signature and constraints have been checked.
func (i *Issuer) readDevice(c *x509.Certificate, n mesh.Network) (*Device, error) {
	d := &Device{Cert: c, Issuer: i.KeyID, Serial: serialText(c.SerialNumber)}
	if c.IsCA || c.KeyUsage != x509.KeyUsageKeyAgreement {
		return nil, errors.New("device's certificate is not for key agreement alone (CA flag, key usage)")
	}
	var err error
	if d.WireGuard, err = subjectX25519(c); err != nil {
		return nil, err
	}
	d.ID = mesh.DeviceID(d.WireGuard)
	if d.Name, err = nameOf(c, n); err != nil {
		return nil, err
	}
	var ext deviceExtension
	if err := readExtension(c.Extensions, oidDevice, &ext); err != nil {
		return nil, fmt.Errorf("certificate of %s is not one of a device: %w", d.Name, err)
	}
	if d.Profiles, err = i.profilesOf(c, &ext, d.WireGuard, n); err != nil {
		return nil, fmt.Errorf("certificate of the device %s: %w", d.Name, err)
	}
	if ext.Issued < c.NotBefore.Unix() || ext.Issued > c.NotAfter.Unix() {
		return nil, fmt.Errorf("certificate of the device %s: it says that it was issued at %d, outside its own life", d.Name, ext.Issued)
	}
	d.Issued = time.Unix(ext.Issued, 0).UTC()
	return d, nil
}

// subjectX25519 returns the key of the certificate. crypto/x509 parses X25519 keys, but not as a certificate's PublicKey.
func subjectX25519(c *x509.Certificate) (mesh.WGKey, error) {
	pub, err := x509.ParsePKIXPublicKey(c.RawSubjectPublicKeyInfo)
	if err != nil {
		return mesh.WGKey{}, fmt.Errorf("device's certificate: its key: %w", err)
	}
	key, ok := pub.(*ecdh.PublicKey)
	if !ok || key.Curve() != ecdh.X25519() {
		return mesh.WGKey{}, errors.New("device's certificate: its key is not X25519, which WireGuard's are")
	}
	return parseWireGuard(key.Bytes())
}

// profilesOf demands of each gateway the IPv6 address that follows from the device's key, and at most one IPv4 address, and nothing else.
func (i *Issuer) profilesOf(c *x509.Certificate, ext *deviceExtension, key mesh.WGKey, n mesh.Network) ([]mesh.Profile, error) {
	var gs []DeviceGateway
	for _, g := range ext.Gateways {
		id, err := mesh.NodeIDFromBytes(g.Node)
		if err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
		v4, ok := netip.AddrFromSlice(g.IPv4)
		if len(g.IPv4) > 0 && (!ok || !v4.Is4()) {
			return nil, fmt.Errorf("gateway: IPv4 address of %d bytes", len(g.IPv4))
		}
		gs = append(gs, DeviceGateway{id, v4})
		if len(gs) > mesh.MaxGateways {
			break
		}
	}
	if err := checkGateways(gs, i); err != nil {
		return nil, err
	}
	var out []mesh.Profile
	var all []netip.Addr
	for k, g := range gs {
		p := mesh.Profile{Gateway: g.Node, Addrs: []netip.Addr{mesh.DeviceAddr(n.ID, key, k)}}
		if g.IPv4.IsValid() {
			p.Addrs = append(p.Addrs, g.IPv4)
		}
		out, all = append(out, p), append(all, p.Addrs...)
	}
	var have []netip.Addr
	for _, ip := range c.IPAddresses {
		a, _ := netip.AddrFromSlice(ip)
		have = append(have, a)
	}
	if !slices.Equal(have, all) {
		return nil, fmt.Errorf("it has the addresses %v, want %v, which follow from its key and its gateways", have, all)
	}
	return out, nil
}
