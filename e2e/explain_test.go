//go:build linux

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/e2e/lab"
)

// explain asks h about a member, in words and in JSON.
func (w *world) explain(h *lab.Host, name string) (string, api.Explain) {
	w.Helper()
	var e api.Explain
	if err := json.Unmarshal([]byte(w.run(h, "explain", name, "--json")), &e); err != nil {
		w.Fatal(err)
	}
	return w.run(h, "explain", name), e
}

// TestExplain asks about one pair of each kind: what is chosen and why, and what would help where nothing works.
func TestExplain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, sam, zoe := w.public("alice"), w.home("bob", home), w.home("sam", symmetric), w.home("zoe", symmetric)
	r := w.router("r", home, nil)
	eve, finn := must(r.Host("eve"))(t), must(r.Host("finn"))(t)
	w.mesh(alice, bob, sam, zoe, eve, finn)
	w.linkedAll(10*time.Second, alice, bob, eve)
	w.linked(eve, finn, 10*time.Second)

	_, e := w.explain(bob, "alice")
	if !strings.Contains(e.Meaning, "alice has a public address") || len(e.Advice) != 0 || e.Since == nil {
		t.Errorf("bob about alice: %q %q since %v", e.Meaning, e.Advice, e.Since)
	}
	text, e := w.explain(bob, "eve")
	if !strings.Contains(e.Meaning, "port-restricted") || e.Exchange == nil || e.Exchange.Outcome != "agreed" ||
		e.Exchange.SentBy != "alice" && e.Exchange.HeardBy != "alice" || len(e.Exchange.Local) < 2 || len(e.Exchange.Remote) < 2 || len(e.Exchange.Steps) < 5 {
		t.Errorf("bob about eve: %+v\n%+v", e, e.Exchange)
	}
	for _, want := range []string{"by way of alice", "* ", "srflx", "works", "what happened lately", "connected since"} {
		if !strings.Contains(text, want) {
			t.Errorf("bob about eve: no %q in\n%s", want, text)
		}
	}
	w.eventually(10*time.Second, "eve and finn use the LAN", func() bool {
		_, e = w.explain(eve, "finn")
		return strings.HasPrefix(e.Meaning, "Same LAN")
	})
	w.eventually(30*time.Second, "sam says why zoe is unreachable", func() bool {
		text, e = w.explain(sam, "zoe")
		return e.Peer.State == "unreachable" && e.SelfNAT == "endpoint-dependent" && e.PeerNAT == "endpoint-dependent"
	})
	port := w.status(sam).Self.ListenPort
	if len(e.Advice) != 2 || !strings.Contains(text, "both NATs use another port") || !strings.Contains(text, "zoe's router to "+zoe.Addr().String()) || port == 0 || len(e.Pairs) == 0 {
		t.Errorf("sam about zoe:\n%s", text)
	}
	w.agents[bob].Kill()
	if err := sam.BlockUDP(); err != nil {
		t.Fatal(err)
	}
	for _, link := range []struct {
		from *lab.Host
		to   string
	}{{eve, "bob"}, {sam, "alice"}} {
		_, _ = link.from.Gridwire(w.ctx(10*time.Second), "ping", link.to, "--count", "1") // an idle link would be found dead within 25 s only
	}
	defer func() {
		if t.Failed() {
			t.Log(text)
		}
	}()
	w.eventually(30*time.Second, "eve says that bob is off", func() bool {
		text, e = w.explain(eve, "bob")
		return strings.Contains(e.Meaning, "It is off, or cut off") && strings.Contains(e.Meaning, "last seen")
	})
	if last := e.Changes[len(e.Changes)-1]; len(e.Changes) < 2 || last.What != "unreachable" && last.What != "connecting" || e.LastSeen == nil {
		t.Errorf("eve about bob:\n%s", text)
	}
	w.eventually(30*time.Second, "sam says that UDP is blocked", func() bool {
		text, e = w.explain(sam, "alice")
		return e.SelfNAT == "blocked" && strings.Contains(e.Meaning, "this network lets no UDP out") && strings.Contains(e.Advice[0], "allow outgoing UDP")
	})
	if text := w.run(sam, "status"); !strings.HasPrefix(text, "This node reaches nobody") {
		t.Errorf("sam's status:\n%s", text)
	}
	w.run(alice, "revoke", "bob")
	w.eventually(5*time.Second, "eve says that bob was put out", func() bool {
		_, e = w.explain(eve, "bob")
		return e.Standing == "revoked" && strings.Contains(e.Meaning, "put out")
	})
	if out, err := eve.Gridwire(w.ctx(5*time.Second), "explain", "nobody"); err == nil || !strings.Contains(err.Error(), "no member is named") {
		t.Errorf("explain nobody: %v\n%s", err, out)
	}
}

// TestNetcheck: in words and numbers for each kind of place, after a change at once, and with nobody left to ask.
func TestNetcheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{IPv6: true})
	rbob := w.router("bob-r", home, nil)
	alice, ada, bob, sam := w.public("alice"), w.public("ada"), must(rbob.Host("bob"))(t), w.home("sam", symmetric)
	w.mesh(alice, ada, bob, sam)
	w.linkedAll(10*time.Second, alice, ada, bob)
	w.linkedAll(10*time.Second, alice, ada, sam)
	check := func(h *lab.Host) (n api.Netcheck) {
		t.Helper()
		if err := json.Unmarshal([]byte(w.run(h, "netcheck", "--json")), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := check(alice); n.NAT != "open" || n.Mapping != "none" || n.Filtering != "endpoint-independent" || !n.Reachable || !n.IPv6Works {
		t.Errorf("alice: %+v", n)
	}
	n := check(bob)
	if n.NAT != "endpoint-independent" || n.Mapping != "endpoint-independent" || n.Reachable || n.UDPBlocked || n.Asked == nil || len(n.Members) != 3 || n.Members[0].RTT == 0 || n.Servers[0].Name == "" {
		t.Errorf("bob: %+v", n)
	}
	if n := check(sam); n.NAT != "endpoint-dependent" || !strings.Contains(strings.Join(n.Advice, " "), "forward UDP") {
		t.Errorf("sam: %+v", n)
	}
	// Whoever forwards a port wants to know now whether that worked.
	if err := rbob.Forward(uint16(n.Port), bob); err != nil {
		t.Fatal(err)
	}
	w.eventually(20*time.Second, "bob is told that the forwarded port works", func() bool {
		n = check(bob) // each asks for a packet on its word, and members give 6 at once, then one each 5 s
		return n.Reachable && n.Filtering == "endpoint-independent"
	})
	for _, h := range []*lab.Host{alice, ada, sam} {
		w.agents[h].Kill()
	}
	if n := check(bob); n.NAT != "blocked" || !n.UDPBlocked || len(n.Advice) == 0 || len(n.Members) != 3 {
		t.Errorf("bob alone: %+v", n)
	}
	if text := w.run(bob, "netcheck"); !strings.Contains(text, "No member answered by UDP") || !strings.Contains(text, "no answer") {
		t.Errorf("bob alone:\n%s", text)
	}
}
