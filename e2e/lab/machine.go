//go:build linux

package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Machine gives a host what namespaces of one machine share otherwise: an /etc and a /run of its own, in a mount namespace of its own. So a
// resolver can be configured in it, with all that belongs to one, and nothing of the real machine changes.
type Machine struct {
	host *Host
	hold *exec.Cmd // has the mount namespace, and lives until the lab is closed
	etc  string
}

// machineScript prepares the mounts, says so, and waits for its end. $1: the folder that becomes /etc. $2: a folder for the new /run. $3: the
// one folder of the old /run that is in the new one, too.
const machineScript = `
mount -n --make-rprivate / && mount -n --bind "$1" /etc &&
mkdir -p "$2" && mount -n -t tmpfs -o mode=755 tmpfs "$2" && mkdir -p "$2/$3" "$2/wireguard" "$2/dbus" &&
mount -n --rbind "/run/$3" "$2/$3" && mount -n --move "$2" /run &&
echo ready && exec sleep 2147483647`

// etcFiles are what programs need of /etc in order to work at all.
var etcFiles = []string{"passwd", "group", "ld.so.cache", "ld.so.conf", "localtime", "services", "protocols", "login.defs"}

// Machine makes it. resolvConf is the content of /etc/resolv.conf, nsswitch the line of /etc/nsswitch.conf for hosts, such as "files dns".
func (h *Host) Machine(resolvConf, nsswitch string) (*Machine, error) {
	m := &Machine{host: h, etc: h.dir + "-etc"} // not in the folder that GiveTo gives away
	if err := os.MkdirAll(m.etc, 0o755); err != nil {
		return nil, fmt.Errorf("make the machine of %s: %w", h.label, err)
	}
	files := map[string]string{
		"resolv.conf": resolvConf, "nsswitch.conf": "passwd: files\ngroup: files\nhosts: " + nsswitch + "\n",
		"hosts": "127.0.0.1 localhost\n::1 localhost\n", "hostname": h.label + "\n", "machine-id": fmt.Sprintf("%032x\n", h.id+1),
	}
	for _, name := range etcFiles {
		if b, err := os.ReadFile("/etc/" + name); err == nil {
			files[name] = string(b)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(m.etc, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("make the machine of %s: %w", h.label, err)
		}
	}
	m.hold = command(context.Background(), h.ns, "sh", "-c", machineScript, "sh", m.etc, h.dir+"-run", filepath.Base(runDir))
	m.hold.Stderr = os.Stderr
	out, err := m.hold.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := m.hold.Start(); err != nil {
		return nil, fmt.Errorf("make the machine of %s: %w", h.label, err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("make the machine of %s: its mounts: %q, %w", h.label, line, m.hold.Wait())
	}
	go func() { _ = m.hold.Wait() }() // ends with the lab, which ends all processes in its namespaces
	return m, nil
}

// Wrap returns what makes a program run in the machine; for AgentConfig.
func (m *Machine) Wrap() []string {
	return []string{"nsenter", "-t", strconv.Itoa(m.hold.Process.Pid), "-m", "--"}
}

// Exec runs a program in the machine and returns its stdout. A failure is a *CommandError.
func (m *Machine) Exec(ctx context.Context, name string, args ...string) ([]byte, error) {
	return output(m.host.label, m.Command(ctx, name, args...), append([]string{name}, args...))
}

// Command prepares a program in the machine.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	all := append(append(m.Wrap(), name), args...)
	return command(ctx, m.host.ns, all[0], all[1:]...)
}

// Gridwire runs the binary in the machine, with its host's state and socket.
func (m *Machine) Gridwire(ctx context.Context, args ...string) (string, error) {
	out, err := m.Exec(ctx, m.host.lab.opts.Binary, m.host.arguments(args)...)
	return strings.TrimSuffix(string(out), "\n"), err
}

// Etc returns the path, outside, of a file in the machine's /etc.
func (m *Machine) Etc(name string) string { return filepath.Join(m.etc, name) }
