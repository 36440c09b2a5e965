package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/health"
)

type fake struct {
	st    *api.Status
	wants []string
}

func (f *fake) page(t *testing.T) (*Page, *httptest.Server) {
	t.Helper()
	p, err := New(Config{Handlers: api.Handlers{
		Status: func(context.Context) (*api.Status, error) { return f.st, nil },
		Want:   func(_ context.Context, r api.NameRequest) error { f.wants = append(f.wants, r.Name); return nil },
		Diagnosis: api.Diagnosis{Explain: func(context.Context, api.NameRequest) (*api.Explain, error) {
			return &api.Explain{Meaning: "because"}, nil
		}},
		History: api.HistoryHandlers{Links: func(_ context.Context, r api.HistoryRequest) (*api.History, error) {
			return &api.History{Links: []api.LinkHistory{{Peer: r.Peer, StepSeconds: 60, Samples: []api.LinkSample{{RTTAvg: 0.25}}}}}, nil
		}},
		Invite: func(context.Context, api.InviteRequest) (*api.InviteResponse, error) {
			return &api.InviteResponse{Token: "gw1x"}, nil
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.every = 5 * time.Millisecond
	s := httptest.NewServer(p.Handler())
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return p, s
}

func three() *fake {
	return &fake{st: &api.Status{Network: &api.Network{Name: "farm"}, Self: api.Self{Name: "alice"}, Peers: []api.Peer{
		{Name: "bob", ID: "b", State: "connected"}, {Name: "carol", ID: "c", State: "connected"},
	}}}
}

func request(t *testing.T, s *httptest.Server, method, path, body string, headers map[string]string) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range headers {
		if k == "Host" {
			r.Host = v
			continue
		}
		r.Header.Set(k, v)
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func TestOtherSitesAreKeptAway(t *testing.T) {
	f := three()
	p, s := f.page(t)
	own := "http://" + strings.TrimPrefix(s.URL, "http://")
	for name, c := range map[string]struct {
		method, path string
		headers      map[string]string
		want         int
	}{
		"ourselves":                   {"GET", "/api/state", nil, 200},
		"by another address":          {"GET", "/api/state", map[string]string{"Host": "[::1]:9587"}, 200},
		"by localhost":                {"GET", "/", map[string]string{"Host": "localhost:9587"}, 200},
		"a rebound name":              {"GET", "/api/state", map[string]string{"Host": "evil.example"}, 421},
		"a rebound name, with a port": {"GET", "/", map[string]string{"Host": "evil.example:9587"}, 421},
		"localhost below a name":      {"GET", "/", map[string]string{"Host": "localhost.evil.example"}, 421},
		"no host":                     {"GET", "/", map[string]string{"Host": ":9587"}, 421},
		"read across sites":           {"GET", "/api/state", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		"an image across sites":       {"GET", "/", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403},
		"a frame across sites":        {"GET", "/", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403},
		"a link across sites":         {"GET", "/", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200},
		"another port of loopback":    {"GET", "/api/state", map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		"written across sites":        {"POST", "/api/want", map[string]string{"Origin": "http://evil.example", tokenHeader: p.Token()}, 403},
		"written from nowhere":        {"POST", "/api/want", map[string]string{"Origin": "null", tokenHeader: p.Token()}, 403},
		"written without the token":   {"POST", "/api/want", map[string]string{"Origin": own}, 403},
		"written with a wrong token":  {"POST", "/api/want", map[string]string{"Origin": own, tokenHeader: "x" + p.Token()}, 403},
		"written":                     {"POST", "/api/want", map[string]string{"Origin": own, tokenHeader: p.Token()}, 200},
		"asked across sites, in full": {"OPTIONS", "/api/want", map[string]string{"Origin": "http://evil.example"}, 403},
		"what is not there":           {"GET", "/api/secrets", nil, 404},
	} {
		t.Run(name, func(t *testing.T) {
			status, body, h := request(t, s, c.method, c.path, `{"name":"bob"}`, c.headers)
			if status != c.want {
				t.Errorf("%d, want %d: %s", status, c.want, body)
			}
			if h.Get("Access-Control-Allow-Origin") != "" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("headers: %v", h)
			}
		})
	}
	if len(f.wants) != 1 {
		t.Errorf("%d requests changed something, want 1", len(f.wants))
	}
	if _, other := three().page(t); other.URL == "" || len(p.Token()) != 32 {
		t.Errorf("token %q", p.Token())
	}
}

func TestBadRequests(t *testing.T) {
	p, s := three().page(t)
	for _, body := range []string{"", "{", `{"nam":"bob"}`, `{"name":1}`, `[]`, `{"name":"` + strings.Repeat("x", maxRequest) + `"}`} {
		status, answer, _ := request(t, s, "POST", "/api/want", body, map[string]string{tokenHeader: p.Token()})
		if status != http.StatusBadRequest || !strings.Contains(answer, "error") {
			t.Errorf("%.20q: %d %s", body, status, answer)
		}
	}
}

// The page must work where there is no internet, and must not tell anybody that it is looked at: its files name no other place.
func TestTheFilesAskNobodyElse(t *testing.T) {
	_, s := three().page(t)
	elsewhere := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9-]+\.[a-z]+|@import|url\(`)
	for _, name := range []string{"", "style.css", "app.js", "map.js", "table.js", "detail.js", "chart.js", "format.js", "icon.svg"} {
		status, body, h := request(t, s, "GET", "/"+name, "", nil)
		if status != 200 || len(body) < 100 {
			t.Errorf("/%s: %d", name, status)
		}
		body = strings.ReplaceAll(body, "http://www.w3.org/", "") // names of namespaces
		if found := elsewhere.FindString(body); found != "" {
			t.Errorf("/%s names %q", name, found)
		}
		if strings.HasSuffix(name, ".js") && !strings.Contains(h.Get("Content-Type"), "javascript") {
			t.Errorf("/%s: type %s", name, h.Get("Content-Type"))
		}
	}
}

// next reads one server-sent event.
func next(t *testing.T, r *bufio.Reader) (string, Update) {
	t.Helper()
	var event string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			event = strings.TrimSpace(name)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var u Update
			if err := json.Unmarshal([]byte(data), &u); err != nil {
				t.Fatal(err)
			}
			return event, u
		}
	}
}

func TestOnlyChangesAreSent(t *testing.T) {
	st := three().st
	w := httptest.NewRecorder()
	s := stream{w: w, out: http.NewResponseController(deadlines{w}), sent: map[string]string{}}
	send := func() (string, Update) {
		t.Helper()
		w.Body.Reset()
		if err := s.update(&State{Status: st, Health: health.Findings(st, time.Now())}); err != nil {
			t.Fatal(err)
		}
		if w.Body.Len() == 0 {
			return "", Update{}
		}
		return next(t, bufio.NewReader(w.Body))
	}
	if event, u := send(); event != "state" || len(u.Peers) != 2 {
		t.Errorf("first: %s %v", event, u)
	}
	for range beat - 1 {
		if event, u := send(); event != "" {
			t.Errorf("nothing has changed, and yet: %s %v", event, u)
		}
	}
	if err := s.update(&State{Status: st, Health: health.Findings(st, time.Now())}); err != nil || !strings.HasPrefix(w.Body.String(), ":") {
		t.Errorf("no sign of life: %q %v", w.Body, err)
	}
	st.Peers[1].RTT = 0.5
	if event, u := send(); event != "update" || len(u.Peers) != 1 || u.Peers[0].ID != "c" || len(u.Gone) != 0 {
		t.Errorf("one has changed: %s %v", event, u)
	}
	st.Peers = st.Peers[1:]
	if event, u := send(); event != "update" || len(u.Peers) != 0 || fmt.Sprint(u.Gone) != "[b]" || len(u.Health) == 0 {
		t.Errorf("one has gone: %s %v", event, u)
	}
}

// deadlines lets a recorder pass for a connection.
type deadlines struct{ *httptest.ResponseRecorder }

func (deadlines) SetWriteDeadline(time.Time) error { return nil }

func TestStreamsAreBounded(t *testing.T) {
	_, s := three().page(t)
	for n := range maxStreams {
		resp, err := s.Client().Get(s.URL + "/api/events")
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("stream %d: %v", n, err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		if event, u := next(t, bufio.NewReader(resp.Body)); event != "state" || u.Self.Name != "alice" {
			t.Errorf("%s %v", event, u)
		}
	}
	if status, body, _ := request(t, s, "GET", "/api/events", "", nil); status != http.StatusServiceUnavailable {
		t.Errorf("one more: %d %s", status, body)
	}
}

func TestALinkComesWithItsHistory(t *testing.T) {
	_, s := three().page(t)
	code, body, _ := request(t, s, "GET", "/api/link?peer=bob", "", nil)
	if code != 200 || !strings.Contains(body, `"because"`) || !strings.Contains(body, `"peer":"bob"`) || !strings.Contains(body, `"rtt_avg_seconds":0.25`) {
		t.Errorf("%d %s", code, body)
	}
}
