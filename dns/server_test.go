package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

var discard = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const loopback = "127.0.0.1:0"

// run starts a server on a loopback port until the test ends.
func run(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Listen == nil {
		cfg.Listen = []netip.AddrPort{netip.MustParseAddrPort(loopback)}
	}
	if cfg.Zone == nil {
		z := BuildZone(farm())
		cfg.Zone = func() *Zone { return z }
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }() // the cleanup waits for it
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// within waits for a condition.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// exchanged asks a server over a network.
func exchanged(t *testing.T, s *Server, network, name string, typ uint16) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 8 * time.Second}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, typ), s.Addr().String())
	if err != nil {
		t.Fatalf("%s over %s: %v", name, network, err)
	}
	return m
}

func TestServer(t *testing.T) {
	s := run(t, Config{Listen: []netip.AddrPort{netip.MustParseAddrPort(loopback), netip.MustParseAddrPort("[::1]:0")}})
	for _, network := range []string{"udp", "tcp"} {
		if m := exchanged(t, s, network, "web.alice.farm.internal.", dns.TypeAAAA); len(m.Answer) != 1 {
			t.Errorf("%s: %v", network, m)
		}
		if m := exchanged(t, s, network, "example.com.", dns.TypeAAAA); m.Rcode != dns.RcodeRefused {
			t.Errorf("%s: %v", network, m)
		}
	}
	if err := s.Run(context.Background()); err == nil {
		t.Error("Run twice")
	}
}

func TestNew(t *testing.T) {
	z := func() *Zone { return nil }
	taken := run(t, Config{}).Addr()
	addrs := func(s ...string) (out []netip.AddrPort) {
		for _, a := range s {
			out = append(out, netip.MustParseAddrPort(a))
		}
		return out
	}
	for what, x := range map[string]struct {
		cfg  Config
		want string
	}{
		"no zone":             {Config{Listen: addrs(loopback)}, "no zone"},
		"all addresses":       {Config{Zone: z, Listen: addrs("0.0.0.0:53")}, "not all of them"},
		"all IPv6 addresses":  {Config{Zone: z, Listen: addrs("[::]:53")}, "not all of them"},
		"an address in use":   {Config{Zone: z, Listen: addrs(loopback, taken.String())}, "another DNS server"},
		"no such address":     {Config{Zone: z, Listen: addrs("192.0.2.1:53")}, "192.0.2.1:53"},
		"no such interface":   {Config{Zone: z, Listen: addrs(loopback), Interface: "nosuch0"}, "nosuch0"},
		"upstream is itself":  {Config{Zone: z, Listen: addrs("127.0.0.1:5399"), Upstream: addrs("127.0.0.1:5399")}, "itself"},
		"upstream is nowhere": {Config{Zone: z, Listen: addrs(loopback), Upstream: addrs("0.0.0.0:53")}, "upstream"},
		"burst":               {Config{Zone: z, Listen: addrs(loopback), Burst: -1}, "burst"},
	} {
		s, err := New(x.cfg)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: error %v, want one with %q", what, err, x.want)
		}
		if err == nil {
			_ = s.Close()
		}
	}
}

// TestFlood: who floods loses his own questions only, over UDP and TCP, and all is counted.
func TestFlood(t *testing.T) {
	var limited, answered atomic.Int32
	s := run(t, Config{
		RatePerClient: 1, Burst: 5, now: func() time.Time { return time.Unix(1000, 0) },
		OnQuery: func(_, rcode string) {
			if rcode == "LIMITED" {
				limited.Add(1)
			} else {
				answered.Add(1)
			}
		},
	})
	from := func(addr, network string) *dns.Conn {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(addr)}}
		if network == "tcp" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(addr)}
		}
		c, err := d.Dial(network, s.Addr().String())
		if err != nil {
			t.Skipf("no second loopback address: %v", err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return &dns.Conn{Conn: c}
	}
	q := new(dns.Msg).SetQuestion("alice.farm.internal.", dns.TypeA)
	flooder := from("127.0.0.2", "udp")
	for range 100 {
		if err := flooder.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
	}
	within(t, "all questions of the flooder read", func() bool { return limited.Load()+answered.Load() == 100 })
	if n := answered.Load(); n != 5 {
		t.Errorf("the flooder got %d answers, want 5", n)
	}
	tcp := from("127.0.0.2", "tcp")
	_ = tcp.WriteMsg(q)
	if _, err := tcp.ReadMsg(); err == nil {
		t.Error("the flooder is served over TCP")
	}
	for _, client := range []string{"127.0.0.3", "127.0.0.1"} {
		c := from(client, "udp")
		_ = c.WriteMsg(q)
		if _, err := c.ReadMsg(); err != nil {
			t.Errorf("%s is not served beside the flooder: %v", client, err)
		}
	}
	for range 20 { // the server's own address
		if m := exchanged(t, s, "udp", "alice.farm.internal.", dns.TypeA); len(m.Answer) != 1 {
			t.Error(m)
		}
	}
}

// TestNotOpen: with an upstream, other names are for this machine and those whom the configuration names; our own are for all.
func TestNotOpen(t *testing.T) {
	device := netip.MustParseAddr("127.0.0.3")
	up := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, _ bool) { answerA(w, m, 1) })
	s := run(t, Config{Upstream: []netip.AddrPort{up}, ForwardFor: func(a netip.Addr) bool { return a == device }})
	for client, want := range map[string]int{"127.0.0.1": dns.RcodeSuccess, "127.0.0.2": dns.RcodeRefused, "127.0.0.3": dns.RcodeSuccess} {
		for _, network := range []string{"udp", "tcp"} {
			c := dns.Client{Net: network, Timeout: 8 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(client)}}}
			if network == "tcp" {
				c.Dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(client)}
			}
			for name, rcode := range map[string]int{"example.com.": want, "alice.farm.internal.": dns.RcodeSuccess} {
				m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), s.Addr().String())
				if err != nil || m.Rcode != rcode || m.RecursionAvailable != (want == dns.RcodeSuccess) {
					t.Errorf("%s asks for %s over %s: %v, %v; want rcode %d", client, name, network, m, err, rcode)
				}
			}
		}
	}
}

// TestTCP: many questions on one connection, one that is too long, and too many connections.
func TestTCP(t *testing.T) {
	s := run(t, Config{})
	dial := func() net.Conn {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	c := &dns.Conn{Conn: dial()}
	q := new(dns.Msg).SetQuestion("_http._tcp.farm.internal.", dns.TypeSRV)
	for i := range 50 { // all before the first answer is read
		q.Id = uint16(i)
		if err := c.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 50 {
		if m, err := c.ReadMsg(); err != nil || m.Id != uint16(i) || len(m.Answer) != 2 {
			t.Fatalf("answer %d: %v, %v", i, m, err)
		}
	}
	long := dial()
	_, _ = long.Write(binary.BigEndian.AppendUint16(nil, maxQuery+1))
	if _, err := long.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a question of %d bytes: %v, want the connection closed", maxQuery+1, err)
	}
	_ = c.Close()
	count := func() int { s.conns.mu.Lock(); defer s.conns.mu.Unlock(); return s.conns.total }
	within(t, "the connections gone", func() bool { return count() == 0 })
	for range maxConnsPerClient {
		dial()
	}
	within(t, "connections accepted", func() bool { return count() == maxConnsPerClient })
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("one connection more than allowed is not closed")
	}
	if m := exchanged(t, s, "udp", "alice.farm.internal.", dns.TypeA); len(m.Answer) != 1 {
		t.Error(m)
	}
}

// TestConnsBound: beside the limit for one client there is one for all.
func TestConnsBound(t *testing.T) {
	c := conns{open: make(map[[16]byte]int)}
	ok := 0
	for i := range 1000 {
		if c.add(netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)})) {
			ok++
		}
	}
	if ok != maxConns || len(c.open) != maxConns {
		t.Errorf("%d connections of 1,000 clients, %d in the table, want %d", ok, len(c.open), maxConns)
	}
	for i := range maxConns {
		c.remove(netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)}))
	}
	if c.total != 0 || len(c.open) != 0 {
		t.Errorf("%d connections left, %d in the table", c.total, len(c.open))
	}
}

// TestUpstreamSilent: while the upstream says nothing and the places of waiting questions are all taken, our own names are answered and
// further questions fail at once.
func TestUpstreamSilent(t *testing.T) {
	release := make(chan struct{})
	up := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, _ bool) {
		<-release
		answerA(w, m, 1)
	})
	s := run(t, Config{Upstream: []netip.AddrPort{up}, RatePerClient: -1})
	conn, err := net.Dial("udp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	c := &dns.Conn{Conn: conn}
	q := new(dns.Msg).SetQuestion("", dns.TypeA)
	for i := range maxWaiting {
		q.Question[0].Name = strings.Repeat("a", i%60+1) + "." + strings.Repeat("b", i/60+1) + "."
		_ = c.WriteMsg(q)
	}
	within(t, "all places taken", func() bool { return len(s.waiting) == maxWaiting })
	if m := exchanged(t, s, "udp", "one.more.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Error(m)
	}
	if m := exchanged(t, s, "tcp", "one.more.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Error(m)
	}
	if m := exchanged(t, s, "udp", "alice.farm.internal.", dns.TypeA); len(m.Answer) != 1 {
		t.Error(m)
	}
	close(release)
	within(t, "the places free again", func() bool { return len(s.waiting) == 0 })
}

// TestLoop: an upstream that sends our questions back is found at the start, named once in the log, and used again when it is mended.
func TestLoop(t *testing.T) {
	var log logBuffer
	var back atomic.Pointer[string] // where the upstream forwards to
	up := fakeUpstream(t, func(w dns.ResponseWriter, m *dns.Msg, _ bool) {
		to := back.Load()
		if to == nil {
			answerA(w, m, 1)
			return
		}
		m.Extra = nil // as most forwarders do, it keeps the question alone
		c := dns.Client{Timeout: 8 * time.Second}
		if r, _, err := c.Exchange(m, *to); err == nil {
			_ = w.WriteMsg(r)
		}
	})
	k, err := bind(netip.MustParseAddrPort(loopback), "")
	if err != nil {
		t.Fatal(err)
	}
	addr := k.udp.LocalAddr().(*net.UDPAddr).AddrPort()
	_, _ = k.udp.Close(), k.tcp.Close()
	to := addr.String()
	back.Store(&to) // before the server starts
	s := run(t, Config{Listen: []netip.AddrPort{addr}, Upstream: []netip.AddrPort{up}, Log: slog.New(slog.NewTextHandler(&log, nil)), probe: 20 * time.Millisecond})
	within(t, "the loop found", s.chain.forward.current.Load().servers[0].looping.Load)
	start := time.Now()
	if m := exchanged(t, s, "udp", "example.com.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Error(m)
	}
	if d := time.Since(start); d > tryWait {
		t.Errorf("the answer took %v: the looping server was asked", d)
	}
	within(t, "several searches", func() bool { return log.count("sends our questions back") >= 1 })
	if n := log.count("sends our questions back to us: it is not used"); n != 1 {
		t.Errorf("the loop was logged %d times", n)
	}
	back.Store(nil)
	within(t, "the mended server used again", func() bool {
		m := exchanged(t, s, "udp", "example.org.", dns.TypeA)
		return m.Rcode == dns.RcodeSuccess && len(m.Answer) == 1
	})
	// It begins to loop while in use: a question that comes back makes us look.
	back.Store(&to)
	within(t, "the later loop found", func() bool {
		exchanged(t, s, "udp", probeName(), dns.TypeA) // any name that is not in the cache
		return s.chain.forward.current.Load().servers[0].looping.Load()
	})
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

// TestPanic: a question that makes the server panic gets no answer, is reported, and the next one is answered.
func TestPanic(t *testing.T) {
	var log logBuffer
	var fine atomic.Bool
	z := BuildZone(farm())
	s := run(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil)), Zone: func() *Zone {
		if !fine.Swap(true) {
			panic("no zone today")
		}
		return z
	}})
	c, err := net.Dial("udp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write(question(t, "alice.farm.internal.", dns.TypeA, nil))
	within(t, "the panic reported", func() bool { return log.count("no zone today") == 1 })
	if m := exchanged(t, s, "udp", "alice.farm.internal.", dns.TypeA); len(m.Answer) != 1 {
		t.Error(m)
	}
}

// TestDig asks with the tool that people use.
func TestDig(t *testing.T) {
	if _, err := exec.LookPath("dig"); err != nil {
		t.Skip("dig is not installed (Debian: bind9-dnsutils)")
	}
	z := BuildZone(large(60, 20))
	farmZone := BuildZone(farm())
	var big atomic.Bool
	s := run(t, Config{Zone: func() *Zone {
		if big.Load() {
			return z
		}
		return farmZone
	}})
	dig := func(args ...string) string {
		a := s.Addr()
		out, err := exec.Command("dig", append([]string{"@" + a.Addr().String(), "-p", strings.TrimPrefix(a.String(), a.Addr().String()+":"), "+time=5", "+tries=2"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("dig %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, x := range []struct{ args, want string }{
		{"+short web.alice.farm.internal AAAA", "fd00:1:2:0:a::2\n"},
		{"+short +tcp Web.Alice.Farm.Internal AAAA", "fd00:1:2:0:a::2\n"},
		{"+short deep.below.web.alice.farm.internal AAAA", "fd00:1:2:0:a::2\n"},
		{"+short -x fd00:1:2:0:a::2", "web.alice.farm.internal.\n"},
		{"+short _http._tcp.farm.internal SRV", "0 1 8080 web.alice.farm.internal.\n0 1 80 web.bob.farm.internal.\n"},
		{"nothing.farm.internal", "status: NXDOMAIN"},
		{"alice.farm.internal MX", "status: NOERROR"},
		{"alice.farm.internal MX", "ANSWER: 0, AUTHORITY: 1"},
		{"+notcp alice.farm.internal ANY", `HINFO	"RFC8482" ""`},
		{"version.bind CH TXT", "status: REFUSED"},
		{"example.com", "EDE: 20 (Not Authoritative)"},
		{"+edns=1 +noednsneg alice.farm.internal", "status: BADVERS"},
		{"farm.internal AXFR", "Transfer failed"},
		{"xn--bcher-kva.farm.internal AAAA +short", "fd00:1:2:0:c::1\n"},
		{"+idnin BÜCHER.farm.internal AAAA +short", "fd00:1:2:0:c::1\n"},
		{"+opcode=notify alice.farm.internal", "status: NOTIMP"},
	} {
		if got := dig(strings.Fields(x.args)...); !strings.Contains(got, x.want) {
			t.Errorf("dig %s\n got: %s\nwant: %s", x.args, got, x.want)
		}
	}
	big.Store(true)
	if got := dig("_http._tcp.farm.internal", "SRV"); !strings.Contains(got, "Truncated, retrying in TCP mode") || !strings.Contains(got, "ANSWER: 1200") {
		t.Errorf("a long list: %.500s", got)
	}
}
