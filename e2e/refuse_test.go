//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
	"github.com/gridwire/gridwire/mesh/wire"
)

// TestTokensAreRefusedByTheirFault: each bad token by the sentence that names its fault and exit status 4, in all three ways to join.
func TestTokensAreRefusedByTheirFault(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob, mallory := w.public("alice"), w.public("bob"), w.public("mallory")
	w.found(alice)
	good := w.invite(alice)

	spent := w.invite(alice)
	w.run(bob, "join", spent, "--name", "bob")
	w.start(bob)
	w.linked(alice, bob, 10*time.Second)

	expired := w.invite(alice, "--expires", "1s")
	w.eventually(3*time.Second, "the invitation has expired", func() bool {
		return time.Now().UnixMilli() > must(wire.DecodeToken(expired))(w).Expires
	})

	w.run(mallory, "init", "ranch", "--node", "mallory")
	w.start(mallory)
	members := must(wire.DecodeToken(good))(t).Members
	foreign := w.edited(w.invite(mallory), func(tok *wire.Token) { tok.Members = members })

	cases := []struct {
		fault string
		token string
		says  []string
	}{
		{"spent", spent, []string{"the invitation is spent", "by bob", "gridwire invite"}},
		{"expired", expired, []string{"the invitation expired on", "gridwire invite"}},
		{"forged", w.edited(good, func(tok *wire.Token) { tok.Secret[3] ^= 1 }), []string{"the token is forged"}},
		{"made up", w.edited(good, func(tok *wire.Token) { tok.Invitation[3] ^= 1 }), []string{"the token is forged"}},
		{"foreign", foreign, []string{"the token is for another network", "this member is of network farm"}},
		{"truncated", good[:len(good)-7], []string{"the token is incomplete", "copy all of it"}},
		{"damaged", swapped(good), []string{"the token is damaged", "copy it again"}},
		{"none of ours", "hello", []string{"this is not a gridwire token"}},
		{"taken name", good, []string{"the name bob is taken", "--name"}},
	}
	dave := w.public("dave") // has no agent
	eve := w.public("eve")   // has one that waits
	w.start(eve)
	zed := w.public("zed") // agent --join
	for _, c := range cases {
		t.Run(c.fault, func(t *testing.T) {
			w := &world{T: t, Lab: w.Lab, issuer: alice, agents: w.agents}
			w.fails(dave, statusRefused, c.says, "join", c.token, "--name", "bob")
			w.fails(eve, statusRefused, c.says, "join", c.token, "--name", "bob")
			w.agentFails(zed, statusRefused, c.says, "--join", c.token, "--name", "bob")
		})
	}
	// None of this has used up the good one, nor harmed the agent that waits.
	w.run(eve, "join", good, "--name", "eve")
	w.linked(alice, eve, 10*time.Second)
}

// swapped exchanges two characters in the middle that differ.
func swapped(token string) string {
	b := []byte(token)
	for i := len(b) / 2; ; i++ {
		if b[i] != b[i+1] {
			b[i], b[i+1] = b[i+1], b[i]
			return string(b)
		}
	}
}

// TestNamesAreRefused where they cannot be had, on the issuer before a token is handed out.
func TestNamesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	alice, bob := w.public("alice"), w.public("bob")
	w.mesh(alice, bob)
	w.linked(alice, bob, 10*time.Second)
	w.fails(alice, statusRefused, []string{"the name bob is taken", "gridwire revoke bob"}, "invite", "--name", "bob")
	w.fails(alice, statusRefused, []string{"the name bob is taken", "gridwire revoke bob"}, "invite", "--name", "bob", "--offline")
	w.fails(alice, statusUsage, []string{`tag "two words"`}, "invite", "--tag", "two words")
	w.fails(alice, statusUsage, []string{"--route", "192.0.2.0/24"}, "invite", "--route", "everywhere")
	w.fails(alice, statusUsage, []string{"default route"}, "invite", "--route", "0.0.0.0/0")
	w.fails(bob, statusRefused, []string{"no issuer", "run this on alice"}, "invite", "--name", "carol")
	w.fails(bob, statusRefused, []string{"no issuer", "run this on alice"}, "revoke", "alice")
	w.fails(alice, statusRefused, []string{"does not revoke itself", "gridwire leave"}, "revoke", "alice")
	w.fails(alice, statusFailure, []string{`no member is named "zebra"`, "gridwire members"}, "revoke", "zebra")
	w.fails(alice, statusRefused, []string{"only issuer", "gridwire issuer add"}, "issuer", "remove", "alice")
	w.fails(alice, statusRefused, []string{"alice is an issuer already"}, "issuer", "add", "alice")
	w.fails(bob, statusRefused, []string{"root key is not on this machine"}, "issuer", "add", "bob")
	w.fails(alice, statusRefused, []string{"is an issuer", "gridwire leave --yes"}, "leave")
	w.fails(alice, statusRefused, []string{"this machine is alice in farm already", "gridwire leave"}, "init", "other", "--node", "alice")
	w.stop(alice)
	w.fails(alice, statusRefused, []string{"this machine is alice in farm already", "gridwire leave"}, "init", "other", "--node", "alice")
	w.start(alice)
	w.fails(bob, statusRefused, []string{"is bob in farm already"}, "join", w.token("carol"))
	if strings.Contains(w.agents[alice].Log(), "panic") {
		t.Error("alice's agent panicked")
	}
}

// TestWrongWords: a mistake in the command's words ends with status 2, before anything starts or changes.
func TestWrongWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	h := w.public("alice")
	for _, words := range []string{
		"frobnicate", "init", "init farm --node -bad-", "init farm --domain ..", "init farm --ipv4 8.8.8.0/24x", "init farm --ipv4 8.8.8.0/24", "init farm --ipv4 10.0.0.0/30", "init farm extra", "init farm --nodes x",
		"invite --uses 0", "invite --expires -1h", "invite --expires soon", "invite --offline", "invite --uses 2 --name bob", "invite --name under_score",
		"join", "join one two", "revoke", "revoke a b", "members extra", "issuer", "issuer add", "issuer list extra", "wait --timeout never",
		"agent extra", "agent --listen 70000", "agent --interface much-too-long-a-name", "agent --mtu 100", "agent --log-level loud",
		"agent --advertise nohost", "agent --metrics nowhere", "agent --page localhost", "agent --name under_score", "agent --nonsense",
		"workload", "workload frob", "workload add", "usage frob", "usage verify", "usage --since yesterday", "gateway", "gateway maybe", "export", "export a b",
		"export phone --extend --replace", "explain", "ping", "ping bob --count 0", "status --watch --json", "completion klingon", "help frob", "agent --resolver maybe",
	} {
		w.fails(h, statusUsage, []string{"gridwire: "}, strings.Fields(words)...)
	}
}

// TestNoAgent: what needs a running agent says so, and how to start it, with status 3.
func TestNoAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	h := w.public("alice")
	for _, words := range []string{
		"status", "members", "invite --name bob", "revoke bob", "leave", "issuer add bob", "issuer list", "issuer remove bob",
		"ping bob", "netcheck", "explain bob", "status --watch", "usage", "page", "export phone", "gateway on", "gateway off",
		"workload list", "workload remove web", "workload add web --address fd00::5",
	} {
		w.fails(h, statusNoAgent, []string{"no agent is running", "gridwire agent"}, strings.Fields(words)...)
	}
	w.fails(h, statusTimeout, []string{"no agent is running"}, "wait", "--timeout", "100ms") // it may be about to start
	w.start(h)
	w.fails(h, statusFailure, []string{"no member of a network", "nothing to leave"}, "leave")
	for _, words := range []string{"members", "invite --name bob", "revoke bob", "issuer add bob", "issuer list", "explain bob", "ping bob", "netcheck",
		"usage", "export phone", "gateway on", "workload list", "workload add web --address fd00::5"} {
		w.fails(h, statusFailure, []string{"no member of a network", "gridwire join"}, strings.Fields(words)...)
	}
}

// TestOrdinaryUser: who may not ask the agent is told at once who may, also by what would wait, and nobody takes an agent's socket away.
func TestOrdinaryUser(t *testing.T) {
	w := newWorld(t, lab.Options{})
	h := w.public("alice")
	w.found(h)
	for words, says := range map[string]string{
		"status":              "as root or as a member of the group gridwire",
		"wait --timeout 10s":  "as root or as a member of the group gridwire",
		"export phone":        "as root or as a member of the group gridwire",
		"init other":          "as root, or as the user that the agent runs as",
		"agent --metrics off": "another user's agent has the control socket",
	} {
		start := time.Now()
		args := append([]string{"--reuid", "65534", "--regid", "65534", "--clear-groups", binary}, strings.Fields(words)...)
		_, err := h.Exec(w.ctx(10*time.Second), "setpriv", append(args, "--state", h.State(), "--socket", h.Socket())...)
		if err == nil || !strings.Contains(err.Error(), says) || time.Since(start) > 5*time.Second {
			t.Errorf("%s: after %v: %v; want %q", words, time.Since(start), err, says)
		}
	}
	w.run(h, "status")
}
