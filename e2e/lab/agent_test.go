//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func agentLab(t *testing.T) (*Lab, *Host) {
	t.Helper()
	l := newLab(t, Options{Binary: must(os.Executable())(t), Dir: t.TempDir()})
	return l, must(l.Public("alice"))(t)
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestAgent(t *testing.T) {
	_, h := agentLab(t)
	a := must(h.StartAgentWith(AgentConfig{Args: []string{"--page", "off"}, Env: []string{"EXTRA=clock"}, Wrap: []string{"env", "-u", "HOME"}}))(t)
	check(t, a.WaitReady(within(t)))
	for _, want := range []string{
		"agent --page off", "--state " + h.State(), "--socket " + h.Socket(), "--interface " + h.Interface(), "--log-level debug", "clock",
	} {
		if !strings.Contains(a.Log(), want) {
			t.Errorf("no %q in the log:\n%s", want, a.Log())
		}
	}
	check(t, a.Stop())
	check(t, a.Stop()) // again: nothing to do
	if a.Running() || !strings.Contains(a.Log(), "stopped") {
		t.Errorf("running %v, log:\n%s", a.Running(), a.Log())
	}

	next := must(h.StartAgent("--interface=gw0", "--log-level", "info"))(t)
	check(t, next.WaitReady(within(t)))
	if log := next.Log(); strings.Contains(log, "stopped") || strings.Contains(log, h.Interface()) || strings.Contains(log, "debug") {
		t.Errorf("the second agent's log:\n%s", log)
	}
	next.Kill()
	if err := next.Wait(within(t)); err == nil || next.Running() {
		t.Errorf("killed, running %v, error %v", next.Running(), err)
	}
}

func TestAgentThatFails(t *testing.T) {
	_, h := agentLab(t)
	a := must(h.StartAgent("--listen", "0"))(t)
	if err := a.WaitReady(within(t)); err == nil || !strings.Contains(err.Error(), "a port is 1 to 65535") || !strings.Contains(err.Error(), "exit status 2") {
		t.Errorf("error: %v", err)
	}
	running := must(h.StartAgent())(t)
	ctx, cancel := context.WithTimeout(within(t), time.Millisecond)
	defer cancel()
	if err := running.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error: %v", err)
	}
}

func TestGridwire(t *testing.T) {
	l, h := agentLab(t)
	_, err := h.Gridwire(within(t), "wait", "--all")
	var failed *CommandError
	if !errors.As(err, &failed) || failed.Code != 5 || !strings.Contains(failed.Stderr, "no link to [--all") {
		t.Errorf("error: %+v", err)
	}
	s := must(h.Status(within(t)))(t)
	if bob, ok := s.Peer("bob"); !ok || bob.State != "connected" || s.Network.Name != "farm" || s.Self.ListenPort != 51820 {
		t.Errorf("status: %+v", s)
	}
	check(t, l.Ping(within(t), h, "bob", 2)) // by name: the stand-in says it is 127.0.0.1
	if err := l.Ping(within(t), h, "nobody", 1); err == nil {
		t.Error("pinged nobody")
	}
	must(l.WaitPing(within(t), h, "bob"))(t)
}

func TestAnother(t *testing.T) {
	_, h := agentLab(t)
	second := must(h.Another("second"))(t)
	if second.State() == h.State() || second.Socket() == h.Socket() || second.Interface() == h.Interface() || second.Namespace() != h.Namespace() {
		t.Errorf("first %+v, second %+v", h, second)
	}
	check(t, must(second.StartAgent())(t).WaitReady(within(t)))
}

// TestOtherUser runs an agent without root; the lab's default folder lets it in.
func TestOtherUser(t *testing.T) {
	const nobody = 65534
	l := newLab(t, Options{Binary: "/bin/sh"})
	h := must(l.Public("alice"))(t)
	check(t, h.GiveTo(nobody, nobody))
	script := "mkdir " + h.State() + " && touch " + h.Socket() + " && echo written by $(id -u)"
	a := must(h.StartAgentWith(AgentConfig{Wrap: []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script}}))(t)
	if err := a.Wait(within(t)); err != nil || !strings.Contains(a.Log(), "written by 65534") {
		t.Errorf("error %v, log:\n%s", err, a.Log())
	}
}

func TestResolver(t *testing.T) {
	_, h := agentLab(t)
	machine := must(os.ReadFile("/etc/resolv.conf"))(t)
	must(h.Exec(within(t), "sh", "-c", "echo nameserver 192.0.2.1 >/etc/resolv.conf"))(t)
	if got := must(os.ReadFile(h.ResolvConf()))(t); string(got) != "nameserver 192.0.2.1\n" {
		t.Errorf("the host's: %q", got)
	}
	if now := must(os.ReadFile("/etc/resolv.conf"))(t); !bytes.Equal(now, machine) {
		t.Errorf("the machine's resolver was changed to %q", now)
	}
}

func TestDump(t *testing.T) {
	l, h := agentLab(t)
	r := must(l.Router("r", NATConfig{Kind: FullCone}, nil))(t)
	bob := must(r.Host("bob"))(t)
	through(udp(t, bob, 51820), udp(t, h, 51820))
	check(t, must(h.StartAgent())(t).WaitReady(within(t)))
	ended := must(bob.StartAgent("--listen", "0"))(t)
	if err := ended.Wait(within(t)); err == nil {
		t.Error("no error")
	}
	var b bytes.Buffer
	l.Dump(&b)
	for _, want := range []string{"started [agent", `"name":"farm"`, "explain eve\nboth are behind", "ended (exit status 2)", "sport=51820", "51820 expires", h.Addr().String() + "/32"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}
