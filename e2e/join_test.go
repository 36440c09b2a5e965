//go:build linux

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
	"github.com/gridwire/gridwire/mesh/wire"
)

// TestFoundInviteJoin: a founder whose agent waited for init, and three ways in: agent --join, join with nobody running and the agent
// afterwards, and join beside a running agent.
func TestFoundInviteJoin(t *testing.T) {
	t.Parallel()
	for internet, prefix := range internets {
		t.Run(internet, func(t *testing.T) { testFoundInviteJoin(t, lab.Options{Internet: prefix}) })
	}
}

func testFoundInviteJoin(t *testing.T, o lab.Options) {
	w := newWorld(t, o)
	alice, bob, carol, dave := w.public("alice"), w.public("bob"), w.public("carol"), w.public("dave")

	w.start(alice) // waits, as systemd starts it before anybody has said anything
	if st := w.run(alice, "status"); !strings.Contains(st, "no member") {
		t.Errorf("before init, status says %q", st)
	}
	w.run(alice, "init", "farm", "--node", "alice")
	w.issuer = alice
	w.eventually(5*time.Second, "the waiting agent has become alice", func() bool { return w.status(alice).Self.Name == "alice" })

	w.join(bob)

	if said := w.run(carol, "join", w.token("carol")); !strings.Contains(said, "carol is a member of farm") {
		t.Errorf("join without an agent says %q", said)
	}
	w.start(carol)

	waiting := w.start(dave)
	if said := w.run(dave, "join", w.token("dave")); !strings.Contains(said, "dave is a member of farm") {
		t.Errorf("join beside an agent says %q", said)
	}
	if !waiting.Running() {
		t.Error("the agent that waited has ended")
	}

	w.linkedAll(10*time.Second, alice, bob, carol, dave)
	for _, h := range []*lab.Host{alice, bob, carol, dave} {
		if n := len(w.wgPeers(h)); n != 3 {
			t.Errorf("%s has %d WireGuard peers, want 3", h.Label(), n)
		}
	}
	// A unit file keeps its --join for ever.
	w.stop(bob)
	w.start(bob, "--join", "gw1nonsense")
	w.linked(alice, bob, 10*time.Second)
}

// TestInvitationSaysTagsAndName: what was invited is what the certificate says, whatever the joiner wishes.
func TestInvitationSaysTagsAndName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.public("bob")
	w.found(alice)
	w.run(bob, "join", w.token("bob", "--tag", "site:berlin", "--tag", "gpu"), "--name", "somebody-else")
	w.start(bob)
	w.linked(alice, bob, 10*time.Second)
	if p := w.peer(alice, "bob"); strings.Join(p.Tags, " ") != "site:berlin gpu" {
		t.Errorf("bob's tags are %q", p.Tags)
	}
	// Without a name in the invitation, the wish counts.
	carol := w.public("carol")
	w.run(carol, "join", w.invite(alice), "--name", "Carol")
	w.start(carol)
	w.linked(alice, carol, 10*time.Second)
}

// TestJoinByWayOfAnotherMember: the joiner reaches bob only, who is no issuer and passes the request on.
func TestJoinByWayOfAnotherMember(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.public("bob")
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	w.eventually(10*time.Second, "alice's tokens name bob too", func() bool {
		tok := must(wire.DecodeToken(w.invite(alice)))(w)
		return len(tok.Members) == 2
	})

	carol := w.public("carol")
	w.apart(carol, alice)
	w.join(carol)
	w.linked(bob, carol, 10*time.Second)
	if !w.is(carol, "alice", "member") || !w.is(alice, "carol", "member") {
		t.Errorf("carol lists %v, alice lists %v", w.members(carol), w.members(alice))
	}

	dave := w.public("dave") // whose token names nobody but bob
	w.apart(dave, alice)
	w.run(dave, "join", w.edited(w.token("dave"), func(tok *wire.Token) { tok.Members = tok.Members[1:] }))
	w.start(dave)
	w.linked(bob, dave, 10*time.Second)
}

// TestTwoJoinersRaceForOneUse: exactly one gets in, and the other is told why not.
func TestTwoJoinersRaceForOneUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	w.found(alice)
	for round := range 3 {
		hosts := []*lab.Host{w.public(string(rune('b'+round)) + "1"), w.public(string(rune('b'+round)) + "2")}
		token := w.invite(alice)
		errs := make([]error, len(hosts))
		var race sync.WaitGroup
		for i, h := range hosts {
			race.Go(func() { _, errs[i] = h.Gridwire(w.ctx(20*time.Second), "join", token, "--name", h.Label()) })
		}
		race.Wait()
		won, lost := hosts[0], errs[1]
		if errs[0] != nil {
			won, lost = hosts[1], errs[0]
		}
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: %v and %v, want exactly one to get in", round, errs[0], errs[1])
		}
		if failed, ok := lost.(*lab.CommandError); !ok || failed.Code != statusRefused || !strings.Contains(failed.Stderr, "spent") {
			t.Errorf("round %d: the loser heard %v", round, lost)
		}
		w.start(won)
		w.linked(alice, won, 10*time.Second)
	}
}

// TestInvitationForThree admits three and no fourth.
func TestInvitationForThree(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice := w.public("alice")
	w.found(alice)
	token := w.invite(alice, "--uses", "3")
	for _, name := range []string{"bob", "carol", "dave"} {
		w.run(w.public(name), "join", token, "--name", name)
	}
	w.fails(w.public("eve"), statusRefused, []string{"spent", "all its uses", "dave"}, "join", token, "--name", "eve")
}

// TestJoinAgainIsTheSameJoin: a joiner that lost the answer asks again and gets the same certificate, at no further use.
func TestJoinAgainIsTheSameJoin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.public("bob")
	w.found(alice)
	token := w.invite(alice)

	if err := alice.Cut(); err != nil { // bob draws its keys and gets no answer
		t.Fatal(err)
	}
	w.fails(bob, statusFailure, []string{"could bring an answer", alice.Addr().String(), "no answer", "UDP"}, "join", token, "--name", "bob")
	if err := alice.Reconnect(); err != nil {
		t.Fatal(err)
	}
	before := filepath.Join(w.Dir(), "before")
	w.copyState(bob.State(), before)

	w.run(bob, "join", token, "--name", "bob")
	first := must(os.ReadFile(filepath.Join(bob.State(), "chain.pem")))(t)
	w.copyState(before, bob.State()) // the power went before the answer was on disk
	w.run(bob, "join", token, "--name", "bob")
	again := must(os.ReadFile(filepath.Join(bob.State(), "chain.pem")))(t)
	if !bytes.Equal(first, again) {
		t.Error("the second answer is another certificate")
	}
	w.fails(bob, statusRefused, []string{"is bob in farm already", "gridwire leave"}, "join", token)
	w.fails(w.public("carol"), statusRefused, []string{"spent", "by bob"}, "join", token, "--name", "carol")
	w.start(bob)
	w.linked(alice, bob, 10*time.Second)
}
