// Package web is the local health page: this node's links as a map and a table, what needs attention, and a link's last day as charts.
//
// It owns the listener on loopback, the embedded files and the streams of events to the browsers that look. It never knows anything by
// itself: what it shows are the answers of api.Handlers, the same that the command line gets, and it asks only while somebody looks.
//
// Whoever can open a TCP connection to loopback (every user of this machine) can read the page; it can change nothing unless the
// browser has the token that `gridwire page` prints. Pages of other sites can do neither (guard.go).
package web

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

//go:embed static
var static embed.FS

// Config is what the page needs.
type Config struct {
	Handlers api.Handlers
	Log      *slog.Logger // nil: silent
}

// Page is the health page. It serves any number of browsers, at most maxStreams of which see it change.
type Page struct {
	h       api.Handlers
	log     *slog.Logger
	token   string
	files   fs.FS
	streams chan struct{} // a slot for each stream of events
	every   time.Duration // between looks at the state
}

const (
	maxStreams = 16              // browsers that watch at the same time
	lookEvery  = 2 * time.Second // what a person takes for live; a status of 300 peers costs about a millisecond
	askLimit   = 5 * time.Second
	maxRequest = 64 << 10
)

// New makes the page and its token, and starts nothing.
func New(c Config) (*Page, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	var secret [16]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, fmt.Errorf("draw the page's token: %w", err)
	}
	files, err := fs.Sub(static, "static")
	if err != nil {
		return nil, err
	}
	return &Page{
		h: c.Handlers, log: c.Log, token: hex.EncodeToString(secret[:]), files: files, streams: make(chan struct{}, maxStreams), every: lookEvery,
	}, nil
}

// Token lets a browser change things. It is another one at each start of the agent.
func (p *Page) Token() string { return p.token }

// Serve serves the page on l until ctx ends, and closes l.
func (p *Page) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: p.Handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, // streams end with it
		ErrorLog:    slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the health page: %w", err)
	}
	return nil
}

// Handler returns the page with its protection.
func (p *Page) Handler() http.Handler {
	m := http.NewServeMux()
	m.Handle("GET /", http.FileServerFS(p.files))
	m.HandleFunc("GET /api/state", p.state)
	m.HandleFunc("GET /api/events", p.events)
	m.HandleFunc("GET /api/link", p.link)
	m.HandleFunc("POST /api/want", change(p, func(ctx context.Context, r api.NameRequest) (struct{}, error) { return struct{}{}, p.h.Want(ctx, r) }))
	m.HandleFunc("POST /api/invite", change(p, p.h.Invite))
	return guard(m)
}

func (p *Page) state(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), askLimit)
	defer cancel()
	s, err := p.look(ctx)
	answer(w, s, err)
}

// change answers a request that changes something: it needs the token.
func change[Q, R any](p *Page, f func(context.Context, Q) (R, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !p.allowed(r) {
			fail(w, http.StatusForbidden, "this page is read-only here: open it with the address that `gridwire page` prints, which carries the right to change things")
			return
		}
		var q Q
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			fail(w, http.StatusBadRequest, "the request is no JSON of the form wanted: "+err.Error())
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 4*askLimit)
		defer cancel()
		a, err := f(ctx, q)
		answer(w, a, err)
	}
}

func answer(w http.ResponseWriter, v any, err error) {
	var e *api.Error
	switch {
	case errors.As(err, &e) && e.Code == api.CodeMissing:
		fail(w, http.StatusNotFound, err.Error())
		return
	case err != nil:
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // whoever asked may have gone
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	b, err := json.Marshal(map[string]string{"error": message})
	if err == nil {
		_, _ = io.WriteString(w, string(b)+"\n")
	}
}
