// Package explain says in plain words why a link is as it is, and what would make it better at the least cost.
//
// It is pure: Facts in, sentences out. It promises nothing that gridwire does not do (there is no port mapping by UPnP and no relay yet), and
// names exact ports, addresses and machines wherever they are known.
package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/nat"
)

// Side is what is known of one end of a link.
type Side struct {
	Name       string // for sentences: a member's name, or "this machine"
	NAT        nat.Type
	Reachable  bool         // strangers' packets arrive
	Advertised bool         // its owner says so (--advertise)
	Local      []netip.Addr // its own addresses
	Port       uint16
	Mapped     []netip.AddrPort // as others see it
}

// Facts are what the sentences are made of.
type Facts struct {
	Self, Peer  Side
	Standing    string // "member"; else "expired", "revoked", "left"
	When        time.Time
	State       string // connected, connecting, idle, unreachable
	Reason      string // why it is not connected, as links says
	Remote      netip.AddrPort
	LocalType   nat.CandidateType
	RemoteType  nat.CandidateType
	Tried       bool // candidate pairs were tried in the newest exchange
	Connections int  // this node's control connections
	LastSeen    time.Time
	Now         time.Time
}

// Up reports whether the link carries packets, or did until nobody sent any.
func (f Facts) Up() bool { return f.State == "connected" || f.State == "idle" }

// Words returns why the link takes the path it takes, or has none; and what to do about it, the cheapest first. No advice: it is as good as
// it gets.
func Words(f Facts) (why string, advice []string) {
	switch {
	case f.Standing != "member":
		return gone(f)
	case f.Up():
		return f.chosen(), f.better()
	}
	return f.cause(), f.remedies()
}

func gone(f Facts) (string, []string) {
	n, day := f.Peer.Name, f.When.UTC().Format("2 January 2006 15:04")
	switch f.Standing {
	case "expired":
		return fmt.Sprintf("%s's certificate expired on %s UTC, so nobody talks to it until it is renewed.", n, day), []string{
			fmt.Sprintf("start gridwire on %s: it renews by itself within 7 days of the expiry, as soon as it reaches an issuer (gridwire issuer list); "+
				"the issuer must be running, too", n),
			fmt.Sprintf("later than that: gridwire invite --name %s here or at another issuer, and on %[1]s: gridwire leave, then gridwire join TOKEN", n),
		}
	case "revoked":
		return fmt.Sprintf("%s was put out of the network on %s UTC.", n, day), []string{
			fmt.Sprintf("if it is to return: gridwire invite --name %s, and on %[1]s: gridwire leave, then gridwire join TOKEN", n)}
	}
	return fmt.Sprintf("%s left the network on %s UTC.", n, day), []string{
		fmt.Sprintf("if it is to return: gridwire invite --name %s, and on %[1]s: gridwire join TOKEN", n)}
}

// chosen says why the path works. The order is from the special to the general.
func (f Facts) chosen() string {
	to, self, peer := f.Remote.Addr(), f.Self, f.Peer
	switch {
	case !to.IsValid():
		return "The link works; WireGuard has not said yet where its packets go."
	case private(to) && slices.Contains(peer.Local, to) && self.onNetOf(to):
		return "Same LAN: packets go straight over the local network."
	case private(to) && slices.Contains(peer.Local, to):
		return fmt.Sprintf("Direct: %s's own address %v can be reached from here, over routes that both networks share.", peer.Name, to)
	case to.Is6() && slices.Contains(peer.Local, to):
		return "Both have IPv6, so no NAT is in the way."
	case slices.Contains(peer.Local, to):
		return fmt.Sprintf("%s has a public address, so packets go straight to it%s.", peer.Name, f.selfBehind())
	case peer.Reachable && f.viaForward():
		return fmt.Sprintf("%s's router forwards a port to it (or lets strangers in), so packets go straight there.", peer.Name)
	case self.NAT == nat.Open:
		return fmt.Sprintf("This machine has a public address, so %s opened the way through its NAT by writing to it.", peer.Name)
	case self.Reachable:
		return fmt.Sprintf("Strangers' packets reach this machine, so %s opened the way through its NAT by writing to it.", peer.Name)
	case self.NAT == nat.EndpointDependent || peer.NAT == nat.EndpointDependent:
		return "One side's NAT is symmetric, but the other lets its packets in from wherever they come: hole punched."
	}
	return "Both are behind NATs that let in answers only (port-restricted): both wrote to each other at the same moment, hole punched."
}

func (f Facts) selfBehind() string {
	if f.Self.NAT == nat.EndpointIndependent || f.Self.NAT == nat.EndpointDependent {
		return "; this machine's NAT lets the answers in"
	}
	return ""
}

func (f Facts) viaForward() bool {
	return f.Peer.Advertised || slices.Contains(f.Peer.Mapped, f.Remote)
}

// better is advice for a link that works: there is one thing that can be had for free.
func (f Facts) better() []string {
	if f.Remote.IsValid() && !private(f.Remote.Addr()) && !slices.Contains(f.Peer.Local, f.Remote.Addr()) && f.sameLAN() {
		return []string{fmt.Sprintf("both machines seem to be on one LAN (%s and %s), yet packets go round by the router: if that is a guest Wi-Fi, or the access point "+
			"isolates its clients, use the main network or a cable", first4(f.Self.Local), first4(f.Peer.Local))}
	}
	return nil
}

// cause says in one sentence why there is no path.
func (f Facts) cause() string {
	self, peer := f.Self, f.Peer
	switch {
	case self.NAT == nat.Blocked:
		return "There is no path: this network lets no UDP out, and gridwire needs UDP."
	case f.State == "connecting" && f.Reason == "":
		return "The link is being made; ask again in some seconds."
	case f.State == "connecting":
		return "The link is being made anew; ask again in some seconds. " + sentence(f.Reason)
	case f.Connections == 0:
		return fmt.Sprintf("There is no path: this machine has no control connection to any member, so it cannot arrange a link with %s.", peer.Name)
	case f.offline() && f.State != "connecting":
		return fmt.Sprintf("There is no path: %s does not answer. It is off, or cut off from the others%s.", peer.Name, f.lastSeen())
	case peer.NAT == nat.Blocked:
		return fmt.Sprintf("There is no path: %s's network lets no UDP out, and gridwire needs UDP.", peer.Name)
	case self.symmetric() && peer.symmetric():
		return "There is no direct path: both NATs use another port towards every destination (symmetric), so neither side can know where to write to."
	case self.symmetric() && !peer.Reachable:
		return fmt.Sprintf("There is no direct path: this machine's NAT uses another port towards every destination (symmetric), and %s's router lets in known ports only.", peer.Name)
	case peer.symmetric() && !self.Reachable:
		return fmt.Sprintf("There is no direct path: %s's NAT uses another port towards every destination (symmetric), and this machine's router lets in known ports only.", peer.Name)
	case f.sameLAN():
		return fmt.Sprintf("There is no path, although both machines seem to be on one LAN (%s and %s): something between them drops UDP.", first4(self.Local), first4(peer.Local))
	case peer.Reachable || self.Reachable:
		return "There is no path, although one side can be reached by strangers: a firewall in between drops the packets. " + sentence(f.Reason)
	}
	return "There is no path, although these two NATs can be crossed: the first packets did not get through. " + sentence(f.Reason)
}

// remedies lists what helps, the cheapest first.
func (f Facts) remedies() []string {
	self, peer := f.Self, f.Peer
	switch {
	case self.NAT == nat.Blocked:
		return []string{
			fmt.Sprintf("allow outgoing UDP on this network's firewall, at least from this machine's port %d", self.Port),
			"or use another network (guest and company networks often block UDP; a phone's hotspot does not)",
		}
	case f.State == "connecting":
		return nil
	case f.Connections == 0:
		return []string{"check this machine's own network first: gridwire netcheck, gridwire doctor", "at least one member that strangers can reach must be running"}
	case f.offline():
		return []string{fmt.Sprintf("switch %s on and start gridwire there (sudo systemctl start gridwire)", peer.Name),
			"if it is on: run gridwire netcheck and gridwire doctor there"}
	case peer.NAT == nat.Blocked:
		return []string{fmt.Sprintf("on %s: allow outgoing UDP on its network's firewall, or use another network there", peer.Name)}
	case self.symmetric() && !peer.Reachable || peer.symmetric() && !self.Reachable:
		return append(f.useIPv6(), f.forward()...)
	case f.sameLAN():
		return []string{
			fmt.Sprintf("let UDP port %d in on %s, and UDP port %d on %s: gridwire doctor prints the command for its firewall", self.Port, self.Name, peer.Port, peer.Name),
			"if it is a guest Wi-Fi, or the access point isolates its clients: use the main network or a cable",
		}
	case peer.Reachable:
		return []string{fmt.Sprintf("on %s: gridwire doctor names the firewall rule that drops UDP port %d; at a hosting provider, look at its firewall, too", peer.Name, peer.Port)}
	case self.Reachable:
		return []string{fmt.Sprintf("on %s: gridwire doctor, for a firewall that drops outgoing UDP", peer.Name)}
	}
	return append(f.accepting(), append(f.useIPv6(), f.forward()...)...)
}

// accepting is for pairs that should work. A router that accepts unsolicited packets to itself keeps their conntrack entry, and its own host's
// packets are then sent from another port, which the other side's router does not let in.
func (f Facts) accepting() []string {
	out := []string{"it is tried again by itself; on both machines, gridwire doctor names a firewall that drops UDP"}
	if f.Tried {
		out = append(out, "if a router is a Linux box or has a firewall page: let it drop unsolicited UDP to itself instead of accepting or rejecting it "+
			"(an accepted packet holds the port for 30 s, in which its own machine's packets leave from another port)")
	}
	return out
}

// useIPv6 is the cheapest remedy where only one side lacks it.
func (f Facts) useIPv6() []string {
	a, b := f.Self.ipv6(), f.Peer.ipv6()
	switch {
	case a && b:
		return []string{fmt.Sprintf("both have IPv6, but it does not pass: let UDP port %d in over IPv6 on %s's router, or UDP port %d on the router of %s", f.Peer.Port, f.Peer.Name, f.Self.Port, f.Self.Name)}
	case a:
		return []string{fmt.Sprintf("switch IPv6 on at %s's router or provider (this machine has it): then no NAT is in the way", f.Peer.Name)}
	case b:
		return []string{fmt.Sprintf("switch IPv6 on at this machine's router or provider (%s has it): then no NAT is in the way", f.Peer.Name)}
	}
	return nil
}

// forward names the port to forward: on the side whose router the owner most likely controls. One side is enough.
func (f Facts) forward() []string {
	var out []string
	sides := []Side{f.Peer, f.Self}
	if f.Peer.symmetric() && !f.Self.symmetric() {
		sides = []Side{f.Self, f.Peer}
	}
	for i, s := range sides {
		if text := s.forwarding(); text != "" {
			if i > 0 && len(out) > 0 {
				text = "or " + text
			}
			out = append(out, text)
		}
	}
	if len(out) == 0 {
		out = append(out, fmt.Sprintf("both are behind carriers' NATs, on which nobody can forward a port: ask a provider for a public IPv4 address or IPv6, for %s or %s", f.Self.Name, f.Peer.Name))
	}
	return out
}

// forwarding is empty where the machine is behind a carrier's NAT: its address there is none that a router of the owner's gave.
func (s Side) forwarding() string {
	own := first4(s.Local)
	if carrier.Contains(own) {
		return ""
	}
	to := s.Name
	if own.IsValid() {
		to = own.String()
	}
	text := fmt.Sprintf("forward UDP %d on %s router to %s", s.Port, possessive(s.Name), to)
	if s.symmetric() {
		text += fmt.Sprintf(", and run the agent on %s with --advertise PUBLIC-ADDRESS:%d (its NAT is symmetric, so nobody can find that out)", s.Name, s.Port)
	}
	return text
}

func possessive(name string) string { return name + "'s" }

func (s Side) symmetric() bool { return s.NAT == nat.EndpointDependent }

// ipv6 reports whether the machine has an IPv6 address that means something elsewhere.
func (s Side) ipv6() bool {
	return slices.ContainsFunc(s.Local, func(a netip.Addr) bool { return a.Is6() && a.IsGlobalUnicast() && !a.IsPrivate() })
}

// onNetOf reports whether the address looks like one of this machine's own networks. Prefix lengths are not known of others; /24 is what home
// routers use.
func (s Side) onNetOf(a netip.Addr) bool {
	bits := 24
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	return err == nil && slices.ContainsFunc(s.Local, p.Contains)
}

// sameLAN reports whether both are behind one public address with local addresses that look like one network. (A carrier's NAT shows many
// homes at one address, and 192.168.1.5 is in all of them; two machines with the same address are not on one LAN.)
func (f Facts) sameLAN() bool {
	shared := slices.ContainsFunc(f.Self.Mapped, func(a netip.AddrPort) bool {
		return slices.ContainsFunc(f.Peer.Mapped, func(b netip.AddrPort) bool { return a.Addr() == b.Addr() })
	})
	return shared && slices.ContainsFunc(f.Peer.Local, func(a netip.Addr) bool { return private(a) && f.Self.onNetOf(a) && !slices.Contains(f.Self.Local, a) })
}

// offline reports whether the peer itself was not heard: then its NAT is not the reason.
func (f Facts) offline() bool {
	return strings.Contains(f.Reason, "does not answer: it is off") || strings.Contains(f.Reason, "sending a signal")
}

func (f Facts) lastSeen() string {
	if f.LastSeen.IsZero() {
		return ""
	}
	return "; it was last seen " + Ago(f.Now.Sub(f.LastSeen))
}

// Ago says how long something is past, in one unit.
func Ago(d time.Duration) string {
	switch {
	case d < 2*time.Second:
		return "just now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d seconds ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// carrier is RFC 6598's range: between a carrier's NAT and its customers.
var carrier = netip.MustParsePrefix("100.64.0.0/10")

func private(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLinkLocalUnicast() || carrier.Contains(a)
}

func first4(addrs []netip.Addr) netip.Addr {
	for _, a := range addrs {
		if a.Is4() {
			return a
		}
	}
	if len(addrs) > 0 {
		return addrs[0]
	}
	return netip.Addr{}
}

// sentence makes a reason a sentence of its own.
func sentence(reason string) string {
	if reason == "" {
		return ""
	}
	return strings.ToUpper(reason[:1]) + strings.TrimSuffix(reason[1:], ".") + "."
}
