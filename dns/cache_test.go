package dns

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// replyOf is what an upstream server might say; records are in the text form of a zone file.
func replyOf(t testing.TB, rcode int, answer, authority []string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("www.example.com.", dns.TypeA)
	m.Response, m.Rcode = true, rcode
	parse := func(s []string) (out []dns.RR) {
		for _, s := range s {
			rr, err := dns.NewRR(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, rr)
		}
		return out
	}
	m.Answer, m.Ns = parse(answer), parse(authority)
	return m
}

func TestLifetime(t *testing.T) {
	a := func(ttl int) string { return fmt.Sprintf("www.example.com. %d IN A 192.0.2.1", ttl) }
	soa := func(ttl, minttl int) string {
		return fmt.Sprintf("example.com. %d IN SOA ns. h. 1 2 3 4 %d", ttl, minttl)
	}
	for what, x := range map[string]struct {
		m    *dns.Msg
		want uint32
	}{
		"one record":               {replyOf(t, 0, []string{a(60)}, nil), 60},
		"the shortest counts":      {replyOf(t, 0, []string{a(60), "www.example.com. 30 IN A 192.0.2.2"}, nil), 30},
		"the authority counts too": {replyOf(t, 0, []string{a(60)}, []string{"example.com. 20 IN NS ns.example.com."}), 20},
		"a day is too long":        {replyOf(t, 0, []string{a(86400)}, nil), maxPositive},
		"zero":                     {replyOf(t, 0, []string{a(0)}, nil), 0},
		"no such time":             {replyOf(t, 0, []string{a(1 << 31)}, nil), 0},
		"NXDOMAIN":                 {replyOf(t, 3, nil, []string{soa(100, 50)}), 50},
		"NXDOMAIN, short SOA":      {replyOf(t, 3, nil, []string{soa(40, 50)}), 40},
		"NXDOMAIN for long":        {replyOf(t, 3, nil, []string{soa(9000, 9000)}), maxNegative},
		"NXDOMAIN without SOA":     {replyOf(t, 3, nil, nil), 0},
		"NODATA":                   {replyOf(t, 0, nil, []string{soa(10, 50)}), 10},
		"alias to nothing":         {replyOf(t, 0, []string{"www.example.com. 500 IN CNAME x."}, []string{soa(100, 50)}), 50},
		"a referral":               {replyOf(t, 0, nil, []string{"example.com. 100 IN NS ns."}), 0},
		"a failure":                {replyOf(t, 2, nil, nil), failureTTL},
	} {
		if got := lifetime(x.m); got != x.want {
			t.Errorf("%s: kept for %d s, want %d", what, got, x.want)
		}
	}
	cut := replyOf(t, 0, []string{a(60)}, nil)
	if cut.Truncated = true; lifetime(cut) != 0 {
		t.Error("a cut answer is kept")
	}
}

// TestCacheAge: records in the cache grow old, and are gone when their time is over; also if the clock goes back.
func TestCacheAge(t *testing.T) {
	c, k, start := newCache(maxCacheBytes), key{name: "www.example.com.", typ: dns.TypeA}, time.Unix(1000, 0)
	c.put(k, replyOf(t, 0, []string{"www.example.com. 60 IN A 192.0.2.1", "www.example.com. 90 IN A 192.0.2.2"}, nil), start)
	for after, want := range map[time.Duration][2]uint32{0: {60, 90}, 1999 * time.Millisecond: {59, 89}, 59 * time.Second: {1, 31}} {
		m := c.get(k, start.Add(after))
		if m == nil || [2]uint32{m.Answer[0].Header().Ttl, m.Answer[1].Header().Ttl} != want {
			t.Errorf("after %v: %v, want TTLs %v", after, m, want)
		}
	}
	if c.get(key{name: "www.example.com.", typ: dns.TypeA, do: true}, start) != nil {
		t.Error("an answer without signatures for a question that wants them")
	}
	if m := c.get(k, start.Add(60*time.Second)); m != nil || len(c.entries) != 0 || c.bytes != 0 {
		t.Errorf("after 60 s: %v, %d entries, %d bytes", m, len(c.entries), c.bytes)
	}
	c.put(k, replyOf(t, 0, []string{"www.example.com. 60 IN A 192.0.2.1"}, nil), start)
	if c.get(k, start.Add(-time.Second)) != nil {
		t.Error("an answer from the future")
	}
}

// TestCacheBound compares the cache with a list that is searched, and counts its bytes anew at each step.
func TestCacheBound(t *testing.T) {
	const limit = 20 * (entryOverhead + 100)
	c, r, now := newCache(limit), rand.New(rand.NewPCG(1, 2)), time.Unix(1000, 0)
	type oracle struct {
		k    key
		size int
	}
	var list []oracle // used last: at the end
	drop := func(k key) (found bool) {
		for i, o := range list {
			if o.k == k {
				list = append(list[:i:i], list[i+1:]...)
				return true
			}
		}
		return false
	}
	evicted := 0
	for range 5000 {
		k := key{name: fmt.Sprintf("n%d.", r.IntN(60)), typ: dns.TypeA}
		if r.IntN(2) == 0 {
			had := drop(k)
			if (c.get(k, now) != nil) != had {
				t.Fatalf("%s in the cache: want %t", k.name, had)
			}
			if had {
				list = append(list, oracle{k, c.entries[k].Value.(*cached).size()})
			}
			continue
		}
		var rrs []string
		for i := range 1 + r.IntN(20) {
			rrs = append(rrs, fmt.Sprintf("%s 60 IN A 192.0.2.%d", k.name, i))
		}
		m := replyOf(t, 0, rrs, nil)
		c.put(k, m, now)
		drop(k)
		list = append(list, oracle{k, m.Len() + len(k.name) + entryOverhead})
		sum := 0
		for _, o := range list {
			sum += o.size
		}
		for ; sum > limit; evicted++ {
			sum -= list[0].size
			list = list[1:]
		}
		if c.bytes != sum || c.recent.Len() != len(list) || len(c.entries) != len(list) {
			t.Fatalf("%d bytes in %d entries (%d in the list), want %d in %d", c.bytes, len(c.entries), c.recent.Len(), sum, len(list))
		}
	}
	if evicted < 100 {
		t.Errorf("only %d replies had to go: the test is too small", evicted)
	}
	big := replyOf(t, 0, nil, nil)
	for range 2000 {
		rr, _ := dns.NewRR("www.example.com. 60 IN A 192.0.2.1")
		big.Answer = append(big.Answer, rr)
	}
	if c.put(key{name: "big."}, big, now); c.entries[key{name: "big."}] != nil {
		t.Error("a reply that is too large is kept")
	}
}
