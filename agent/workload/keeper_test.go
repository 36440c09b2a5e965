package workload

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gridwire/gridwire/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a Host and a Store in memory.
type machine struct {
	mu     sync.Mutex // guards all below
	files  map[string][]byte
	full   error // of the disk
	links  map[string]bool
	wiring Wiring
	apply  error
	routes map[netip.Addr]string
	news   chan struct{}
}

func newMachine() *machine {
	return &machine{files: map[string][]byte{}, links: map[string]bool{}, routes: map[netip.Addr]string{}, news: make(chan struct{}, 1)}
}

func (m *machine) Read(name string) ([]byte, error) {
	defer m.lock()()
	b, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (m *machine) Write(name string, b []byte) error {
	defer m.lock()()
	if m.full != nil {
		return m.full
	}
	m.files[name] = b
	return nil
}

func (m *machine) Apply(w Wiring) error {
	defer m.lock()()
	if m.apply != nil {
		return m.apply
	}
	m.wiring = w
	for name := range w.Attached {
		m.links[name] = true
	}
	return nil
}

func (m *machine) Look(prefix string) (map[string]Link, error) {
	defer m.lock()()
	out := map[string]Link{}
	for name, up := range m.links {
		if strings.HasPrefix(name, prefix) {
			out[name] = Link{Up: up, Counters: Counters{RxBytes: 7}}
		}
	}
	return out, nil
}

func (m *machine) Reach(a netip.Addr) (string, string) {
	defer m.lock()()
	if iface, ok := m.routes[a]; ok {
		return iface, ""
	}
	return "", "no route"
}

func (m *machine) Delete(iface string) error {
	defer m.lock()()
	delete(m.links, iface)
	return nil
}

func (m *machine) lock() (unlock func()) {
	m.mu.Lock()
	return m.mu.Unlock
}

// change is for the test, which is not the keeper's goroutine.
func (m *machine) change(f func()) {
	defer m.lock()()
	f()
}

// has lists the interfaces.
func (m *machine) has() string {
	defer m.lock()()
	return strings.Join(slices.Sorted(maps.Keys(m.links)), " ")
}

func (m *machine) wired() Wiring {
	defer m.lock()()
	return m.wiring
}

func (m *machine) Watch(context.Context) (<-chan struct{}, error) { return m.news, nil }

// session is one run of a keeper in a bubble of virtual time.
type session struct {
	*Keeper
	t       *testing.T
	m       *machine
	changed atomic.Int32
	fits    error
	stop    func()
}

func start(t *testing.T, m *machine) *session {
	s := &session{t: t, m: m}
	s.Keeper = New(Config{
		Interface: "gw0", Store: m, Host: m, Node: func() Node { return farm }, Fits: func([]mesh.Workload) error { defer m.lock()(); return s.fits },
		Changed: func() { s.changed.Add(1) }, Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }() // awaited by stop
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	synctest.Wait()
	return s
}

// attach does what the command line does.
func (s *session) attach(name string) *Status {
	s.t.Helper()
	i, err := s.Plan(s.t.Context(), attached(name))
	if err != nil {
		s.t.Fatal(err)
	}
	s.m.change(func() { s.m.links[i.Interface] = false }) // until our end is up
	st, err := s.Commit(s.t.Context(), i.Name)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

func (s *session) names() string {
	ws, _ := s.Announced()
	var out []string
	for _, w := range ws {
		out = append(out, string(w.Name))
	}
	return strings.Join(out, " ")
}

func TestKeeperOutlivesTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		s := start(t, m)
		if _, known := s.Announced(); !known || m.wired().Attached != nil {
			t.Errorf("without workloads: known %v, wiring %+v", known, m.wired())
		}
		if st := s.attach("web"); st.Health != Up || s.names() != "web" || s.changed.Load() != 2 {
			t.Fatalf("%+v, announced %q, %d changes", st, s.names(), s.changed.Load())
		}
		s.attach("db")
		s.stop()
		if m.has() != "gw0-2 gw0-3" {
			t.Fatalf("the interfaces went with the agent: %v", m.has())
		}
		m.wiring = Wiring{}
		m.links["gw0-9"] = true // of somebody who was killed before he committed
		m.links["eth0"] = true
		delete(m.links, "gw0-3") // db's namespace ended meanwhile
		s = start(t, m)
		defer s.stop()
		if s.names() != "web" || len(m.wired().Attached) != 1 || !m.wired().Forward {
			t.Errorf("announced %q, wiring %+v", s.names(), m.wired())
		}
		if got := m.has(); got != "eth0 gw0-2" {
			t.Errorf("interfaces %v", got)
		}
		list, err := s.List(t.Context())
		if err != nil || len(list) != 2 || list[0].Health != Gone || list[1].Health != Up || list[1].RxBytes != 7 {
			t.Errorf("list %+v, %v", list, err)
		}
		m.change(func() { delete(m.links, "gw0-2") })
		m.news <- struct{}{}
		synctest.Wait()
		if s.names() != "" {
			t.Errorf("announced %q after its namespace vanished", s.names())
		}
		if err := s.Remove(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		refusedWith(t, s.Remove(t.Context(), "web"), ErrUnknown, "no workload web")
	})
}

func TestNothingIsLeftOfWhatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		s := start(t, m)
		defer s.stop()
		clean := func(what string) {
			t.Helper()
			if list, err := s.List(t.Context()); err != nil || len(list) != 0 || m.has() != "" || s.names() != "" {
				t.Errorf("%s: list %+v, %v, links %v, announced %q", what, list, err, m.has(), s.names())
			}
		}
		plan := func() *Item {
			t.Helper()
			i, err := s.Plan(t.Context(), attached("web"))
			if err != nil {
				t.Fatal(err)
			}
			m.change(func() { m.links[i.Interface] = false })
			return i
		}
		plan()
		if err := s.Cancel(t.Context(), "web"); err != nil {
			t.Error(err)
		}
		clean("cancelled")
		plan()
		time.Sleep(planLife + lookEvery)
		synctest.Wait()
		clean("given up")
		m.change(func() { m.apply = errors.New("no nftables") })
		plan()
		if _, err := s.Commit(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "no nftables") {
			t.Errorf("commit: %v", err)
		}
		m.change(func() { m.apply = nil })
		clean("not applied")
		m.change(func() { m.full = errors.New("disk full") })
		plan()
		if _, err := s.Commit(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("commit: %v", err)
		}
		m.change(func() { m.full = nil })
		clean("not stored")
		made := plan().Interface
		m.change(func() { delete(m.links, made) })
		if _, err := s.Commit(t.Context(), "web"); !errors.Is(err, ErrRefused) {
			t.Errorf("commit without an interface: %v", err)
		}
		clean("not made")
		m.change(func() { s.fits = errors.New("the record is full") })
		_, err := s.Plan(t.Context(), attached("web"))
		refusedWith(t, err, ErrRefused, "the record is full")
		m.change(func() { s.fits = nil })
		clean("no room")
		_, err = s.Add(t.Context(), Request{Name: "nas", Address: netip.MustParseAddr("fd00:1:2:3:4:5:6:9")})
		refusedWith(t, err, ErrRefused, "no route")
		clean("not reachable")
	})
}

func TestAddressesAreLookedAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		s := start(t, m)
		defer s.stop()
		a := netip.MustParseAddr("fd00:1:2:3:4:5:6:9")
		m.change(func() { m.routes[a] = "br0" })
		if _, err := s.Add(t.Context(), Request{Name: "vm", Address: a}); err != nil {
			t.Fatal(err)
		}
		if s.names() != "vm" || !slices.Equal(m.wired().Shared["br0"], []netip.Addr{a}) {
			t.Errorf("announced %q, wiring %+v", s.names(), m.wired())
		}
		m.change(func() { delete(m.routes, a) })
		time.Sleep(lookEvery)
		synctest.Wait()
		if s.names() != "" || len(m.wired().Shared) != 0 {
			t.Errorf("without a route: announced %q, wiring %+v", s.names(), m.wired())
		}
	})
}

func TestContainersGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		s := start(t, m)
		var owners []Owner
		for _, id := range []string{"a", "b", "c"} {
			o := Owner{"mesh", id, "eth0"}
			owners = append(owners, o)
			i, err := s.Plan(t.Context(), Request{Name: "pod", Owner: &o, Rename: true})
			if err != nil {
				t.Fatal(err)
			}
			m.change(func() { m.links[i.Interface] = false })
			if _, err := s.Commit(t.Context(), i.Name); err != nil {
				t.Fatal(err)
			}
		}
		s.attach("web")
		if err := s.RemoveOwned(t.Context(), owners[0]); err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveOwned(t.Context(), owners[0]); err != nil {
			t.Errorf("twice: %v", err)
		}
		if err := s.Retain(t.Context(), "another", nil); err != nil || m.has() != "gw0-3 gw0-4 gw0-5" {
			t.Errorf("another network's: %v, links %v", err, m.has())
		}
		if err := s.Retain(t.Context(), "mesh", owners[2:]); err != nil || m.has() != "gw0-4 gw0-5" {
			t.Errorf("all but one: %v, links %v", err, m.has())
		}
		s.stop()
		if err := s.Purge(); err != nil || m.has() != "" || m.wired().Forward {
			t.Errorf("after leaving: %v, links %v, wiring %+v", err, m.has(), m.wired())
		}
	})
}

func TestAListThatCannotBeReadHarmsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.files[stateFile] = []byte("rubbish")
		m.links["gw0-2"] = true
		s := start(t, m)
		defer s.stop()
		if _, err := s.List(t.Context()); err == nil || !strings.Contains(err.Error(), "the list of workloads") || m.has() != "gw0-2" {
			t.Errorf("%v, links %v", err, m.has())
		}
	})
}
