//go:build linux

// Package e2e tests the real binary in the lab's internet: real TUN, real NATs by nftables, nothing mocked. It needs root.
package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// binary is the program under test: GRIDWIRE_BIN, or one built from this tree by TestMain.
var binary string

func TestMain(m *testing.M) {
	code, err := setUp(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func setUp(m *testing.M) (int, error) {
	if os.Getenv(mirrorEnv) != "" {
		return m.Run(), nil // only a helper of another run
	}
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("these tests make network namespaces: run them as root")
	}
	binary = os.Getenv("GRIDWIRE_BIN")
	if binary == "" {
		dir, err := os.MkdirTemp("", "gridwire-e2e")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "gridwire")
		if out, err := exec.Command("go", "build", "-o", binary, "../cmd/gridwire").CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build gridwire: %w\n%s", err, out)
		}
	}
	if err := lab.Sweep(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// world is one lab with a mesh in it. Its methods end the test where something that they only prepare goes wrong.
type world struct {
	*testing.T
	*lab.Lab
	issuer *lab.Host
	agents map[*lab.Host]*lab.Agent
}

func newWorld(t *testing.T, o lab.Options) *world {
	t.Helper()
	o.Binary = binary
	l, err := lab.New(o)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, Lab: l, agents: map[*lab.Host]*lab.Agent{}}
	t.Cleanup(func() {
		if t.Failed() {
			var b strings.Builder
			l.Dump(&b)
			t.Log(b.String())
		}
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return w
}

func (w *world) ctx(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	w.Cleanup(cancel)
	return ctx
}

func must[V any](v V, err error) func(testing.TB) V {
	return func(t testing.TB) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) public(name string) *lab.Host {
	w.Helper()
	return must(w.Lab.Public(name))(w)
}

func (w *world) router(name string, cfg lab.NATConfig, behind *lab.Router) *lab.Router {
	w.Helper()
	return must(w.Lab.Router(name, cfg, behind))(w)
}

// home makes a router and one host behind it.
func (w *world) home(name string, cfg lab.NATConfig) *lab.Host {
	w.Helper()
	return must(w.router(name+"-r", cfg, nil).Host(name))(w)
}

// found makes h the founder of a network and starts its agent.
func (w *world) found(h *lab.Host, args ...string) *lab.Agent {
	w.Helper()
	w.run(h, "init", "farm", "--node", h.Label())
	w.issuer = h
	return w.start(h, args...)
}

// start starts h's agent and waits until it is ready.
func (w *world) start(h *lab.Host, args ...string) *lab.Agent {
	w.Helper()
	a := must(h.StartAgent(append([]string{"--metrics", "off"}, args...)...))(w)
	w.agents[h] = a
	if err := a.WaitReady(w.ctx(15 * time.Second)); err != nil {
		w.Fatalf("start the agent on %s: %v", h.Label(), err)
	}
	return a
}

// run runs a command on h, which must succeed, and returns what it printed.
func (w *world) run(h *lab.Host, args ...string) string {
	w.Helper()
	return must(h.Gridwire(w.ctx(20*time.Second), args...))(w)
}

// token invites a member by name.
func (w *world) token(name string, args ...string) string {
	w.Helper()
	out := strings.TrimSpace(w.run(w.issuer, append([]string{"invite", "--name", name}, args...)...))
	return out[strings.LastIndexByte(out, '\n')+1:]
}

// join invites h by its name and starts its agent with the token.
func (w *world) join(h *lab.Host, args ...string) *lab.Agent {
	w.Helper()
	return w.start(h, append([]string{"--join", w.token(h.Label())}, args...)...)
}

// mesh founds a network on the first host and joins the others.
func (w *world) mesh(hosts ...*lab.Host) {
	w.Helper()
	w.found(hosts[0])
	for _, h := range hosts[1:] {
		w.join(h)
	}
}

// linked waits until a and b are connected to each other, both as they see it, and a ping crosses.
func (w *world) linked(a, b *lab.Host, limit time.Duration) {
	w.Helper()
	for _, side := range [][2]*lab.Host{{a, b}, {b, a}} {
		args := []string{"wait", "--peer", side[1].Label(), "--timeout", limit.String()}
		if _, err := side[0].Gridwire(w.ctx(limit+5*time.Second), args...); err != nil {
			w.Fatalf("%s to %s: %v", side[0].Label(), side[1].Label(), err)
		}
	}
	if _, err := w.WaitPing(w.ctx(3*time.Second), a, b.Label()); err != nil {
		w.Fatalf("ping from %s to %s: %v", a.Label(), b.Label(), err)
	}
}

// linkedAll is linked for every pair.
func (w *world) linkedAll(limit time.Duration, hosts ...*lab.Host) {
	w.Helper()
	for i, a := range hosts {
		for _, b := range hosts[i+1:] {
			w.linked(a, b, limit)
		}
	}
}

// peer returns how h sees a member; the zero value if it does not know it (yet).
func (w *world) peer(h *lab.Host, name string) lab.PeerStatus {
	w.Helper()
	st, err := h.Status(w.ctx(5 * time.Second))
	if err != nil {
		w.Fatal(err)
	}
	p, _ := st.Peer(name)
	return p
}

// remote returns where h sends what is for the peer; the zero value if nowhere.
func (w *world) remote(h *lab.Host, name string) netip.AddrPort {
	w.Helper()
	a, _ := netip.ParseAddrPort(w.peer(h, name).Path.Remote)
	return a
}

// eventually fails unless cond holds within limit.
func (w *world) eventually(limit time.Duration, what string, cond func() bool) time.Duration {
	w.Helper()
	start := time.Now()
	for !cond() {
		if time.Since(start) > limit {
			w.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(start)
}
