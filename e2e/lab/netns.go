//go:build linux

package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	netnsDir = "/run/netns" // where iproute2 keeps named namespaces
	upLimit  = 5 * time.Second
)

// inNamespace runs fn on a thread that is in the namespace ns: sockets that fn opens and processes that it starts belong there.
// Goroutines that fn starts do not.
func inNamespace(ns string, fn func() error) error {
	target, err := os.Open(filepath.Join(netnsDir, ns))
	if err != nil {
		return fmt.Errorf("enter namespace %s: %w", ns, err)
	}
	defer target.Close()
	done := make(chan error, 1)
	go func() { // awaited below
		done <- onThread(target, fn)
	}()
	return <-done
}

func onThread(target *os.File, fn func() error) (err error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w (the lab needs root)", target.Name(), err)
	}
	defer func() {
		// The thread must go back: were it the main thread, the whole process would count as one of the lab's.
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = fmt.Errorf("leave namespace %s: %w", target.Name(), back)
			return // still locked: the runtime ends the thread with the goroutine
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}

// sysctls are what every namespace of the lab starts with; an interface copies "default" when it is made.
var sysctls = []string{
	"ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
	"ipv4/conf/all/accept_redirects=0", "ipv4/conf/default/accept_redirects=0",
	"ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0",
	"ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0", // an address is usable at once
	"ipv6/conf/default/dad_transmits=0",
	"ipv6/conf/all/accept_ra=0", "ipv6/conf/default/accept_ra=0",
}

var (
	forwarding = []string{"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv6/conf/default/forwarding=1"}
	// Frames between two ports of a bridge are the switch's business, not the router's firewall's.
	plainBridge = []string{"bridge/bridge-nf-call-iptables=0", "bridge/bridge-nf-call-ip6tables=0", "bridge/bridge-nf-call-arptables=0"}
	noIPv6      = []string{"ipv6/conf/all/disable_ipv6=1", "ipv6/conf/default/disable_ipv6=1"}
)

// newNamespace makes a namespace with the given settings besides the usual ones.
func newNamespace(ns string, settings ...[]string) error {
	if err := runIP("", "netns add "+ns); err != nil {
		return err
	}
	if err := setSysctls(ns, append([][]string{sysctls}, settings...)...); err != nil {
		return err
	}
	return runIP(ns, "link set lo up")
}

// setSysctls writes settings of the form path=value, below /proc/sys/net of the namespace.
func setSysctls(ns string, lists ...[]string) error {
	return inNamespace(ns, func() error {
		for _, list := range lists {
			for _, s := range list {
				path, value, _ := strings.Cut(s, "=")
				err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0)
				if os.IsNotExist(err) && strings.HasPrefix(path, "bridge/") {
					continue // br_netfilter is not in this kernel: nothing to turn off
				}
				if err != nil {
					return fmt.Errorf("set net/%s to %s in namespace %s: %w", path, value, ns, err)
				}
			}
		}
		return nil
	})
}

// awaitUp waits until the kernel has noticed that the other end of a cable came up. It does so in a worker of its own, and drops
// what is sent before.
func awaitUp(ns, dev string) error {
	return inNamespace(ns, func() error {
		for deadline := time.Now().Add(upLimit); ; time.Sleep(time.Millisecond) {
			link, err := netlink.LinkByName(dev)
			if err != nil {
				return fmt.Errorf("wait for %s in namespace %s: %w", dev, ns, err)
			}
			state := link.Attrs().OperState
			if state == netlink.OperUp {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("wait for %s in namespace %s: it is %v after %v", dev, ns, state, upLimit)
			}
		}
	})
}

// runIP runs lines as one `ip -batch` in the namespace ns, or in this one if ns is empty; it stops at the first that fails.
func runIP(ns string, lines ...string) error { return batchIP(ns, lines, "-batch", "-") }

// tryIP is runIP for cleaning up: it goes on after a line that fails, and nobody minds.
func tryIP(ns string, lines ...string) { _ = batchIP(ns, lines, "-force", "-batch", "-") }

func batchIP(ns string, lines []string, args ...string) error {
	if ns != "" {
		args = append([]string{"-n", ns}, args...)
	}
	return runTool(exec.Command("ip", args...), strings.Join(lines, "\n")+"\n")
}

// runNFT loads a ruleset in the namespace ns.
func runNFT(ns, ruleset string) error {
	return inNamespace(ns, func() error { return runTool(exec.Command("nft", "-f", "-"), ruleset) })
}

func runTool(cmd *exec.Cmd, stdin string) error {
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s\ninput:\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out.Bytes()), stdin)
	}
	return nil
}
