//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// What the issue gives a link whose path dies under traffic.
const (
	noticeLimit = 2 * time.Second
	deathLimit  = 4 * time.Second
)

// twoPaths is a mesh in which bob and carol have two ways to each other.
type twoPaths struct {
	*world
	bob, carol *lab.Host
}

// dies starts pings from one to the other, does what kills the path, and checks that the sender's agent notices within 2 s and that pings are
// answered again within 4 s.
func (w *twoPaths) dies(t *testing.T, from, to *lab.Host, kill func()) {
	t.Helper()
	w = &twoPaths{w.in(t), w.bob, w.carol}
	f := w.flow(from, to, 50*time.Millisecond)
	defer f.end()
	died := time.Now()
	kill()
	w.eventually(deathLimit+time.Second, f.String()+" are answered again", func() bool {
		silence := f.silence(died)
		return silence > 500*time.Millisecond && time.Since(died)-silence > 0 && f.answeredSince(died.Add(silence))
	})
	silence := f.silence(died)
	t.Logf("silent for %v", silence.Round(time.Millisecond))
	if silence > deathLimit {
		t.Errorf("%v were not answered for %v, want at most %v", f, silence, deathLimit)
	}
	noticed, ok := w.noticed(from, to, died)
	switch {
	case !ok && silence <= noticeLimit: // the other side noticed first and has moved the link, which for this side was never down
	case !ok:
		t.Errorf("%s says nothing about the link to %s in its log", from.Label(), to.Label())
	case noticed > noticeLimit:
		t.Errorf("%s noticed after %v, want at most %v", from.Label(), noticed, noticeLimit)
	default:
		t.Logf("noticed after %v", noticed.Round(time.Millisecond))
	}
}

// answeredSince reports whether an answer came at that time or later.
func (f *flow) answeredSince(at time.Time) bool {
	all := f.answers()
	return len(all) > 0 && !all[len(all)-1].at.Before(at)
}

// noticed returns when h's agent first logged a change of the link after since.
func (w *world) noticed(h, peer *lab.Host, since time.Time) (time.Duration, bool) {
	for line := range strings.Lines(w.agents[h].Log()) {
		if !strings.Contains(line, `msg="link `) || !strings.Contains(line, "peer="+peer.Label()+" ") {
			continue
		}
		stamp, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err == nil && at.After(since) {
			return at.Sub(since), true
		}
	}
	return 0, false
}

// drop makes a router swallow what matches, in silence, until the function that it returns is called.
func (w *world) drop(r *lab.Router, family, hook, match string) (undrop func()) {
	w.Helper()
	table := "dead" + fmt.Sprint(time.Now().UnixNano())
	nft := func(script string) {
		w.Helper()
		cmd := r.Command(context.Background(), "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			w.Fatalf("nft on %s: %v\n%s", r.Name(), err, out)
		}
	}
	nft(fmt.Sprintf("table %s %s {\nchain c {\ntype filter hook %s priority -300\n%s counter drop\n}\n}\n", family, table, hook, match))
	return func() { nft(fmt.Sprintf("delete table %s %s\n", family, table)) }
}

// TestPathDeathBetweenFamilies: bob and carol have IPv4 through NATs and IPv6. What they use dies in silence, in both directions or in one.
func TestPathDeathBetweenFamilies(t *testing.T) {
	l := newWorld(t, lab.Options{IPv6: true})
	dual := lab.NATConfig{Kind: lab.PortRestricted, IPv6: true}
	alice := l.public("alice")
	br, cr := l.router("bob-r", dual, nil), l.router("carol-r", dual, nil)
	w := &twoPaths{world: l, bob: must(br.Host("bob"))(t), carol: must(cr.Host("carol"))(t)}
	l.mesh(alice, w.bob, w.carol)
	six := func(want bool) func() bool {
		return func() bool {
			return l.remote(w.bob, "carol").Addr().Is6() == want && l.remote(w.carol, "bob").Addr().Is6() == want
		}
	}
	l.linkedAll(10*time.Second, alice, w.bob, w.carol)
	l.eventually(5*time.Second, "bob and carol use IPv6", six(true))

	kill := func(family, from, to string) (heal func()) {
		return l.drop(br, family, "forward", fmt.Sprintf("%[1]s saddr %[2]s %[1]s daddr %[3]s", family, from, to))
	}
	b6, c6, c4 := w.bob.Addr6().String(), w.carol.Addr6().String(), cr.Addr().String()
	heal := func() {}
	both := func(family, a, b string) {
		one, other := kill(family, a, b), kill(family, b, a)
		heal = func() { one(); other() }
	}
	t.Run("IPv6 dies, bob sends", func(t *testing.T) {
		w.dies(t, w.bob, w.carol, func() { both("ip6", b6, c6) })
		l.in(t).eventually(time.Second, "IPv4 is used", six(false))
	})
	heal()
	t.Run("IPv4 dies, carol sends", func(t *testing.T) {
		w.dies(t, w.carol, w.bob, func() { both("ip", w.bob.Addr().String(), c4) })
		l.in(t).eventually(time.Second, "IPv6 is used", six(true))
	})
	heal()
	t.Run("IPv6 dies from bob to carol only, bob sends", func(t *testing.T) {
		w.dies(t, w.bob, w.carol, func() { heal = kill("ip6", b6, c6) })
		l.in(t).eventually(time.Second, "IPv4 is used", six(false))
	})
	heal()
	t.Run("IPv4 dies from carol to bob only, bob sends", func(t *testing.T) {
		w.dies(t, w.bob, w.carol, func() { heal = kill("ip", c4, w.bob.Addr().String()) })
		l.in(t).eventually(time.Second, "IPv6 is used", six(true))
	})
	heal()
}

// TestLANPathDies: bob and carol are behind one router that also leads them to each other by its external address. The switch between them
// stops carrying what they send each other, but not what they send to the router.
func TestLANPathDies(t *testing.T) {
	l := newWorld(t, lab.Options{})
	alice := l.public("alice")
	r := l.router("r", lab.NATConfig{Kind: lab.PortRestricted, Hairpin: true}, nil)
	w := &twoPaths{world: l, bob: must(r.Host("bob"))(t), carol: must(r.Host("carol"))(t)}
	l.mesh(alice, w.bob, w.carol)
	l.linkedAll(10*time.Second, alice, w.bob, w.carol)
	l.eventually(5*time.Second, "bob and carol use the switch", func() bool {
		return l.remote(w.bob, "carol").Addr() == w.carol.Addr() && l.remote(w.carol, "bob").Addr() == w.bob.Addr()
	})
	w.dies(t, w.bob, w.carol, func() {
		l.drop(r, "bridge", "forward", "ip saddr "+r.LANPrefix().String()+" ip daddr "+r.LANPrefix().String())
	})
	l.eventually(time.Second, "the router is used", func() bool { return l.remote(w.bob, "carol").Addr() == r.Addr() })
}
