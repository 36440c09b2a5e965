//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary stands in for gridwire where only the handling of processes is tested, and for a program that is killed while it
// has a lab.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "agent":
			standInAgent()
		case "status":
			fmt.Println(`{"network":{"name":"farm"},"self":{"name":"alice","listen_port":51820,"certificate_expires":"2030-01-01T00:00:00Z"},
				"peers":[{"name":"bob","addresses":["127.0.0.1/32"],"state":"connected","last_handshake":""},{"name":"eve","state":"unreachable"}]}`)
			os.Exit(0)
		case "wait":
			fmt.Fprintln(os.Stderr, "no link to", os.Args[2:])
			os.Exit(5)
		case "explain":
			fmt.Println("both are behind symmetric NATs:", os.Args[2])
			os.Exit(0)
		case "abandon-a-lab":
			abandon()
		}
	}
	if os.Geteuid() != 0 {
		fmt.Println("skipped: the lab needs root")
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// standInAgent logs its arguments, says that it is ready, and ends at SIGTERM.
func standInAgent() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Fprintln(os.Stderr, "started", os.Args[1:], os.Getenv("EXTRA"))
	if strings.Contains(strings.Join(os.Args, " "), "--listen 0") {
		fmt.Fprintln(os.Stderr, "--listen 0: a port is 1 to 65535")
		os.Exit(2)
	}
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err == nil {
		_, err = conn.Write([]byte("STATUS=up\nREADY=1\n"))
	}
	fmt.Fprintln(os.Stderr, "ready:", err)
	<-stop
	fmt.Fprintln(os.Stderr, "stopped")
	os.Exit(0)
}

func abandon() {
	l, err := New(Options{})
	if err == nil {
		var h *Host
		if h, err = l.Public("orphan"); err == nil {
			err = h.Command(context.Background(), "sleep", "600").Start()
		}
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("id:", l.self.id())
	select {}
}

// internets are the two kinds that libraries treat differently.
var internets = []string{"198.51.100.0/24", "45.0.0.0/24"}

func onEachInternet(t *testing.T, test func(t *testing.T, o Options)) {
	for _, prefix := range internets {
		t.Run(prefix, func(t *testing.T) {
			t.Parallel()
			test(t, Options{Internet: netip.MustParsePrefix(prefix)})
		})
	}
}

func newLab(t *testing.T, o Options) *Lab {
	t.Helper()
	l := must(New(o))(t)
	t.Cleanup(func() {
		if t.Failed() {
			var b bytes.Buffer
			l.Dump(&b)
			t.Log(b.String())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// must is used as must(f())(t).
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience is for what must arrive; nothing in these tests waits for it to pass.
const patience = 3 * time.Second

// socket is a UDP socket on a host, opened by this process.
type socket struct {
	t    *testing.T
	conn *net.UDPConn
	at   netip.AddrPort
}

func open(t *testing.T, h *Host, at netip.AddrPort) *socket {
	t.Helper()
	s := &socket{t: t, at: at}
	check(t, h.Do(func() (err error) {
		s.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { s.conn.Close() })
	return s
}

// udp opens a socket on the host's IPv4 address.
func udp(t *testing.T, h *Host, port uint16) *socket {
	t.Helper()
	return open(t, h, netip.AddrPortFrom(h.Addr(), port))
}

func (s *socket) send(to netip.AddrPort, text string) {
	s.t.Helper()
	if _, err := s.conn.WriteToUDPAddrPort([]byte(text), to); err != nil {
		s.t.Fatalf("send %q from %v to %v: %v", text, s.at, to, err)
	}
}

// expect waits for a datagram, which must be this one: what was sent before it has been dropped. It returns the source.
func (s *socket) expect(text string) netip.AddrPort {
	s.t.Helper()
	got, from, err := s.receive(patience)
	if err != nil {
		s.t.Fatalf("%v waits for %q: %v", s.at, text, err)
	}
	if got != text {
		s.t.Fatalf("%v received %q from %v, want %q", s.at, got, from, text)
	}
	return from
}

// silent fails if something has arrived by now.
func (s *socket) silent(why string) {
	s.t.Helper()
	if got, from, err := s.receive(50 * time.Millisecond); err == nil {
		s.t.Fatalf("%v received %q from %v: %s", s.at, got, from, why)
	} else if !errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Fatal(err)
	}
}

func (s *socket) receive(wait time.Duration) (string, netip.AddrPort, error) {
	buf := make([]byte, 2048)
	if err := s.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", netip.AddrPort{}, err
	}
	n, from, err := s.conn.ReadFromUDPAddrPort(buf)
	return string(buf[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
}

// through sends from one socket to another and returns the source as the receiver sees it.
func through(from, to *socket) netip.AddrPort {
	from.t.Helper()
	from.send(to.at, "mapping")
	return to.expect("mapping")
}
