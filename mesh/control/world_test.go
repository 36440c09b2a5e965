package control

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/directory"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// world is a network of whole control planes on a memnet, with real certificates and directories.
type world struct {
	t       *testing.T
	net     *memnet
	rootKey ed25519.PrivateKey
	root    *pki.Root
	issuer  *pki.Issuer
	issKey  ed25519.PrivateKey
	nodes   []*node
	hosts   []*Host // of strangers
}

type node struct {
	w      *world
	key    ed25519.PrivateKey
	id     mesh.NodeID
	name   mesh.Name
	chain  [][]byte
	addr   netip.AddrPort
	nat    bool
	port   *memport
	dir    *directory.Directory
	host   *Host
	udp    []netip.AddrPort // real sockets
	ctl    *Control
	record atomic.Pointer[wire.SignedRecord]
	stop   func()

	signals atomic.Int32
	enrols  atomic.Int32
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	return key
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T, latency time.Duration) *world {
	t.Helper()
	w := &world{t: t, net: newMemnet(latency), rootKey: newKey(t), issKey: newKey(t)}
	der, err := pki.NewRoot("farm", "farm.internal", netip.Prefix{}, w.rootKey, time.Now())
	check(t, err)
	w.root, err = pki.ParseRoot(der)
	check(t, err)
	der, err = pki.NewIssuer(w.root, w.rootKey, w.issKey.Public().(ed25519.PublicKey), "alice", 0, time.Now())
	check(t, err)
	w.issuer, err = pki.ParseIssuer(der, w.root)
	check(t, err)
	return w
}

// memory is a Persister.
type memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (m *memory) SaveItems(kind string, b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m == nil {
		m.m = make(map[string][]byte)
	}
	m.m[kind] = b
	return nil
}

func (m *memory) LoadItems(kind string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.m[kind]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

// add makes a member that does not run yet. Each has an address of its own; nat: others reach it only where it has sent to.
func (w *world) add(nat bool) *node {
	w.t.Helper()
	i := len(w.nodes)
	n := &node{w: w, key: newKey(w.t), name: mesh.Name(fmt.Sprintf("node%d", i)), nat: nat}
	n.id = mesh.NodeIDOf(n.key.Public().(ed25519.PublicKey))
	n.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{45, 0, 77, byte(i + 1)}), 51820)
	leaf, err := w.issuer.Sign(w.issKey, w.root, pki.LeafRequest{
		Identity: n.key.Public().(ed25519.PublicKey), WireGuard: mesh.WGKey{byte(i + 1), 1}, Name: n.name,
	}, time.Now())
	check(w.t, err)
	n.chain = [][]byte{leaf, w.issuer.Cert.Raw}
	n.sign(1)
	w.nodes = append(w.nodes, n)
	return n
}

// sign makes a record with this sequence number.
func (n *node) sign(seq uint64) *wire.SignedRecord {
	n.w.t.Helper()
	r, err := wire.SignRecord(&wire.Record{
		Version: 1, Chain: n.chain, Sequence: seq, Boot: 1, Time: time.Now().UnixMilli(), Reachable: !n.nat,
		Endpoints: wire.AddrPortsBytes([]netip.AddrPort{n.addr}), SealKey: make([]byte, 32), Nat: "open", Software: "test",
	}, n.key)
	check(n.w.t, err)
	n.record.Store(r)
	return r
}

// start runs a member's directory, host and control plane. It knows those given.
func (n *node) start(know ...*node) {
	n.w.t.Helper()
	n.prepare()
	n.run(know...)
}

func (n *node) log() *slog.Logger {
	if os.Getenv("CONTROL_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("on", n.name)
}

// prepare makes the host.
func (n *node) prepare() {
	n.w.t.Helper()
	n.port = n.w.net.open(n.addr, n.nat)
	var err error
	n.host, err = NewHost(HostConfig{Identity: n.key, Log: n.log(), Sockets: func(family string) (net.PacketConn, error) {
		if family == "udp4" {
			return n.port, nil
		}
		return nil, errNoFamily
	}})
	check(n.w.t, err)
	n.stop = func() { _ = n.host.Close() }
}

// run makes it a member.
func (n *node) run(know ...*node) {
	n.w.t.Helper()
	t := n.w.t
	var err error
	n.dir, err = directory.New(directory.Config{Root: n.w.root, Self: n.id, Persist: new(memory), Now: time.Now, Log: n.log()})
	check(t, err)
	n.ctl, err = New(Config{
		Host: n.host, Network: n.w.root.Network, Directory: n.dir, Self: n.record.Load, Boot: 1, Log: n.log(),
		Enrol: func(_ context.Context, from netip.AddrPort, _ bool, f *wire.EnrolFrame) *wire.EnrolResponse {
			n.enrols.Add(1)
			return &wire.EnrolResponse{SealedResult: f.GetSealedRequest(), Error: from.String()}
		},
		Signal: func(_ context.Context, from mesh.NodeID, _ *wire.SignalFrame) *wire.SignalAck {
			n.signals.Add(1)
			return &wire.SignalAck{Delivered: true, Reason: from.Short()}
		},
	})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	dctx, dcancel := context.WithCancel(context.Background())
	wg.Go(func() {
		if err := n.dir.Run(dctx); err != nil {
			t.Errorf("directory of %s: %v", n.name, err)
		}
	})
	for _, other := range append(know, n) {
		_, err := n.dir.Submit(ctx, recordItem(other.record.Load()))
		check(t, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.ctl.Run(ctx); err != nil {
			t.Errorf("control plane of %s: %v", n.name, err)
		}
	}()
	n.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := n.host.Close(); err != nil {
			t.Errorf("closing the host of %s: %v", n.name, err)
		}
		dcancel()
		wg.Wait()
	})
}

func (w *world) stop() {
	for _, n := range w.nodes {
		if n.stop != nil {
			n.stop()
		}
	}
	for _, h := range w.hosts {
		if err := h.Close(); err != nil {
			w.t.Errorf("closing a stranger's host: %v", err)
		}
	}
	time.Sleep(time.Second) // GossipSub's heartbeat sleeps once before it looks whether it is to end
}

func recordItem(r *wire.SignedRecord) *wire.Item {
	return &wire.Item{Item: &wire.Item_Record{Record: r}}
}

// inWorld runs a test in virtual time.
func inWorld(t *testing.T, latency time.Duration, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, latency)
		defer w.stop()
		f(t, w)
	})
}

// until waits in virtual time.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > limit {
			t.Fatalf("%s: not within %v", what, limit)
		}
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
	}
	return time.Since(begin)
}

func (n *node) connected(others ...*node) bool {
	for _, o := range others {
		if n.ctl.provenConn(o.id) == nil {
			return false
		}
	}
	return true
}

func (n *node) knows(others ...*node) bool {
	for _, o := range others {
		if _, ok := n.dir.View().Member(o.id); !ok {
			return false
		}
	}
	return true
}

// revoke makes the issuer's list with this number: it revokes these members.
func (w *world) revoke(number uint64, bad ...*node) *wire.Item {
	w.t.Helper()
	var entries []pki.Revoked
	for _, n := range bad {
		leaf, _, err := pki.Verify(n.chain, w.root, time.Now())
		check(w.t, err)
		entries = append(entries, pki.Revoked{Issuer: w.issuer.KeyID, Serial: leaf.Serial, ID: n.id, Kind: pki.Member, At: time.Now()})
	}
	list, err := pki.NewRevocationList(w.issuer.Cert, w.issKey, number, entries, time.Now())
	check(w.t, err)
	return &wire.Item{Item: &wire.Item_RevocationList{RevocationList: list}}
}
