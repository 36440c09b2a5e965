package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// fakeUpstream serves UDP and TCP on a loopback port until the test ends.
func fakeUpstream(t *testing.T, handle func(w dns.ResponseWriter, m *dns.Msg, tcp bool)) netip.AddrPort {
	t.Helper()
	k, err := bind(netip.MustParseAddrPort("127.0.0.1:0"), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: k.udp}, {Listener: k.tcp}} {
		var wg sync.WaitGroup
		tcp := s.Listener != nil
		s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { handle(w, m, tcp) })
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		wg.Go(func() { _ = s.ActivateAndServe() })
		<-ready
		t.Cleanup(func() { _ = s.Shutdown(); wg.Wait() })
	}
	return k.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// answerA replies with n addresses.
func answerA(w dns.ResponseWriter, m *dns.Msg, n int) {
	r := new(dns.Msg)
	r.SetReply(m)
	r.AuthenticatedData = true
	for i := range n {
		rr, _ := dns.NewRR(fmt.Sprintf("%s 60 IN A 192.0.2.%d", strings.ToLower(m.Question[0].Name), i%250))
		r.Answer = append(r.Answer, rr)
	}
	_ = w.WriteMsg(r)
}

// closedPort is a loopback port where nobody listens.
func closedPort(t *testing.T) netip.AddrPort {
	k, err := bind(netip.MustParseAddrPort("127.0.0.1:0"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer k.udp.Close()
	defer k.tcp.Close()
	return k.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// forwardingTo is a chain in front of upstream servers, whose clock stands still.
func forwardingTo(servers ...netip.AddrPort) *chain {
	c := chainOf(BuildZone(farm()))
	c.forward.current.Store(newForwarder(servers, discard))
	c.forward.current.Load().now = func() time.Time { return time.Unix(1000, 0) }
	return c
}

// resolve asks a chain and waits for the answer, at second 1000+age.
func resolve(t testing.TB, c *chain, packet []byte, tcp bool, age int64) (m *dns.Msg, forwarded bool) {
	t.Helper()
	b, q := c.local(packet, via{tcp, true}, time.Unix(1000+age, 0), nil)
	if q != nil {
		b = c.remote(context.Background(), q)
	}
	m = new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("answer % x: %v", b, err)
	}
	return m, q != nil
}

func TestForward(t *testing.T) {
	var count atomic.Int32
	c := forwardingTo(fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, _ bool) {
		count.Add(1)
		answerA(w, m, 1)
	}))
	ask := func(name string) []byte { return question(t, name, dns.TypeA, nil) }
	m, forwarded := resolve(t, c, ask("WWW.example.com."), false, 0)
	if !forwarded || len(m.Answer) != 1 || m.Answer[0].String() != "WWW.example.com.\t60\tIN\tA\t192.0.2.0" {
		t.Errorf("forwarded %t: %v", forwarded, m)
	}
	if m.Authoritative || !m.RecursionAvailable || m.AuthenticatedData {
		t.Errorf("flags: %v", m.MsgHdr)
	}
	m, forwarded = resolve(t, c, ask("www.EXAMPLE.com."), false, 15)
	if forwarded || len(m.Answer) != 1 || m.Answer[0].String() != "www.EXAMPLE.com.\t45\tIN\tA\t192.0.2.0" {
		t.Errorf("from the cache: forwarded %t, %v", forwarded, m)
	}
	if _, forwarded = resolve(t, c, ask("www.example.com."), false, 60); !forwarded {
		t.Error("answered from the cache after the time of the record")
	}
	before := count.Load()
	for _, name := range []string{"alice.farm.internal.", "nobody.farm.internal.", "9.9.77.10.in-addr.arpa."} {
		if m, forwarded := resolve(t, c, ask(name), false, 0); forwarded || !m.Authoritative {
			t.Errorf("%s: forwarded %t, %v", name, forwarded, m)
		}
	}
	m, _ = resolve(t, c, question(t, "example.net.", dns.TypeA, func(m *dns.Msg) { m.RecursionDesired = false }), false, 0)
	if m.Rcode != dns.RcodeRefused {
		t.Errorf("recursion not desired: %v", m)
	}
	if m, _ = resolve(t, c, question(t, "example.net.", dns.TypeANY, nil), false, 0); len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != dns.TypeHINFO {
		t.Errorf("ANY: %v", m)
	}
	if n := count.Load(); n != before {
		t.Errorf("the upstream got %d questions that are not for it", n-before)
	}
}

// TestForwardLarge: what the upstream cuts is asked again over TCP; what the client cannot take is cut for it.
func TestForwardLarge(t *testing.T) {
	c := forwardingTo(fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, tcp bool) {
		if !tcp {
			r := new(dns.Msg)
			r.SetReply(m)
			r.Truncated = true
			_ = w.WriteMsg(r)
			return
		}
		answerA(w, m, 200)
	}))
	m, _ := resolve(t, c, question(t, "large.example.com.", dns.TypeA, nil), true, 0)
	if len(m.Answer) != 200 || m.Truncated {
		t.Errorf("over TCP: %d records, TC %t", len(m.Answer), m.Truncated)
	}
	b, q := c.local(question(t, "large.example.com.", dns.TypeA, nil), via{false, true}, time.Unix(1000, 0), nil)
	m = new(dns.Msg)
	if err := m.Unpack(b); err != nil || q != nil || !m.Truncated || len(b) > dns.MinMsgSize || len(m.Answer) < 20 {
		t.Errorf("over UDP: %d bytes, %d records, TC %t, err %v", len(b), len(m.Answer), m.Truncated, err)
	}
}

// TestForwardFailures: dead and failing servers are passed over, the one that answered is asked first the next time, and if none answers, it is said why.
func TestForwardFailures(t *testing.T) {
	var failing, good atomic.Int32
	fails := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, _ bool) {
		failing.Add(1)
		_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeServerFailure))
	})
	works := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, _ bool) { good.Add(1); answerA(w, m, 1) })
	c := forwardingTo(closedPort(t), fails, works)
	for i := range 3 {
		if m, _ := resolve(t, c, question(t, fmt.Sprintf("n%d.example.com.", i), dns.TypeA, nil), false, 0); len(m.Answer) != 1 {
			t.Errorf("%v", m)
		}
	}
	if failing.Load() != 1 || good.Load() != 3 {
		t.Errorf("the failing server got %d questions, the good one %d; want 1 and 3", failing.Load(), good.Load())
	}
	withEDNS := func(m *dns.Msg) { m.SetEdns0(1232, false) }
	c = forwardingTo(closedPort(t))
	m, _ := resolve(t, c, question(t, "example.com.", dns.TypeA, withEDNS), false, 0)
	if m.Rcode != dns.RcodeServerFailure || !strings.Contains(m.String(), "refused") {
		t.Errorf("no server answers: %v", m)
	}
	if _, forwarded := resolve(t, c, question(t, "example.com.", dns.TypeA, withEDNS), false, 0); forwarded {
		t.Error("a failure is tried again at once")
	}
	if _, forwarded := resolve(t, c, question(t, "example.com.", dns.TypeA, withEDNS), false, 1); !forwarded {
		t.Error("a failure is kept for more than a second")
	}
	c = forwardingTo(fails)
	if m, _ := resolve(t, c, question(t, "example.com.", dns.TypeA, withEDNS), false, 0); m.Rcode != dns.RcodeServerFailure || m.IsEdns0() == nil {
		t.Errorf("the server fails: %v", m)
	}
}

// TestForwardOldServer: a server that does not know EDNS is asked without.
func TestForwardOldServer(t *testing.T) {
	c := forwardingTo(fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, _ bool) {
		if m.IsEdns0() != nil {
			r := new(dns.Msg).SetRcode(m, dns.RcodeFormatError)
			r.Question = nil
			_ = w.WriteMsg(r)
			return
		}
		answerA(w, m, 1)
	}))
	if m, _ := resolve(t, c, question(t, "example.com.", dns.TypeA, nil), false, 0); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}

// TestForwardForged: answers with another number, another question or no sense are not believed, and the right one behind them is.
func TestForwardForged(t *testing.T) {
	c := forwardingTo(fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, _ bool) {
		forged := m.Copy()
		forged.Response, forged.Id = true, m.Id+1
		_ = w.WriteMsg(forged)
		forged.Id, forged.Question[0].Name = m.Id, "evil.example.com."
		_ = w.WriteMsg(forged)
		_ = w.WriteMsg(m) // our own question, as it was
		_, _ = w.Write([]byte{byte(m.Id >> 8), byte(m.Id), 0x80, 0, 0, 1, 0, 9, 0, 0, 0, 0, 0xc0})
		_, _ = w.Write([]byte{1})
		broken := m.Copy()
		broken.Extra, broken.Response = nil, true
		b, _ := broken.Pack()
		b[7] = 1 // an SOA without data, which the parser takes for an update's
		_, _ = w.Write(append(b, 0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 60, 0, 0))
		answerA(w, m, 3)
	}))
	if m, _ := resolve(t, c, question(t, "example.com.", dns.TypeA, nil), false, 0); len(m.Answer) != 3 {
		t.Errorf("%v", m)
	}
}

// TestForwardOnce: a hundred clients that ask the same at the same time make one question.
func TestForwardOnce(t *testing.T) {
	var count atomic.Int32
	all := make(chan struct{})
	c := forwardingTo(fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, _ bool) {
		count.Add(1)
		<-all
		answerA(w, m, 1)
	}))
	var wg sync.WaitGroup
	var asked atomic.Int32
	for range 100 {
		wg.Go(func() {
			b, q := c.local(question(t, "Example.com.", dns.TypeA, nil), via{false, true}, time.Unix(1000, 0), nil)
			if asked.Add(1) == 100 {
				close(all)
			}
			if q != nil {
				b = c.remote(context.Background(), q)
			}
			m := new(dns.Msg)
			if err := m.Unpack(b); err != nil || len(m.Answer) != 1 || m.Answer[0].Header().Name != "Example.com." {
				t.Errorf("answer % x: %v", b, err)
			}
		})
	}
	wg.Wait()
	if n := count.Load(); n != 1 {
		t.Errorf("the upstream got %d questions, want 1", n)
	}
}

// FuzzReply: whatever an upstream server sends, the client gets a proper answer to its question, of no more than its size.
func FuzzReply(f *testing.F) {
	pack := func(m *dns.Msg) []byte {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	soa := "example.com. 60 IN SOA ns.example.com. h.example.com. 1 2 3 4 5"
	f.Add(pack(replyOf(f, 0, []string{"www.example.com. 60 IN A 192.0.2.1"}, []string{soa})), false)
	f.Add(pack(replyOf(f, 3, nil, []string{soa}).SetEdns0(1232, true)), true)
	f.Add(pack(replyOf(f, 0, []string{`www.example.com. 60 IN TXT "` + strings.Repeat("x", 250) + `"`, "www.example.com. 60 IN CNAME x."}, nil)), true)
	f.Fuzz(func(t *testing.T, reply []byte, edns bool) {
		up := new(dns.Msg)
		if up.Unpack(reply) != nil || !sound(up) {
			return
		}
		packet := question(t, "WWW.example.com.", dns.TypeA, func(m *dns.Msg) {
			if edns {
				m.SetEdns0(1232, true)
			}
		})
		for _, tcp := range []bool{false, true} {
			q, _ := parse(packet, tcp)
			fw := newForwarder(nil, discard)
			fw.cache.put(keyOf(q), up, time.Unix(0, 0))
			for _, m := range []*dns.Msg{q.relay(up.Copy()), fw.cached(q, time.Unix(0, 1))} {
				if m != nil {
					checkAnswer(t, packet, chainOf(nil).finish(q, m, nil), tcp)
				}
			}
		}
	})
}
