package osconf

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBindMount edits a resolv.conf that is bound over another file, as in containers and under `ip netns exec`, in a mount namespace
// of one thread, which ends with it.
func TestBindMount(t *testing.T) {
	m := newMachine(t)
	m.write(resolvConf, "nameserver 203.0.113.1 # the host's own\n")
	m.write("/outside/resolv.conf", original)
	path, outside := m.env.path(resolvConf), m.env.path("/outside/resolv.conf")
	type result struct {
		skip, edited, back string
		err                error
	}
	done := make(chan result, 1)
	go func() { // the test waits for it; its thread is thrown away, because it is never unlocked
		runtime.LockOSThread()
		var r result
		defer func() { done <- r }()
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			r.skip = err.Error()
			return
		}
		if r.err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); r.err != nil {
			return
		}
		if r.err = unix.Mount(outside, path, "", unix.MS_BIND, ""); r.err != nil {
			return
		}
		// The table of mounts has the path above Root too, so that it does not show: EBUSY has to tell.
		p := &plain{env: m.env}
		s := settings()
		if r.err = p.apply(context.Background(), s); r.err != nil {
			return
		}
		r.edited = readString(path)
		r.err = p.revert(context.Background(), s)
		r.back = readString(path)
	}()
	r := <-done
	if r.skip != "" {
		t.Skip("no mount namespace of its own without root:", r.skip)
	}
	noError(t, r.err)
	if !strings.HasPrefix(r.edited, opener) || !strings.HasSuffix(r.edited, original) {
		t.Errorf("edited:\n%s", r.edited)
	}
	if r.back != original {
		t.Errorf("put back:\n%s", r.back)
	}
	m.wantText(resolvConf, "nameserver 203.0.113.1 # the host's own\n")
	m.wantText("/outside/resolv.conf", original)
	m.wantOnly("/etc", "resolv.conf")
}

func readString(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}
