package usage

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

// TestTwoHonestEndsAgree over hours with bursts, losses and clocks that differ, and each one's report proves it offline.
func TestTwoHonestEndsAgree(t *testing.T) {
	for _, skew := range []time.Duration{0, 3 * time.Second, -20 * time.Second} {
		t.Run(fmt.Sprint(skew), func(t *testing.T) {
			n, ends := newNet(t, "alice", "bob", "carol")
			a, b, c := ends[0], ends[1], ends[2]
			b.skew = skew
			b.start(nil)
			r := rand.New(rand.NewPCG(1, 2))
			n.run(2 * time.Minute)
			for range 6 * 60 {
				n.traffic(a, b, noise(r, 30<<20), 0.02)
				n.traffic(b, a, noise(r, 3<<20), 0.02)
				n.traffic(a, c, 1<<10, 0) // an idle link
				n.run(time.Minute)
			}
			n.run(30 * time.Minute)
			want := slices.Repeat([]State{Agreed}, 6)
			for _, pair := range [][2]*end{{a, b}, {b, a}} {
				if got := pair[0].states(pair[1]); !slices.Equal(got, want) {
					t.Errorf("%s about %s: %v", pair[0].name, pair[1].name, got)
				}
				f, err := pair[0].verify()
				if err != nil {
					t.Fatal(err)
				}
				if f.Diverging() != 0 || len(f.Links) != 1 || f.Links[0].Name != mesh.Name(pair[1].name) || f.Node != mesh.Name(pair[0].name) {
					t.Errorf("findings %+v", f)
				}
				// but for the last minute, which is in an hour that is not over
				if row := f.Claims[pair[1].id]; f.Links[0].Sent > row.TransmitBytes || f.Links[0].Sent < row.TransmitBytes/100*99 || f.Links[0].Received < row.ReceiveBytes/100*99 {
					t.Errorf("borne out: %d and %d of %d and %d", f.Links[0].Sent, f.Links[0].Received, row.TransmitBytes, row.ReceiveBytes)
				}
				if d := pair[0].book.Disputed(); len(d) != 1 || d[pair[1].id] {
					t.Errorf("disputed: %v", d)
				}
			}
			if got := a.states(c); len(got) != 0 {
				t.Errorf("an idle link has statements: %v", got)
			}
		})
	}
}

// TestAOneSidedLieIsExposed, whichever end tells it, in which direction ever, and in its own report too.
func TestAOneSidedLieIsExposed(t *testing.T) {
	for _, factor := range []float64{1.2, 10, 0.7} {
		n, ends := newNet(t, "alice", "bob")
		liar, honest := ends[0], ends[1]
		liar.factor = factor
		n.run(2 * time.Minute)
		for range 3 {
			n.traffic(liar, honest, gib, 0.001)
			n.traffic(honest, liar, gib, 0.001)
			n.run(time.Hour)
		}
		n.run(30 * time.Minute) // until the last hour's statements are exchanged
		for _, e := range ends {
			f, err := e.verify()
			if err != nil {
				t.Fatal(err)
			}
			if f.Diverging() != 3 || len(f.Links[0].Disputes) != 3 || f.Links[0].Sent != 0 {
				t.Errorf("factor %v, report of %s: %+v", factor, e.name, f.Links)
			}
			if d := e.book.Disputed(); len(d) != 1 || !d[f.Links[0].Peer] || !e.book.Disputes(f.Links[0].Peer) {
				t.Errorf("factor %v: %s disputes %v", factor, e.name, d)
			}
		}
	}
}

// TestALieIsNotExcusedByOnesOwnWord: neither by a loss or a clock that only the liar has measured.
func TestALieIsNotExcusedByOnesOwnWord(t *testing.T) {
	p := Pair{From: t0, Ours: Side{Sent: gib, Loss: 0.9, Skew: time.Hour}, Theirs: &Side{Received: gib / 10}}
	if v := Judge([]Pair{p, {From: t0.Add(Period), Theirs: &Side{}}}); v[0].State != Diverging {
		t.Errorf("%+v", v[0])
	}
	p.Theirs.Loss = 0.9
	if v := Judge([]Pair{p, {From: t0.Add(Period), Theirs: &Side{}}}); v[0].State != Agreed {
		t.Errorf("with a loss that both have measured: %+v", v[0])
	}
}

// TestABurstAtTheFullHour is counted to one hour here and to the next there; it must not look like a lie, nor excuse one.
func TestABurstAtTheFullHour(t *testing.T) {
	hour := func(i int, sent, received uint64) Pair {
		return Pair{From: t0.Add(time.Duration(i) * Period), Ours: Side{Sent: sent}, Theirs: &Side{Received: received}}
	}
	states := func(ps ...Pair) (out []State) {
		for _, v := range Judge(ps) {
			out = append(out, v.State)
		}
		return out
	}
	for name, c := range map[string]struct {
		pairs []Pair
		want  []State
	}{
		"moved":          {[]Pair{hour(0, gib, 3*gib/4), hour(1, gib, 5*gib/4)}, []State{Agreed, Agreed}},
		"moved twice":    {[]Pair{hour(0, gib, 3*gib/4), hour(1, gib, gib), hour(2, gib, gib)}, []State{Diverging, Agreed, Agreed}},
		"at both ends":   {[]Pair{hour(0, gib, 3*gib/4), hour(1, gib, 3*gib/2), hour(2, gib, 3*gib/4)}, []State{Agreed, Agreed, Agreed}},
		"used up":        {[]Pair{hour(0, 3*gib/2, gib), hour(1, gib, 5*gib/4), hour(2, 3*gib/2, gib), hour(3, gib, 5*gib/4)}, []State{Diverging, Agreed, Diverging, Agreed}},
		"not yet known":  {[]Pair{hour(0, gib, gib), hour(1, gib, 95*gib/100)}, []State{Agreed, Unconfirmed}},
		"too much":       {[]Pair{hour(0, gib, gib), hour(1, gib, gib/2)}, []State{Agreed, Diverging}},
		"a lie each":     {[]Pair{hour(0, gib, gib/2), hour(1, gib, gib/2)}, []State{Diverging, Diverging}},
		"not neighbours": {[]Pair{hour(0, gib, 3*gib/4), hour(2, gib, 5*gib/4)}, []State{Diverging, Diverging}},
		"a big one does not hide a small one": {[]Pair{hour(0, 100*gib, 100*gib-gib/100), hour(1, gib, gib/4), hour(2, 100*gib, 100*gib)},
			[]State{Agreed, Diverging, Agreed}},
	} {
		if got := states(c.pairs...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestARestartInTheHour: an orderly one loses nothing; after a crash the hour has a gap, and says so.
func TestARestartInTheHour(t *testing.T) {
	for name, c := range map[string]struct {
		lost    uint64 // of what b had counted
		orderly bool
		want    State
	}{
		"orderly":               {0, true, Agreed},
		"a crash":               {gib / 4, false, Unconfirmed},
		"a crash, little lost":  {1 << 20, false, Agreed},
		"lost without a reason": {gib / 4, true, Diverging},
	} {
		n, ends := newNet(t, "alice", "bob")
		a, b := ends[0], ends[1]
		n.run(2 * time.Minute)
		n.traffic(a, b, gib, 0)
		n.run(10 * time.Minute)
		row := b.totals[a.id]
		row.ReceiveBytes -= c.lost
		b.totals[a.id] = row
		b.off = true
		down := n.now
		n.run(3 * time.Minute)
		b.start([]ledger.Gap{{From: down, To: n.now, Orderly: c.orderly}})
		n.traffic(a, b, gib/10, 0)
		n.run(2 * time.Hour)
		for _, e := range [][2]*end{{a, b}, {b, a}} {
			if got := e[0].states(e[1]); !slices.Equal(got, []State{c.want}) {
				t.Errorf("%s: %s says %v, want %v", name, e[0].name, got, c.want)
			}
		}
		if f := must(a.verify())(t); f.Links[0].Gaps != map[bool]int{true: 0, false: 1}[c.orderly] {
			t.Errorf("%s: %d gaps are reported", name, f.Links[0].Gaps)
		}
	}
}

// TestACrashJustAfterTheHour: the ledger forgets what the statement of the last hour has counted already.
func TestACrashJustAfterTheHour(t *testing.T) {
	n, ends := newNet(t, "alice", "bob")
	a, b := ends[0], ends[1]
	n.run(30 * time.Minute)
	lost := b.totals[a.id]
	n.traffic(a, b, gib, 0)
	n.run(31*time.Minute + 5*time.Second) // into the next hour
	b.totals[a.id] = lost
	b.start([]ledger.Gap{{From: n.now.Add(-8 * time.Second), To: n.now}})
	n.traffic(a, b, gib, 0)
	n.run(2 * time.Hour)
	for _, e := range [][2]*end{{a, b}, {b, a}} {
		if got := e[0].states(e[1]); !slices.Equal(got, []State{Agreed, Agreed}) {
			t.Errorf("%s says %v", e[0].name, got)
		}
	}
}

// TestAnEndThatIsAwayAnswersLater: over the full hour and for hours after.
func TestAnEndThatIsAwayAnswersLater(t *testing.T) {
	n, ends := newNet(t, "alice", "bob")
	a, b := ends[0], ends[1]
	n.run(2 * time.Minute)
	n.traffic(a, b, gib, 0)
	n.run(10 * time.Minute)
	b.off = true
	down := n.now
	n.run(3 * time.Hour)
	if got := a.states(b); !slices.Equal(got, []State{Unconfirmed}) || a.book.Disputes(b.id) {
		t.Errorf("while bob is off: %v, %v", got, a.book.Disputed())
	}
	b.start([]ledger.Gap{{From: down, To: n.now, Orderly: true}})
	n.run(70 * time.Minute)
	for _, e := range [][2]*end{{a, b}, {b, a}} {
		if got := e[0].states(e[1]); !slices.Equal(got, []State{Agreed}) {
			t.Errorf("%s says %v", e[0].name, got)
		}
	}
	// Both restart; a day later nobody asks, and the report still has it.
	for _, e := range ends {
		e.start(nil)
	}
	n.now = n.now.Add(40 * time.Hour)
	n.run(time.Second)
	if got := a.states(b); !slices.Equal(got, []State{Agreed}) {
		t.Errorf("two days later: %v", got)
	}
}

// TestAnotherNetworksStatementsAreNoneOfThisOne, where a machine left one and joined the other.
func TestAnotherNetworksStatementsAreNoneOfThisOne(t *testing.T) {
	n, ends := newNet(t, "alice", "bob")
	a, b := ends[0], ends[1]
	n.run(2 * time.Minute)
	n.traffic(a, b, gib, 0)
	n.run(2 * time.Hour)
	root := *n.root
	root.Network.ID[0] ^= 1
	n.root = &root
	a.start(nil)
	if got := a.report(); len(got.Hours)+len(got.Chains) != 0 {
		t.Errorf("report %+v", got)
	}
}

func TestARefusalIsShown(t *testing.T) {
	n, ends := newNet(t, "alice", "bob")
	a, b := ends[0], ends[1]
	n.silent[b.id] = true
	b.book.Close(n.now, nil, nil)
	n.run(2 * time.Minute)
	n.traffic(a, b, gib, 0)
	b.totals = map[mesh.NodeID]ledger.Counters{} // and has nothing to say for itself
	n.run(3 * time.Hour)
	if got := a.states(b); !slices.Equal(got, []State{Refused}) || !a.book.Disputed()[b.id] {
		t.Errorf("states %v, disputed %v", got, a.book.Disputed())
	}
}

// TestOneStatementForAnHour: an end that says something else later is caught, and this node never does.
func TestOneStatementForAnHour(t *testing.T) {
	n, ends := newNet(t, "alice", "bob")
	a, b := ends[0], ends[1]
	n.run(2 * time.Minute)
	n.traffic(a, b, gib, 0)
	n.run(2 * time.Hour)
	first := a.report().Hours[0]
	s := must(wire.ParseUsage(&wire.SignedUsage{Statement: first.Theirs.Statement, Signature: first.Theirs.Signature}))(t)
	s.ReceivedBytes *= 2
	other := must(wire.SignUsage(s, b.key))(t)
	if _, err := a.book.Received(b.id, other, n.now); err == nil || !strings.Contains(err.Error(), "another statement") {
		t.Errorf("error: %v", err)
	}
	if got := a.states(b); !slices.Equal(got, []State{Diverging}) {
		t.Errorf("states %v", got)
	}
	n.now = n.now.Add(-90 * time.Minute) // the clock is set back, and the hour comes again
	n.traffic(a, b, gib, 0)
	n.run(90 * time.Minute)
	if again := a.report().Hours[0]; !slices.Equal(again.Ours.Statement, first.Ours.Statement) {
		t.Error("this node has made a second statement about an hour")
	}
}

func TestStatementsThatAreNone(t *testing.T) {
	n, ends := newNet(t, "alice", "bob", "carol")
	a, b, c := ends[0], ends[1], ends[2]
	n.run(3 * time.Hour)
	good := func() *wire.UsageStatement {
		id := n.root.Network.ID
		return &wire.UsageStatement{Version: 1, Network: id[:], By: b.id[:], About: a.id[:], From: t0.UnixMilli(), To: t0.Add(Period).UnixMilli(), SentBytes: gib}
	}
	for want, change := range map[string]func(*wire.UsageStatement){
		"sender's":        func(s *wire.UsageStatement) { s.About = c.id[:] },
		"another network": func(s *wire.UsageStatement) { s.Network = make([]byte, 32) },
		"no full period":  func(s *wire.UsageStatement) { s.From, s.To = s.From+1, s.To+1 },
		"too far": func(s *wire.UsageStatement) {
			s.From, s.To = t0.Add(-720*time.Hour).UnixMilli(), t0.Add(-719*time.Hour).UnixMilli()
		},
	} {
		s := good()
		change(s)
		if answer, err := a.book.Received(b.id, must(wire.SignUsage(s, b.key))(t), n.now); err == nil || !strings.Contains(err.Error(), want) || answer != nil {
			t.Errorf("%s: %v, %v", want, answer, err)
		}
	}
	u := must(wire.SignUsage(good(), b.key))(t)
	if _, err := a.book.Received(c.id, u, n.now); err == nil {
		t.Error("carol has told bob's statement as her own")
	}
	forged := proto.CloneOf(u)
	forged.Signature[3] ^= 1
	if _, err := a.book.Received(b.id, forged, n.now); err == nil {
		t.Error("a forged one was taken")
	}
	// A good one about an hour in which nothing was counted here is answered with that.
	answer, err := a.book.Received(b.id, u, n.now)
	if err != nil || answer == nil || !answer.Answer {
		t.Fatalf("%v, %v", answer, err)
	}
	if s := must(wire.VerifyUsage(answer))(t); s.ReceivedBytes != 0 {
		t.Errorf("answer %v", s)
	}
	if !a.book.Disputed()[b.id] {
		t.Error("bob's invention is not disputed")
	}
}

// TestAForgedReportIsRefused: each part that holds it together, changed.
func TestAForgedReportIsRefused(t *testing.T) {
	n, ends := newNet(t, "alice", "bob", "carol")
	a, b, c := ends[0], ends[1], ends[2]
	n.run(2 * time.Minute)
	for range 2 {
		n.traffic(a, b, gib, 0)
		n.traffic(a, c, gib, 0)
		n.run(time.Hour)
	}
	n.run(time.Hour)
	of := func(r Report, id mesh.NodeID) []*ReportHour {
		var out []*ReportHour
		for i := range r.Hours {
			if r.Hours[i].Peer == id {
				out = append(out, &r.Hours[i])
			}
		}
		return out
	}
	strange, _ := newNet(t, "x")
	for want, change := range map[string]func(r *Report){
		"signature is not by": func(r *Report) { r.Hours[0].Ours.Statement = slices.Clone(r.Hours[1].Ours.Statement) },
		"another's":           func(r *Report) { of(*r, b.id)[0].Theirs = of(*r, c.id)[0].Theirs },
		"about another time":  func(r *Report) { of(*r, b.id)[0].Theirs = of(*r, b.id)[1].Theirs },
		"twice":               func(r *Report) { r.Hours = append(r.Hours, r.Hours[0]) },
		"no statement":        func(r *Report) { r.Hours[0].Ours = nil },
		"no certificate":      func(r *Report) { r.Chains = nil },
		"version":             func(r *Report) { r.Version = 9 },
		"those of node":       func(r *Report) { r.Chains[0].ID, r.Chains[1].ID = r.Chains[1].ID, r.Chains[0].ID },
		"signed":              func(r *Report) { r.Network.Root = strange.der; r.Chains[0].Chain = [][]byte{{1}, {2}} },
		"the report's node":   func(r *Report) { r.Node.ID = "nobody" },
		"report's root":       func(r *Report) { r.Network.Root = nil },
		"is another's":        func(r *Report) { r.Node.ID = b.id.String() },
	} {
		var r Report
		if err := json.Unmarshal(must(json.Marshal(a.report()))(t), &r); err != nil {
			t.Fatal(err)
		}
		change(&r)
		_, err := Verify(must(json.Marshal(r))(t))
		if want == "signed" && err != nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	// Leaving out what the other end says leaves the hour unconfirmed; and a claim that is not signed proves nothing.
	r := a.report()
	r.Peers[0].TransmitBytes *= 100
	of(r, b.id)[0].Theirs = nil
	f := must(Verify(must(json.Marshal(r))(t)))(t)
	for _, l := range f.Links {
		if l.Peer == b.id && (l.Hours[Unconfirmed] != 1 || l.Hours[Agreed] != 1 || l.Sent != gib) {
			t.Errorf("%+v", l)
		}
	}
	if _, err := Verify([]byte("{")); err == nil {
		t.Error("half a report was taken")
	}
}

func FuzzVerify(f *testing.F) {
	n, ends := newNet(f, "alice", "bob")
	n.run(2 * time.Minute)
	n.traffic(ends[0], ends[1], gib, 0)
	n.run(2 * time.Hour)
	b := must(json.Marshal(ends[0].report()))(f)
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte("{}"))
	accepted := 0
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Verify(data)
		if err != nil {
			return
		}
		accepted++
		for _, l := range got.Links {
			if l.Sent > gib || l.Received > gib {
				t.Fatalf("more was proven than there was: %+v", l)
			}
		}
	})
	if accepted == 0 && flag.Lookup("test.fuzz").Value.String() == "" {
		f.Fatal("no input of the corpus was accepted: add seeds")
	}
}
