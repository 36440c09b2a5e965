// Package nstest runs a test binary in network namespaces of its own, for tests that change interfaces, routes or the firewall.
//
// Main starts the test binary a second time in a fresh network and mount namespace, as a whole process, because goroutines move
// between threads and a namespace belongs to a thread. There /run and /dev/net are private, so nothing meets the machine's own WireGuard
// sockets. Further hosts are child processes in namespaces of their own (Start), playing a role that the package's TestMain names. All
// namespaces are nameless and end with their processes. Without root the tests that need this skip themselves (Require).
package nstest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	envInside = "GRIDWIRE_NSTEST_INSIDE"
	envRole   = "GRIDWIRE_NSTEST_ROLE"
)

// Role is what a child process does. It reads commands from in until EOF, answers on out, and reports readiness by its first line.
type Role func(in *bufio.Scanner, out io.Writer, args []string) error

// Main is for a package's TestMain: it returns the exit code of run, which is called in the namespace.
func Main(run func() int, roles map[string]Role) int {
	if role := os.Getenv(envRole); role != "" {
		return play(role, roles)
	}
	if os.Getenv(envInside) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "preparing the test's namespace:", err)
			return 1
		}
		return run()
	}
	if os.Getuid() != 0 || fuzzing() {
		return run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	return exitCode(cmd.Run())
}

// fuzzing: the fuzzing engine talks to its workers through inherited descriptors; its targets are pure.
func fuzzing() bool {
	for _, a := range os.Args[1:] {
		if strings.HasPrefix(a, "-test.fuzz=") || strings.HasPrefix(a, "-test.fuzzworker") {
			return true
		}
	}
	return false
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "running the tests in a namespace:", err)
	return 1
}

func play(role string, roles map[string]Role) int {
	f, ok := roles[role]
	if !ok {
		fmt.Fprintf(os.Stderr, "no role %q\n", role)
		return 1
	}
	if os.Getuid() == 0 { // others stay in the test's network namespace, where it is up
		if err := loopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := f(bufio.NewScanner(os.Stdin), os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "role %s: %v\n", role, err)
		return 1
	}
	return 0
}

// furnish makes the mount namespace private, with an empty /run and a /dev/net whose tun every user may open, as Debian has it.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := os.MkdirAll("/dev/net", 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/dev/net"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mounting a private %s: %w", dir, err)
		}
	}
	if err := MakeTUN(); err != nil {
		return err
	}
	return loopbackUp()
}

// MakeTUN makes /dev/net/tun (major 10, minor 200) in the private /dev/net.
func MakeTUN() error {
	const path = "/dev/net/tun"
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	return os.Chmod(path, 0o666)
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Require skips the test if it does not run in a namespace of its own.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(envInside) == "" {
		t.Skip("needs root, to make network namespaces")
	}
}

// Host is a child process in a network namespace of its own.
type Host struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// Options of Start.
type Options struct {
	UID         int       // the child's user; 0: root
	Ambient     []uintptr // capabilities that a child which is not root keeps
	SameNetwork bool      // stay in the test's own network namespace
	Args        []string
	// Prepare is called once the namespace is there and before the child goes on with its role, for instance to move interfaces into it.
	Prepare func(pid int) error
	Wrong   bool // the role is expected to fail: the test reads why with Host.Line
}

// Start starts a child, which ends with the test.
func Start(t testing.TB, role string, o Options) *Host {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", o.Args...)
	cmd.Env = append(os.Environ(), envRole+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL, AmbientCaps: o.Ambient}
	if o.SameNetwork {
		cmd.SysProcAttr.Cloneflags = 0
	}
	if o.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.UID), NoSetGroups: true}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting role %s: %v", role, err)
	}
	h := &Host{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() {
		_ = in.Close() // the role ends at EOF
		if err := cmd.Wait(); err != nil && !o.Wrong {
			t.Logf("role %s: %v", role, err)
		}
	})
	if o.Prepare != nil {
		if err := o.Prepare(cmd.Process.Pid); err != nil {
			t.Fatalf("preparing role %s: %v", role, err)
		}
	}
	return h
}

// PID returns the child's process ID.
func (h *Host) PID() int { return h.cmd.Process.Pid }

// Tell sends a command and returns the answer, one line each.
func (h *Host) Tell(command string) string {
	h.t.Helper()
	if _, err := io.WriteString(h.in, command+"\n"); err != nil {
		h.t.Fatalf("telling a host %q: %v", command, err)
	}
	return h.Line()
}

// Line waits for a line from the child.
func (h *Host) Line() string {
	h.t.Helper()
	if !h.out.Scan() {
		h.t.Fatalf("a host ended without an answer: %v", h.out.Err())
	}
	return h.out.Text()
}

// Veth makes a pair of interfaces for the duration of the test: one end here, up and with these addresses (Configure), the other in the
// namespace of process pid.
func Veth(t testing.TB, name, peer string, pid int, addrs ...string) netlink.Link {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = name
	link := &netlink.Veth{LinkAttrs: a, PeerName: peer, PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatalf("making veth %s with its peer in process %d: %v", name, pid, err)
	}
	// A namespace's interfaces outlive its last process for a moment, so their end is not waited for.
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	if err := Configure(name, addrs...); err != nil {
		t.Fatal(err)
	}
	made, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Join makes a veth pair between two processes' namespaces.
func Join(nameA string, pidA int, nameB string, pidB int) error {
	a := netlink.NewLinkAttrs()
	a.Name, a.Namespace = nameA, netlink.NsPid(pidA)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: nameB, PeerNamespace: netlink.NsPid(pidB)}); err != nil {
		return fmt.Errorf("making a veth between processes %d and %d: %w", pidA, pidB, err)
	}
	return nil
}

// Configure gives an interface addresses, in CIDR notation and without duplicate address detection, and brings it up.
func Configure(name string, addrs ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, s := range addrs {
		addr, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(l, addr); err != nil {
			return fmt.Errorf("adding %s to %s: %w", s, name, err)
		}
	}
	return netlink.LinkSetUp(l)
}
