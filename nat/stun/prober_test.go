package stun

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridwire/gridwire/nat"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// seen makes mappings of "server mapped" pairs.
func seen(pairs ...string) (out []nat.Mapping) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, nat.Mapping{Server: ap(pairs[i]), Mapped: ap(pairs[i+1])})
	}
	return out
}

func TestClassify(t *testing.T) {
	local := []netip.Addr{netip.MustParseAddr("192.168.1.2"), netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8::2")}
	const s1, s2, s3, lan = "198.51.100.11:9", "198.51.100.12:9", "[2001:db8::11]:9", "192.168.1.3:9"
	silent := []netip.AddrPort{ap(s2)}
	for _, c := range []struct {
		name      string
		mappings  []nat.Mapping
		silent    []netip.AddrPort
		reachable bool
		want      nat.Type
		first     string
	}{
		{"nobody asked", nil, nil, false, nat.Unknown, ""},
		{"nobody answers", nil, silent, false, nat.Blocked, ""},
		{"nobody answers, but packets arrive", nil, silent, true, nat.Open, ""},
		{"two agree", seen(s1, "203.0.113.9:7000", s2, "203.0.113.9:7000"), nil, false, nat.EndpointIndependent, "203.0.113.9:7000"},
		{"two agree, full cone or port forwarded", seen(s1, "203.0.113.9:7000", s2, "203.0.113.9:7000"), nil, true, nat.EndpointIndependent, "203.0.113.9:7000"},
		{"two ports", seen(s1, "203.0.113.9:7000", s2, "203.0.113.9:7001"), nil, false, nat.EndpointDependent, "203.0.113.9:7000"},
		{"two addresses", seen(s1, "203.0.113.9:7000", s2, "203.0.113.8:7000"), nil, false, nat.EndpointDependent, "203.0.113.9:7000"},
		{"one, port kept", seen(s1, "203.0.113.9:51820"), silent, false, nat.EndpointIndependent, "203.0.113.9:51820"},
		{"one, port not kept", seen(s1, "203.0.113.9:7000"), silent, false, nat.Unknown, "203.0.113.9:7000"},
		{"one asked twice", seen(s1, "203.0.113.9:7000", s1, "203.0.113.9:7000"), nil, false, nat.Unknown, "203.0.113.9:7000"},
		{"no NAT", seen(s1, "198.51.100.2:51820", s2, "198.51.100.2:51820"), nil, true, nat.Open, "198.51.100.2:51820"},
		{"no NAT, a firewall", seen(s1, "198.51.100.2:51820", s2, "198.51.100.2:51820"), nil, false, nat.EndpointIndependent, "198.51.100.2:51820"},
		{"a LAN only", seen(lan, "192.168.1.2:51820"), nil, true, nat.Open, "192.168.1.2:51820"},
		{"LAN and internet", seen(lan, "192.168.1.2:51820", "192.168.1.4:9", "192.168.1.2:51820", s1, "203.0.113.9:7000", s2, "203.0.113.9:7000"), nil, false,
			nat.EndpointIndependent, "203.0.113.9:7000"},
		{"carrier and internet", seen("100.64.0.7:9", "100.64.0.9:51820", s1, "203.0.113.9:7000", s2, "203.0.113.9:7000"), nil, false,
			nat.EndpointIndependent, "203.0.113.9:7000"},
		{"IPv6 has no NAT, IPv4 has", seen(s3, "[2001:db8::2]:51820", s1, "203.0.113.9:7000", s2, "203.0.113.9:7001"), nil, false,
			nat.EndpointDependent, "[2001:db8::2]:51820"},
		{"IPv6 only", seen(s3, "[2001:db8::2]:51820"), nil, true, nat.Open, "[2001:db8::2]:51820"},
		{"most agreed on", seen(s1, "203.0.113.8:1", s2, "203.0.113.9:2", "198.51.100.13:9", "203.0.113.9:2"), nil, false, nat.EndpointDependent, "203.0.113.9:2"},
	} {
		now := time.Unix(1, 0)
		r := Classify(local, 51820, c.mappings, c.silent, c.reachable, now)
		if r.Type != c.want || r.Reachable != c.reachable || r.At != now || len(r.Silent) != len(c.silent) {
			t.Errorf("%s: %+v, want %s", c.name, r, c.want)
		}
		if (len(r.Mapped) == 0) != (c.first == "") || c.first != "" && r.Mapped[0] != ap(c.first) {
			t.Errorf("%s: mapped %v, want %s first", c.name, r.Mapped, c.first)
		}
	}
}

func TestOverlay(t *testing.T) {
	const s1, s2, s3, lan = "198.51.100.11:9", "198.51.100.12:9", "[2001:db8::11]:9", "192.168.1.3:9"
	const four, six, near = "203.0.113.9:7000", "[2001:db8::2]:51820", "192.168.1.2:51820"
	standing := seen(s1, four, s2, four, s3, six, lan, near)
	for name, c := range map[string]struct{ answered, want []nat.Mapping }{
		"nothing yet":                  {nil, standing},
		"the same":                     {seen(s3, six), seen(s3, six, s1, four, s2, four, lan, near)},
		"another server says the same": {seen("198.51.100.13:9", four), append(seen("198.51.100.13:9", four), standing...)},
		"the router has moved":         {seen(s2, "203.0.113.8:7000"), seen(s2, "203.0.113.8:7000", s3, six, lan, near)},
		"a new server says it first":   {seen("198.51.100.13:9", "203.0.113.8:7000"), seen("198.51.100.13:9", "203.0.113.8:7000", s3, six, lan, near)},
		"this machine has moved":       {seen(lan, "192.168.1.7:51820"), seen(lan, "192.168.1.7:51820", s1, four, s2, four, s3, six)},
	} {
		if got := overlay(standing, c.answered); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestPick(t *testing.T) {
	var in []netip.AddrPort
	for i := range 3 {
		in = append(in, ap(fmt.Sprintf("198.51.100.1:%d", i+1)))
	}
	for i := range 9 {
		in = append(in, ap(fmt.Sprintf("198.51.100.%d:1", i+10)), ap(fmt.Sprintf("[2001:db8::%d]:1", i+10)))
	}
	both := []netip.Addr{netip.MustParseAddr("192.168.1.2"), netip.MustParseAddr("2001:db8::2")}
	got := pick(append(in, in...), both)
	hosts := map[netip.Addr]bool{}
	for _, s := range got {
		hosts[s.Addr()] = true
	}
	if len(got) != 2*serversPerRound || len(hosts) != len(got) {
		t.Errorf("picked %v", got)
	}
	if got := pick(in[:3], both); len(got) != 3 {
		t.Errorf("of one host: %v", got)
	}
	if got := pick(in, both[:1]); len(got) != serversPerRound || !got[0].Addr().Is4() {
		t.Errorf("without IPv6: %v", got)
	}
}

// internet is what the prober asks.
type internet struct {
	servers atomic.Pointer[[]netip.AddrPort]
	mapped  atomic.Pointer[netip.AddrPort] // nil: nobody answers
	reach   atomic.Bool
	fail    atomic.Bool // reachability cannot be tested
	asked   atomic.Int32
	tested  atomic.Int32
}

func (i *internet) prober(t *testing.T) *Prober {
	t.Helper()
	return runProber(t, i.config())
}

func (i *internet) config() ProberConfig {
	return ProberConfig{
		Servers: func() []netip.AddrPort {
			if s := i.servers.Load(); s != nil {
				return *s
			}
			return nil
		},
		Local: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.168.1.2")} },
		Port:  func() uint16 { return 51820 },
		Bind: func(ctx context.Context, server netip.AddrPort) (nat.Mapping, error) {
			i.asked.Add(1)
			m, wait := i.mapped.Load(), time.Duration(server.Port())*time.Millisecond // the port says how far it is
			if m == nil {
				wait = 3100 * time.Millisecond
			}
			select {
			case <-ctx.Done():
				return nat.Mapping{}, ctx.Err()
			case <-time.After(wait):
			}
			if m == nil {
				return nat.Mapping{}, ErrNoAnswer
			}
			return nat.Mapping{Server: server, Mapped: *m}, nil
		},
		Reach: func(ctx context.Context, addr netip.AddrPort) (bool, error) {
			i.tested.Add(1)
			select {
			case <-ctx.Done():
				return false, ctx.Err()
			case <-time.After(time.Second):
			}
			if i.fail.Load() {
				return false, errors.New("no member can test")
			}
			return i.reach.Load(), nil
		},
	}
}

// runProber runs a prober until the test ends.
func runProber(t *testing.T, c ProberConfig) *Prober {
	t.Helper()
	p, err := NewProber(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return p
}

func set[T any](p *atomic.Pointer[T], v T) { p.Store(&v) }

func TestProber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &internet{}
		start := time.Now()
		since := func() time.Duration { return time.Since(start) }
		set(&i.servers, []netip.AddrPort{ap("198.51.100.11:10"), ap("198.51.100.12:50")})
		set(&i.mapped, ap("203.0.113.9:7000"))
		p := i.prober(t)
		news, cancel := p.Watch()
		if r := p.Report(); r.Type != nat.Unknown {
			t.Errorf("at first: %+v", r)
		}
		if r := <-news; r.Type != nat.Unknown || len(r.Mapped) != 1 || since() != 10*time.Millisecond {
			t.Errorf("the first answer is not told at once: %+v after %v", r, since())
		}
		if r := <-news; r.Type != nat.EndpointIndependent || r.Reachable || since() != 50*time.Millisecond {
			t.Errorf("the second answer: %+v after %v", r, since())
		}
		time.Sleep(time.Minute)
		i.reach.Store(true) // a port was forwarded: found at the next round
		r := <-news
		if r.Type != nat.EndpointIndependent || !r.Reachable || since() < defaultInterval {
			t.Errorf("%+v after %v", r, since())
		}
		i.fail.Store(true) // nobody can test: what was known stays, silently
		p.Trigger()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if r := p.Report(); !r.Reachable {
			t.Errorf("%+v", r)
		}
		for len(news) > 0 {
			<-news
		}
		set(&i.mapped, ap("203.0.113.77:7000")) // the network changed: the proof was about another address
		p.Trigger()
		if r := <-news; r.Reachable || r.Mapped[0] != ap("203.0.113.77:7000") {
			t.Errorf("%+v", r)
		}
		cancel()
		i.mapped.Store(nil)
		p.Trigger()
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if r := p.Report(); r.Type != nat.Blocked || len(r.Silent) != 2 {
			t.Errorf("%+v", r)
		}
		if len(p.watchers) != 0 {
			t.Error("a mailbox is left")
		}
		asked := i.asked.Load()
		time.Sleep(time.Minute) // it retries sooner than each 10 minutes, at a growing distance
		if n := (i.asked.Load() - asked) / 2; n < 3 || n > 8 {
			t.Errorf("%d rounds in a minute", n)
		}
	})
}

func TestProberTrigger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &internet{}
		p := i.prober(t)
		news, cancel := p.Watch()
		defer cancel()
		time.Sleep(time.Hour) // no servers: nothing to say, nothing spins
		if len(news) != 0 || i.asked.Load() != 0 {
			t.Errorf("%d reports, %d questions", len(news), i.asked.Load())
		}
		set(&i.servers, []netip.AddrPort{ap("198.51.100.11:10")})
		p.Trigger() // a round that nobody answers, and a new one in place of it
		time.Sleep(time.Second)
		start := time.Now()
		set(&i.mapped, ap("203.0.113.9:51820"))
		p.Trigger()
		if r := <-news; r.Type != nat.EndpointIndependent || time.Since(start) != 10*time.Millisecond {
			t.Errorf("%+v after %v", r, time.Since(start))
		}
		p.Trigger()
		p.Trigger()
		time.Sleep(10 * time.Second)
		if i.tested.Load() == 0 {
			t.Error("reachability was never tested")
		}
		if len(news) != 1 {
			t.Fatal("who triggered a round waits to hear of it, also that nothing changed")
		}
		<-news
		time.Sleep(time.Hour)
		if len(news) != 0 {
			t.Errorf("told again what was known, untriggered: %+v", <-news)
		}
	})
	if _, err := NewProber(ProberConfig{}); err == nil {
		t.Error("made of nothing")
	}
}

// A member that has just become unreachable is asked for a second port, or to test whether strangers get in, when the network changes.
func TestTriggerEndsWhateverIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &internet{}
		c := i.config()
		hang := func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		c.Second = func(ctx context.Context, _ netip.AddrPort) (netip.AddrPort, error) {
			return netip.AddrPort{}, hang(ctx)
		}
		c.Reach = func(ctx context.Context, _ netip.AddrPort) (bool, error) { return false, hang(ctx) }
		p := runProber(t, c)
		set(&i.servers, []netip.AddrPort{ap("198.51.100.11:10")})
		for _, mapped := range []string{"203.0.113.9:7000", "203.0.113.9:51820", "203.0.113.8:7000"} { // of the first and the last the type is not known
			set(&i.mapped, ap(mapped))
			p.Trigger()
			time.Sleep(100 * time.Millisecond)
			if got := p.Report().Mapped; len(got) != 1 || got[0] != ap(mapped) {
				t.Errorf("mapped %v, want %s", got, mapped)
			}
		}
	})
}
