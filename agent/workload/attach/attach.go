// Package attach connects a network namespace to the mesh: it does what the agent may not (CAP_SYS_ADMIN, to enter the namespace) and the
// agent's caller may, the command line or the CNI plugin, run as root.
//
// It asks the agent for a plan, makes a pair of veth interfaces with one end in the namespace, gives that end its addresses and routes, and
// tells the agent to publish. After any error nothing of it is left. It owns nothing: once attached, the host's end is the agent's, and it
// vanishes with the namespace.
package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/api"
)

// Request says what to attach.
type Request struct {
	api.WorkloadRequest        // Netns: a path, or the name of one in /run/netns
	Ifname              string // of the interface in the namespace
}

// Result is what was made.
type Result struct {
	Plan     api.WorkloadPlan
	Workload api.Workload
	Netns    string           // its path
	MAC      net.HardwareAddr // in the namespace
	HostMAC  net.HardwareAddr
}

// cancelLimit bounds the undoing, which must happen also when the caller's time is over.
const cancelLimit = 5 * time.Second

// Attach attaches a namespace and publishes its name. Errors of the agent are *api.Error or api.ErrNoAgent.
func Attach(ctx context.Context, c *api.Client, r Request) (_ *Result, err error) {
	if os.Geteuid() != 0 {
		return nil, &api.Error{Code: api.CodeRefused, Message: "attaching a namespace takes root, to enter it: run this command with sudo"}
	}
	ns, err := openNamespace(&r.Netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := checkIfname(r.Ifname); err != nil {
		return nil, err
	}
	res := &Result{Netns: r.Netns}
	if err := c.Post(ctx, "/v1/workloads/plan", r.WorkloadRequest, &res.Plan); err != nil {
		return nil, err
	}
	ref := api.WorkloadRef{Name: res.Plan.Name}
	defer func() {
		if err != nil {
			cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelLimit)
			defer cancel()
			remove(res.Plan.Interface)
			_ = c.Post(cctx, "/v1/workloads/cancel", ref, nil) // a plan ends by itself
		}
	}()
	if err := sameNamespace(&res.Plan, ns); err != nil {
		return nil, err
	}
	if err := connect(res, ns, r.Ifname); err != nil {
		return nil, err
	}
	return res, c.Post(ctx, "/v1/workloads/commit", ref, &res.Workload)
}

func refuse(format string, args ...any) error {
	return &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf(format, args...)}
}

// openNamespace opens a network namespace, and makes path the path that was opened.
func openNamespace(path *string) (*os.File, error) {
	if *path != "" && !strings.Contains(*path, "/") { // as ip netns names them
		*path = filepath.Join("/run/netns", *path)
	}
	f, err := os.Open(*path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, refuse("there is no network namespace %s: want a path such as /run/netns/web or /proc/PID/ns/net, or a name that `ip netns` lists", *path)
	case err != nil:
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	// A file of the kernel's nsfs is a namespace; the ioctl says of which kind (ioctl_ns(2)). On any other file it may do anything: look first.
	var fs unix.Statfs_t
	err = unix.Fstatfs(int(f.Fd()), &fs)
	if err == nil && fs.Type == unix.NSFS_MAGIC {
		var kind int
		if kind, err = unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err == nil && kind == unix.CLONE_NEWNET {
			return f, nil
		}
	}
	_ = f.Close()
	return nil, refuse("%s is no network namespace: want a path such as /run/netns/web or /proc/PID/ns/net", *path)
}

func inode(f *os.File) (uint64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Sys().(*syscall.Stat_t).Ino, nil
}

// sameNamespace checks that this process is where the agent is, and the namespace to attach is not.
func sameNamespace(p *api.WorkloadPlan, ns *os.File) error {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("look at this process's own namespace: %w", err)
	}
	defer own.Close()
	here, err := inode(own)
	if err != nil {
		return fmt.Errorf("look at this process's own namespace: %w", err)
	}
	there, err := inode(ns)
	switch {
	case err != nil:
		return fmt.Errorf("look at the namespace: %w", err)
	case there == p.Namespace:
		return refuse("that is the namespace in which the agent runs: what listens there is reached by the node's own name")
	case here != p.Namespace:
		return refuse("this command runs in another network namespace than the agent, so it cannot connect anything to it: run it where the agent runs")
	}
	return nil
}

func checkIfname(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n%") {
		return refuse("interface name %q: want 1 to %d characters without blanks, / and :", name, unix.IFNAMSIZ-1)
	}
	return nil
}

// connect makes the pair and configures the end in the namespace.
func connect(res *Result, ns *os.File, ifname string) error {
	p := &res.Plan
	remove(p.Interface)
	err := inside(ns, func() error {
		if _, err := netlink.LinkByName(ifname); err == nil {
			return refuse("the namespace %s has an interface %s already; is it attached already? Another name: --ifname NAME", res.Netns, ifname)
		}
		return nil
	})
	if err != nil {
		return err
	}
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: p.Interface, MTU: p.MTU})
	veth.PeerName, veth.PeerNamespace, veth.PeerMTU = ifname, netlink.NsFd(ns.Fd()), uint32(p.MTU)
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make interface %s with its other end %s in %s: %w", p.Interface, ifname, res.Netns, err)
	}
	host, err := netlink.LinkByName(p.Interface)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", p.Interface, err)
	}
	res.HostMAC = host.Attrs().HardwareAddr
	return inside(ns, func() error {
		mac, err := configure(p, ifname)
		res.MAC = mac
		if err != nil {
			return fmt.Errorf("configure %s in %s: %w", ifname, res.Netns, err)
		}
		return nil
	})
}

func remove(iface string) {
	if l, err := netlink.LinkByName(iface); err == nil && l.Type() == "veth" {
		_ = netlink.LinkDel(l)
	}
}

// inside runs f on a thread in the namespace, and ends the thread: it need not find back.
func inside(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() { // awaited below
		runtime.LockOSThread() // never unlocked
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace (this takes CAP_SYS_ADMIN): %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// configure runs inside.
func configure(p *api.WorkloadPlan, ifname string) (net.HardwareAddr, error) {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return nil, err
	}
	mac := link.Attrs().HardwareAddr
	// Container runtimes turn IPv6 off by default; this interface is nothing without it.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+ifname+"/disable_ipv6", []byte("0"), 0); err != nil {
		return mac, fmt.Errorf("turn IPv6 on: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return mac, fmt.Errorf("bring it up: %w", err)
	}
	if lo, err := netlink.LinkByName("lo"); err == nil { // of a new namespace it is down, and nobody reaches itself
		if err := netlink.LinkSetUp(lo); err != nil {
			return mac, fmt.Errorf("bring lo up: %w", err)
		}
	}
	has4 := false
	for _, s := range p.Addresses {
		a, err := netip.ParsePrefix(s)
		if err != nil {
			return mac, fmt.Errorf("the agent's plan: %w", err)
		}
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // nobody else is on this link
		}
		has4 = has4 || a.Addr().Is4()
		if err := netlink.AddrReplace(link, addr); err != nil {
			return mac, fmt.Errorf("add address %v: %w", a, err)
		}
	}
	return mac, addRoutes(p, link, has4)
}

func addRoutes(p *api.WorkloadPlan, link netlink.Link, has4 bool) error {
	gw, err := netip.ParseAddr(p.Gateway)
	if err != nil {
		return fmt.Errorf("the agent's plan: %w", err)
	}
	add := func(s string, always bool) error {
		dst, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("the agent's plan: %w", err)
		}
		if dst.Addr().Is4() && !has4 {
			return nil // nothing to send from
		}
		if !always && inTheWay(dst) {
			return nil
		}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst)}
		if dst.Addr().Is6() {
			r.Gw = gw.AsSlice()
		} else {
			r.Via = &netlink.Via{AddrFamily: netlink.FAMILY_V6, Addr: gw.AsSlice()}
		}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("add the route to %v: %w", dst, err)
		}
		return nil
	}
	for _, s := range p.Overlay {
		if err := add(s, true); err != nil {
			return err
		}
	}
	for _, s := range p.Routes {
		if err := add(s, false); err != nil {
			return err
		}
	}
	return nil
}

// inTheWay reports whether the namespace has another route into a prefix than its default one: its own networks come first.
func inTheWay(dst netip.Prefix) bool {
	family := netlink.FAMILY_V6
	if dst.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	routes, err := netlink.RouteList(nil, family)
	if err != nil {
		return true
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		if ok && ones > 1 && netip.PrefixFrom(a.Unmap(), ones).Overlaps(dst) {
			return true
		}
	}
	return false
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
