package links

import (
	"fmt"
	"strings"
	"time"

	"github.com/gridwire/gridwire/mesh/wire"
	"github.com/gridwire/gridwire/nat"
)

type icePhase int

const (
	iceNone     icePhase = iota
	iceHeld              // waiting for this machine's mapped addresses, at most until deadline
	iceStarting          // waiting for ICEStarted
	iceOffered           // controlling: waiting for the answer
	iceNudged            // controlled: asked for an offer
	iceChecking          // checks are on their way
	iceSelected          // lingering until deadline
)

// iceState is one link's newest session.
type iceState struct {
	phase    icePhase
	session  uint64 // chosen by the controlling side; rises
	deadline time.Time
	remote   *nat.Description // of the offer that is being answered
	delay    time.Duration
	pairs    []nat.Pair
	carried  bool // while iceOffered or iceNudged: the peer has it
	stale    bool // while iceStarting: what the description will say is out of date
}

type retryState struct {
	at        time.Time
	delay     time.Duration
	failures  int
	iceFailed bool // ICE itself failed, which news about forwarders does not change
}

// negotiation is the part of Core that agrees with peers on candidate pairs: offers, answers, retries.
type negotiation struct{ *Core }

// attempt starts a new exchange now.
func (c negotiation) attempt(l *link, now time.Time) {
	l.retry.at = time.Time{}
	c.closeICE(l)
	if c.controls(l) {
		l.ice.session = max(l.ice.session+1, uint64(now.UnixMilli()))
		c.startICE(l, now)
		return
	}
	l.ice.phase = iceNudged
	l.ice.deadline = now.Add(answerTimeout)
	c.do(Send{To: l.m.ID, Signal: &wire.Signal{
		Session: l.ice.session, Boot: c.boot,
		Body: &wire.Signal_Nudge{Nudge: &wire.Nudge{Reason: clip(l.reason)}},
	}})
}

// maxReason is what a nudge may say, and less than wire allows: reasons quote other machines' errors and can be long.
const maxReason = 200

func clip(s string) string {
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}

// startICE starts the session, or holds it for a moment while the mapped addresses are not known: an offer without them is of no use to a
// peer behind a NAT of its own. They are asked for as soon as a member is connected, one round trip before anything can be negotiated.
func (c negotiation) startICE(l *link, now time.Time) {
	if c.natPending && c.natDeadline.IsZero() {
		c.natDeadline = now.Add(natGrace)
	}
	if c.natPending && now.Before(c.natDeadline) {
		l.ice.phase = iceHeld
		l.ice.deadline = c.natDeadline
		return
	}
	l.ice.phase = iceStarting
	l.ice.deadline = time.Time{}
	c.do(StartICE{Peer: l.m.ID, Session: l.ice.session, Controlling: c.controls(l)})
}

// again forgets how long to wait and starts an exchange: one in progress was gathered before the news that brought us here.
func (c negotiation) again(l *link, now time.Time) {
	l.retry = retryState{}
	if l.ice.phase != iceStarting {
		c.attempt(l, now)
	}
}

func (c negotiation) closeICE(l *link) {
	switch l.ice.phase {
	case iceStarting, iceOffered, iceChecking, iceSelected:
		c.do(CloseICE{Peer: l.m.ID, Session: l.ice.session})
	}
	l.ice.phase = iceNone
	l.ice.deadline = time.Time{}
	l.ice.remote = nil
	l.ice.stale, l.ice.carried = false, false
}

func (c negotiation) iceStarted(ev ICEStarted, now time.Time) {
	l, ok := c.links[ev.Peer]
	if !ok || l.ice.session != ev.Session || l.ice.phase != iceStarting {
		c.do(CloseICE{Peer: ev.Peer, Session: ev.Session})
		return
	}
	if ev.Err != nil {
		l.ice.phase = iceNone
		c.retryLater(l, ev.Err.Error(), false, now)
		return
	}
	if l.ice.stale {
		c.attempt(l, now)
		return
	}
	sig := &wire.Signal{Session: ev.Session, Boot: c.boot}
	if c.controls(l) {
		sig.Body = &wire.Signal_Offer{Offer: c.description(ev.Local)}
		l.ice.phase = iceOffered
		l.ice.deadline = now.Add(answerTimeout)
		c.do(Send{To: ev.Peer, Signal: sig})
		return
	}
	sig.Body = &wire.Signal_Answer{Answer: c.description(ev.Local)}
	c.checking(l, l.ice.delay, now)
	c.do(Send{To: ev.Peer, Signal: sig})
	c.do(ConnectICE{Peer: ev.Peer, Session: ev.Session, Remote: *l.ice.remote, Delay: l.ice.delay})
}

// checking waits for the checks' outcome. They take two or three round trips where they work at all; where they do not, perhaps what we
// said of ourselves is out of date: the peer knows that the path is dead before we do, if our router has got another address.
func (c negotiation) checking(l *link, delay time.Duration, now time.Time) {
	l.ice.phase = iceChecking
	l.ice.deadline = now.Add(delay + locateAfter)
}

func (c negotiation) signalArrived(ev SignalArrived, now time.Time) {
	l, ok := c.links[ev.From]
	if !ok {
		return
	}
	restarted := ev.Signal.Boot > l.peerBoot
	if restarted {
		c.rebooted(l, ev.Signal.Boot, now)
	}
	switch body := ev.Signal.Body.(type) {
	case *wire.Signal_Nudge:
		if l.up {
			// The peer sees no link, or is looking for another one: what we took for up must answer now, or we try as long as the peer does.
			c.life().doubt(l, now)
		}
		// A nudge that names our newest session comes from a peer that has given it up. One that names an older session crossed our offer.
		if c.controls(l) && (restarted || l.ice.phase == iceNone || l.ice.phase == iceSelected || ev.Signal.Session == l.ice.session) {
			c.again(l, now)
		}
	case *wire.Signal_Offer:
		// A restarted peer may number its sessions lower: its clock can have gone back.
		if c.controls(l) || !restarted && ev.Signal.Session <= l.ice.session {
			return
		}
		c.takeOffer(l, ev, body.Offer, now)
	case *wire.Signal_Answer:
		if !c.controls(l) || l.ice.phase != iceOffered || ev.Signal.Session != l.ice.session {
			return
		}
		l.peerNAT = nat.Type(body.Answer.Nat)
		c.checking(l, 0, now)
		c.do(ConnectICE{Peer: ev.From, Session: l.ice.session, Remote: toDescription(body.Answer)})
	}
}

// takeOffer starts the controlled side. Where both sides are behind a NAT the first checks must cross in flight: a router that accepts
// unsolicited packets to itself would otherwise hold the tuple (conntrack) that its own host's check needs. The offerer starts when it has the
// answer, one signalling delay from now; so do we.
func (c negotiation) takeOffer(l *link, ev SignalArrived, offer *wire.Description, now time.Time) {
	c.closeICE(l)
	remote := toDescription(offer)
	l.peerNAT = nat.Type(offer.Nat)
	l.ice.session = ev.Signal.Session
	l.ice.remote = &remote
	l.ice.delay = 0
	if l.peerNAT != nat.Open && c.nat.Type != nat.Open {
		l.ice.delay = min(ev.Delay, time.Second)
	}
	c.startICE(l, now)
}

func toDescription(d *wire.Description) nat.Description {
	out := nat.Description{Ufrag: d.Ufrag, Pwd: d.Pwd}
	for _, cand := range d.Candidates {
		addr, err := wire.ParseAddrPort(cand.Address)
		if err != nil {
			continue // one bad candidate does not spoil the others
		}
		out.Candidates = append(out.Candidates, nat.Candidate{Type: nat.CandidateType(cand.Type), Addr: addr, Priority: cand.Priority})
	}
	return out
}

func (c negotiation) signalSent(ev SignalSent) {
	if l, ok := c.links[ev.To]; ok && l.ice.session == ev.Session {
		l.ice.carried = true
	}
}

func (c negotiation) signalFailed(ev SignalFailed, now time.Time) {
	l, ok := c.links[ev.To]
	if !ok || l.ice.session != ev.Session || l.ice.phase != iceOffered && l.ice.phase != iceNudged {
		return
	}
	c.closeICE(l)
	c.retryLater(l, ev.Reason, false, now)
}

func (c negotiation) iceSelected(ev ICESelected, now time.Time) {
	l, ok := c.links[ev.Peer]
	if !ok || l.ice.session != ev.Session || l.ice.phase != iceChecking && l.ice.phase != iceSelected {
		return
	}
	l.ice.phase = iceSelected
	l.ice.deadline = now.Add(linger)
	l.ice.pairs = ev.Pairs
	l.retry = retryState{}
	l.path = Path{
		Kind: "direct", Local: ev.Pair.Local.Addr, Remote: ev.Pair.Remote.Addr,
		LocalType: ev.Pair.Local.Type, RemoteType: ev.Pair.Remote.Type,
	}
	c.moveTo(l, ev.Pair.Remote.Addr)
	if !l.up {
		l.live.shakes = 0
		if c.controls(l) {
			c.life().shake(l, now)
		} else {
			// The controlling side initiates; if that is lost, we do.
			l.live.nextShake = now.Add(handshakeRetry)
		}
		return
	}
	c.life().probe(l, now)
}

func (c negotiation) iceFailed(ev ICEFailed, now time.Time) {
	l, ok := c.links[ev.Peer]
	if !ok || l.ice.session != ev.Session {
		return
	}
	l.ice.pairs = ev.Pairs
	c.closeICE(l)
	c.retryLater(l, c.explain(l, ev.Reason), true, now)
}

// udpBlocked is the reason for every link where no member at all answers. It cannot be told apart from all of them being off.
const udpBlocked = "no member answers: this network lets no UDP through, which gridwire needs, or all of them are off"

// explain says in plain words why two NATs keep a pair apart, where that is the cause.
func (c negotiation) explain(l *link, reason string) string {
	mine, theirs := c.nat.Type, l.peerNAT
	switch {
	case mine == nat.Blocked:
		return udpBlocked
	case theirs == nat.Blocked:
		return fmt.Sprintf("%s's network lets no UDP out", l.m.Name)
	case mine == nat.EndpointDependent && theirs == nat.EndpointDependent:
		return "both NATs give every destination another port (symmetric), so neither side can know where to send; forward a UDP port on one of the two routers, or use IPv6"
	case mine == nat.EndpointDependent:
		return fmt.Sprintf("this machine's NAT gives every destination another port (symmetric) and %s's router lets in only known ports; forward a UDP port on one of the two routers, or use IPv6", l.m.Name)
	case theirs == nat.EndpointDependent:
		return fmt.Sprintf("%s's NAT gives every destination another port (symmetric) and this machine's router lets in only known ports; forward a UDP port on one of the two routers, or use IPv6", l.m.Name)
	}
	return reason
}

// retryLater waits before the next exchange, longer each time. Links that are up need none: ICE was only looking for a better path.
func (c negotiation) retryLater(l *link, why string, iceFailed bool, now time.Time) {
	if l.up {
		l.retry = retryState{}
		return
	}
	l.reason = why
	if c.nat.Type == nat.Blocked {
		l.reason = udpBlocked
	}
	first, limit := signalBackoff, signalMax
	if iceFailed {
		first, limit = failBackoff, failMax
		if l.retry.failures >= 1 {
			first = failLinger
		}
	}
	l.retry.iceFailed = iceFailed
	l.retry.failures++
	l.retry.delay = min(max(2*l.retry.delay, first), limit)
	l.retry.at = now.Add(l.retry.delay + time.Duration(c.rand.Int64N(int64(l.retry.delay)/4+1)))
	if iceFailed || l.retry.failures >= 4 {
		l.path = Path{Kind: "none"}
		c.show(l, Unreachable, now)
	}
}
