package agent

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
	"github.com/gridwire/gridwire/nat/stun"
)

// reach finds out, with other members' help, how this node looks from outside, and helps others with the same.
type reach struct {
	n      *node
	stun   *stun.STUN
	prober *stun.Prober
	probes *probeBudget
	offers *portOffers
}

// stunKey is the members' shared STUN credential. All members hold the network secret, also those revoked later: what it buys is not to
// be counted against the strangers' budget.
func stunKey(secret []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("gridwire stun v1"))
	return h.Sum(nil)
}

// servers are members that can tell this node's mapped address, the best first: those that strangers reach, then whoever is
// connected, then the far ends of links.
func (r *reach) servers() []netip.AddrPort {
	var out []netip.AddrPort
	add := func(a netip.AddrPort) {
		if a.IsValid() && r.n.base.overlay.ok(a.Addr()) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	conns := r.n.control.Connections()
	for _, c := range conns {
		if m, ok := r.n.dir.View().Member(c.ID); ok && m.Reachable && c.Proven {
			add(c.Remote)
		}
	}
	for m := range r.n.dir.View().Peers() {
		if m.Reachable && len(out) < 8 {
			for _, a := range askAt(m) {
				add(a)
			}
		}
	}
	for _, c := range conns {
		if c.Proven {
			add(c.Remote)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	for _, l := range r.n.links.Snapshot(ctx) {
		if l.State == links.Connected && len(out) < 16 {
			add(l.Path.Remote)
		}
	}
	return out
}

// askAt returns where a member that strangers reach can be asked: where it says that it is reached, and in a family that is missing there, at
// its own addresses. It knows of the families only in which somebody could tell it; those are not all that the askers need, and where
// everybody has IPv6 nobody would ever learn his IPv4 mapping.
func askAt(m *mesh.Member) []netip.AddrPort {
	out := slices.Clone(m.Endpoints)
	for _, a := range m.LAN {
		same := func(e netip.AddrPort) bool { return e.Addr().Is4() == a.Addr().Is4() }
		if !slices.ContainsFunc(m.Endpoints, same) && !stun.Private(a.Addr()) {
			out = append(out, a)
		}
	}
	return out
}

// test asks a member to have addr probed from a source that this node never sent to.
func (r *reach) test(ctx context.Context, addr netip.AddrPort) (bool, error) {
	var nonce [12]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return false, err
	}
	source, cancel, err := r.stun.Await(nonce)
	if err != nil {
		return false, err
	}
	defer cancel()
	sig := &wire.Signal{Boot: r.n.boot, Body: &wire.Signal_ReachRequest{ReachRequest: &wire.ReachRequest{Address: wire.AddrPortBytes(addr), Nonce: nonce[:]}}}
	asked := 0
	for _, c := range r.n.control.Connections() {
		if !c.Proven || asked == 2 {
			continue
		}
		if err := r.n.signal.Send(ctx, c.ID, sig); err == nil {
			asked++
		}
	}
	if asked == 0 {
		return false, errNobody
	}
	select {
	case <-source:
		return true, nil
	case <-time.After(reachWait):
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// requested passes the request to a member that the asker is least likely to have sent to; where there is none, this node probes
// itself. Both probe from a fresh port, which the asker cannot have sent to.
func (r *reach) requested(from mesh.NodeID, req *wire.ReachRequest) {
	addr, err := wire.ParseAddrPort(req.Address)
	if err != nil || !r.probes.allow(from, r.n.dir.Now()) {
		return
	}
	for _, c := range r.n.control.Connections() {
		if !c.Proven || c.ID == from || c.Remote.Addr() == addr.Addr() {
			continue
		}
		sig := &wire.Signal{Boot: r.n.boot, Body: &wire.Signal_ReachProbe{ReachProbe: &wire.ReachProbe{Address: req.Address, Nonce: req.Nonce, For: from[:]}}}
		go func() { // bounded by its timeout
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			if err := r.n.signal.Send(ctx, c.ID, sig); err != nil {
				r.probeFor(req.Address, req.Nonce)
			}
		}()
		return
	}
	r.probeFor(req.Address, req.Nonce)
}

// probeFor sends the indication from a socket of its own: its port is one that nobody has sent to, so a NAT that filters by address and port
// (RFC 4787, 5) drops it.
func (r *reach) probeFor(address, nonce []byte) {
	addr, err := wire.ParseAddrPort(address)
	if err != nil || len(nonce) != 12 || !r.n.base.overlay.ok(addr.Addr()) || !r.probes.allowAll(r.n.dir.Now()) {
		return
	}
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	fresh, err := stun.New(stun.Config{Conn: conn})
	if err != nil {
		return
	}
	for range 2 { // one may be lost
		_ = fresh.Probe(addr, [12]byte(nonce))
	}
}

// reachWait is how long a probe may take: two hops of signalling and one way back.
const reachWait = 1500 * time.Millisecond

var errNobody = errors.New("no other member is connected, so nobody can test whether strangers reach this node")

// probeBudget bounds the packets that this node sends to addresses on somebody's word.
type probeBudget struct {
	mu    sync.Mutex // guards peers
	peers map[mesh.NodeID]*rate.Limiter
	all   *rate.Limiter
}

func newProbeBudget() *probeBudget {
	return &probeBudget{peers: map[mesh.NodeID]*rate.Limiter{}, all: rate.NewLimiter(10, 20)}
}

// allow takes one from a member's budget: 6 at once, then one each 5 s. Members are bounded by the directory, so the table is, too.
func (b *probeBudget) allow(from mesh.NodeID, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.peers[from]
	if !ok {
		l = rate.NewLimiter(rate.Every(5*time.Second), 6)
		b.peers[from] = l
	}
	return l.AllowN(now, 1)
}

// allowAll takes one from the budget of all members together.
func (b *probeBudget) allowAll(now time.Time) bool { return b.all.AllowN(now, 1) }

// secondPortOpen is how long a second port answers: the request's way back and a few retransmissions.
const secondPortOpen = 3 * time.Second

// secondPort asks the member at server to answer Binding requests at another port, too.
func (r *reach) secondPort(ctx context.Context, server netip.AddrPort) (netip.AddrPort, error) {
	for _, c := range r.n.control.Connections() {
		if c.Remote != server {
			continue
		}
		var nonce [12]byte
		if _, err := rand.Read(nonce[:]); err != nil {
			return netip.AddrPort{}, err
		}
		answer, cancel := r.offers.expect(c.ID, nonce)
		defer cancel()
		sig := &wire.Signal{Boot: r.n.boot, Body: &wire.Signal_PortRequest{PortRequest: &wire.PortRequest{Nonce: nonce[:]}}}
		if err := r.n.signal.Send(ctx, c.ID, sig); err != nil {
			return netip.AddrPort{}, err
		}
		select {
		case port := <-answer:
			return netip.AddrPortFrom(server.Addr(), port), nil
		case <-time.After(reachWait):
			return netip.AddrPort{}, errors.New("the member offered no second port")
		case <-ctx.Done():
			return netip.AddrPort{}, ctx.Err()
		}
	}
	return netip.AddrPort{}, errNobody
}

// secondPortRequested opens a port that answers members' Binding requests for a moment.
func (r *reach) secondPortRequested(from mesh.NodeID, nonce []byte) {
	if !r.probes.allow(from, r.n.dir.Now()) || !r.probes.allowAll(r.n.dir.Now()) {
		return
	}
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return
	}
	s, err := stun.New(stun.Config{Conn: conn, MemberKey: stunKey(r.n.membership.Load().Secret)})
	if err != nil {
		_ = conn.Close()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), secondPortOpen)
	go func() { // ends with its timeout; at most the budget of these at one time
		defer cancel()
		defer func() { _ = conn.Close() }()
		if err := s.Run(ctx); err != nil {
			r.n.log.Debug("the second port stopped answering", "err", err)
		}
	}()
	port := uint32(conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	sig := &wire.Signal{Boot: r.n.boot, Body: &wire.Signal_PortOffer{PortOffer: &wire.PortOffer{Nonce: nonce, Port: port}}}
	go func() { // ends with ctx
		if err := r.n.signal.Send(ctx, from, sig); err != nil {
			r.n.log.Debug("could not offer a second port", "err", err)
		}
	}()
}

// portOffers matches answers to requests.
type portOffers struct {
	mu   sync.Mutex // guards open
	open map[[12]byte]portAsk
}

type portAsk struct {
	member mesh.NodeID
	answer chan uint16 // one place
}

func newPortOffers() *portOffers { return &portOffers{open: map[[12]byte]portAsk{}} }

func (o *portOffers) expect(member mesh.NodeID, nonce [12]byte) (<-chan uint16, func()) {
	ask := portAsk{member, make(chan uint16, 1)}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open[nonce] = ask
	return ask.answer, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.open, nonce)
	}
}

func (o *portOffers) deliver(from mesh.NodeID, offer *wire.PortOffer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ask, ok := o.open[[12]byte(offer.Nonce)]; ok && ask.member == from {
		delete(o.open, [12]byte(offer.Nonce))
		ask.answer <- uint16(offer.Port)
	}
}
