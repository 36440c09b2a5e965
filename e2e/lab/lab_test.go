//go:build linux

package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// traces returns what of a lab is on this machine.
func traces(t *testing.T, id identity) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{
		netnsDir + "/" + id.ns("*"), "/etc/netns/" + id.ns("*"), id.dir(), "/run/wireguard/" + id.interfaces() + "*",
	} {
		all = append(all, must(filepath.Glob(pattern))(t)...)
	}
	return all
}

// awaitNoTraces waits for the keeper of a process that is gone.
func awaitNoTraces(t *testing.T, id identity) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left := traces(t, id)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still there: %v", left)
		}
	}
}

func TestCloseRemovesAll(t *testing.T) {
	l := newLab(t, Options{Delay: time.Millisecond, Log: testWriter{t}})
	r := must(l.Router("r", NATConfig{}, nil))(t)
	a := must(r.Host("a"))(t)
	cmd := a.Command(context.Background(), "sleep", "600")
	check(t, cmd.Start())
	check(t, os.MkdirAll("/run/wireguard", 0o755))
	check(t, os.WriteFile("/run/wireguard/"+a.Interface()+".sock", nil, 0o600))
	if n := len(a.Interface()); n > 15 {
		t.Errorf("interface name %s has %d characters", a.Interface(), n)
	}
	if len(traces(t, l.self)) < 6 {
		t.Errorf("traces of the lab: %v", traces(t, l.self))
	}
	check(t, l.Close())
	if left := traces(t, l.self); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Errorf("the process in the lab: %v", err)
	}
	if _, err := l.Public("late"); err == nil {
		t.Error("a closed lab took a host")
	}
	check(t, l.Close())
}

// TestKilled kills a process that has a lab: its keeper removes the lab; where the keeper is gone too, Sweep does.
func TestKilled(t *testing.T) {
	for _, keeperToo := range []bool{false, true} {
		t.Run(fmt.Sprint("keeper too ", keeperToo), func(t *testing.T) {
			cmd := exec.Command(must(os.Executable())(t), "abandon-a-lab")
			out := must(cmd.StdoutPipe())(t)
			check(t, cmd.Start())
			var id identity
			for lines := bufio.NewScanner(out); id.pid == 0 && lines.Scan(); {
				name, ok := strings.CutPrefix(lines.Text(), "id: ")
				if !ok {
					t.Fatal(lines.Text())
				}
				id, _ = parseIdentity(name)
			}
			check(t, Sweep())
			if len(traces(t, id)) < 4 {
				t.Errorf("Sweep removed a living process's lab; left: %v", traces(t, id))
			}
			if keeperToo {
				check(t, exec.Command("kill", "-9", keeperOf(t, id)).Run())
			}
			check(t, cmd.Process.Kill())
			_ = cmd.Wait() // killed
			if keeperToo {
				check(t, Sweep())
			}
			awaitNoTraces(t, id)
		})
	}
}

// keeperOf finds the keeper's process: the shell among the owner's children.
func keeperOf(t *testing.T, id identity) string {
	t.Helper()
	for _, path := range must(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", id.pid)))(t) {
		b, _ := os.ReadFile(path) // a thread may have ended
		for _, pid := range strings.Fields(string(b)) {
			if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); bytes.HasPrefix(line, []byte("sh\x00")) {
				return pid
			}
		}
	}
	t.Fatal("the lab has no keeper")
	return ""
}

func TestOptions(t *testing.T) {
	for _, bad := range []Options{
		{Internet: netip.MustParsePrefix("10.0.0.0/8")}, {Internet: netip.MustParsePrefix("2001:db8::/32")}, {Delay: -1},
	} {
		if l, err := New(bad); err == nil {
			t.Errorf("made a lab with %+v", bad)
			l.Close()
		}
	}
	for prefix, want := range map[string]string{"203.0.113.0/24": "2001:db8::/32", "45.0.0.0/24": "2a10:4000::/32"} {
		if got := internet6(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("beside %s: %v", prefix, got)
		}
	}
}

func TestAddressesRunOut(t *testing.T) {
	p := pool{prefix: netip.MustParsePrefix("192.0.2.0/29"), next: 2, end: 7}
	for range 5 {
		must(p.take(netip.Addr{}))(t)
	}
	if a, err := p.take(netip.Addr{}); err == nil {
		t.Errorf("gave %v", a)
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// BenchmarkLab makes and removes an internet with six hosts, two of them public, behind three routers.
func BenchmarkLab(b *testing.B) {
	for b.Loop() {
		if err := buildSix(); err != nil {
			b.Fatal(err)
		}
	}
}

func buildSix() (err error) {
	l, err := New(Options{IPv6: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for _, name := range []string{"p1", "p2"} {
		if _, err := l.Public(name); err != nil {
			return err
		}
	}
	carrier, err := l.Router("carrier", NATConfig{CarrierGrade: true}, nil)
	if err != nil {
		return err
	}
	for i, behind := range []*Router{carrier, nil} {
		r, err := l.Router(fmt.Sprint("r", i), NATConfig{Kind: FullCone, IPv6: behind == nil}, behind)
		if err != nil {
			return err
		}
		for j := range 2 {
			if _, err := r.Host(fmt.Sprintf("h%d%d", i, j)); err != nil {
				return err
			}
		}
	}
	return nil
}
