package dns

import (
	"container/list"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// What bounds the cache. The times are in seconds.
const (
	maxCacheBytes  = 4 << 20
	maxCachedReply = 16 << 10 // a larger one is not kept
	entryOverhead  = 256      // of a reply, besides its bytes: map, list and key
	maxPositive    = 3600
	maxNegative    = 300 // RFC 2308, 5 allows some hours; a laptop that has moved should not wait for so long
	failureTTL     = 1   // RFC 9520, 3.2
)

// key is what makes two questions equal. Answers with DNSSEC records, or without checks, are others than without.
type key struct {
	name   string // lower case
	typ    uint16
	do, cd bool
}

func keyOf(q *query) key {
	return key{strings.ToLower(q.ask.Name), q.ask.Qtype, q.opt != nil && q.opt.Do(), q.msg.CheckingDisabled}
}

// cache keeps replies of upstream servers, the most recently used ones, as bytes: so their size is known.
type cache struct {
	mu      sync.Mutex
	max     int
	bytes   int
	entries map[key]*list.Element // of *cached
	recent  *list.List            // front: used last
}

type cached struct {
	key    key
	reply  []byte
	stored time.Time
	ttl    uint32
}

func (c *cached) size() int { return len(c.reply) + len(c.key.name) + entryOverhead }

func newCache(limit int) *cache {
	return &cache{max: limit, entries: make(map[key]*list.Element), recent: list.New()}
}

// get returns a reply whose records live for what is left of their time, or nil. The caller owns it.
func (c *cache) get(k key, now time.Time) *dns.Msg {
	e, age := c.find(k, now)
	if e == nil {
		return nil
	}
	m := new(dns.Msg)
	if m.Unpack(e.reply) != nil {
		return nil // not possible: put has packed it
	}
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(h.Ttl, age)
			}
		}
	}
	return m
}

func (c *cache) find(k key, now time.Time) (e *cached, age uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[k]
	if el == nil {
		return nil, 0
	}
	e = el.Value.(*cached)
	passed := now.Sub(e.stored)
	if passed < 0 || passed >= time.Duration(e.ttl)*time.Second {
		c.remove(el)
		return nil, 0
	}
	c.recent.MoveToFront(el)
	return e, uint32(passed / time.Second)
}

// put keeps a reply for as long as it says.
func (c *cache) put(k key, m *dns.Msg, now time.Time) {
	ttl := lifetime(m)
	if ttl == 0 {
		return
	}
	b, err := m.Pack()
	if err != nil || len(b) > maxCachedReply {
		return
	}
	e := &cached{k, b, now, ttl}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.entries[k]; el != nil {
		c.remove(el)
	}
	c.entries[k] = c.recent.PushFront(e)
	c.bytes += e.size()
	for c.bytes > c.max {
		c.remove(c.recent.Back())
	}
}

// remove is called with the lock held.
func (c *cache) remove(el *list.Element) {
	e := c.recent.Remove(el).(*cached)
	delete(c.entries, e.key)
	c.bytes -= e.size()
}

// lifetime is how long a reply may be kept, in seconds; 0: not at all.
func lifetime(m *dns.Msg) uint32 {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return failureTTL
	}
	if m.Truncated {
		return 0
	}
	ttl, negative := uint32(maxPositive), false
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			if h.Rrtype == dns.TypeOPT {
				continue
			}
			if h.Ttl >= 1<<31 { // RFC 2181, 8
				return 0
			}
			ttl = min(ttl, h.Ttl)
		}
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok { // RFC 2308, 5
			ttl, negative = min(ttl, soa.Minttl, maxNegative), true
		}
	}
	if !negative && (m.Rcode == dns.RcodeNameError || len(m.Answer) == 0) {
		return 0 // a negative answer without SOA, or a referral
	}
	return ttl
}
