package story

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
	"github.com/gridwire/gridwire/nat"
)

var (
	bob  = mesh.NodeID{2}
	olga = mesh.NodeID{3}
	t0   = time.Unix(1_800_000_000, 0)
	a1   = netip.MustParseAddrPort("198.51.100.12:51820")
	a2   = netip.MustParseAddrPort("198.51.100.13:40000")
)

type teller struct {
	*Book
	now time.Time
}

func (b *teller) see(after time.Duration, ev links.Event, actions ...links.Action) {
	b.now = b.now.Add(after)
	b.Observe(ev, actions, b.now)
}

func described(addrs ...netip.AddrPort) *wire.Description {
	d := &wire.Description{Ufrag: "u", Pwd: "p"}
	for _, a := range addrs {
		d.Candidates = append(d.Candidates, &wire.Candidate{Type: "srflx", Address: wire.AddrPortBytes(a)})
	}
	return d
}

// offered is an exchange as the controlling side sees it, up to the link.
func offered(b *teller, session uint64) {
	offer := &wire.Signal{Session: session, Body: &wire.Signal_Offer{Offer: described()}}
	answer := &wire.Signal{Session: session, Body: &wire.Signal_Answer{Answer: described(a1)}}
	b.see(0, links.ViewChanged{View: mesh.NewView(mesh.Network{}, mesh.NodeID{1}).With(&mesh.Member{ID: bob})},
		links.StartICE{Peer: bob, Session: session, Controlling: true})
	b.see(time.Millisecond, links.ICEStarted{Peer: bob, Session: session, Local: nat.Description{Candidates: []nat.Candidate{{Type: nat.Host, Addr: a2}}}},
		links.Send{To: bob, Signal: offer})
	b.Carried(bob, olga, true)
	b.see(30*time.Millisecond, links.SignalSent{To: bob, Session: session})
	b.Carried(bob, olga, false)
	b.see(30*time.Millisecond, links.SignalArrived{From: bob, Signal: answer}, links.ConnectICE{Peer: bob, Session: session})
	b.see(40*time.Millisecond, links.ICESelected{Peer: bob, Session: session})
	b.see(50*time.Millisecond, links.ProbeAnswered{Peer: bob}, links.Report{Peer: bob, State: links.Connected, Path: links.Path{Kind: "direct", Remote: a1}, Took: time.Second})
}

func TestAnExchangeIsToldStepByStep(t *testing.T) {
	b := &teller{New(), t0}
	offered(b, 7)
	l := b.Link(bob)
	e := l.Newest
	if e.Outcome != "agreed" || e.SentBy != olga || e.HeardBy != olga || len(e.Local) != 1 || len(e.Remote) != 1 || e.Remote[0].Addr != a1 {
		t.Errorf("%+v", e)
	}
	var got []string
	for _, s := range e.Steps {
		got = append(got, s.At.Sub(t0).String()+" "+s.What)
	}
	for i, want := range []string{"0s begun", "1ms own", "1ms offer sent", "31ms the peer has it", "61ms the peer's answer", "61ms checks begin", "101ms both sides", "151ms WireGuard"} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("step %d: %q, want %q", i, got, want)
		}
	}
	if len(l.Changes) != 1 || l.Changes[0].What != "connected" || !l.Since.Equal(b.now) || l.Worked != nil {
		t.Errorf("%+v", l)
	}
}

func TestAFailedExchangeKeepsTheOneThatWorked(t *testing.T) {
	b := &teller{New(), t0}
	offered(b, 7)
	b.see(time.Hour, links.Tick{}, links.Report{Peer: bob, State: links.Connecting, Reason: "the peer does not answer inside the tunnel"},
		links.StartICE{Peer: bob, Session: 8, Controlling: true})
	b.see(time.Second, links.ICEFailed{Peer: bob, Session: 7, Reason: "stale"})
	if got := b.Link(bob).Newest.Outcome; got != "" {
		t.Errorf("an old session's end ended the new one: %q", got)
	}
	b.see(8*time.Second, links.ICEFailed{Peer: bob, Session: 8, Reason: "nothing came back"}, links.Report{Peer: bob, State: links.Unreachable, Reason: "nothing came back"})
	l := b.Link(bob)
	if l.Newest.Outcome != "nothing came back" || l.Worked == nil || l.Worked.Session != 7 {
		t.Errorf("%+v", l)
	}
	b.see(time.Second, links.Tick{}, links.StartICE{Peer: bob, Session: 9, Controlling: true})
	if e := b.Link(bob); e.Newest.Outcome != "" || e.Before == nil || e.Before.Session != 8 {
		t.Errorf("the attempt before is forgotten as soon as another begins: %+v", e)
	}
	if n := len(l.Changes); n != 3 || l.Changes[1].Why != "the peer does not answer inside the tunnel" || l.Changes[2].What != "unreachable" {
		t.Errorf("%+v", l.Changes)
	}
}

func TestPathChangesHaveTheirCauses(t *testing.T) {
	b := &teller{New(), t0}
	offered(b, 7)
	b.see(time.Minute, links.NetworkChanged{})
	b.see(time.Minute, links.NATChanged{Report: nat.Report{Type: nat.EndpointIndependent, Mapped: []netip.AddrPort{a1}}})
	b.see(time.Minute, links.NATChanged{Report: nat.Report{Type: nat.EndpointIndependent, Mapped: []netip.AddrPort{a2}}})
	b.see(time.Minute, links.Counters{}, links.Remember{Peer: bob, Endpoint: a2})
	b.see(time.Minute, links.ProbeAnswered{Peer: bob}, links.Remember{Peer: bob, Endpoint: a1})
	l := b.Link(bob)
	var got []string
	for _, c := range l.Changes {
		got = append(got, c.What+": "+c.Why)
	}
	want := []string{"connected: the pair", "network: this machine", "mapping: others see this machine at " + a2.String(), "path: WireGuard heard the peer from there", "path: both sides agreed on a better pair"}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("%d: %q, want %q", i, got[i], want[i])
		}
	}
	if !l.Since.Equal(b.now) {
		t.Errorf("since %v, want the last change", l.Since)
	}
}

func TestTheControlledSideTellsToo(t *testing.T) {
	b := &teller{New(), t0}
	b.see(0, links.Tick{}, links.Send{To: bob, Signal: &wire.Signal{Session: 4, Body: &wire.Signal_Nudge{}}})
	b.Carried(bob, bob, false)
	b.see(time.Millisecond, links.SignalArrived{From: bob, Signal: &wire.Signal{Session: 5, Body: &wire.Signal_Offer{Offer: described(a1, a2)}}}, links.StartICE{Peer: bob, Session: 5})
	b.see(time.Millisecond, links.ICEStarted{Peer: bob, Session: 5}, links.Send{To: bob, Signal: &wire.Signal{Session: 5, Body: &wire.Signal_Answer{Answer: described()}}})
	e := b.Link(bob).Newest
	if e.Controlling || e.HeardBy != bob || len(e.Remote) != 2 || e.Steps[0].What != "the peer's offer arrived (2 addresses)" || e.Steps[len(e.Steps)-1].What != "answer sent" {
		t.Errorf("%+v", e)
	}
}

func TestTheBookIsBounded(t *testing.T) {
	b := &teller{New(), t0}
	for i := range 1000 {
		b.see(time.Second, links.Tick{}, links.Report{Peer: bob, State: links.Unreachable, Reason: "x"})
		b.see(time.Second, links.NetworkChanged{})
		b.see(0, links.SignalSent{To: bob, Session: 0})
		if i == 0 {
			offered(b, 1)
		}
		b.see(0, links.ICEStarted{Peer: bob, Session: 1})
	}
	l := b.Link(bob)
	if len(l.Changes) != 2*maxChanges || len(l.Newest.Steps) != maxSteps {
		t.Errorf("%d changes, %d steps", len(l.Changes), len(l.Newest.Steps))
	}
	b.see(0, links.ViewChanged{View: mesh.NewView(mesh.Network{}, mesh.NodeID{1})})
	if len(b.links) != 0 {
		t.Error("a member that is gone is kept")
	}
}
