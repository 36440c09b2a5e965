package osconf

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// machine is a file system in a temporary folder, with the interfaces and programs that a test gives it.
type machine struct {
	t     *testing.T
	env   Env
	alive map[string]bool
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, alive: map[string]bool{}}
	m.env = Env{Root: t.TempDir(), Exists: func(iface string) bool { return m.alive[iface] }}
	return m
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	path := m.env.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) link(name, to string) {
	m.t.Helper()
	path := m.env.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(to, path); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) text(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(m.env.path(name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

func (m *machine) wantText(name, want string) {
	m.t.Helper()
	if got := m.text(name); got != want {
		m.t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
}

// wantOnly checks a folder's whole content, so that nothing of ours is left in it.
func (m *machine) wantOnly(folder string, want ...string) {
	m.t.Helper()
	entries, err := os.ReadDir(m.env.path(folder))
	if err != nil {
		m.t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		m.t.Errorf("%s contains %q, want %q", folder, got, want)
	}
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func settings() Settings {
	return Settings{
		Interface: "gw0", Index: 7, Servers: addrs("10.64.0.1", "fd12::1"), Domain: "farm.internal",
		ReverseZones: []string{"64.10.in-addr.arpa", "2.1.d.f.ip6.arpa"},
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fakeBus is a D-Bus with what a test puts on it. It is its own connector: the connections it hands out share it.
type fakeBus struct {
	mu         sync.Mutex
	down       bool                                                            // nobody can connect
	services   map[string]func(path, method string, args []any) ([]any, error) // by name
	properties map[string]any                                                  // by service, path and name
	calls      []string
	followers  map[chan struct{}]string // to "path interface.member arg0"
	open       int                      // connections
}

func newFakeBus() *fakeBus {
	return &fakeBus{
		services:   map[string]func(string, string, []any) ([]any, error){},
		properties: map[string]any{},
		followers:  map[chan struct{}]string{},
	}
}

func (f *fakeBus) connect(context.Context) (Bus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, fmt.Errorf("connect to D-Bus: no such file")
	}
	f.open++
	return &fakeConn{bus: f}, nil
}

func (f *fakeBus) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// signal wakes who follows it.
func (f *fakeBus) signal(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c, follows := range f.followers {
		if follows == what {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}

// lose breaks all connections that follow something.
func (f *fakeBus) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.followers {
		close(c)
		delete(f.followers, c)
	}
}

func (f *fakeBus) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := strings.Join(f.calls, "\n")
	f.calls = nil
	return calls
}

func (f *fakeBus) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

type fakeConn struct {
	bus     *fakeBus
	follows []chan struct{}
}

func (c *fakeConn) Call(_ context.Context, dest, path, method string, args []any, results ...any) error {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	var answer []any
	if method == "org.freedesktop.DBus.NameHasOwner" {
		_, up := c.bus.services[args[0].(string)]
		answer = []any{up}
	} else {
		handle, up := c.bus.services[dest]
		if !up {
			return &BusError{"org.freedesktop.DBus.Error.ServiceUnknown", "the name is not activatable"}
		}
		short := method[strings.LastIndexByte(method, '.')+1:]
		c.bus.calls = append(c.bus.calls, strings.TrimSpace(short+" "+strings.Trim(fmt.Sprintln(args...), "\n")))
		var err error
		if answer, err = handle(path, short, args); err != nil {
			return err
		}
	}
	for i, r := range results {
		switch r := r.(type) {
		case *bool:
			*r = answer[i].(bool)
		case *string:
			*r = answer[i].(string)
		}
	}
	return nil
}

func (c *fakeConn) Property(_ context.Context, dest, path, _, name string) (any, error) {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	if _, up := c.bus.services[dest]; !up {
		return nil, &BusError{"org.freedesktop.DBus.Error.ServiceUnknown", "the name is not activatable"}
	}
	v, ok := c.bus.properties[dest+path+" "+name]
	if !ok {
		return nil, &BusError{"org.freedesktop.DBus.Error.UnknownProperty", "no " + name}
	}
	return v, nil
}

func (c *fakeConn) Follow(_ context.Context, path, iface, member, arg0 string) (<-chan struct{}, error) {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	ch := make(chan struct{}, 1)
	c.bus.followers[ch] = path + " " + iface + "." + member + " " + arg0
	c.follows = append(c.follows, ch)
	return ch, nil
}

func (c *fakeConn) Close() error {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	c.bus.open--
	for _, ch := range c.follows {
		if _, ok := c.bus.followers[ch]; ok {
			close(ch)
			delete(c.bus.followers, ch)
		}
	}
	return nil
}
