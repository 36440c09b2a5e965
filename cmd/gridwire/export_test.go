package main

import (
	"context"
	"crypto/ecdh"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/mesh"
)

// TestExport: what is printed is a configuration for wg-quick, its private key fits the key that the agent was asked to certify, and the agent
// never sees the private one.
func TestExport(t *testing.T) {
	var asked api.ExportRequest
	socket := fakeAgent(t, api.Handlers{Devices: api.Devices{Export: func(_ context.Context, r api.ExportRequest) (*api.ExportResponse, error) {
		asked = r
		out := &api.ExportResponse{
			Name: "phone.farm.internal", Network: "farm", Domain: "farm.internal", Expires: time.Date(2027, 3, 4, 0, 0, 0, 0, time.UTC),
			Warnings: []string{"nobody has tested it"},
		}
		for _, g := range []string{"olga", "bob"} {
			if !r.Extend {
				out.Profiles = append(out.Profiles, api.Profile{
					Gateway: g, PublicKey: mesh.WGKey{1}.String(), Endpoint: g + ".example.org:51820", Addresses: []string{"fd00::1/128", "10.64.0.9/32"},
					DNS: []string{"fd00::2", "10.64.0.1"}, AllowedIPs: []string{"fd00::/48", "10.64.0.0/16"},
				})
			}
		}
		return out, nil
	}}})
	got := gridwire(t, socket, "export", "Phone", "--gateway", "olga", "--gateway", "bob", "--endpoint", "bob=192.0.2.1:5", "--replace")
	if got.code != exitOK || asked.Name != "phone" || len(asked.Gateways) != 2 || !asked.Replace || asked.Endpoints[0] != "bob=192.0.2.1:5" {
		t.Fatalf("%+v asked %+v", got, asked)
	}
	configs := strings.Split(got.out, "[Interface]\n")[1:]
	if len(configs) != 2 {
		t.Fatalf("%d configurations:\n%s", len(configs), got.out)
	}
	for i, c := range configs {
		private, _, _ := strings.Cut(strings.TrimPrefix(c, "PrivateKey = "), "\n")
		b, err := base64.StdEncoding.DecodeString(private)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ecdh.X25519().NewPrivateKey(b)
		if err != nil || mesh.WGKey(key.PublicKey().Bytes()) != asked.WireGuard {
			t.Errorf("the private key does not fit the one that was certified: %v", err)
		}
		gateway := []string{"olga", "bob"}[i]
		for _, line := range []string{
			"Address = fd00::1/128, 10.64.0.9/32\n", "DNS = fd00::2, 10.64.0.1, farm.internal\n", "MTU = 1280\n", "\n[Peer]\nPublicKey = AQAA",
			"AllowedIPs = fd00::/48, 10.64.0.0/16\n", "Endpoint = " + gateway + ".example.org:51820\n", "PersistentKeepalive = 25\n",
		} {
			if !strings.Contains(c, line) {
				t.Errorf("the configuration for %s lacks %q:\n%s", gateway, line, c)
			}
		}
		if strings.Contains(got.errOut, private) {
			t.Error("the private key is on stderr")
		}
	}
	said := strings.Join(strings.Fields(got.errOut), " ")
	for _, s := range []string{"warning: nobody has tested it", "olga or bob can read and alter it", "gridwire revoke phone", "one configuration for each gateway"} {
		if !strings.Contains(said, s) {
			t.Errorf("it says %q, which lacks %q", said, s)
		}
	}
	again := gridwire(t, socket, "export", "phone", "--qr")
	if !strings.Contains(again.out, "▄") || strings.Count(again.out, "[Interface]") != 2 || strings.Contains(got.out, "▄") {
		t.Errorf("with --qr:\n%s", again.out)
	}
	longer := gridwire(t, socket, "export", "phone", "--extend")
	if longer.code != exitOK || !asked.Extend || !asked.WireGuard.IsZero() || strings.Contains(longer.out, "PrivateKey") || !strings.Contains(longer.out, "2027") {
		t.Errorf("extended: %+v, asked %+v", longer, asked)
	}
}

func TestGatewayCommand(t *testing.T) {
	bound := []string{}
	socket := fakeAgent(t, api.Handlers{Devices: api.Devices{Gateway: func(_ context.Context, r api.GatewayRequest) (*api.GatewayResponse, error) {
		return &api.GatewayResponse{Devices: bound, Warnings: []string{"on is " + map[bool]string{true: "true", false: "false"}[r.On]}}, nil
	}}})
	if got := gridwire(t, socket, "gateway", "on"); got.code != exitOK || !strings.Contains(got.out, "gridwire export phone") || !strings.Contains(got.errOut, "on is true") {
		t.Errorf("on: %+v", got)
	}
	bound = []string{"phone", "tablet"}
	if got := gridwire(t, socket, "gateway", "on"); !strings.Contains(got.out, "phone, tablet") {
		t.Errorf("on with devices: %+v", got)
	}
	if got := gridwire(t, socket, "gateway", "off"); got.code != exitOK || !strings.Contains(got.errOut, "on is false") {
		t.Errorf("off: %+v", got)
	}
}

// TestDevicesInStatus: a gateway's devices, in 100 columns.
func TestDevicesInStatus(t *testing.T) {
	heard := time.Now().Add(-12 * time.Second)
	st := &api.Status{
		Network: &api.Network{Name: "farm", Domain: "farm.internal"}, Self: api.Self{Name: "olga", Gateway: true, Addresses: []string{"fd00::1/128"}},
		Devices: []api.Device{
			{Name: "phone", Addresses: []string{"fd00:25c9:a9cc:d66e:5223:2afe:29a9:1/128", "10.100.0.5/32"}, State: "connected", LastHeard: &heard,
				Endpoint: "198.51.100.111:51820", ReceiveBytes: 1 << 20, TransmitBytes: 1000},
			{Name: "tablet", Addresses: []string{"fd00:25c9:a9cc:d66e:5223:2afe:29a9:2/128", "10.100.0.77/32"}, State: "offline"},
		},
	}
	var b strings.Builder
	printStatus(&b, st)
	for _, want := range []string{"gateway", "\nphone   10.100.0.5", "connected  12s ago", "1.0 MiB   1000 B  198.51.100.111:51820\n", "\ntablet  10.100.0.77", "offline    -"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	for line := range strings.Lines(b.String()) {
		if len(line) > 101 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	st.Devices = nil
	b.Reset()
	printStatus(&b, st)
	if strings.Contains(b.String(), "DEVICE") {
		t.Error("a table of no devices")
	}
}
