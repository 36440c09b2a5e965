package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/gridwire/gridwire/agent/api"
)

// screen drives the model as bubbletea does, without a terminal.
type screen struct {
	*testing.T
	m      model
	now    time.Time
	status *api.Status
}

func newScreen(t *testing.T, width, height, peers int, env ...string) *screen {
	s := &screen{T: t, now: time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)}
	s.status = &api.Status{Network: &api.Network{Domain: "farm.internal"}, Self: api.Self{Name: "alice"}}
	for i := range peers {
		s.status.Peers = append(s.status.Peers, api.Peer{
			ID: fmt.Sprint("id", i), Name: fmt.Sprintf("peer%03d", i), State: "connected", RTT: 0.001 * float64(i+1), Path: api.Path{Kind: "direct", Remote: "198.51.100.7:51820"},
			Addresses: []string{fmt.Sprintf("10.1.0.%d/32", i)},
		})
	}
	s.m = newModel(t.Context(), Config{
		Env: env, Now: func() time.Time { return s.now },
		Status: func(context.Context) (*api.Status, error) { return s.status, nil },
		Explain: func(_ context.Context, name string) (string, error) {
			return "all about " + name + strings.Repeat("\na line", 50), nil
		},
	})
	s.send(tea.WindowSizeMsg{Width: width, Height: height})
	s.second()
	return s
}

// send passes a message and returns what the command that follows brings; timers are not waited for.
func (s *screen) send(msg tea.Msg) tea.Cmd {
	next, cmd := s.m.Update(msg)
	s.m = next.(model)
	return cmd
}

// second is one answer of the agent.
func (s *screen) second() {
	s.now = s.now.Add(time.Second)
	s.send(s.m.ask())
}

func (s *screen) press(keys ...string) (last tea.Cmd) {
	for _, k := range keys {
		msg := tea.KeyPressMsg{Text: k, Code: []rune(k)[0]}
		if code, ok := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "down": tea.KeyDown, "up": tea.KeyUp, "pgdown": tea.KeyPgDown, "end": tea.KeyEnd, "home": tea.KeyHome, "backspace": tea.KeyBackspace}[k]; ok {
			msg = tea.KeyPressMsg{Code: code}
		}
		if k == "ctrl+c" {
			msg = tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl}
		}
		last = s.send(msg)
	}
	return last
}

// lines are what the terminal shows, without its colours; each fits.
func (s *screen) lines() []string {
	s.Helper()
	v := s.m.View()
	if !v.AltScreen {
		s.Error("the table is not on a screen of its own: it would push away what stands above")
	}
	lines := strings.Split(v.Content, "\n")
	if len(lines) != s.m.height {
		s.Errorf("%d lines on a screen of %d", len(lines), s.m.height)
	}
	for i, l := range lines {
		if n := ansi.StringWidth(l); n > s.m.width {
			s.Errorf("line %d has %d columns of %d: %q", i, n, s.m.width, l)
		}
		lines[i] = ansi.Strip(l)
	}
	return lines
}

func (s *screen) shows(want ...string) {
	s.Helper()
	text := strings.Join(s.lines(), "\n")
	for _, w := range want {
		if !strings.Contains(text, w) {
			s.Errorf("no %q on\n%s", w, text)
		}
	}
}

// names returns the first column of the rows.
func (s *screen) names() (out []string) {
	for _, l := range s.lines()[4:] {
		if name, _, _ := strings.Cut(l, " "); strings.HasPrefix(name, "peer") {
			out = append(out, name)
		}
	}
	return out
}

func TestTheTableFits(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {60, 10}, {100, 40}, {132, 50}, {240, 60}, {20, 3}} {
		for _, n := range []int{0, 1, 5, 300} {
			s := newScreen(t, size[0], size[1], n)
			for range 70 {
				s.second()
			}
			s.lines()
			s.press("enter")
			s.lines()
			s.press("esc", "/", "x")
			s.lines()
		}
	}
	s := newScreen(t, 80, 24, 3)
	s.status.Peers[0].ReceiveBytes = 3 << 20
	s.status.Peers[1].Loss, s.status.Peers[1].RTT = 1, 12.3456
	s.second()
	s.shows("This node is fine: 3 links are up", "alice in farm.internal: 3 connected", "↓ 3.0 MiB/s  ↑ 0 B/s", "peer000        connected   direct   1.0 ms", "▁█",
		"100 %", "12346 ms", "q quit")
	s.m.width = 132
	s.shows("ENDPOINT", "198.51.100.7:51820")
}

func TestThreeHundredPeersScroll(t *testing.T) {
	s := newScreen(t, 80, 24, 300)
	rows := s.m.rows()
	if got := s.names(); len(got) != rows || got[0] != "peer000" {
		t.Fatalf("%q", got)
	}
	visible := func(want string) {
		t.Helper()
		p, _ := s.m.table.selected()
		if p.Name != want || !strings.Contains(strings.Join(s.names(), " "), want) {
			t.Errorf("%s is selected, want %s, on the screen %q", p.Name, want, s.names())
		}
	}
	s.press("end")
	visible("peer299")
	s.press("up", "up")
	visible("peer297")
	if got := s.names(); got[len(got)-1] != "peer299" {
		t.Errorf("the rows moved before the selection came to the edge: %q", got)
	}
	s.press("home", "pgdown", "pgdown", "down")
	visible(fmt.Sprintf("peer%03d", 2*rows+1))
	s.press("r") // the selected peer stays selected where the order changes
	visible(fmt.Sprintf("peer%03d", 2*rows+1))
	s.status.Peers = s.status.Peers[:5] // and when it is gone, another one is
	s.second()
	visible("peer004")
	if len(s.m.table.known) != 5 {
		t.Errorf("samples of %d peers are kept, 5 are there", len(s.m.table.known))
	}
}

// TestTheFirstSightIsNotEmpty: what the agent remembers of the last minutes comes before the first second.
func TestTheFirstSightIsNotEmpty(t *testing.T) {
	s := newScreen(t, 80, 24, 2)
	began := s.now.Truncate(time.Minute)
	minute := func(ago int, rtt float64) api.LinkSample {
		return api.LinkSample{Time: began.Add(-time.Duration(ago) * time.Minute), State: "connected", RTTAvg: rtt, ReceiveBytes: 6000}
	}
	h := &api.History{Links: []api.LinkHistory{{ID: "id1", StepSeconds: 60, Samples: []api.LinkSample{minute(100, 9), minute(4, 0.002), minute(3, 0.001), minute(1, 0.001), minute(0, 9)}}}}
	fresh := newModel(t.Context(), s.m.c)
	fresh.c.History = func(context.Context) (*api.History, error) { return h, nil }
	s.m = fresh
	s.send(tea.WindowSizeMsg{Width: 80, Height: 24})
	s.now = began.Add(30 * time.Second)
	s.second()
	if k := s.m.table.known["id1"]; fmt.Sprint(k.rtt) != "[0.002 0.001 -1 0.001 0.002]" || fmt.Sprint(k.rate) != "[100 100 -1 100 0]" {
		t.Errorf("%v %v", k.rtt, k.rate)
	}
	s.shows("█▅ ▅█", "██ █▁")
	s.second()
	if k := s.m.table.known["id1"]; len(k.rtt) != 6 {
		t.Errorf("asked for the history again: %v", k.rtt)
	}
	s.m.c.History = func(context.Context) (*api.History, error) { return nil, errors.New("an older agent") }
	s.m.status = nil
	s.second()
	s.shows("This node is fine")
}

func TestOrders(t *testing.T) {
	s := newScreen(t, 80, 24, 4)
	p := s.status.Peers
	p[1].State, p[1].RTT = "unreachable", 0
	p[2].Loss = 0.2
	p[3].TransmitBytes = 1 << 20
	s.second()
	for keys, want := range map[string]string{
		"n": "peer003 peer002 peer001 peer000", // again: the other way round
		"s": "peer001 peer000 peer002 peer003", "r": "peer003 peer002 peer000 peer001", "l": "peer002 peer000 peer001 peer003", "t": "peer003 peer000 peer001 peer002",
	} {
		s := *s
		s.press(keys)
		if got := strings.Join(s.names(), " "); got != want {
			t.Errorf("%s: %s, want %s", keys, got, want)
		}
		s.press("n")
	}
	s.press("l", "l")
	s.shows("LOSS▲")
}

func TestFilter(t *testing.T) {
	s := newScreen(t, 80, 24, 30)
	s.status.Peers[12].State = "unreachable"
	s.second()
	s.press("/", "0", "1", "q") // q is text here
	s.shows("/01q█", "no peer matches the filter")
	s.press("backspace", "enter")
	s.shows("filter: 01   11 of 30")
	if got := s.names(); len(got) != 11 || got[0] != "peer001" {
		t.Errorf("%q", got)
	}
	s.press("esc", "/", "u", "n", "r")
	if got := s.names(); len(got) != 1 || got[0] != "peer012" {
		t.Errorf("by state: %q", got)
	}
	s.press("esc")
	if got := s.names(); len(got) != s.m.rows() {
		t.Errorf("after esc: %q", got)
	}
	s.press("/")
	s.send(tea.PasteMsg{Content: "10.1.0.7\n"})
	if got := s.names(); len(got) != 1 || got[0] != "peer007" {
		t.Errorf("a pasted address: %q", got)
	}
}

func TestDetails(t *testing.T) {
	s := newScreen(t, 80, 24, 3)
	cmd := s.press("down", "enter")
	s.shows("peer001", "asking ...")
	s.send(cmd())
	s.shows("all about peer001", "lines 1 to 21 of 51", "esc back")
	s.press("pgdown", "pgdown", "pgdown", "down")
	s.shows("lines 31 to 51 of 51")
	s.send(explained{"peer002", "another's, too late"})
	s.press("home")
	s.shows("all about peer001")
	if s.press("q") != nil || s.m.detail != nil {
		t.Error("q in the details must lead back")
	}
	s.shows("peer002")
}

func TestQuit(t *testing.T) {
	for _, keys := range [][]string{{"q"}, {"ctrl+c"}, {"/", "a", "ctrl+c"}, {"enter", "ctrl+c"}} {
		s := newScreen(t, 80, 24, 3)
		if cmd := s.press(keys...); cmd == nil || cmd() != (tea.QuitMsg{}) {
			t.Errorf("%v does not quit", keys)
		}
	}
}

func TestAnAgentThatRestartsIsWaitedFor(t *testing.T) {
	s := newScreen(t, 80, 24, 2)
	s.status.Peers[0].ReceiveBytes = 1 << 30
	s.second()
	if cmd := s.send(answered{err: errors.New("no agent is running"), at: s.now}); cmd == nil {
		t.Error("it is not asked again")
	}
	s.shows("no answer, asking again: no agent is running", "peer000")
	s.status.Peers[0].ReceiveBytes = 100
	s.second()
	s.shows("This node is fine")
	if got := s.m.table.known["id0"].down; got != 0 {
		t.Errorf("a counter that began anew is shown as %v B/s", got)
	}
}

func TestColour(t *testing.T) {
	states := func(s *screen) string {
		s.status.Peers[0].State, s.status.Peers[1].State, s.status.Peers[2].Loss = "unreachable", "connecting", 0.5
		s.press("end")
		s.second()
		return s.m.View().Content
	}
	colourful := states(newScreen(t, 80, 24, 5))
	for _, sgr := range []string{"\x1b[31mpeer000", "\x1b[33mpeer001", "\x1b[33mpeer002", "\x1b[32mpeer003", "\x1b[7mpeer004"} {
		if !strings.Contains(colourful, sgr) {
			t.Errorf("no %q in %q", sgr, colourful)
		}
	}
	if plain := states(newScreen(t, 80, 24, 5, "TERM=xterm-256color", "NO_COLOR=1")); strings.Contains(plain, "\x1b[3") || strings.Contains(plain, "\x1b[2m") || !strings.Contains(plain, "unreachable") {
		t.Errorf("colour with NO_COLOR: %q", plain)
	}
	if !noColor([]string{"NO_COLOR=x"}) || noColor([]string{"NO_COLOR="}) || noColor(nil) {
		t.Error("NO_COLOR counts if it is set and not empty")
	}
}

func TestSparkline(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		width  int
		room   float64
		want   string
	}{
		{nil, 4, 1, "    "}, {[]float64{0, 0}, 4, 1, "  ▁▁"}, {[]float64{1, -1, 2}, 4, 1, " ▅ █"}, {[]float64{9, 0, 7}, 2, 1, "▁█"}, {[]float64{-1, -1}, 2, 2, "  "},
		{[]float64{3, 3}, 2, 2, "▅▅"}, {[]float64{1, 1, 8}, 3, 2, "▂▂█"},
	} {
		if got := sparkline(tc.values, tc.width, tc.room); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.values, got, tc.want)
		}
	}
}

func TestRateText(t *testing.T) {
	for v, want := range map[float64]string{0: "0 B/s", 999: "999 B/s", 1000: "1.0 KiB/s", 123 << 20: "123 MiB/s", 5 << 40: "5.0 TiB/s"} {
		if got := rateText(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}
