package osconf

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestForeignNamespace: in a network namespace of its own a program leaves the machine's resolver alone, and what is bound over it not.
func TestForeignNamespace(t *testing.T) {
	if _, err := os.Stat(resolvConf); err != nil {
		t.Skip("no resolv.conf here to leave alone:", err)
	}
	target, err := filepath.EvalSymlinks(resolvConf)
	if _, own := ownNamespace(); err != nil || strings.HasPrefix(target, "/run/") || own {
		t.Skip("only on a machine with a resolv.conf in /etc, and in its own network namespace:", target, err)
	}
	other := filepath.Join(t.TempDir(), "resolv.conf")
	noError(t, os.WriteFile(other, []byte(original), 0o644))
	type result struct {
		skip          error
		before, after bool
		detect        error
		restored      []string
		restore, err  error
	}
	done := make(chan result, 1)
	go func() { // the test waits for it; its thread is thrown away, because it is never unlocked
		runtime.LockOSThread()
		var r result
		defer func() { done <- r }()
		if r.skip = unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWNET); r.skip != nil {
			return
		}
		if r.err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); r.err != nil {
			return
		}
		// A name for the namespace, as `ip netns` gives it, for where not even root may look at the first process.
		if r.err = unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); r.err != nil {
			return
		}
		if r.err = errors.Join(os.Mkdir("/run/netns", 0o755), os.WriteFile("/run/netns/test", nil, 0o644)); r.err != nil {
			return
		}
		if r.err = unix.Mount("/proc/thread-self/ns/net", "/run/netns/test", "", unix.MS_BIND, ""); r.err != nil {
			return
		}
		r.before = shared(resolvConf)
		_, r.detect = Detect(System(nil))
		r.restored, r.restore = Restore(context.Background(), System(nil))
		if r.err = unix.Mount(other, target, "", unix.MS_BIND, ""); r.err == nil {
			r.after = shared(target)
		}
	}()
	r := <-done
	if r.skip != nil {
		t.Skip("no namespace of its own without root:", r.skip)
	}
	noError(t, r.err)
	if !r.before || r.after {
		t.Errorf("the machine's resolv.conf counts as shared: %v; one bound over it: %v", r.before, r.after)
	}
	if !errors.Is(r.detect, ErrUnsupported) || r.restored != nil || r.restore != nil {
		t.Errorf("Detect: %v; Restore: %q, %v", r.detect, r.restored, r.restore)
	}
}

// TestSharedIsLeftAlone: marks of interfaces in other namespaces look dead from here.
func TestSharedIsLeftAlone(t *testing.T) {
	m := newMachine(t)
	conf := block("gw9", "nameserver fd12::1\n") + original
	m.write(resolvConf, conf)
	m.write(dnsmasqFile("gw9"), block("gw9", "server=/farm.internal/fd12::1\n"))
	m.write(resolvconfFolder+"/interface/gw9"+recordSuffix, "nameserver fd12::1\n")
	m.env.Run = func(context.Context, string, string, ...string) (string, error) {
		t.Error("a program was run")
		return "", nil
	}
	m.env.Shared = func(string) bool { return true }
	done, err := Restore(context.Background(), m.env)
	noError(t, err)
	if done != nil {
		t.Errorf("restored %q", done)
	}
	m.wantText(resolvConf, conf)
	m.wantOnly(nmFolder, "gridwire-gw9.conf")
	_, err = Detect(m.env)
	wantError(t, err, "network namespace of its own")
}

func TestParent(t *testing.T) {
	if got, want := parent("self"), strconv.Itoa(os.Getppid()); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := parent("nobody"); got != "" {
		t.Errorf("a process that is not there has the parent %q", got)
	}
}

func TestServers(t *testing.T) {
	m := newMachine(t)
	if got := Servers(m.env); got != nil {
		t.Errorf("without a file: %v", got)
	}
	m.write(resolvConf, block("gw0", "nameserver fd12::1\n")+"nameserver 192.0.2.1\nnameserver 2001:db8::1\n")
	if got, want := Servers(m.env), []netip.Addr(addrs("192.0.2.1", "2001:db8::1")); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
