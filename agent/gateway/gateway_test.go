package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridwire/gridwire/agent/tunnel"
	"github.com/gridwire/gridwire/mesh"
)

// rig is a gateway with a pretended tunnel, system and disk.
type rig struct {
	*testing.T
	*Gateway
	views chan *mesh.View
	view  *mesh.View

	mu      sync.Mutex
	peers   map[mesh.WGKey]tunnel.PeerStats
	allowed map[mesh.WGKey][]netip.Prefix
	routed  map[mesh.NodeID][]netip.Prefix
	posts   int
	forward bool
	disk    []byte
	changed int
	given   map[mesh.WGKey]netip.AddrPort // endpoints that the tunnel was told
	shaken  []mesh.WGKey
	seen    map[mesh.WGKey]netip.AddrPort // remembered
	fail    struct{ set, remove, forward, save error }
}

func (r *rig) SetPeer(p tunnel.PeerConfig) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail.set != nil {
		return r.fail.set
	}
	if p.Keepalive != 0 {
		r.Errorf("peer %+v: it is the device that keeps its way open", p)
	}
	r.given[p.Key] = p.Endpoint
	r.allowed[p.Key] = p.AllowedIPs
	if _, ok := r.peers[p.Key]; !ok {
		r.peers[p.Key] = tunnel.PeerStats{}
	}
	return nil
}

func (r *rig) RemovePeer(key mesh.WGKey) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail.remove != nil {
		return r.fail.remove
	}
	delete(r.allowed, key)
	delete(r.peers, key)
	return nil
}

func (r *rig) Handshake(key mesh.WGKey) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shaken = append(r.shaken, key)
	return nil
}

func (r *rig) Stats() (map[mesh.WGKey]tunnel.PeerStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[mesh.WGKey]tunnel.PeerStats{}
	for k, v := range r.peers {
		out[k] = v
	}
	return out, nil
}

// at3 is where device 3 was when the gateway stopped.
var at3 = netip.MustParseAddrPort("198.51.100.33:3333")

var self, other = mesh.NodeID{1}, mesh.NodeID{2}

func device(n byte, gateways ...mesh.NodeID) *mesh.Device {
	key := mesh.WGKey{n}
	d := &mesh.Device{ID: mesh.DeviceID(key), Name: mesh.Name(fmt.Sprintf("d%d", n)), WireGuard: key}
	for i, g := range gateways {
		d.Profiles = append(d.Profiles, mesh.Profile{Gateway: g, Addrs: []netip.Addr{mesh.DeviceAddr(mesh.NetworkID{}, key, i)}})
	}
	return d
}

// run starts a gateway in a bubble of virtual time, and calls f once it has come to rest.
func run(t *testing.T, disk string, f func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{
			T: t, views: make(chan *mesh.View, 1), view: mesh.NewView(mesh.Network{}, self),
			peers: map[mesh.WGKey]tunnel.PeerStats{}, allowed: map[mesh.WGKey][]netip.Prefix{}, disk: []byte(disk),
			given: map[mesh.WGKey]netip.AddrPort{},
		}
		if disk == "forward fails" {
			r.disk, r.fail.forward = []byte(`{"on":true}`), errors.New("not permitted")
		}
		locked := func(f func() error) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			return f()
		}
		g, err := New(Config{
			Self: self, Tunnel: r,
			Watch: func() (<-chan *mesh.View, func()) { return r.views, func() {} },
			Route: func(p map[mesh.NodeID][]netip.Prefix) {
				_ = locked(func() error { r.routed = p; r.posts++; return nil })
			},
			Forward: func(on bool) error {
				return locked(func() error { r.forward = on && r.fail.forward == nil; return r.fail.forward })
			},
			Seen:     map[mesh.WGKey]netip.AddrPort{{3}: at3, {77}: at3},
			Remember: func(m map[mesh.WGKey]netip.AddrPort) { _ = locked(func() error { r.seen = m; return nil }) },
			Changed:  func() { _ = locked(func() error { r.changed++; return nil }) },
			Save: func(b []byte) error {
				return locked(func() error {
					if r.fail.save == nil {
						r.disk = b
					}
					return r.fail.save
				})
			},
			Load: func() ([]byte, error) {
				if len(r.disk) == 0 {
					return nil, fs.ErrNotExist
				}
				return r.disk, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		r.Gateway = g
		r.add(device(1, self, other), device(2, other), device(3, self))
		r.members(&mesh.Member{ID: self, Gateway: true, WireGuard: mesh.WGKey{100}}, &mesh.Member{ID: other, Gateway: true, WireGuard: mesh.WGKey{101}})
		r.views <- r.view
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx) }()
		synctest.Wait()
		f(r)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if r.forward {
			t.Error("forwarding stays on")
		}
		if err := g.Turn(t.Context(), true); err == nil {
			t.Error("a stopped gateway turns on")
		}
		if d := g.Devices(t.Context()); d != nil {
			t.Errorf("a stopped gateway has devices: %v", d)
		}
	})
}

func (r *rig) add(ds ...*mesh.Device) {
	for _, d := range ds {
		r.view = r.view.WithDevice(d)
	}
}

func (r *rig) members(ms ...*mesh.Member) {
	for _, m := range ms {
		r.view = r.view.With(m)
	}
}

// show hands the View out.
func (r *rig) show() {
	r.views <- r.view
	synctest.Wait()
}

// serves demands that exactly these devices are peers.
func (r *rig) serves(when string, keys ...byte) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var have []byte
	for k := range r.allowed {
		have = append(have, k[0])
	}
	slices.Sort(have)
	if !slices.Equal(have, keys) {
		r.Errorf("%s: it serves %v, want %v", when, have, keys)
	}
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func TestGateway(t *testing.T) {
	run(t, "", func(r *rig) {
		r.serves("before it is on")
		d1, d2 := device(1, self, other), device(2, other)
		want := []netip.Prefix{netip.PrefixFrom(d1.Profiles[1].Addrs[0], 128), netip.PrefixFrom(d2.Profiles[0].Addrs[0], 128)}
		got := r.routed[other]
		slices.SortFunc(got, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		slices.SortFunc(want, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		if len(r.routed) != 1 || !slices.Equal(got, want) {
			t.Errorf("routed %v, want %v to the other gateway", r.routed, want)
		}

		r.must(r.Turn(r.Context(), true))
		synctest.Wait()
		r.serves("on", 1, 3)
		if !r.On() || !r.forward || string(r.disk) != `{"on":true}` || r.changed != 1 {
			t.Errorf("on %v, forwards %v, disk %q, told %d times", r.On(), r.forward, r.disk, r.changed)
		}
		addr := d1.Profiles[0].Addrs[0]
		if !slices.Equal(r.allowed[d1.WireGuard], []netip.Prefix{netip.PrefixFrom(addr, 128)}) || !r.Serves(addr) || r.Serves(d1.Profiles[1].Addrs[0]) {
			t.Errorf("allowed %v, serves %v", r.allowed[d1.WireGuard], r.Serves(addr))
		}

		// Revoked, bound elsewhere, new.
		r.view = r.view.WithoutDevice(device(3).ID)
		r.add(device(4, self))
		posts := r.posts
		r.show()
		r.serves("after a change", 1, 4)
		if r.posts != posts {
			t.Error("routes that have not changed were told again")
		}
		r.members(&mesh.Member{ID: other, WireGuard: mesh.WGKey{101}})
		r.show()
		if len(r.routed) != 0 {
			t.Errorf("devices are sent to a gateway that is off: %v", r.routed)
		}

		r.must(r.Turn(r.Context(), false))
		synctest.Wait()
		r.serves("off")
		if r.On() || r.forward || r.Serves(addr) || string(r.disk) != `{"on":false}` {
			t.Errorf("on %v, forwards %v, disk %q", r.On(), r.forward, r.disk)
		}
	})
}

func TestAlive(t *testing.T) {
	run(t, `{"on":true}`, func(r *rig) {
		r.serves("after a restart", 1, 3)
		state := func(key byte) Status {
			for _, s := range r.Devices(r.Context()) {
				if s.Device.WireGuard == (mesh.WGKey{key}) {
					return s
				}
			}
			t.Fatal("the device is not there")
			return Status{}
		}
		if s := state(1); s.Alive || !s.Heard.IsZero() {
			t.Errorf("before it came: %+v", s)
		}
		hear := func(n uint64) {
			r.mu.Lock()
			r.peers[mesh.WGKey{1}] = tunnel.PeerStats{RxBytes: n, Endpoint: netip.MustParseAddrPort("198.51.100.7:5000")}
			r.mu.Unlock()
		}
		for n := range uint64(5) {
			hear(100 + n)
			time.Sleep(25 * time.Second)
		}
		if s := state(1); !s.Alive || !s.Endpoint.IsValid() || s.RxBytes != 104 {
			t.Errorf("while it sends keepalives: %+v", s)
		}
		if got := r.Connected(); !slices.Equal(got, []mesh.WGKey{{1}}) || r.changed != 1 {
			t.Errorf("connected %v, told %d times", got, r.changed)
		}
		if s := state(3); s.Alive {
			t.Errorf("another one: %+v", s)
		}
		r.mu.Lock()
		if r.given[mesh.WGKey{3}] != at3 || r.given[mesh.WGKey{1}].IsValid() || !slices.Equal(r.shaken, []mesh.WGKey{{3}}) {
			t.Errorf("after a restart it sends to %v, and shakes hands with %v", r.given, r.shaken)
		}
		if len(r.seen) != 2 || r.seen[mesh.WGKey{1}].Port() != 5000 || r.seen[mesh.WGKey{3}] != at3 {
			t.Errorf("remembered %v", r.seen)
		}
		r.mu.Unlock()
		time.Sleep(aliveFor + countEvery)
		if s := state(1); s.Alive || s.Heard.IsZero() {
			t.Errorf("after it went: %+v", s)
		}
		if got := r.Connected(); len(got) != 0 || r.changed != 2 {
			t.Errorf("connected %v, told %d times", got, r.changed)
		}
	})
}

// TestTunnelFails: a revoked device does not stay in the tunnel because of one failure.
func TestTunnelFails(t *testing.T) {
	run(t, `{"on":true}`, func(r *rig) {
		r.mu.Lock()
		r.fail.remove, r.fail.set = errors.New("no socket"), errors.New("no socket")
		r.mu.Unlock()
		r.view = r.view.WithoutDevice(device(3).ID)
		r.add(device(5, self))
		r.show()
		r.serves("while the tunnel cannot be changed", 1, 3)
		time.Sleep(5 * retry)
		r.mu.Lock()
		r.fail.remove, r.fail.set = nil, nil
		r.mu.Unlock()
		time.Sleep(2 * retry)
		r.serves("when it can", 1, 5)
	})
}

func TestTurnFails(t *testing.T) {
	run(t, "", func(r *rig) {
		r.fail.forward = errors.New("read-only file system")
		if err := r.Turn(r.Context(), true); err == nil || !strings.Contains(err.Error(), "read-only") || r.On() || len(r.disk) != 0 {
			t.Errorf("without forwarding: %v, on %v, disk %q", err, r.On(), r.disk)
		}
		r.fail.forward, r.fail.save = nil, errors.New("disk full")
		if err := r.Turn(r.Context(), true); err == nil || r.On() || r.forward {
			t.Errorf("with a full disk: %v, on %v, forwards %v", err, r.On(), r.forward)
		}
		r.fail.save = nil
		r.must(r.Turn(r.Context(), true))
		r.fail.save = errors.New("disk full")
		if err := r.Turn(r.Context(), false); err == nil || !r.On() || !r.forward {
			t.Errorf("off with a full disk: %v, on %v, forwards %v", err, r.On(), r.forward)
		}
		synctest.Wait()
		r.serves("after all that", 1, 3)
	})
	run(t, "forward fails", func(r *rig) {
		r.serves("where forwarding is not permitted")
		if r.On() || !strings.Contains(r.Trouble(), "not permitted") {
			t.Errorf("on %v, trouble %q", r.On(), r.Trouble())
		}
	})
	run(t, "{nonsense", func(r *rig) {
		r.serves("with a damaged setting")
		if r.On() || !strings.Contains(r.Trouble(), "gridwire gateway on") {
			t.Errorf("on %v, trouble %q", r.On(), r.Trouble())
		}
		r.must(r.Turn(r.Context(), true))
		if r.Trouble() != "" {
			t.Errorf("trouble %q", r.Trouble())
		}
	})
}
