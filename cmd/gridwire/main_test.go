package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

// outcome is what one run of the program did.
type outcome struct {
	code        int
	out, errOut string
}

func gridwire(t *testing.T, socket string, args ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	args = append(args, "--socket", socket, "--state", filepath.Join(t.TempDir(), "state"))
	code := run(t.Context(), args, &out, &errOut)
	return outcome{code, out.String(), errOut.String()}
}

// fakeAgent answers the control socket with h.
func fakeAgent(t *testing.T, h api.Handlers) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "agent.sock")
	s := api.New(socket, h, slog.New(slog.DiscardHandler))
	l, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return socket
}

func example() *api.Status {
	expires := time.Date(2027, 1, 30, 0, 0, 0, 0, time.UTC)
	return &api.Status{
		Network: &api.Network{Name: "farm", Domain: "farm.internal"},
		Self:    api.Self{Name: "alice", Addresses: []string{"fd00::1/128"}, Interface: "gw0", ListenPort: 51820, NAT: "open", CertificateExpires: &expires},
		Peers: []api.Peer{
			{Name: "bob", Addresses: []string{"fd00::2/128", "10.64.0.2/32"}, State: "connected", Path: api.Path{Kind: "direct", Remote: "198.51.100.2:51820", RemoteType: "srflx"}, RTT: 0.0123, ReceiveBytes: 2048, LastHandshake: time.Now()},
			{Name: "carol", State: "unreachable", Path: api.Path{Kind: "none"}, Reason: "both NATs are symmetric"},
		},
		Warnings: []string{"the network has 1 issuer(s)"},
	}
}

func TestExitStatus(t *testing.T) {
	refusing := fakeAgent(t, api.Handlers{
		Status: func(context.Context) (*api.Status, error) { return example(), nil },
		Members: func(context.Context) ([]api.Member, error) {
			return nil, &api.Error{Code: api.CodeFailed, Message: "broken"}
		},
		Revoke: func(context.Context, api.NameRequest) error {
			return &api.Error{Code: api.CodeRefused, Message: "not yours"}
		},
		Want: func(context.Context, api.NameRequest) error { return nil },
	})
	nobody := filepath.Join(t.TempDir(), "none.sock")
	for name, tc := range map[string]struct {
		socket string
		args   []string
		code   int
		says   string
	}{
		"version":             {nobody, []string{"version"}, exitOK, ""},
		"unknown command":     {nobody, []string{"frobnicate"}, exitUsage, "frobnicate"},
		"unknown flag":        {nobody, []string{"status", "--jsno"}, exitUsage, "--jsno"},
		"missing argument":    {nobody, []string{"revoke"}, exitUsage, "NAME"},
		"superfluous":         {nobody, []string{"status", "now"}, exitUsage, "no arguments"},
		"bad name":            {nobody, []string{"init", "my_farm"}, exitUsage, "DNS label"},
		"bad pool":            {nobody, []string{"init", "farm", "--ipv4", "fd00::/8"}, exitUsage, "no IPv4 prefix"},
		"agent flag":          {nobody, []string{"agent", "--metrics", "maybe"}, exitUsage, "'overlay' or 'off'"},
		"uses":                {nobody, []string{"invite", "--uses", "0"}, exitUsage, "1 or more"},
		"uses with name":      {nobody, []string{"invite", "--uses", "2", "--name", "bob"}, exitUsage, "one machine"},
		"offline name":        {nobody, []string{"invite", "--offline"}, exitUsage, "--name"},
		"json and watch":      {nobody, []string{"status", "--json", "--watch"}, exitUsage, "contradict"},
		"no agent":            {nobody, []string{"status"}, exitNoAgent, "gridwire agent"},
		"token that is none":  {nobody, []string{"join", "hello"}, exitRefused, "token"},
		"refused":             {refusing, []string{"revoke", "bob"}, exitRefused, "not yours"},
		"failed":              {refusing, []string{"members"}, exitFailure, "broken"},
		"wait in vain":        {refusing, []string{"wait", "--all", "--timeout", "50ms"}, exitTimeout, "carol is unreachable"},
		"wait for nobody":     {refusing, []string{"wait", "--peer", "zoe", "--timeout", "50ms"}, exitTimeout, "zoe"},
		"wait for one":        {refusing, []string{"wait", "--peer", "bob"}, exitOK, ""},
		"ping nobody":         {refusing, []string{"ping", "zoe"}, exitFailure, "gridwire members"},
		"gateway verb":        {nobody, []string{"gateway", "maybe"}, exitUsage, "gateway on"},
		"gateway alone":       {nobody, []string{"gateway"}, exitUsage, "on|off"},
		"export name":         {nobody, []string{"export", "my phone"}, exitUsage, "DNS label"},
		"export nothing":      {nobody, []string{"export"}, exitUsage, "NAME"},
		"extend with qr":      {nobody, []string{"export", "phone", "--extend", "--qr"}, exitUsage, "no other flag"},
		"extend and replace":  {nobody, []string{"export", "phone", "--extend", "--replace"}, exitUsage, "no other flag"},
		"export, no agent":    {nobody, []string{"export", "phone"}, exitNoAgent, "gridwire agent"},
		"issuer without verb": {nobody, []string{"issuer"}, exitUsage, "issuer add"},
	} {
		t.Run(name, func(t *testing.T) {
			got := gridwire(t, tc.socket, tc.args...)
			if got.code != tc.code || !strings.Contains(got.errOut, tc.says) {
				t.Errorf("exit status %d, want %d; stderr %q, want %q in it", got.code, tc.code, got.errOut, tc.says)
			}
			if tc.code != exitOK && got.out != "" {
				t.Errorf("answers go to stdout, errors do not: %q", got.out)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	socket := fakeAgent(t, api.Handlers{Status: func(context.Context) (*api.Status, error) { return example(), nil }})
	text := gridwire(t, socket, "status").out
	for _, want := range []string{"alice in farm.internal", "bob", "connected", "direct, NAT", "198.51.100.2:51820", "12.3 ms", "2.0 KiB", "10.64.0.2", "carol: both NATs are symmetric", "warning: the network has 1 issuer(s)"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	var st api.Status
	if err := json.Unmarshal([]byte(gridwire(t, socket, "status", "--json").out), &st); err != nil || len(st.Peers) != 2 {
		t.Errorf("%v: %+v", err, st)
	}
	empty := fakeAgent(t, api.Handlers{Status: func(context.Context) (*api.Status, error) { return &api.Status{}, nil }})
	if got := gridwire(t, empty, "status"); got.code != exitOK || !strings.Contains(got.out, "gridwire join TOKEN") {
		t.Errorf("before joining: %+v", got)
	}
}

// TestJSONFields: scripts outside this repository read exactly these (DESIGN, section 4).
func TestJSONFields(t *testing.T) {
	socket := fakeAgent(t, api.Handlers{Status: func(context.Context) (*api.Status, error) { return example(), nil }})
	var raw map[string]any
	if err := json.Unmarshal([]byte(gridwire(t, socket, "status", "--json").out), &raw); err != nil {
		t.Fatal(err)
	}
	has := func(what string, m any, fields ...string) {
		for _, f := range fields {
			if _, ok := m.(map[string]any)[f]; !ok {
				t.Errorf("%s has no %s", what, f)
			}
		}
	}
	has("status", raw, "network", "self", "peers")
	has("network", raw["network"], "name", "id", "domain", "ipv6_prefix", "ipv4_prefix")
	has("self", raw["self"], "name", "id", "wireguard_public_key", "addresses", "interface", "listen_port", "backend", "nat", "issuer", "certificate_expires")
	peer := raw["peers"].([]any)[0]
	has("peer", peer, "name", "id", "wireguard_public_key", "addresses", "tags", "state", "path", "rtt_seconds", "loss_ratio", "last_handshake", "receive_bytes", "transmit_bytes")
	has("path", peer.(map[string]any)["path"], "kind", "local", "remote", "via")
}

func TestInvitePrintsTheTokenAsTheLastLine(t *testing.T) {
	socket := fakeAgent(t, api.Handlers{Invite: func(context.Context, api.InviteRequest) (*api.InviteResponse, error) {
		return &api.InviteResponse{Token: "gw1abc", Expires: time.Now().Add(time.Hour)}, nil
	}})
	for _, args := range [][]string{{"invite"}, {"invite", "--qr"}, {"invite", "--offline", "--name", "laptop"}} {
		got := gridwire(t, socket, args...)
		lines := strings.Split(strings.TrimRight(got.out, "\n"), "\n")
		if got.code != exitOK || lines[len(lines)-1] != "gw1abc" {
			t.Errorf("%q: %+v", args, got)
		}
	}
	if got := gridwire(t, socket, "invite", "--offline", "--name", "laptop"); !strings.Contains(got.errOut, "private key") {
		t.Errorf("a bundle is a private key, and must be called one: %q", got.errOut)
	}
}
