//go:build linux

package e2e

import (
	"sync"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// TestMeshOutlivesItsFounder kills the founder of a mesh of five, of which two are publicly reachable: nobody else loses a packet, a new
// member is admitted by another issuer and linked with everybody, and after the others were killed and started again, too, the mesh among
// them is back.
func TestMeshOutlivesItsFounder(t *testing.T) {
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.public("bob")
	carol, dave, erin := w.home("carol", home), w.home("dave", home), w.home("erin", cone)
	w.mesh(alice, bob, carol, dave, erin)
	others := []*lab.Host{bob, carol, dave, erin}
	w.linkedAll(10*time.Second, append([]*lab.Host{alice}, others...)...)
	w.run(alice, "issuer", "add", "bob")
	w.eventually(2*time.Second, "bob is an issuer", func() bool {
		st, err := bob.Status(w.ctx(5 * time.Second))
		return err == nil && st.Self.Issuer
	})

	var flows []*flow
	for i, a := range others {
		for _, b := range others[i+1:] {
			flows = append(flows, w.flow(a, b, 100*time.Millisecond))
		}
	}
	w.agents[alice].Kill()
	killed := time.Now()

	// Another issuer admits a new member; it links with everybody, also with those whom only signalling can reach.
	w.issuer = bob
	frank := w.home("frank", home)
	w.join(frank)
	for _, o := range others {
		w.linked(frank, o, 10*time.Second)
	}
	// Long enough for everybody to have missed the founder: three heartbeats of 8 s, and for the flows to show it.
	w.eventually(30*time.Second, "25 s have passed", func() bool { return time.Since(killed) > 25*time.Second })
	for _, f := range flows {
		if lost := f.lost(); len(lost) > 0 {
			t.Errorf("%v: %d lost of %d after the founder's death: %v", f, len(lost), len(f.answers()), lost)
		}
	}

	others = append(others, frank)
	w.killAll(others...)
	w.backWithin(10*time.Second, others...)
}

// killAll kills all agents as a power cut would.
func (w *world) killAll(hosts ...*lab.Host) {
	var wait sync.WaitGroup
	for _, h := range hosts {
		wait.Go(w.agents[h].Kill)
	}
	wait.Wait()
}

// backWithin starts all agents at once and waits until everyone is linked with everyone.
func (w *world) backWithin(limit time.Duration, hosts ...*lab.Host) {
	w.Helper()
	start := time.Now()
	for _, h := range hosts {
		w.agents[h] = must(h.StartAgent("--metrics", "off"))(w)
	}
	for _, a := range hosts {
		for _, b := range hosts {
			if a == b {
				continue
			}
			if _, err := w.WaitPing(w.ctx(limit-time.Since(start)), a, b.Label()); err != nil {
				w.Fatalf("not within %v of the restart: %v", limit, err)
			}
			w.eventually(limit-time.Since(start), b.Label()+" is connected as "+a.Label()+" sees it", func() bool {
				return w.peer(a, b.Label()).State == "connected"
			})
		}
	}
	w.Logf("all back after %v", time.Since(start).Round(10*time.Millisecond))
}
