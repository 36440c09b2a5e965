//go:build linux

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// runDir has a folder for each lab of this machine: PID-N, with the file "owner", which tells two processes with one pid apart.
const runDir = "/run/gridwire-lab"

// sweepScript removes one lab. It is shell, so that the keeper process, which must outlive the program that uses the lab, needs
// nothing of that program. $1: lab ID. $2: prefix of its WireGuard interfaces. $3: a pid to spare.
const sweepScript = `
for path in /run/netns/lab-"$1"-*; do
  [ -e "$path" ] || continue
  ns=${path##*/}
  for pid in $(ip netns pids "$ns"); do
    [ "$pid" = "$3" ] || kill -9 "$pid" 2>/dev/null
  done
  ip netns delete "$ns" 2>/dev/null
  rm -rf "/etc/netns/$ns"
done
rm -f /run/wireguard/"$2"*.sock /var/run/wireguard/"$2"*.sock
rm -rf /run/gridwire-lab/"$1"
`

// identity is what makes a lab's names unique on this machine.
type identity struct {
	pid, n int
}

func (i identity) id() string            { return fmt.Sprintf("%d-%d", i.pid, i.n) }
func (i identity) dir() string           { return filepath.Join(runDir, i.id()) }
func (i identity) ns(name string) string { return "lab-" + i.id() + "-" + name }

// interfaces returns the prefix of WireGuard interface names: namespaces share /run/wireguard, and a name has at most 15 characters.
func (i identity) interfaces() string {
	return fmt.Sprintf("gw-%s-%d-", strconv.FormatInt(int64(i.pid), 36), i.n)
}

func (i identity) sweep() error {
	return runTool(exec.Command("sh", "-c", sweepScript, "sh", i.id(), i.interfaces(), strconv.Itoa(os.Getpid())), "")
}

func parseIdentity(name string) (identity, bool) {
	a, b, ok := strings.Cut(name, "-")
	pid, err1 := strconv.Atoi(a)
	n, err2 := strconv.Atoi(b)
	return identity{pid, n}, ok && err1 == nil && err2 == nil
}

// claim takes the next free identity of this process.
func claim() (identity, error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return identity{}, fmt.Errorf("make the folder of labs: %w (the lab needs root)", err)
	}
	for i := (identity{pid: os.Getpid()}); ; i.n++ {
		err := os.Mkdir(i.dir(), 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(i.dir(), "owner"), []byte(startTime(i.pid)), 0o644)
		}
		return i, err
	}
}

// startTime returns when the process started, in ticks since boot as /proc says it; empty if there is no such process.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field, the name in parentheses, may hold anything; starttime is the 20th after it (proc(5), field 22).
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

func (i identity) alive() bool {
	now := startTime(i.pid)
	if now == "" {
		return false
	}
	owner, err := os.ReadFile(filepath.Join(i.dir(), "owner"))
	return err != nil || len(owner) == 0 || string(owner) == now // no owner written yet: being made
}

// Sweep removes what the labs of dead processes left behind: namespaces, processes in them, sockets and folders. New calls it.
func Sweep() error {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for leftover labs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if i, ok := parseIdentity(e.Name()); ok && !i.alive() {
			errs = append(errs, i.sweep())
		}
	}
	return errors.Join(errs...)
}

// keeper is a process that waits for this one to end, in whatever way, and then removes the lab.
type keeper struct {
	cmd  *exec.Cmd
	hold *os.File // write end of the pipe it reads; closed by the kernel when we die
}

func startKeeper(i identity) (*keeper, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the keeper's pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command("sh", "-c", "cat >/dev/null\n"+sweepScript, "sh", i.id(), i.interfaces(), strconv.Itoa(i.pid))
	cmd.Stdin = r
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is not for it
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start the lab's keeper: %w", err)
	}
	return &keeper{cmd: cmd, hold: w}, nil
}

// stop lets the keeper do its work now and waits for it.
func (k *keeper) stop() error {
	k.hold.Close()
	return k.cmd.Wait()
}
