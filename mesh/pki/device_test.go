package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

func (a *authority) deviceRequest(name mesh.Name) DeviceRequest {
	r := DeviceRequest{
		WireGuard: testWG(9), Name: name, Serial: big.NewInt(0xde),
		Gateways: []DeviceGateway{{Node: mesh.NodeID{1}}, {Node: mesh.NodeID{2}}},
	}
	if a.alice.IPv4.IsValid() {
		r.Gateways[0].IPv4 = a.alice.IPv4.Addr().Next()
	}
	return r
}

// forgeDevice signs t for the X25519 key, as a careless or hostile issuer could.
func (a *authority) forgeDevice(t *x509.Certificate, key mesh.WGKey) []byte {
	unchecked := *a.alice.Cert
	unchecked.PublicKey = nil
	return must(createX25519(t, &unchecked, key, a.aliceKey))
}

func TestDeviceRoundTrip(t *testing.T) {
	for _, pool := range []netip.Prefix{{}, NoIPv4()} {
		a := newAuthority(t, "a", pool)
		r := a.deviceRequest("phone")
		der := must(a.alice.SignDevice(a.aliceKey, a.root, r, testNow))
		d, err := a.alice.VerifyDevice(der, a.root)
		if err != nil {
			t.Fatal(err)
		}
		n := a.root.Network.ID
		if d.Name != "phone" || d.WireGuard != r.WireGuard || d.ID != mesh.DeviceID(r.WireGuard) || d.Serial != "de" || d.Issuer != a.alice.KeyID {
			t.Errorf("device %+v", d)
		}
		if len(d.Profiles) != 2 || d.Profiles[0].Gateway != (mesh.NodeID{1}) || d.Profiles[0].Addrs[0] != mesh.DeviceAddr(n, r.WireGuard, 0) ||
			d.Profiles[1].Addrs[0] != mesh.DeviceAddr(n, r.WireGuard, 1) || len(d.Profiles[1].Addrs) != 1 {
			t.Errorf("profiles %+v", d.Profiles)
		}
		if got := d.Profiles[0].Addrs[1:]; pool.IsValid() && len(got) != 0 || !pool.IsValid() && got[0] != r.Gateways[0].IPv4 {
			t.Errorf("IPv4 %v", got)
		}
		if !d.Issued.Equal(testNow.Truncate(time.Second)) || d.NotAfter.Sub(d.Issued) != DeviceLifetime || d.Issued.Sub(d.NotBefore) > Backdate {
			t.Errorf("issued %v, valid %v to %v", d.Issued, d.NotBefore, d.NotAfter)
		}
		if id, err := DeviceSigner(der); err != nil || id != a.alice.KeyID {
			t.Errorf("signer %v, %v", id, err)
		}
		if _, err := a.zoe.VerifyDevice(der, a.root); err == nil {
			t.Error("another issuer's device was accepted")
		}
		if _, err := a.alice.VerifyAtAnyTime(der, a.root); err == nil {
			t.Error("a device was accepted as a member")
		}
		if _, err := a.alice.VerifyDevice(a.chain(t)[0], a.root); err == nil {
			t.Error("a member was accepted as a device")
		}
	}
}

func TestDeviceLargest(t *testing.T) {
	long := mesh.Name(strings.Repeat("n", 63))
	domain := strings.Repeat(strings.Repeat("d", 44)+".", 4)
	a := &authority{rootKey: testKey("root"), aliceKey: testKey("alice"), zoeKey: testKey("zoe")}
	a.root = must(ParseRoot(must(NewRoot(long, strings.TrimSuffix(domain, "."), netip.Prefix{}, a.rootKey, testNow))))
	a.alice = a.issuer(a.aliceKey, long, 15)
	r := DeviceRequest{WireGuard: testWG(9), Name: long}
	v4 := a.alice.IPv4.Addr()
	for k := range mesh.MaxGateways {
		v4 = v4.Next()
		r.Gateways = append(r.Gateways, DeviceGateway{mesh.NodeID{byte(k + 1)}, v4})
	}
	der := must(a.alice.SignDevice(a.aliceKey, a.root, r, testNow))
	t.Logf("the largest certificate of a device has %d bytes", len(der))
	if d, err := a.alice.VerifyDevice(der, a.root); err != nil || len(d.Profiles) != mesh.MaxGateways {
		t.Fatalf("%+v, %v", d, err)
	}
}

func TestSignDeviceRefuses(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	for _, c := range []struct {
		part   string
		change func(*DeviceRequest)
	}{
		{"zeros", func(r *DeviceRequest) { r.WireGuard = mesh.WGKey{} }},
		{"DNS label", func(r *DeviceRequest) { r.Name = "my phone" }},
		{"lower case", func(r *DeviceRequest) { r.Name = "Phone" }},
		{"0 gateways", func(r *DeviceRequest) { r.Gateways = nil }},
		{"5 gateways", func(r *DeviceRequest) { r.Gateways = make([]DeviceGateway, 5) }},
		{"named twice", func(r *DeviceRequest) { r.Gateways[1].Node = r.Gateways[0].Node }},
		{"not named", func(r *DeviceRequest) { r.Gateways[1].Node = mesh.NodeID{} }},
		{"its own", func(r *DeviceRequest) { r.Gateways[1].IPv4 = r.Gateways[0].IPv4 }},
		{"outside", func(r *DeviceRequest) { r.Gateways[1].IPv4 = netip.MustParseAddr("8.8.8.8") }},
		{"outside", func(r *DeviceRequest) { r.Gateways[1].IPv4 = a.zoe.IPv4.Addr().Next() }},
		{"negative", func(r *DeviceRequest) { r.Lifetime = -1 }},
		{"serial", func(r *DeviceRequest) { r.Serial = big.NewInt(-1) }},
	} {
		r := a.deviceRequest("phone")
		c.change(&r)
		_, err := a.alice.SignDevice(a.aliceKey, a.root, r, testNow)
		wantError(t, err, nil, c.part)
	}
	_, err := a.alice.SignDevice(a.zoeKey, a.root, a.deviceRequest("phone"), testNow)
	wantError(t, err, nil, "not the key")
	_, err = a.alice.SignDevice(a.aliceKey, a.root, a.deviceRequest("phone"), testNow.AddDate(6, 0, 0))
	wantError(t, err, ErrExpired, "alice")
}

func deviceExt(e deviceExtension) []byte { return must(asn1.Marshal(e)) }

// TestDeviceViolations: what a careless or hostile holder of alice's key could sign.
func TestDeviceViolations(t *testing.T) {
	a := newAuthority(t, "a", netip.Prefix{})
	n := a.root.Network.ID
	good := must(a.alice.SignDevice(a.aliceKey, a.root, a.deviceRequest("phone"), testNow))
	one := deviceGateway{Node: slices.Repeat([]byte{1}, 32)}
	at := testNow.Unix()
	for _, v := range []struct {
		part   string
		change func(c *x509.Certificate)
	}{
		{"not permitted", func(c *x509.Certificate) { c.DNSNames = []string{"phone.evil.example"} }},
		{"DNS label", func(c *x509.Certificate) { c.DNSNames = []string{"a.b.farm.internal"} }},
		{"2 DNS names", func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "x.farm.internal") }},
		{"not permitted", func(c *x509.Certificate) { c.IPAddresses[0] = net.ParseIP("2001:db8::1") }},
		{"follow from its key", func(c *x509.Certificate) { c.IPAddresses[0] = mesh.DeviceAddr(n, testWG(9), 2).AsSlice() }},
		{"follow from its key", func(c *x509.Certificate) { c.IPAddresses[0] = mesh.DeviceAddr(n, testWG(8), 0).AsSlice() }},
		{"follow from its key", func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[1:] }},
		{"follow from its key", func(c *x509.Certificate) {
			c.IPAddresses = append(c.IPAddresses, a.alice.IPv4.Addr().Next().Next().AsSlice())
		}},
		{"key agreement alone", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		{"key agreement alone", func(c *x509.Certificate) { c.IsCA = true }},
		{"lacks the extension", func(c *x509.Certificate) { c.ExtraExtensions = nil }},
		{"damaged", func(c *x509.Certificate) { setExtension(c, []byte{0x30, 5, 1}) }},
		{"0 gateways", func(c *x509.Certificate) { setExtension(c, deviceExt(deviceExtension{Version: 1, Issued: at})) }},
		{"5 gateways", func(c *x509.Certificate) {
			setExtension(c, deviceExt(deviceExtension{1, slices.Repeat([]deviceGateway{one}, 9), at}))
		}},
		{"named twice", func(c *x509.Certificate) {
			setExtension(c, deviceExt(deviceExtension{1, []deviceGateway{one, one}, at}))
		}},
		{"3 bytes", func(c *x509.Certificate) {
			setExtension(c, deviceExt(deviceExtension{1, []deviceGateway{{Node: []byte{1, 2, 3}}}, at}))
		}},
		{"IPv4 address of 16", func(c *x509.Certificate) {
			setExtension(c, deviceExt(deviceExtension{1, []deviceGateway{{one.Node, make([]byte, 16)}}, at}))
		}},
		{"outside its own life", func(c *x509.Certificate) {
			setExtension(c, deviceExt(deviceExtension{1, []deviceGateway{one}, at + 1<<40}))
			c.IPAddresses = c.IPAddresses[:1]
		}},
		{"critical extension", func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 25, 1}, Critical: true, Value: []byte{5, 0}})
		}},
		{"too large", func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 25, 1}, Value: make([]byte, MaxDevice)})
		}},
	} {
		c := template(good)
		v.change(c)
		_, err := a.alice.VerifyDevice(a.forgeDevice(c, testWG(9)), a.root)
		wantError(t, err, nil, v.part)
	}
	_, err := a.alice.VerifyDevice(a.forgeDevice(template(good), mesh.WGKey{}), a.root)
	wantError(t, err, nil, "zeros")
	_, err = a.alice.VerifyDevice(forge(template(good), a.alice.Cert, pub(testKey("bob")), a.aliceKey), a.root)
	wantError(t, err, nil, "not X25519")
	_, err = a.alice.VerifyDevice(forgedSignature(good), a.root)
	wantError(t, err, nil, "not validly signed")
	_, err = a.alice.VerifyDevice(appendInside(good), a.root)
	wantError(t, err, nil, "not signed")
	_, err = (&Issuer{}).VerifyDevice(good, a.root)
	wantError(t, err, nil, "ParseIssuer")
}

func FuzzVerifyDevice(f *testing.F) {
	a := newAuthority(f, "a", netip.Prefix{})
	other := a.deviceRequest("tablet")
	other.WireGuard, other.Gateways = testWG(3), other.Gateways[:1]
	fuzzForgery(f, func(der []byte) error {
		_, err := a.alice.VerifyDevice(der, a.root)
		return err
	}, must(a.alice.SignDevice(a.aliceKey, a.root, a.deviceRequest("phone"), testNow)),
		must(a.alice.SignDevice(a.aliceKey, a.root, other, testNow)))
}

// FuzzSignedDevice puts arbitrary content behind a valid signature.
func FuzzSignedDevice(f *testing.F) {
	a := newAuthority(f, "a", netip.Prefix{})
	good := must(a.alice.SignDevice(a.aliceKey, a.root, a.deviceRequest("phone"), testNow))
	base := template(good)
	judge := func(ext []byte, name string, v6, v4 []byte, key byte) (*Device, error) {
		c := template(good)
		setExtension(c, ext)
		c.DNSNames, c.IPAddresses = []string{name}, nil
		for _, ip := range [][]byte{v6, v4} {
			if len(ip) > 0 {
				c.IPAddresses = append(c.IPAddresses, net.IP(ip))
			}
		}
		k := testWG(key)
		der, err := createX25519(c, a.alice.Cert, k, a.aliceKey)
		if err != nil {
			return nil, err
		}
		return a.alice.VerifyDevice(der, a.root)
	}
	one := deviceExt(deviceExtension{1, []deviceGateway{{Node: slices.Repeat([]byte{7}, 32), IPv4: base.IPAddresses[1]}}, testNow.Unix()})
	if _, err := judge(one, "phone.farm.internal", base.IPAddresses[0], base.IPAddresses[1], 9); err != nil {
		f.Fatalf("seed refused: %v", err)
	}
	f.Add(one, "phone.farm.internal", []byte(base.IPAddresses[0]), []byte(base.IPAddresses[1]), byte(9))
	f.Add(base.ExtraExtensions[0].Value, "x.farm.internal", []byte{}, []byte{8, 8, 8, 8}, byte(1))
	f.Fuzz(func(t *testing.T, ext []byte, name string, v6, v4 []byte, key byte) {
		d, err := judge(ext, name, v6, v4, key)
		if err != nil {
			return
		}
		if name != DNSName(d.Name, a.root.Network) || len(d.Profiles) == 0 || len(d.Profiles) > mesh.MaxGateways {
			t.Fatalf("accepted %+v", d)
		}
		for k, p := range d.Profiles {
			if p.Addrs[0] != mesh.DeviceAddr(a.root.Network.ID, d.WireGuard, k) || len(p.Addrs) > 1 && !a.alice.IPv4.Contains(p.Addrs[1]) {
				t.Fatalf("accepted the addresses %v", p.Addrs)
			}
		}
	})
}

// TestOpensslReadsDevice: other programs understand a certificate whose key can only agree on keys.
func TestOpensslReadsDevice(t *testing.T) {
	o, a := newOpenssl(t), newAuthority(t, "a", netip.Prefix{})
	o.write("root.pem", "CERTIFICATE", a.root.Cert.Raw)
	o.write("alice.pem", "CERTIFICATE", a.alice.Cert.Raw)
	o.write("phone.pem", "CERTIFICATE", must(a.alice.SignDevice(a.aliceKey, a.root, a.deviceRequest("phone"), testNow)))
	o.prints("x509 -text -noout -in phone.pem", "CN = phone", "X25519", "Key Agreement", "CA:FALSE", "DNS:phone.farm.internal", oidDevice.String())
	o.prints("verify -attime "+strconv.FormatInt(testNow.Unix(), 10)+" -CAfile root.pem -untrusted alice.pem phone.pem", "phone.pem: OK")
}
