// Package watch is `gridwire status --watch`: a table of the peers in a terminal that updates, sorts and filters, with the link's details
// behind each row.
//
//	tick, each second -> Status -> peers and their samples -> View
//	keys -> order, filter, cursor, details
//
// The model is bubbletea's: Update is the only place where state changes, and View only draws it. It asks the agent and changes nothing there.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/gridwire/gridwire/agent/api"
)

// Config is what Run needs.
type Config struct {
	Status  func(context.Context) (*api.Status, error)
	History func(context.Context) (*api.History, error)            // the last minutes, so that the first sight is not empty; nil: none
	Explain func(ctx context.Context, name string) (string, error) // for people
	In      io.Reader
	Out     io.Writer
	Env     []string // NO_COLOR, TERM, COLORTERM
	Now     func() time.Time
}

const (
	interval = time.Second
	patience = 5 * time.Second // for one answer of the agent
)

// Run shows the table until q, Ctrl-C or the end of ctx.
func Run(ctx context.Context, c Config) error {
	p := tea.NewProgram(newModel(ctx, c), tea.WithContext(ctx), tea.WithInput(c.In), tea.WithOutput(c.Out), tea.WithEnvironment(c.Env), tea.WithoutSignalHandler())
	_, err := p.Run()
	if ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("show the table: %w", err)
	}
	return nil
}

// noColor follows no-color.org: set and not empty.
func noColor(env []string) bool {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "NO_COLOR="); ok && v != "" {
			return true
		}
	}
	return false
}

// model is all that is shown.
type model struct {
	ctx           context.Context // of Run; bubbletea's commands have none of their own
	c             Config
	style         styles
	width, height int
	status        *api.Status
	err           error     // of the newest question
	at            time.Time // of the newest answer
	table         table
	typing        bool // the filter
	detail        *detail
}

// detail is the page about one peer.
type detail struct {
	name   string
	text   string
	scroll int
}

func newModel(ctx context.Context, c Config) model {
	if c.Now == nil {
		c.Now = time.Now
	}
	return model{ctx: ctx, c: c, style: newStyles(!noColor(c.Env)), width: 80, height: 24, table: newTable()}
}

type tick struct{}

// answered brings what the agent said.
type answered struct {
	status  *api.Status
	history *api.History // with the first answer
	err     error
	at      time.Time
}

// explained brings the page about one peer.
type explained struct{ name, text string }

// Init implements tea.Model.
func (m model) Init() tea.Cmd { return m.ask }

func (m model) ask() tea.Msg {
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	st, err := m.c.Status(ctx)
	a := answered{status: st, err: err, at: m.c.Now()}
	if err == nil && m.status == nil && m.c.History != nil {
		a.history, _ = m.c.History(ctx) // without it, the sparklines begin now
	}
	return a
}

func (m model) explain(name string) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(m.ctx, patience)
		defer cancel()
		text, err := m.c.Explain(ctx, name)
		if err != nil {
			text = err.Error()
		}
		return explained{name, text}
	}
}

// Update implements tea.Model.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 20), max(msg.Height, 3)
	case tick:
		return m, m.ask
	case answered:
		if m.err = msg.err; msg.err == nil {
			m.status, m.at = msg.status, msg.at
			m.table.remember(msg.history, msg.at)
			m.table.take(msg.status, msg.at)
		}
		next := tea.Tick(interval, func(time.Time) tea.Msg { return tick{} })
		if m.detail != nil {
			return m, tea.Batch(next, m.explain(m.detail.name))
		}
		return m, next
	case explained:
		if m.detail != nil && m.detail.name == msg.name {
			d := *m.detail
			d.text = msg.text
			m.detail = &d
		}
	case tea.PasteMsg:
		if m.typing {
			m.table.filterBy(m.table.filter + oneLine(msg.Content))
		}
	case tea.KeyPressMsg:
		return m.key(msg)
	}
	return m, nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (m model) key(k tea.KeyPressMsg) (tea.Model, tea.Cmd) {
	switch name := k.String(); {
	case name == "ctrl+c":
		return m, tea.Quit
	case m.typing:
		m.type_(k)
	case m.detail != nil:
		return m.detailKey(name)
	case name == "q":
		return m, tea.Quit
	case name == "/":
		m.typing = true
	case name == "esc":
		m.table.filterBy("")
	case name == "enter":
		if p, ok := m.table.selected(); ok {
			m.detail = &detail{name: p.Name, text: "asking ..."}
			return m, m.explain(p.Name)
		}
	default:
		if o, ok := orderKeys[name]; ok {
			m.table.orderBy(o)
		} else {
			m.table.move(name, m.rows())
		}
	}
	return m, nil
}

// type_ edits the filter: enter keeps it, escape clears it.
func (m *model) type_(k tea.KeyPressMsg) {
	switch name := k.String(); name {
	case "enter":
		m.typing = false
	case "esc":
		m.typing = false
		m.table.filterBy("")
	case "backspace":
		if r := []rune(m.table.filter); len(r) > 0 {
			m.table.filterBy(string(r[:len(r)-1]))
		}
	case "up", "down", "pgup", "pgdown":
		m.table.move(name, m.rows())
	default:
		if k.Text != "" {
			m.table.filterBy(m.table.filter + k.Text)
		}
	}
}

func (m model) detailKey(name string) (tea.Model, tea.Cmd) {
	d := *m.detail
	page := max(m.height-3, 1)
	switch name {
	case "q", "esc", "enter", "left", "backspace":
		m.detail = nil
		return m, nil
	case "down", "j":
		d.scroll++
	case "up", "k":
		d.scroll--
	case "pgdown", "space":
		d.scroll += page
	case "pgup":
		d.scroll -= page
	case "home", "g":
		d.scroll = 0
	}
	d.scroll = max(min(d.scroll, len(m.detailLines(d.text))-page), 0)
	m.detail = &d
	return m, nil
}
