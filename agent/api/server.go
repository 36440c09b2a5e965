package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// maxBody bounds a request; the largest is a join with an offline bundle.
const maxBody = 1 << 20

// Handlers are the agent's answers. Each may return an *Error to choose the code; any other error is CodeFailed.
type Handlers struct {
	Status       func(context.Context) (*Status, error)
	Members      func(context.Context) ([]Member, error)
	Invite       func(context.Context, InviteRequest) (*InviteResponse, error)
	Join         func(context.Context, JoinRequest) (*JoinResponse, error)
	Revoke       func(context.Context, NameRequest) error
	Leave        func(context.Context) error
	Issuers      func(context.Context) ([]Issuer, error)
	IssuerAdd    func(context.Context, NameRequest) error
	IssuerRemove func(context.Context, NameRequest) error
	Want         func(context.Context, NameRequest) error
	Diagnosis    Diagnosis
	Workloads    WorkloadHandlers
	Page         PageHandlers
	Devices      Devices
	History      HistoryHandlers
	Names        NamesHandlers
	Usage        UsageHandlers
}

// Server serves Handlers on a unix socket.
type Server struct {
	path string
	h    Handlers
	log  *slog.Logger
}

// New starts nothing.
func New(path string, h Handlers, log *slog.Logger) *Server {
	return &Server{path: path, h: h, log: log}
}

// Listen makes the socket, replacing one that nobody answers on (kill -9 leaves it). The mode is 0660: root and the agent's group.
func (s *Server) Listen() (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of the control socket: %w", err)
	}
	c, err := net.DialTimeout("unix", s.path, time.Second)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("another user's agent has the control socket %s: run this as root, or with its own --socket, --state and --interface", s.path)
	}
	if err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("another agent answers on %s; a second network on this machine needs its own --socket, --state and --interface", s.path)
	}
	_ = os.Remove(s.path)
	l, err := net.Listen("unix", s.path)
	if err != nil {
		return nil, fmt.Errorf("listen on the control socket: %w", err)
	}
	if err := os.Chmod(s.path, 0o660); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("set the mode of the control socket: %w", err)
	}
	return l, nil
}

// Serve answers until ctx ends, then removes the socket. Requests in progress have one second to finish.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: s.mux(), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(stop) != nil {
			_ = srv.Close()
		}
	}()
	err := srv.Serve(l)
	if ctx.Err() == nil {
		return fmt.Errorf("serve the control socket: %w", err)
	}
	<-done
	_ = os.Remove(s.path)
	return nil
}

func (s *Server) mux() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/status", get(s.h.Status))
	m.HandleFunc("GET /v1/members", get(s.h.Members))
	m.HandleFunc("GET /v1/issuers", get(s.h.Issuers))
	s.h.Diagnosis.routes(m)
	s.h.Devices.routes(m)
	s.h.History.routes(m)
	s.h.Names.routes(m)
	s.h.Usage.routes(m)
	m.HandleFunc("POST /v1/invite", post(s.h.Invite))
	m.HandleFunc("POST /v1/join", post(s.h.Join))
	m.HandleFunc("POST /v1/revoke", post(nothing(s.h.Revoke)))
	m.HandleFunc("POST /v1/want", post(nothing(s.h.Want)))
	m.HandleFunc("POST /v1/issuers/add", post(nothing(s.h.IssuerAdd)))
	m.HandleFunc("POST /v1/issuers/remove", post(nothing(s.h.IssuerRemove)))
	m.HandleFunc("POST /v1/leave", post(func(ctx context.Context, _ struct{}) (struct{}, error) {
		return struct{}{}, s.h.Leave(ctx)
	}))
	s.h.Workloads.register(m)
	s.h.Page.routes(m)
	return m
}

func nothing[Req any](f func(context.Context, Req) error) func(context.Context, Req) (struct{}, error) {
	return func(ctx context.Context, r Req) (struct{}, error) { return struct{}{}, f(ctx, r) }
}

func get[Resp any](f func(context.Context) (Resp, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		resp, err := f(r.Context())
		answer(w, resp, err)
	}
}

func post[Req, Resp any](f func(context.Context, Req) (Resp, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req Req
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		d.DisallowUnknownFields()
		if err := d.Decode(&req); err != nil {
			answer(w, nil, &Error{Code: CodeUsage, Message: fmt.Sprintf("the request's body is not what %s takes: %v", r.URL.Path, err)})
			return
		}
		resp, err := f(r.Context(), req)
		answer(w, resp, err)
	}
}

func answer(w http.ResponseWriter, resp any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err == nil {
		_ = json.NewEncoder(w).Encode(resp)
		return
	}
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Code: CodeFailed, Message: err.Error()}
	} else if e.Message != err.Error() { // keep what was wrapped around it
		e = &Error{Code: e.Code, Message: err.Error()}
	}
	w.WriteHeader(e.Code.status())
	_ = json.NewEncoder(w).Encode(e)
}

func (c Code) status() int {
	switch c {
	case CodeUsage:
		return http.StatusBadRequest
	case CodeRefused:
		return http.StatusForbidden
	case CodeTimeout:
		return http.StatusGatewayTimeout
	case CodeMissing:
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}
