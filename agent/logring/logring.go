// Package logring keeps the agent's newest log lines in memory, so that a bug report needs no access to the journal.
//
// A Ring is bounded in lines and in bytes. Its Handler passes every record on unchanged and keeps the line that a text handler makes of it; it
// keeps nothing that the next handler does not want either.
package logring

import (
	"context"
	"log/slog"
	"strings"
	"sync"
)

const (
	maxLines = 1000
	maxLine  = 2 << 10 // bytes; a longer line is cut
	maxBytes = 256 << 10
)

// Ring holds lines. It is safe for concurrent use.
type Ring struct {
	mu      sync.Mutex // guards the rest
	lines   []string   // a circle once there are maxLines
	first   int
	bytes   int
	dropped uint64
}

// New returns an empty ring.
func New() *Ring { return &Ring{} }

// Write takes one line; it is what a slog handler does, one Write for each record.
func (r *Ring) Write(b []byte) (int, error) {
	line := strings.TrimSuffix(string(b[:min(len(b), maxLine)]), "\n")
	if len(b) > maxLine {
		line = strings.ToValidUTF8(line, "") + "..."
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines)-r.first >= maxLines {
		r.drop()
	}
	r.lines = append(r.lines, line)
	r.bytes += len(line)
	for r.bytes > maxBytes {
		r.drop()
	}
	if r.first > maxLines { // the front is empty: move, once in a thousand lines
		r.lines = append([]string(nil), r.lines[r.first:]...)
		r.first = 0
	}
	return len(b), nil
}

func (r *Ring) drop() {
	r.bytes -= len(r.lines[r.first])
	r.lines[r.first] = ""
	r.first++
	r.dropped++
}

// Lines returns a copy, oldest first, and how many older lines there were.
func (r *Ring) Lines() ([]string, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string{}, r.lines[r.first:]...), r.dropped
}

// Handler returns a handler that keeps what it passes on to next.
func (r *Ring) Handler(next slog.Handler) slog.Handler {
	return tee{next: next, keep: slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug})}
}

type tee struct{ next, keep slog.Handler }

// Enabled implements slog.Handler.
func (t tee) Enabled(ctx context.Context, level slog.Level) bool { return t.next.Enabled(ctx, level) }

// Handle implements slog.Handler.
func (t tee) Handle(ctx context.Context, rec slog.Record) error {
	_ = t.keep.Handle(ctx, rec.Clone()) // a Ring takes everything
	return t.next.Handle(ctx, rec)
}

// WithAttrs implements slog.Handler.
func (t tee) WithAttrs(a []slog.Attr) slog.Handler {
	return tee{t.next.WithAttrs(a), t.keep.WithAttrs(a)}
}

// WithGroup implements slog.Handler.
func (t tee) WithGroup(name string) slog.Handler {
	return tee{t.next.WithGroup(name), t.keep.WithGroup(name)}
}
