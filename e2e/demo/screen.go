//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// width is what every line of the demo's own fits into.
const width = 96

// screen prints, with colours on a terminal only (and there not with NO_COLOR, see no-color.org), and with ASCII where the locale is not
// UTF-8.
type screen struct {
	w      io.Writer
	colour bool
	ascii  *strings.Replacer // nil: UTF-8
}

func newScreen(f *os.File) *screen {
	s := &screen{w: f, colour: isTerminal(f) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	if !utf8Locale() {
		s.ascii = strings.NewReplacer("─", "-", "│", "|", "┌", "+", "┬", "+", "┐", "+", "┴", "+", "┼", "+", "╷", "|", "→", ">", "↔", "-", "·", "-", "…", "~", "✓", "*", "✗", "!")
	}
	return s
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// utf8Locale looks at the first of the variables that is set, in the order of locale(7).
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(os.Getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// The styles: SGR parameters (ECMA-48).
const (
	plain = ""
	bold  = "1"
	dim   = "2"
	red   = "1;31"
	green = "32"
	cyan  = "36"
)

func (s *screen) style(sgr, text string) string {
	if !s.colour || text == "" || sgr == plain {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

func (s *screen) line(text string) {
	if s.ascii != nil {
		text = s.ascii.Replace(text)
	}
	fmt.Fprintln(s.w, strings.TrimRight(text, " "))
}

func (s *screen) blank() { s.line("") }

// heading begins an act.
func (s *screen) heading(format string, args ...any) {
	s.blank()
	s.line(s.style(bold, fmt.Sprintf(format, args...)))
	s.blank()
}

// note is the narrator, wrapped to the width.
func (s *screen) note(format string, args ...any) {
	for _, l := range wrap(fmt.Sprintf(format, args...), width-2) {
		s.line("  " + l)
	}
}

// command is what somebody types on a machine, and at the right what came of it.
func (s *screen) command(host, command, result string) {
	left := pad(host, 7) + "$ " + command
	s.line("  " + s.style(dim, pad(host, 7)+"$ ") + s.style(cyan, command) + s.right(left, 2, result))
}

// fact is something seen: what, how, and the time it took.
func (s *screen) fact(what, how, took string) {
	left := "✓ " + pad(what, 16) + how
	s.line("         " + s.style(green, "✓ ") + pad(what, 16) + how + s.right(left, 9, took))
}

// text is a program's own output.
func (s *screen) text(out string) {
	for l := range strings.Lines(out) {
		s.line("  " + strings.TrimRight(l, "\n"))
	}
}

func (s *screen) failed(err error) {
	s.blank()
	for i, l := range wrap(err.Error(), width-4) {
		mark := "  "
		if i == 0 {
			mark = s.style(red, "✗ ")
		}
		s.line("  " + mark + l)
	}
}

// right places text at the right margin, after left, which is not printed.
func (s *screen) right(left string, indent int, text string) string {
	return strings.Repeat(" ", max(2, width-indent-utf8.RuneCountInString(left)-utf8.RuneCountInString(text))) + text
}

func pad(text string, n int) string {
	return text + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(text)))
}

// wrap breaks text at spaces; newlines in it stay.
func wrap(text string, n int) []string {
	var out []string
	for paragraph := range strings.Lines(text) {
		line := ""
		for _, word := range strings.Fields(paragraph) {
			if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > n {
				out = append(out, line)
				line = ""
			}
			if line != "" {
				line += " "
			}
			line += word
		}
		out = append(out, line)
	}
	return out
}
