package netmon

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/nat/netmon/nstest"
)

func TestMain(m *testing.M) {
	os.Exit(nstest.Main(func() int {
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			println(err.Error())
			return 1
		}
		return code
	}, nil))
}

// fake is a source whose state the test sets.
type fake struct {
	hints  chan hint
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex
	state State
	err   error
	reads int
}

func newFake(s State) *fake {
	return &fake{hints: make(chan hint), closed: make(chan struct{}), state: s}
}

func (f *fake) subscribe() (subscription, error) { return f, nil }

func (f *fake) read(func(string) bool) (State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	return clone(f.state), f.err
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

func (f *fake) set(s State, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.err = s, err
}

func (f *fake) wait() (hint, error) {
	select {
	case h := <-f.hints:
		return h, nil
	case <-f.closed:
		return hint{}, os.ErrClosed
	}
}

func (f *fake) Close() { f.once.Do(func() { close(f.closed) }) }

// run starts a monitor in a synctest bubble, past its first reading.
func run(t *testing.T, f *fake) (m *Monitor, stop func()) {
	t.Helper()
	m, err := newMonitor(Config{}, f)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	time.Sleep(time.Second)
	return m, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestABurstIsOneChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state("192.0.2.2/24"))
		m, stop := run(t, f)
		defer stop()
		news, cancel := m.Watch()
		defer cancel()
		before := f.count()
		f.set(state("192.0.2.3/24"), nil)
		for range 20 {
			f.hints <- hint{}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if got := (<-news).Links[0].Prefixes[0].String(); got != "192.0.2.3/24" {
			t.Errorf("news of %s", got)
		}
		if n := f.count() - before; n != 1 {
			t.Errorf("%d readings for one burst", n)
		}
		f.hints <- hint{} // nothing changed
		time.Sleep(time.Second)
		select {
		case s := <-news:
			t.Errorf("news without a change: %+v", s)
		default:
		}
	})
}

func TestAMailboxKeepsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state("192.0.2.2/24"))
		m, stop := run(t, f)
		defer stop()
		news, cancel := m.Watch()
		for _, p := range []string{"192.0.2.3/24", "192.0.2.4/24", "192.0.2.5/24"} {
			f.set(state(p), nil)
			f.hints <- hint{}
			time.Sleep(time.Second)
		}
		if s := <-news; !s.Equal(m.State()) || s.Links[0].Prefixes[0].String() != "192.0.2.5/24" {
			t.Errorf("the mailbox holds %+v", s)
		}
		cancel()
		f.set(state("192.0.2.6/24"), nil)
		f.hints <- hint{}
		time.Sleep(time.Second)
		if len(news) != 0 {
			t.Error("news after the watch ended")
		}
	})
}

func TestAFailedReadingIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state("192.0.2.2/24"))
		m, stop := run(t, f)
		defer stop()
		f.set(State{}, errors.New("no memory"))
		f.hints <- hint{}
		time.Sleep(time.Second)
		if !m.State().Equal(state("192.0.2.2/24")) {
			t.Error("a failed reading changed the state")
		}
		f.set(state("192.0.2.9/24"), nil)
		time.Sleep(time.Second)
		if !m.State().Equal(state("192.0.2.9/24")) {
			t.Error("after a failed reading there was no other")
		}
	})
}

func TestAnEndedSubscriptionIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(State{})
		m, err := newMonitor(Config{}, f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := m.Run(t.Context()); err == nil {
			t.Error("Run returned nil though nobody watches any more")
		}
	})
}

func message(kind uint16, data []byte) syscall.NetlinkMessage {
	return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: data}
}

func linkData(index int32, flags uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	b[4] = byte(index)
	b[8], b[9] = byte(flags), byte(flags>>8)
	return b
}

func TestJudge(t *testing.T) {
	route := func(bits byte) []byte { return append([]byte{unix.AF_INET, bits}, make([]byte, unix.SizeofRtMsg-2)...) }
	up := uint32(unix.IFF_UP | unix.IFF_RUNNING)
	for name, c := range map[string]struct {
		m    syscall.NetlinkMessage
		want bool
		lost []int
	}{
		"default route":     {message(unix.RTM_NEWROUTE, route(0)), true, nil},
		"half the internet": {message(unix.RTM_DELROUTE, route(1)), true, nil},
		"other route":       {message(unix.RTM_NEWROUTE, route(24)), false, nil},
		"short route":       {message(unix.RTM_NEWROUTE, []byte{2}), false, nil},
		"address":           {message(unix.RTM_NEWADDR, nil), true, nil},
		"link up":           {message(unix.RTM_NEWLINK, linkData(3, up)), true, nil},
		"link down":         {message(unix.RTM_NEWLINK, linkData(3, unix.IFF_UP)), true, []int{3}},
		"link gone":         {message(unix.RTM_DELLINK, linkData(3, up)), true, []int{3}},
		"short link":        {message(unix.RTM_NEWLINK, []byte{0, 0, 0, 0}), true, nil},
	} {
		h, ok := judge([]syscall.NetlinkMessage{c.m})
		if ok != c.want || !slices.Equal(h.lost, c.lost) {
			t.Errorf("%s: %v %v, want %v %v", name, h.lost, ok, c.lost, c.want)
		}
	}
}

func FuzzJudge(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWLINK), linkData(3, 1))
	f.Add(uint16(unix.RTM_NEWROUTE), make([]byte, unix.SizeofRtMsg))
	f.Add(uint16(unix.RTM_DELLINK), []byte{})
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		h, ok := judge([]syscall.NetlinkMessage{message(kind, data)})
		if len(h.lost) > 1 || len(h.lost) == 1 && !ok {
			t.Errorf("one message of type %d: %v %v", kind, h, ok)
		}
	})
}
