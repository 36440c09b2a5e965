//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Host is a machine with one network interface, eth0, and one gridwire: its state, its control socket, its interface.
type Host struct {
	*node
	label     string // of the gridwire on it: the host's name, except for Another's
	dir       string // state folder, log
	socket    string
	wireguard string
}

func (l *Lab) newHost(name string, at Segment, want lease) (*Host, error) {
	n, err := newNode(l, name, "eth0")
	if err != nil {
		return nil, err
	}
	// `ip netns exec` binds this file over /etc/resolv.conf, so that nothing here ever touches the machine's own. With no
	// nameserver in it a lookup fails at once.
	etc := filepath.Join("/etc/netns", n.ns)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	if err := os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("# a host of the lab: no resolver\n"), 0o644); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	h, err := l.installation(n, name, n.id)
	if err != nil {
		return nil, err
	}
	if err := n.plug(at, want); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts = append(l.hosts, h)
	return h, nil
}

// Another returns a second gridwire on the same machine, with state, socket and interface of its own.
func (h *Host) Another(label string) (*Host, error) {
	id, err := h.lab.reserve(label)
	if err != nil {
		return nil, err
	}
	second, err := h.lab.installation(h.node, label, id)
	if err != nil {
		return nil, err
	}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	h.lab.hosts = append(h.lab.hosts, second)
	return second, nil
}

func (l *Lab) installation(n *node, label string, id int) (*Host, error) {
	h := &Host{
		node: n, label: label,
		dir:       filepath.Join(l.opts.Dir, label),
		socket:    filepath.Join(l.self.dir(), label, "agent.sock"), // short: a unix socket's path has at most 107 characters
		wireguard: fmt.Sprintf("%s%d", l.self.interfaces(), id),
	}
	for _, dir := range []string{h.dir, filepath.Dir(h.socket)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make the folders of %s: %w", label, err)
		}
	}
	return h, nil
}

// GiveTo lets an agent that runs as another user write its state, its log and its control socket. Options.Dir must be a folder that
// this user may enter; the default is.
func (h *Host) GiveTo(uid, gid int) error {
	for _, dir := range []string{h.dir, filepath.Dir(h.socket)} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, uid, gid)
		})
		if err != nil {
			return fmt.Errorf("give the folders of %s to user %d: %w", h.label, uid, err)
		}
	}
	return nil
}

// Label returns what tells this gridwire from others in the lab: the host's name, or what Another was given.
func (h *Host) Label() string { return h.label }

// State returns the state folder (--state).
func (h *Host) State() string { return filepath.Join(h.dir, "state") }

// Socket returns the control socket's path (--socket).
func (h *Host) Socket() string { return h.socket }

// Interface returns the name of the WireGuard interface, unique on this machine: namespaces share /run/wireguard.
func (h *Host) Interface() string { return h.wireguard }

// LogFile returns the path of the log of all agents that ran here.
func (h *Host) LogFile() string { return filepath.Join(h.dir, "agent.log") }

// ResolvConf returns the path of the file that this host sees as /etc/resolv.conf.
func (h *Host) ResolvConf() string { return filepath.Join("/etc/netns", h.ns, "resolv.conf") }

// Move unplugs the host and plugs it in elsewhere, where it gets an address: the same interface, another network. A cut or a
// block ends with it.
func (h *Host) Move(to Segment) error { return h.plug(to, lease{}) }

// MoveTo is Move with an address of choice, which a LAN needs.
func (h *Host) MoveTo(to Segment, addr netip.Prefix) error { return h.plug(to, leaseOf(addr)) }

// SetAddr gives the host another IPv4 address in the same place, the next free one if addr is invalid; its IPv6 address changes too.
// On a LAN it sets exactly addr.
func (h *Host) SetAddr(addr netip.Prefix) error {
	next, err := h.at.lease(h.node, leaseOf(addr))
	if err != nil {
		return fmt.Errorf("give %s another address: %w", h.name, err)
	}
	return h.renew(next)
}

// Gridwire runs the binary with this host's state and socket and returns its stdout, without the final newline. A failure is a
// *CommandError with the exit code.
func (h *Host) Gridwire(ctx context.Context, args ...string) (string, error) {
	if h.lab.opts.Binary == "" {
		return "", errors.New("run gridwire in the lab: Options.Binary is not set")
	}
	all := h.arguments(args)
	out, err := output(h.label, command(ctx, h.ns, h.lab.opts.Binary, all...), append([]string{"gridwire"}, args...))
	return strings.TrimSuffix(string(out), "\n"), err
}

// arguments appends this host's state and socket.
func (h *Host) arguments(args []string) []string {
	return append(append([]string(nil), args...), "--state", h.State(), "--socket", h.socket)
}
