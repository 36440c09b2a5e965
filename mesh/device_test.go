package mesh

import (
	"net/netip"
	"slices"
	"testing"
)

func testDevice(n byte, gateways ...NodeID) *Device {
	key := WGKey{n}
	d := &Device{ID: DeviceID(key), Name: Name("d" + string('a'+rune(n))), WireGuard: key, Block: DeviceBlock(NetworkID{}, key)}
	for i, g := range gateways {
		d.Profiles = append(d.Profiles, Profile{g, []netip.Addr{DeviceAddr(NetworkID{}, key, i)}})
	}
	return d
}

func TestDeviceAddrs(t *testing.T) {
	d := testDevice(1, NodeID{1}, NodeID{2})
	if d.Block != Block(NetworkID{}, d.ID) || d.ID == NodeID(d.WireGuard) {
		t.Errorf("block %v, ID %v", d.Block, d.ID)
	}
	addrs := d.Addrs()
	if len(addrs) != 2 || addrs[0] == addrs[1] || addrs[1] != addrs[0].Next() || !d.Block.Contains(addrs[0]) || !d.Block.Contains(addrs[1]) {
		t.Errorf("addresses %v in %v", addrs, d.Block)
	}
	if p, ok := d.At(NodeID{2}); !ok || p.Addrs[0] != addrs[1] {
		t.Errorf("at the second gateway: %v, %v", p, ok)
	}
	if _, ok := d.At(NodeID{3}); ok {
		t.Error("it is bound to a gateway that it does not name")
	}
}

// TestReach: names lead to where the device is.
func TestReach(t *testing.T) {
	a, b := NodeID{1}, NodeID{2}
	d := testDevice(1, a, b)
	v := NewView(Network{}, a).WithDevice(d)
	member := func(id NodeID, on bool, connected ...WGKey) *Member {
		return &Member{ID: id, Name: Name("m" + string('a'+rune(id[0]))), WireGuard: WGKey(id), Gateway: on, Connected: connected}
	}
	at := func(v *View) (out []NodeID) {
		for _, p := range v.Reach(d) {
			out = append(out, p.Gateway)
		}
		return out
	}
	for name, c := range map[string]struct {
		view *View
		want []NodeID
	}{
		"nobody is a gateway":     {v, []NodeID{a, b}},
		"one is":                  {v.With(member(a, false)).With(member(b, true)), []NodeID{b}},
		"both, and it is nowhere": {v.With(member(a, true)).With(member(b, true)), []NodeID{a, b}},
		"at one":                  {v.With(member(a, true)).With(member(b, true, WGKey{9}, d.WireGuard)), []NodeID{b}},
		"at both":                 {v.With(member(a, true, d.WireGuard)).With(member(b, true, d.WireGuard)), []NodeID{a, b}},
		"at one that is off":      {v.With(member(a, false, d.WireGuard)).With(member(b, true)), []NodeID{b}},
	} {
		if got := at(c.view); !slices.Equal(got, c.want) {
			t.Errorf("%s: reached at %v, want %v", name, got, c.want)
		}
	}
}

func TestViewDevices(t *testing.T) {
	empty := NewView(Network{}, NodeID{1})
	v := empty.WithDevice(testDevice(1)).WithDevice(testDevice(2))
	if d, ok := v.DeviceByName("dc"); !ok || d.WireGuard != (WGKey{2}) {
		t.Errorf("by name: %v, %v", d, ok)
	}
	if _, ok := v.ByName("dc"); ok || v.Len() != 0 {
		t.Error("a device is a member")
	}
	gone := v.WithoutDevice(DeviceID(WGKey{1}))
	if n := len(slices.Collect(gone.Devices())); n != 1 || gone.Generation <= v.Generation {
		t.Errorf("%d devices are left", n)
	}
	if n := len(slices.Collect(v.Devices())); n != 2 || len(slices.Collect(empty.Devices())) != 0 {
		t.Error("an earlier View has changed")
	}
	for range v.Devices() {
		break
	}
}

func TestWGKeyText(t *testing.T) {
	k := WGKey{1, 31: 7}
	text, _ := k.MarshalText()
	var back WGKey
	if err := back.UnmarshalText(text); err != nil || back != k {
		t.Errorf("%s became %v: %v", text, back, err)
	}
	for _, bad := range []string{"", "AQ==", string(text) + "A", "!" + string(text[1:]), string(text[:42]) + "B="} {
		if err := back.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}
