package usage

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
)

var t0 = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

const gib = 1 << 30

// disk is a state folder in memory.
type disk map[string][]byte

func (d disk) Read(name string) ([]byte, error) {
	b, ok := d[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return b, nil
}
func (d disk) Write(name string, b []byte) error { d[name] = b; return nil }
func (d disk) Remove(name string) error          { delete(d, name); return nil }

// net is a network whose members exchange statements in virtual time.
type net struct {
	t      testing.TB
	now    time.Time
	root   *pki.Root
	der    []byte
	issuer *pki.Issuer
	cert   []byte
	key    ed25519.PrivateKey
	nodes  map[mesh.NodeID]*end
	silent map[mesh.NodeID]bool // receives and says nothing
}

// end is one member: its counters (the ledger's totals), its book, its clock.
type end struct {
	n      *net
	id     mesh.NodeID
	name   string
	key    ed25519.PrivateKey
	chain  [][]byte
	disk   disk
	totals map[mesh.NodeID]ledger.Counters
	skew   time.Duration // of its clock
	factor float64       // what its counters grow by: 1 is honest
	off    bool
	book   *Book
}

func newNet(t testing.TB, names ...string) (*net, []*end) {
	n := &net{t: t, now: t0.Add(-time.Minute), nodes: map[mesh.NodeID]*end{}, silent: map[mesh.NodeID]bool{}}
	n.key = key(1)
	n.root, n.der = must(pki.ParseRoot(ok(pki.NewRoot("farm", "", pki.NoIPv4(), key(0), t0))(t)))(t), nil
	n.der = n.root.Cert.Raw
	n.cert = ok(pki.NewIssuer(n.root, key(0), n.key.Public().(ed25519.PublicKey), "hub", 0, t0))(t)
	n.issuer = must(pki.ParseIssuer(n.cert, n.root))(t)
	var ends []*end
	for i, name := range names {
		e := &end{n: n, name: name, key: key(byte(i + 10)), disk: disk{}, totals: map[mesh.NodeID]ledger.Counters{}, factor: 1}
		e.id = mesh.NodeIDOf(e.key.Public().(ed25519.PublicKey))
		wg := mesh.WGKey{byte(i + 1)}
		leaf := ok(n.issuer.Sign(n.key, n.root, pki.LeafRequest{Identity: e.id.PublicKey(), WireGuard: wg, Name: mesh.Name(name)}, t0))(t)
		e.chain = [][]byte{leaf, n.cert}
		n.nodes[e.id] = e
		ends = append(ends, e)
	}
	for _, e := range ends {
		e.start(nil)
	}
	return n, ends
}

func ok[V any](v V, err error) func(testing.TB) V { return must(v, err) }

func must[V any](v V, err error) func(testing.TB) V {
	return func(t testing.TB) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func key(seed byte) ed25519.PrivateKey {
	b := make([]byte, ed25519.SeedSize)
	b[0] = seed
	return ed25519.NewKeyFromSeed(b)
}

// start opens the end's book, as a start of its agent does.
func (e *end) start(gaps []ledger.Gap) {
	e.off = false
	e.book = Open(Config{
		Network: e.n.root.Network.ID, Key: e.key, Store: e.disk, Log: slog.New(slog.DiscardHandler),
		Chain: func(id mesh.NodeID) [][]byte { return e.n.nodes[id].chain },
	}, e.clock(), e.totals, gaps)
	e.close()
}

func (e *end) clock() time.Time { return e.n.now.Add(e.skew) }

func (e *end) close() {
	e.n.t.Helper()
	skews := map[mesh.NodeID]time.Duration{}
	for id, o := range e.n.nodes {
		skews[id] = o.skew - e.skew
	}
	if err := e.book.Close(e.clock(), e.totals, skews); err != nil {
		e.n.t.Error(err)
	}
	if err := e.book.Save(e.clock()); err != nil {
		e.n.t.Error(err)
	}
}

// traffic moves bytes from a to b, of which some are lost.
func (n *net) traffic(a, b *end, bytes uint64, loss float64) {
	n.count(a, b.id, bytes, 0)
	n.count(b, a.id, 0, uint64(float64(bytes)*(1-loss)))
	a.book.Probed(b.id, 1000, int(1000*loss))
	b.book.Probed(a.id, 1000, int(1000*loss))
}

func (n *net) count(e *end, peer mesh.NodeID, sent, received uint64) {
	c := e.totals[peer]
	c.TransmitBytes += uint64(float64(sent) * e.factor)
	c.ReceiveBytes += uint64(float64(received) * e.factor)
	e.totals[peer] = c
}

// run lets time pass by steps of a second and delivers what is due.
func (n *net) run(d time.Duration) {
	n.t.Helper()
	for end := n.now.Add(d); n.now.Before(end); {
		n.now = n.now.Add(time.Second)
		for _, e := range n.nodes {
			if !e.off {
				e.close()
				n.exchange(e)
			}
		}
	}
}

func (n *net) exchange(e *end) {
	n.t.Helper()
	sends, _ := e.book.Due(e.clock())
	for _, s := range sends {
		to := n.nodes[s.To]
		if to.off {
			continue
		}
		e.book.Sent(s)
		if n.silent[s.To] {
			continue
		}
		answer, err := to.book.Received(e.id, s.Usage, to.clock())
		if err != nil {
			n.t.Errorf("%s refused what %s said: %v", to.name, e.name, err)
		}
		if answer != nil {
			if more, err := e.book.Received(s.To, answer, e.clock()); err != nil || more != nil {
				n.t.Errorf("the answer of %s: %v, %v", to.name, more, err)
			}
		}
	}
}

// report is what `gridwire usage --json` prints on e.
func (e *end) report() Report {
	e.n.t.Helper()
	r := Report{
		Network: ReportNetwork{Name: "farm", ID: e.n.root.Network.ID.String(), Root: e.n.der}, Node: ReportNode{e.name, e.id.String()},
		From: t0.Add(-24 * time.Hour), To: e.clock(),
	}
	for id, c := range e.totals {
		r.Peers = append(r.Peers, ReportRow{Name: e.n.nodes[id].name, ID: id.String(), ReceiveBytes: c.ReceiveBytes, TransmitBytes: c.TransmitBytes})
	}
	if err := e.book.Report(&r, e.clock()); err != nil {
		e.n.t.Error(err)
	}
	return r
}

func (e *end) verify() (*Findings, error) { return Verify(must(json.Marshal(e.report()))(e.n.t)) }

// states are the states of e's hours with a peer, oldest first.
func (e *end) states(peer *end) (out []State) {
	for _, h := range e.report().Hours {
		if h.Peer == peer.id {
			out = append(out, h.State)
		}
	}
	return out
}

func noise(r *rand.Rand, n uint64) uint64 { return n/2 + r.Uint64N(n) }
