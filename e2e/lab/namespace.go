//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Namespace is a network namespace on a host with nothing in it but lo: a container, before anybody has connected it.
type Namespace struct {
	host *Host
	ns   string
}

// Inner makes a namespace on this host. It goes with the lab at the latest.
func (h *Host) Inner(label string) (*Namespace, error) {
	n := &Namespace{host: h, ns: h.lab.self.ns(h.label + "-" + label)}
	if err := newNamespace(n.ns); err != nil {
		return nil, fmt.Errorf("make namespace %s of %s: %w", label, h.label, err)
	}
	return n, n.SetResolvConf("# a namespace of the lab: no resolver\n")
}

// Path is what `gridwire workload add --netns` takes.
func (n *Namespace) Path() string { return filepath.Join(netnsDir, n.ns) }

// Name is how `ip netns` calls it.
func (n *Namespace) Name() string { return n.ns }

// SetResolvConf sets what programs in the namespace see as /etc/resolv.conf.
func (n *Namespace) SetResolvConf(text string) error {
	dir := filepath.Join("/etc/netns", n.ns)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte(text), 0o644)
}

// Exec runs a program in the namespace and returns its stdout. A failure is a *CommandError.
func (n *Namespace) Exec(ctx context.Context, name string, args ...string) ([]byte, error) {
	return output(n.host.label+"/"+filepath.Base(n.ns), n.Command(ctx, name, args...), append([]string{name}, args...))
}

// Command prepares a program in the namespace. Whoever starts it waits for it.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return command(ctx, n.ns, name, args...)
}

// Do runs fn on a thread that is in the namespace, as a host's Do does.
func (n *Namespace) Do(fn func() error) error { return inNamespace(n.ns, fn) }

// Delete removes the namespace's name; the namespace ends with the last process in it.
func (n *Namespace) Delete() error {
	_ = os.RemoveAll(filepath.Join("/etc/netns", n.ns))
	return runIP("", "netns delete "+n.ns)
}
