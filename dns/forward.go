package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

// Waiting for upstreams ends before a stub resolver asks again, which is after 5 s (glibc, resolv.conf(5)).
const (
	tryWait = 1500 * time.Millisecond
	maxWait = 4500 * time.Millisecond
)

// forwarder asks upstream servers, and keeps what they say.
type forwarder struct {
	servers []*upstream
	cache   *cache
	log     *slog.Logger
	now     func() time.Time
	flights singleflight.Group // equal questions at the same time are asked once, also if one comes back to us in a loop
	best    atomic.Int32       // index of the server that answered last
	loop    *loopGuard
}

type upstream struct {
	addr    netip.AddrPort
	looping atomic.Bool // it asks us our own questions
	down    atomic.Bool // it did not answer the last time: for the log
}

func newForwarder(servers []netip.AddrPort, log *slog.Logger) *forwarder {
	f := &forwarder{cache: newCache(maxCacheBytes), log: log, now: time.Now}
	for _, a := range servers {
		f.servers = append(f.servers, &upstream{addr: a})
	}
	f.loop = newLoopGuard(f.servers, log)
	return f
}

// cached answers from the cache, or returns nil.
func (f *forwarder) cached(q *query, now time.Time) *dns.Msg {
	m := f.cache.get(keyOf(q), now)
	if m == nil {
		return nil
	}
	return q.relay(m)
}

// answer asks the upstream servers.
func (f *forwarder) answer(ctx context.Context, q *query) *dns.Msg {
	k := keyOf(q)
	v, err, shared := f.flights.Do(fmt.Sprintf("%s %d %t %t", k.name, k.typ, k.do, k.cd), func() (any, error) {
		if m := f.cache.get(k, f.now()); m != nil { // the flight before this one has just landed
			return m, nil
		}
		m, err := f.ask(ctx, q.ask, k)
		if err != nil {
			m = q.refuse(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority, err.Error())
		}
		f.cache.put(k, m, f.now())
		return m, nil
	})
	if err != nil { // not possible
		return q.reply(dns.RcodeServerFailure)
	}
	m := v.(*dns.Msg)
	if shared {
		f.loop.suspect() // a client that asks twice, or our own question coming back
		m = m.Copy()
	}
	return q.relay(m)
}

// relay makes the reply of an upstream server ours. AD is not passed on: nothing here has checked it, nor the way to the server.
func (q *query) relay(m *dns.Msg) *dns.Msg {
	r := q.reply(m.Rcode)
	r.Answer, r.Ns, r.Truncated = m.Answer, m.Ns, m.Truncated
	for _, rr := range m.Answer { // another client may have asked in another case
		if h := rr.Header(); strings.EqualFold(h.Name, q.ask.Name) {
			h.Name = q.ask.Name
		}
	}
	for _, rr := range m.Extra {
		opt, ok := rr.(*dns.OPT)
		switch {
		case !ok:
			r.Extra = append(r.Extra, rr)
		case q.opt != nil: // of the server's options only the reason of an error is for the client
			r.Extra = append(r.Extra, &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}, Option: reasons(opt)})
		}
	}
	if m.Rcode > 15 { // it speaks of the EDNS between the server and us
		r.Rcode = dns.RcodeServerFailure
	}
	return r
}

func reasons(opt *dns.OPT) (out []dns.EDNS0) {
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			out = append(out, e)
		}
	}
	return out
}

var errAllLoop = errors.New("each upstream server sends our questions back to us")

// ask tries each server, the last good one first, until one has an answer; a failure that a server reports is kept in case that nobody knows better.
func (f *forwarder) ask(ctx context.Context, ask dns.Question, k key) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	var failure *dns.Msg
	err := errAllLoop
	first := int(f.best.Load())
	for i := range 2 * len(f.servers) { // a lost packet is no reason to fail
		n := (first + i) % len(f.servers)
		s := f.servers[n]
		if s.looping.Load() || ctx.Err() != nil || failure != nil && i >= len(f.servers) {
			continue
		}
		m, e := exchange(ctx, s.addr, ask, k)
		f.note(ctx, s, e)
		switch {
		case e != nil:
			err = e
		case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
			f.best.Store(int32(n))
			return m, nil
		default:
			failure = m
		}
	}
	if failure != nil {
		return failure, nil
	}
	return nil, err
}

// note logs when a server begins or ceases to answer, and has silence looked into.
func (f *forwarder) note(ctx context.Context, s *upstream, err error) {
	switch {
	case err == nil && s.down.Swap(false):
		f.log.Info("upstream DNS server answers again", "server", s.addr)
	case err != nil && context.Cause(ctx) != context.Canceled:
		f.loop.suspect()
		if !s.down.Swap(true) {
			f.log.Warn("upstream DNS server does not answer", "server", s.addr, "err", err)
		}
	}
}

// returned reports whether a question for name is one of ours that an upstream server has sent back.
func (f *forwarder) returned(name string) bool { return f.loop.seen(name) }

// exchange asks one server: over UDP, then over TCP if the answer was cut, and without EDNS if the server does not know that.
func exchange(ctx context.Context, server netip.AddrPort, ask dns.Question, k key) (*dns.Msg, error) {
	m := &dns.Msg{Question: []dns.Question{ask}}
	m.RecursionDesired, m.CheckingDisabled = true, k.cd
	m.SetEdns0(maxUDP, k.do)
	r, err := roundTrip(ctx, "udp", server, m)
	if err == nil && (r.Rcode == dns.RcodeFormatError || r.Rcode == dns.RcodeNotImplemented) {
		m.Extra = nil
		r, err = roundTrip(ctx, "udp", server, m)
	}
	if err == nil && r.Truncated {
		r, err = roundTrip(ctx, "tcp", server, m)
	}
	return r, err
}

// roundTrip sends a question from a new socket, so from a port that nobody can guess, and waits for its answer (RFC 5452, 9).
func roundTrip(ctx context.Context, network string, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryWait)
	defer cancel()
	m.Id = uint16(rand.Uint32()) // ChaCha8, seeded by the system
	var d net.Dialer
	raw, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, fmt.Errorf("reach DNS server %s over %s: %w", server, network, err)
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	conn := &dns.Conn{Conn: raw, UDPSize: maxQuery}
	if err := conn.WriteMsg(m); err != nil {
		return nil, fmt.Errorf("ask DNS server %s over %s: %w", server, network, err)
	}
	for {
		r, err := conn.ReadMsg()
		switch {
		case err == nil && r.Response && r.Id == m.Id && sameQuestion(r, m) && sound(r):
			return r, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("ask DNS server %s over %s: no answer within %v", server, network, tryWait)
		case err == nil && network == "tcp":
			return nil, fmt.Errorf("ask DNS server %s over tcp: the answer is to another question, or has broken records", server)
		case err != nil && (isClosed(err) || network == "tcp"):
			return nil, fmt.Errorf("ask DNS server %s over %s: %w", server, network, err)
		}
		// Not the answer, or not readable: perhaps forged. The real one may be on its way.
	}
}

// isClosed reports whether reading again is of no use: the port is closed, or the network is gone.
func isClosed(err error) bool {
	var op net.Error
	return errors.As(err, &op)
}

func sameQuestion(r, m *dns.Msg) bool {
	if len(r.Question) != 1 {
		return len(r.Question) == 0 && r.Rcode == dns.RcodeFormatError // some servers send a bare header
	}
	a, b := r.Question[0], m.Question[0]
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// sound reports whether a reply can be written and read again: package miekg/dns reads records that end early, and writes them
// as something else.
func sound(m *dns.Msg) bool {
	b, err := m.Pack()
	return err == nil && new(dns.Msg).Unpack(b) == nil
}
