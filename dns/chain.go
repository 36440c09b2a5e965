package dns

import (
	"context"
	"time"

	"github.com/miekg/dns"
)

// chain answers packets: zone, then cache, then forward. It has no socket of its own.
type chain struct {
	zone    func() *Zone
	forward forwarding
	onQuery func(qtype, rcode string)
}

// via says how a packet came.
type via struct {
	tcp     bool
	forward bool // the client may ask for names outside
}

// local answers a packet at once, into buf if that is large enough, or returns the query that has to be forwarded; neither if the packet gets no answer.
func (c *chain) local(packet []byte, v via, now time.Time, buf []byte) ([]byte, *query) {
	q, rcode := parse(packet, v.tcp)
	if q == nil {
		if rcode < 0 {
			return nil, nil
		}
		c.onQuery(other, rcodeLabel(rcode))
		return bare(packet, rcode), nil
	}
	fw := c.forward.current.Load()
	if v.forward {
		q.forward = fw
	}
	m := c.answer(q, fw, now)
	if m == nil {
		return nil, q
	}
	return c.finish(q, m, buf), nil
}

// remote answers a query that local could not: it takes as long as [maxWait].
func (c *chain) remote(ctx context.Context, q *query) []byte {
	return c.finish(q, q.forward.answer(ctx, q), nil)
}

// finish counts an answer and makes its bytes.
func (c *chain) finish(q *query, m *dns.Msg, buf []byte) []byte {
	m.RecursionAvailable = q.forward != nil
	c.onQuery(typeLabel(q.ask.Qtype), rcodeLabel(m.Rcode))
	return q.pack(m, buf)
}

// busy is the answer to a query that nobody has time to forward.
func (c *chain) busy(q *query) []byte {
	return c.finish(q, q.refuse(dns.RcodeServerFailure, dns.ExtendedErrorCodeOther, "too many questions are waiting for the upstream servers"), nil)
}

// answer returns nil if the query has to be forwarded.
func (c *chain) answer(q *query, fw *forwarder, now time.Time) *dns.Msg {
	switch {
	case q.opt != nil && q.opt.Version() != 0:
		return q.refuse(dns.RcodeBadVers, dns.ExtendedErrorCodeOther, "only EDNS version 0")
	case q.ask.Qclass != dns.ClassINET:
		return q.refuse(dns.RcodeRefused, dns.ExtendedErrorCodeNotSupported, "only class IN")
	case meta(q.ask.Qtype):
		return q.refuse(dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, "no transfers and no meta types")
	}
	z := c.zone()
	if z == nil {
		return q.refuse(dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady, "the names of the network are not known yet")
	}
	if f, ok := z.lookup(q.ask, q.size); ok {
		return z.authoritative(q, f)
	}
	switch {
	case fw != nil && fw.returned(q.ask.Name) || q.forward == nil: // a question that comes back may come from anywhere
		return q.refuse(dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative, "this server answers only for "+z.domain)
	case !q.msg.RecursionDesired:
		return q.refuse(dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative, "recursion is not desired")
	case q.ask.Qtype == dns.TypeANY:
		m := q.reply(dns.RcodeSuccess)
		m.Answer = []dns.RR{minimal(q.ask.Name)}
		return m
	}
	return q.forward.cached(q, now)
}

// authoritative is the answer with what the zone has, or with the SOA that says for how long it has nothing: RFC 2308, 2.
func (z *Zone) authoritative(q *query, f found) *dns.Msg {
	m := q.reply(f.rcode)
	m.Authoritative = true
	m.Answer, m.Extra, m.Truncated = f.answer, f.extra, f.cut
	if len(f.answer) == 0 && !f.cut {
		m.Ns = []dns.RR{z.soa(f.apex)}
	}
	return m
}
