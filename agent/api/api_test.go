package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server with h until the test ends and returns a client for it.
func serve(t *testing.T, h Handlers) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "agent.sock")
	s := New(path, h, slog.New(slog.DiscardHandler))
	l, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	return NewClient(path)
}

func TestRoundTrip(t *testing.T) {
	c := serve(t, Handlers{
		Status: func(context.Context) (*Status, error) { return &Status{Self: Self{Name: "alice"}}, nil },
		Invite: func(_ context.Context, r InviteRequest) (*InviteResponse, error) {
			return &InviteResponse{Token: "gw1" + string(r.Name)}, nil
		},
		Revoke: func(_ context.Context, r NameRequest) error {
			return &Error{Code: CodeRefused, Message: r.Name + " is not yours"}
		},
		Want: func(context.Context, NameRequest) error { return nil },
	})
	st := &Status{}
	if err := c.Get(t.Context(), "/v1/status", st); err != nil || st.Self.Name != "alice" || st.Network != nil {
		t.Errorf("%+v, %v", st, err)
	}
	inv := &InviteResponse{}
	if err := c.Post(t.Context(), "/v1/invite", InviteRequest{Name: "bob"}, inv); err != nil || inv.Token != "gw1bob" {
		t.Errorf("%+v, %v", inv, err)
	}
	if err := c.Post(t.Context(), "/v1/want", NameRequest{Name: "bob"}, nil); err != nil {
		t.Error(err)
	}
	var e *Error
	if err := c.Post(t.Context(), "/v1/revoke", NameRequest{Name: "bob"}, nil); !errors.As(err, &e) || e.Code != CodeRefused || e.Message != "bob is not yours" {
		t.Errorf("%v", err)
	}
}

func TestWrappedErrorKeepsItsCodeAndItsContext(t *testing.T) {
	c := serve(t, Handlers{Leave: func(context.Context) error {
		return fmt.Errorf("leaving: %w", &Error{Code: CodeTimeout, Message: "nobody answered"})
	}})
	var e *Error
	if err := c.Post(t.Context(), "/v1/leave", struct{}{}, nil); !errors.As(err, &e) || e.Code != CodeTimeout || e.Message != "leaving: nobody answered" {
		t.Errorf("%v", err)
	}
}

func TestBadRequests(t *testing.T) {
	c := serve(t, Handlers{Want: func(context.Context, NameRequest) error { return nil }})
	var e *Error
	if err := c.Post(t.Context(), "/v1/want", map[string]any{"nmae": "bob"}, nil); !errors.As(err, &e) || e.Code != CodeUsage || !strings.Contains(e.Message, "nmae") {
		t.Errorf("an unknown field: %v", err)
	}
	if err := c.Post(t.Context(), "/v1/want", strings.Repeat("x", maxBody+10), nil); !errors.As(err, &e) || e.Code != CodeUsage {
		t.Errorf("a body beyond the limit: %v", err)
	}
	if err := c.Get(t.Context(), "/v1/nothing", nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an unknown path: %v", err)
	}
}

func TestNoAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	if err := NewClient(path).Get(t.Context(), "/v1/status", nil); !errors.Is(err, ErrNoAgent) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close() // what kill -9 leaves
	if err := NewClient(path).Get(t.Context(), "/v1/status", nil); !errors.Is(err, ErrNoAgent) {
		t.Errorf("a stale socket: %v", err)
	}
	s := New(path, Handlers{}, slog.New(slog.DiscardHandler))
	next, err := s.Listen()
	if err != nil {
		t.Fatalf("a stale socket is not replaced: %v", err)
	}
	defer next.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := New(path, Handlers{}, slog.New(slog.DiscardHandler)).Listen(); err == nil || !strings.Contains(err.Error(), "--socket") {
		t.Errorf("a second agent on the socket: %v", err)
	}
}

// FuzzBody feeds any bytes to a request that decodes into every kind of field.
func FuzzBody(f *testing.F) {
	for _, s := range []string{`{}`, `{"name":"bob","tags":["a"],"routes":["192.0.2.0/24"],"uses":2,"expires":5}`, `{"uses":1e99}`, `[`, "\x00", `{"name":"a"}{"name":"b"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		called := false
		h := post(func(_ context.Context, r InviteRequest) (struct{}, error) { called = true; return struct{}{}, nil })
		w := httptest.NewRecorder()
		h(w, httptest.NewRequest("POST", "/v1/invite", bytes.NewReader(body)))
		if called != (w.Code == http.StatusOK) {
			t.Errorf("called %v, status %d", called, w.Code)
		}
		if !called && !strings.Contains(w.Body.String(), `"code":"usage"`) {
			t.Errorf("refused without saying why: %s", w.Body)
		}
	})
}
