package watch

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/health"
)

// style is an SGR sequence (ECMA-48, 8.3.117); empty: plain. A library for these few would cost each agent 150 KiB, because it is one binary.
type style string

const (
	bold    style = "1"
	faint   style = "2"
	reverse style = "7"
	red     style = "31" // the terminal's own colours: they fit whatever its owner has chosen, light or dark
	green   style = "32"
	yellow  style = "33"
)

func (s style) render(text string) string {
	if s == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[m"
}

func (s style) and(t style) style {
	if s == "" {
		return t
	}
	return s + ";" + t
}

// styles are what colour says; without colour, words say it all the same.
type styles struct{ good, notice, bad, faint style }

func newStyles(colour bool) styles {
	if !colour {
		return styles{}
	}
	return styles{good: green, notice: yellow, bad: red, faint: faint}
}

// View implements tea.Model.
func (m model) View() tea.View {
	v := tea.NewView(m.screen())
	v.AltScreen = true
	v.WindowTitle = "gridwire"
	return v
}

const chrome = 5 // lines that are no rows: verdict, summary, filter, heading, help

func (m model) rows() int { return max(m.height-chrome, 1) }

func (m model) screen() string {
	if m.detail != nil {
		return m.detailScreen()
	}
	lines := []string{m.headline(), m.summary(), m.filterLine()}
	lines = append(lines, m.tableLines()...)
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:m.height-1], m.style.faint.render("q quit  enter details  / filter  sort: name n  state s  rtt r  loss l  traffic t"))
	return m.clip(lines)
}

// clip cuts lines at the screen's edge: a line that wraps would push the last ones out.
func (m model) clip(lines []string) string {
	lines = lines[:min(len(lines), m.height)]
	for i, l := range lines {
		lines[i] = ansi.Truncate(l, m.width, "…")
	}
	return strings.Join(lines, "\n")
}

func (m model) headline() string {
	switch {
	case m.err != nil:
		return m.style.bad.render("no answer, asking again: " + oneLine(m.err.Error()))
	case m.status == nil:
		return "asking the agent ..."
	}
	v := health.Judge(m.status, m.at)
	text := v.Text
	if more := "  -> " + v.Remedy; v.Remedy != "" && (v.Grade != health.Good || ansi.StringWidth(text+more) <= m.width) {
		text += more
	}
	return m.level(v.Grade).and(bold).render(text)
}

func (m model) level(g health.Grade) style {
	switch g {
	case health.Bad:
		return m.style.bad
	case health.Notice:
		return m.style.notice
	}
	return m.style.good
}

func (m model) summary() string {
	if m.status == nil || m.status.Network == nil {
		return ""
	}
	count := map[string]int{}
	var down, up float64
	for _, p := range m.status.Peers {
		count[p.State]++
		if s := m.table.known[p.ID]; s != nil {
			down, up = down+s.down, up+s.up
		}
	}
	text := fmt.Sprintf("%s in %s: %d connected", m.status.Self.Name, m.status.Network.Domain, count["connected"])
	for _, s := range []string{"idle", "connecting", "unreachable"} {
		if count[s] > 0 {
			text += fmt.Sprintf(", %d %s", count[s], s)
		}
	}
	text += fmt.Sprintf("  ↓ %s  ↑ %s", rateText(down), rateText(up))
	if n := len(m.status.Warnings); n > 0 {
		text += fmt.Sprintf("   %d warning(s): gridwire status", n)
	}
	return text
}

func (m model) filterLine() string {
	switch {
	case m.typing:
		return "/" + m.table.filter + "█  (enter keeps it, esc clears it)"
	case m.table.filter != "":
		return fmt.Sprintf("filter: %s   %d of %d   (esc clears it)", m.table.filter, len(m.table.shown), len(m.table.peers))
	}
	return ""
}

// column is one column of the table.
type column struct {
	title string
	width int // right-aligned if negative
	order order
	sorts bool
	cell  func(model, *api.Peer, *samples) string
}

// columns fit into the screen: what is wider than 80 goes to names, sparklines and the endpoint.
func (m model) columns() []column {
	spare := max(m.width-80, 0)
	spark := 8 + min(spare/6, 22)
	name := 14 + min(spare/6, 16)
	cols := []column{
		{"PEER", name, byName, true, func(_ model, p *api.Peer, _ *samples) string { return p.Name }},
		{"STATE", 11, byState, true, func(_ model, p *api.Peer, _ *samples) string { return p.State }},
		{"PATH", 6, 0, false, func(_ model, p *api.Peer, _ *samples) string { return pathText(p) }},
		{"RTT", -8, byRTT, true, func(_ model, p *api.Peer, _ *samples) string { return rttText(p) }},
		{"", spark, 0, false, func(m model, _ *api.Peer, s *samples) string { return sparkline(s.rtt, spark, 2) }},
		{"LOSS", -5, byLoss, true, func(_ model, p *api.Peer, _ *samples) string { return lossText(p) }},
		{"TRAFFIC", -10, byTraffic, true, func(_ model, _ *api.Peer, s *samples) string { return rateText(s.down + s.up) }},
		{"", spark, 0, false, func(m model, _ *api.Peer, s *samples) string { return sparkline(s.rate, spark, 1) }},
	}
	if rest := m.width - 80 - 2*(spark-8) - (name - 14); rest > 12 {
		cols = append(cols, column{"ENDPOINT", rest - 1, 0, false, func(_ model, p *api.Peer, _ *samples) string { return p.Path.Remote }})
	}
	return cols
}

func (m model) tableLines() []string {
	cols := m.columns()
	var heads []string
	for _, c := range cols {
		title := c.title
		if c.sorts && c.order == m.table.order {
			mark := "▼"
			if m.table.reverse {
				mark = "▲"
			}
			title += mark
		}
		heads = append(heads, pad(title, c.width))
	}
	out := []string{bold.render(strings.Join(heads, " "))}
	from, to := m.table.window(m.rows())
	at := m.table.position()
	for i := from; i < to; i++ {
		p := &m.table.peers[m.table.shown[i]]
		s := m.table.known[p.ID]
		if s == nil {
			s = &samples{}
		}
		var cells []string
		for _, c := range cols {
			cells = append(cells, pad(c.cell(m, p, s), c.width))
		}
		line := ansi.Truncate(strings.Join(cells, " "), m.width, "…")
		if i == at {
			out = append(out, reverse.render(line))
			continue
		}
		out = append(out, m.health(p).render(line))
	}
	if len(m.table.shown) == 0 && m.status != nil {
		out = append(out, nobody(m.table))
	}
	return out
}

func nobody(t table) string {
	if len(t.peers) > 0 {
		return "no peer matches the filter"
	}
	return "no other members"
}

// health colours a row.
func (m model) health(p *api.Peer) style {
	switch {
	case p.State == "unreachable":
		return m.style.bad
	case p.State == "connecting" || p.State == "connected" && p.Loss >= 0.02:
		return m.style.notice
	case p.State == "idle":
		return m.style.faint
	}
	return m.style.good
}

// pad fits text into a column, to the right edge if width is negative.
func pad(text string, width int) string {
	right := width < 0
	if right {
		width = -width
	}
	text = ansi.Truncate(text, width, "…")
	fill := strings.Repeat(" ", max(width-ansi.StringWidth(text), 0))
	if right {
		return fill + text
	}
	return text + fill
}

func (m model) detailLines(text string) []string {
	return strings.Split(strings.TrimRight(ansi.Wrap(text, max(m.width, 20), ""), "\n"), "\n")
}

func (m model) detailScreen() string {
	lines := m.detailLines(m.detail.text)
	page := max(m.height-3, 1)
	from := max(min(m.detail.scroll, len(lines)-page), 0)
	out := []string{bold.render(m.detail.name), ""}
	out = append(out, lines[from:min(from+page, len(lines))]...)
	for len(out) < m.height-1 {
		out = append(out, "")
	}
	more := ""
	if len(lines) > page {
		more = fmt.Sprintf("   lines %d to %d of %d: up, down", from+1, min(from+page, len(lines)), len(lines))
	}
	return m.clip(append(out, m.style.faint.render("esc back  q back  ctrl+c quit"+more)))
}
