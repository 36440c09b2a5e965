package signal

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

var day0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a set of members with the connections that a test gives them. Everybody sees the same View.
type world struct {
	t     testing.TB
	mu    sync.Mutex
	view  *mesh.View
	nodes map[mesh.Name]*node
	byID  map[mesh.NodeID]*node
	rtt   map[[2]mesh.NodeID]time.Duration // connections
	dead  map[[2]mesh.NodeID]bool          // connections whose frames vanish
	dials map[mesh.NodeID]int
	log   []string // frames sent: "alice>bob h0"
}

type node struct {
	w    *world
	name mesh.Name
	id   mesh.NodeID
	key  ed25519.PrivateKey
	seal *ecdh.PrivateKey
	*Signal

	got []delivery // guarded by w.mu
}

type delivery struct {
	from  mesh.NodeID
	sig   *wire.Signal
	delay time.Duration
}

func newWorld(t testing.TB, names ...mesh.Name) *world {
	w := &world{
		t: t, view: mesh.NewView(mesh.Network{}, mesh.NodeID{}), nodes: map[mesh.Name]*node{}, byID: map[mesh.NodeID]*node{},
		rtt: map[[2]mesh.NodeID]time.Duration{}, dead: map[[2]mesh.NodeID]bool{}, dials: map[mesh.NodeID]int{},
	}
	for _, name := range names {
		w.add(name)
	}
	return w
}

func (w *world) add(name mesh.Name) *node {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	seal, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	n := &node{w: w, name: name, id: mesh.NodeIDOf(key.Public().(ed25519.PublicKey)), key: key, seal: seal}
	n.Signal, err = New(Config{
		Self: key, Seal: seal, Carrier: n, Now: func() time.Time { return time.Now() },
		View: func() *mesh.View { w.mu.Lock(); defer w.mu.Unlock(); return w.view },
		Deliver: func(from mesh.NodeID, s *wire.Signal, delay time.Duration) {
			w.mu.Lock()
			defer w.mu.Unlock()
			n.got = append(n.got, delivery{from, s, delay})
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.nodes[name], w.byID[n.id] = n, n
	w.member(name, func(*mesh.Member) {})
	return n
}

func (w *world) member(name mesh.Name, alter func(*mesh.Member)) {
	n := w.nodes[name]
	m := &mesh.Member{ID: n.id, Name: name, CertName: name, SealKey: [32]byte(n.seal.PublicKey().Bytes())}
	if old, ok := w.view.Member(n.id); ok {
		c := *old
		m = &c
	}
	alter(m)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = w.view.With(m)
}

func (w *world) link(a, b mesh.Name, rtt time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rtt[[2]mesh.NodeID{w.nodes[a].id, w.nodes[b].id}] = rtt
	w.rtt[[2]mesh.NodeID{w.nodes[b].id, w.nodes[a].id}] = rtt
}

func (w *world) via(of mesh.Name, by ...mesh.Name) {
	w.member(of, func(m *mesh.Member) {
		m.Via = nil
		for _, name := range by {
			m.Via = append(m.Via, w.nodes[name].id)
		}
	})
}

// SendSignal implements Carrier.
func (n *node) SendSignal(ctx context.Context, to mesh.NodeID, f *wire.SignalFrame) (*wire.SignalAck, error) {
	w, way := n.w, [2]mesh.NodeID{n.id, to}
	w.mu.Lock()
	rtt, ok := w.rtt[way]
	dead := w.dead[way]
	if ok {
		w.log = append(w.log, fmt.Sprintf("%s>%s h%d", n.name, w.byID[to].name, f.GetHops()))
	}
	w.mu.Unlock()
	if !ok {
		return nil, errors.New("not connected")
	}
	if dead {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := pause(ctx, rtt/2); err != nil {
		return nil, err
	}
	ack := w.byID[to].Handle(ctx, n.id, f)
	return ack, pause(ctx, rtt/2)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Connections implements Carrier.
func (n *node) Connections() []Conn {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	var out []Conn
	for way, rtt := range n.w.rtt {
		if way[0] == n.id {
			out = append(out, Conn{ID: way[1], RTT: rtt})
		}
	}
	return out
}

// Connect implements Carrier: reachable members can be dialled.
func (n *node) Connect(ctx context.Context, id mesh.NodeID) error {
	n.w.mu.Lock()
	n.w.dials[id]++
	m, ok := n.w.view.Member(id)
	n.w.mu.Unlock()
	if !ok || !m.Reachable {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := pause(ctx, 20*time.Millisecond); err != nil {
		return err
	}
	n.w.link(n.name, n.w.byID[id].name, 20*time.Millisecond)
	return nil
}

var offer = &wire.Signal{Session: 7, Boot: 3, Body: &wire.Signal_Nudge{Nudge: &wire.Nudge{Reason: "please"}}}

func (w *world) send(from, to mesh.Name) error {
	return w.nodes[from].Send(context.Background(), w.nodes[to].id, offer)
}

// arrived demands exactly one delivery and returns it.
func (w *world) arrived(at, from mesh.Name) delivery {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	got := w.nodes[at].got
	if len(got) != 1 {
		w.t.Fatalf("%d deliveries at %s, frames: %v", len(got), at, w.log)
	}
	if got[0].from != w.nodes[from].id || got[0].sig.GetSession() != 7 || got[0].sig.GetNudge().GetReason() != "please" {
		w.t.Errorf("delivered %v from %v", got[0].sig, got[0].from)
	}
	return got[0]
}

func (w *world) frames() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.log, " ")
}
