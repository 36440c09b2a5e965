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

// MachineConfig says what is on a machine.
type MachineConfig struct {
	ResolvConf string   // content of /etc/resolv.conf
	Hosts      string   // sources of names in /etc/nsswitch.conf, such as "files dns"
	Packages   []string // folders with unpacked Debian packages (e2e/unpack), which are as if they were installed
	Users      []string // further lines of /etc/passwd
}

// machineScript prepares the mounts, says so, and waits for its end. $1: the folder that becomes /etc. $2: a folder for the new /run. $3: the
// one folder of the old /run that is in the new one, too. $4: a folder whose files are added to /usr, or nothing.
const machineScript = `
mount -n --make-rprivate / && mount -n --bind "$1" /etc &&
{ [ -z "$4" ] || mount -n -t overlay -o lowerdir="$4":/usr overlay /usr; } &&
mkdir -p "$2" && mount -n -t tmpfs -o mode=755 tmpfs "$2" && mkdir -p "$2/$3" "$2/wireguard" "$2/dbus" "$2/systemd" &&
mount -n --rbind "/run/$3" "$2/$3" && mount -n --move "$2" /run &&
echo ready && exec sleep 2147483647`

// etcFiles are what programs need of /etc in order to work at all.
var etcFiles = []string{"passwd", "group", "ld.so.cache", "ld.so.conf", "localtime", "services", "protocols", "login.defs"}

// Machine makes it.
func (h *Host) Machine(c MachineConfig) (*Machine, error) {
	m := &Machine{host: h, etc: h.dir + "-etc"} // not in the folder that GiveTo gives away
	fail := func(err error) (*Machine, error) { return nil, fmt.Errorf("make the machine of %s: %w", h.label, err) }
	if err := os.MkdirAll(m.etc, 0o755); err != nil {
		return fail(err)
	}
	usr, err := m.install(c.Packages)
	if err != nil {
		return fail(err)
	}
	files := map[string]string{
		"resolv.conf": c.ResolvConf, "nsswitch.conf": "passwd: files\ngroup: files\nhosts: " + c.Hosts + "\n",
		"hosts": "127.0.0.1 localhost\n::1 localhost\n", "hostname": h.label + "\n", "machine-id": fmt.Sprintf("%032x\n", h.id+1),
	}
	for _, name := range etcFiles {
		if b, err := os.ReadFile("/etc/" + name); err == nil {
			files[name] = string(b)
		}
	}
	for _, line := range c.Users {
		files["passwd"] += line + "\n"
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(m.etc, name), []byte(text), 0o644); err != nil {
			return fail(err)
		}
	}
	m.hold = command(context.Background(), h.ns, "sh", "-c", machineScript, "sh", m.etc, h.dir+"-run", filepath.Base(runDir), usr)
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

// install puts what packages have in /etc there, and returns a folder with what they have in /usr. On Debian /bin, /sbin and /lib are in
// /usr, too, whatever an older package says.
func (m *Machine) install(packages []string) (usr string, err error) {
	if len(packages) == 0 {
		return "", nil
	}
	usr = m.host.dir + "-usr"
	for _, p := range packages {
		for from, to := range map[string]string{"etc": m.etc, "usr": usr, "bin": usr + "/bin", "sbin": usr + "/sbin", "lib": usr + "/lib"} {
			from = filepath.Join(p, from)
			if _, err := os.Stat(from); err != nil {
				continue
			}
			if err := os.MkdirAll(to, 0o755); err != nil {
				return "", err
			}
			if err := runTool(exec.Command("cp", "-a", from+"/.", to), ""); err != nil {
				return "", err
			}
		}
	}
	return usr, nil
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
