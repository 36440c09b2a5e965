package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The bits of capability(7).
const (
	capNetBindService = 10
	capNetAdmin       = 12
)

// rights looks at this process where no agent runs: a running one has what it needs, or it would have ended with a sentence.
func (m Machine) rights(s Subject) Result {
	r := Result{Topic: "rights"}
	if (s.running() || s.forbidden()) && !m.Root {
		return ok("rights", "the running agent has what it needs")
	}
	b, err := m.ReadFile("/proc/self/status")
	if err != nil {
		return fail(r, Warn, "cannot read /proc/self/status: "+err.Error(), "")
	}
	var eff uint64
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			eff, err = strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			if err != nil {
				return fail(r, Warn, "cannot read this process's capabilities", "")
			}
		}
	}
	var lacking []string
	for _, c := range []struct {
		bit  int
		name string
	}{{capNetAdmin, "CAP_NET_ADMIN"}, {capNetBindService, "CAP_NET_BIND_SERVICE"}} {
		if eff>>c.bit&1 == 0 {
			lacking = append(lacking, c.name)
		}
	}
	if len(lacking) > 0 {
		return fail(r, Warn, "this shell lacks "+strings.Join(lacking, " and ")+", which the agent needs",
			"run the agent as the systemd service (`make install` sets it up), or with sudo; in a container: --cap-add NET_ADMIN")
	}
	return ok("rights", "CAP_NET_ADMIN and CAP_NET_BIND_SERVICE are there")
}

func (m Machine) tun() Result {
	r := Result{Topic: "/dev/net/tun"}
	info, err := m.Stat("/dev/net/tun")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.Fix = m.command("modprobe", "tun")
		return fail(r, Bad, "is missing, so no overlay interface can be made",
			"modprobe tun; in a container: start it with --device /dev/net/tun; on a VPS: ask the provider to enable TUN/TAP")
	case err != nil:
		return fail(r, Bad, err.Error(), "")
	case info.Mode()&fs.ModeCharDevice == 0:
		return fail(r, Bad, "is no device", "rm /dev/net/tun; mkdir -p /dev/net; mknod -m 666 /dev/net/tun c 10 200")
	}
	if info.Mode().Perm()&0o006 != 0o006 {
		r.Fix = func(context.Context) error { return m.Chmod("/dev/net/tun", 0o666) }
		return fail(r, Warn, fmt.Sprintf("has mode %#o: only root may open it, and the service is not root (the kernel asks for CAP_NET_ADMIN besides)", info.Mode().Perm()),
			"chmod 0666 /dev/net/tun")
	}
	return ok("/dev/net/tun", "is there")
}

// kernel tells whether the kernel could do WireGuard. gridwire does it itself, so neither answer is a fault.
func (m Machine) kernel(ctx context.Context) Result {
	const topic = "WireGuard in the kernel"
	if _, err := m.Stat("/sys/module/wireguard"); err == nil {
		return ok(topic, "is loaded; this version of gridwire does not use it but its own (userspace)")
	}
	if _, err := m.Run(ctx, "modprobe", "-n", "wireguard"); err == nil {
		return ok(topic, "could be loaded; this version of gridwire does not use it but its own (userspace)")
	}
	return ok(topic, "is not there, and not needed: gridwire brings its own (userspace)")
}

// earliest is a moment before this program was written: a clock behind it is wrong.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (m Machine) clock(s Subject) Result {
	r := Result{Topic: "clock"}
	now := m.Now()
	if now.Before(earliest) {
		r.Fix = m.command("timedatectl", "set-ntp", "true")
		return fail(r, Warn, "says "+now.Format("2 January 2006")+", which is in the past; gridwire copes, other programs may not",
			"timedatectl set-ntp true")
	}
	if s.running() {
		for _, w := range s.Status.Warnings {
			if strings.Contains(w, "clock") {
				return fail(r, Warn, w, "timedatectl set-ntp true, on the machine whose clock is wrong")
			}
		}
	}
	text := now.Format(time.RFC3339)
	if s.member() && len(s.Status.Peers) > 0 {
		text += "; no member's clock differs by more than five minutes"
	}
	return ok("clock", text)
}

func (m Machine) stateFolder(state string) Result {
	r := Result{Topic: "state folder"}
	info, err := m.Stat(state)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok("state folder", state+" is not there yet")
	case errors.Is(err, fs.ErrPermission):
		return fail(r, Warn, "no permission to look into "+state, "run this with sudo to have its modes checked")
	case err != nil:
		return fail(r, Bad, err.Error(), "")
	case info.Mode().Perm()&0o077 != 0:
		r.Fix = func(context.Context) error { return m.Chmod(state, 0o700) }
		return fail(r, Bad, fmt.Sprintf("%s has mode %#o: others on this machine can read its keys, and the agent refuses to start", state, info.Mode().Perm()), "chmod 700 "+state)
	}
	entries, err := m.ReadDir(state)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return fail(r, Bad, err.Error(), "")
	}
	var wide []string
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			wide = append(wide, filepath.Join(state, e.Name()))
		}
	}
	if len(wide) > 0 {
		r.Fix = func(context.Context) (err error) {
			for _, path := range wide {
				err = errors.Join(err, m.Chmod(path, 0o600))
			}
			return err
		}
		return fail(r, Bad, "others on this machine can read what is for the agent alone: "+strings.Join(wide, ", "), "chmod 600 "+strings.Join(wide, " "))
	}
	return ok("state folder", state+" is private")
}

// Limits for the file system of the state folder. The agent writes a few megabytes; a full disk costs certificates that cannot be stored.
const (
	diskBad  = 5 << 20
	diskWarn = 50 << 20
)

func (m Machine) disk(state string) Result {
	r := Result{Topic: "disk"}
	path := state
	for {
		if _, err := m.Stat(path); err == nil || path == filepath.Dir(path) {
			break
		}
		path = filepath.Dir(path)
	}
	n, err := m.Free(path)
	switch {
	case err != nil:
		return fail(r, Warn, fmt.Sprintf("cannot tell how much room %s has: %v", path, err), "")
	case n < diskBad:
		return fail(r, Bad, fmt.Sprintf("%s has %d KiB left: a renewed certificate cannot be stored", path, n>>10), "free some room there: df -h "+path)
	case n < diskWarn:
		return fail(r, Warn, fmt.Sprintf("%s has only %d MiB left", path, n>>20), "free some room there: df -h "+path)
	}
	return ok("disk", fmt.Sprintf("%s has room (%d MiB)", path, n>>20))
}
