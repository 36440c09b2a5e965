// Package doctor checks whether this machine lets the agent do its work, and says in plain words what to do where it does not.
//
// Check only reads: files, the routing table, and the state of ufw or firewalld. What it can mend without taking a decision that is the
// owner's (a firewall's rules are), a Result carries as Fix.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/config"
	"github.com/gridwire/gridwire/agent/route"
)

// Grade is how a check ended.
type Grade string

// The grades.
const (
	OK   Grade = "ok"
	Warn Grade = "warning"
	Bad  Grade = "problem"
)

// Result is one check's outcome.
type Result struct {
	Topic   string
	Grade   Grade
	Finding string
	Remedy  string                      // a command or a sentence; empty where nothing is to be done
	Fix     func(context.Context) error // does it; nil where the owner has to
}

// Machine is what the checks look at; tests hand in another one.
type Machine struct {
	ReadFile func(string) ([]byte, error)
	Stat     func(string) (fs.FileInfo, error)
	Chmod    func(string, fs.FileMode) error
	// Run returns a command's standard output, fs.ErrNotExist (wrapped) when the program is not installed.
	Run   func(ctx context.Context, name string, args ...string) (string, error)
	Clash func(pool netip.Prefix, iface string) (string, error)
	Now   func() time.Time
	Root  bool
}

// System is the machine this program runs on.
func System() Machine {
	return Machine{
		ReadFile: os.ReadFile,
		Stat:     os.Stat,
		Chmod:    os.Chmod,
		Run: func(ctx context.Context, name string, args ...string) (string, error) {
			path, err := exec.LookPath(name)
			if err != nil {
				return "", fmt.Errorf("%s: %w", name, fs.ErrNotExist)
			}
			out, err := exec.CommandContext(ctx, path, args...).Output()
			return string(out), err
		},
		Clash: route.Clash,
		Now:   time.Now,
		Root:  os.Geteuid() == 0,
	}
}

// Check runs every check. status is the agent's, or nil or empty when none is running.
func Check(ctx context.Context, m Machine, state string, status *api.Status) []Result {
	if status != nil && status.Self.ListenPort == 0 && status.Network == nil {
		status = nil
	}
	out := []Result{m.rights(), m.tun(), m.clock(status), m.stateFolder(state)}
	out = append(out, m.firewall(ctx, status)...)
	out = append(out, m.ipv6(), m.ipv4(status), agent(status))
	return out
}

// The bits of capability(7).
const (
	capNetBindService = 10
	capNetAdmin       = 12
)

func (m Machine) rights() Result {
	r := Result{Topic: "rights"}
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
	for bit, name := range map[int]string{capNetAdmin: "CAP_NET_ADMIN", capNetBindService: "CAP_NET_BIND_SERVICE"} {
		if eff>>bit&1 == 0 {
			lacking = append(lacking, name)
		}
	}
	if len(lacking) > 0 {
		return fail(r, Warn, "this shell lacks "+strings.Join(lacking, " and ")+", which the agent needs",
			"run the agent as the systemd service (`make install` sets it up), or with sudo")
	}
	r.Grade, r.Finding = OK, "CAP_NET_ADMIN and CAP_NET_BIND_SERVICE are there"
	return r
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
	r.Grade, r.Finding = OK, "is there"
	return r
}

// earliest is a moment before this program was written: a clock behind it is wrong.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (m Machine) command(name string, args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := m.Run(ctx, name, args...)
		return err
	}
}

func (m Machine) clock(status *api.Status) Result {
	r := Result{Topic: "clock"}
	now := m.Now()
	if now.Before(earliest) {
		r.Fix = m.command("timedatectl", "set-ntp", "true")
		return fail(r, Warn, "says "+now.Format("2 January 2006")+", which is in the past; gridwire copes, other programs may not",
			"timedatectl set-ntp true")
	}
	if status != nil {
		for _, w := range status.Warnings {
			if strings.Contains(w, "clock") {
				return fail(r, Warn, w, "timedatectl set-ntp true")
			}
		}
	}
	r.Grade, r.Finding = OK, now.Format(time.RFC3339)
	return r
}

func (m Machine) stateFolder(state string) Result {
	r := Result{Topic: "state folder"}
	info, err := m.Stat(state)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.Grade, r.Finding = OK, state+" is not there yet"
		return r
	case errors.Is(err, fs.ErrPermission):
		return fail(r, Warn, "no permission to look into "+state, "run this as root")
	case err != nil:
		return fail(r, Bad, err.Error(), "")
	case info.Mode().Perm()&0o077 != 0:
		r.Fix = func(context.Context) error { return m.Chmod(state, 0o700) }
		return fail(r, Bad, fmt.Sprintf("%s has mode %#o: others on this machine can read its keys", state, info.Mode().Perm()), "chmod 700 "+state)
	}
	r.Grade, r.Finding = OK, state+" is private"
	return r
}

// firewall looks for the two front ends that close ports by default, and prints the exact command.
func (m Machine) firewall(ctx context.Context, status *api.Status) []Result {
	port := config.DefaultPort
	iface := config.DefaultInterface
	if status != nil && status.Self.ListenPort != 0 {
		port, iface = int(status.Self.ListenPort), status.Self.Interface
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	r := Result{Topic: "firewall"}
	if out, err := m.Run(ctx, "ufw", "status"); err == nil && strings.Contains(out, "Status: active") {
		if strings.Contains(out, fmt.Sprintf("%d/udp", port)) {
			r.Grade, r.Finding = OK, fmt.Sprintf("ufw lets UDP %d in", port)
			return []Result{r}
		}
		return []Result{fail(r, Warn, fmt.Sprintf("ufw is active and does not let UDP %d in: links to members behind strict NATs will fail", port),
			fmt.Sprintf("ufw allow %d/udp && ufw allow in on %s", port, iface))}
	}
	if out, err := m.Run(ctx, "firewall-cmd", "--state"); err == nil && strings.Contains(out, "running") {
		if ports, err := m.Run(ctx, "firewall-cmd", "--list-ports"); err == nil && strings.Contains(ports, fmt.Sprintf("%d/udp", port)) {
			r.Grade, r.Finding = OK, fmt.Sprintf("firewalld lets UDP %d in", port)
			return []Result{r}
		}
		return []Result{fail(r, Warn, fmt.Sprintf("firewalld is running and does not let UDP %d in", port),
			fmt.Sprintf("firewall-cmd --permanent --add-port=%d/udp && firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", port, iface))}
	}
	return append([]Result{}, m.rules(ctx, r, port))
}

// rules looks at nftables itself, where no front end is active: an input chain with policy drop that does not name the port.
func (m Machine) rules(ctx context.Context, r Result, port int) Result {
	out, err := m.Run(ctx, "nft", "list", "chains")
	if err != nil {
		r.Grade, r.Finding = OK, "neither ufw nor firewalld is active"
		return r
	}
	closed := false
	for line := range strings.Lines(out) {
		if strings.Contains(line, "hook input") && strings.Contains(line, "policy drop") {
			closed = true
		}
	}
	if !closed {
		r.Grade, r.Finding = OK, "no input chain drops by default"
		return r
	}
	if all, err := m.Run(ctx, "nft", "list", "ruleset"); err == nil && strings.Contains(all, "dport "+strconv.Itoa(port)) {
		r.Grade, r.Finding = OK, fmt.Sprintf("nftables drops by default and has a rule for port %d", port)
		return r
	}
	return fail(r, Warn, fmt.Sprintf("an nftables input chain drops by default and has no rule for UDP %d", port),
		fmt.Sprintf("add to your input chain:  udp dport %d accept", port))
}

func (m Machine) ipv6() Result {
	r := Result{Topic: "IPv6"}
	b, err := m.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	if err != nil {
		return fail(r, Bad, "this kernel has no IPv6, which the overlay is made of", "boot without ipv6.disable=1")
	}
	if strings.TrimSpace(string(b)) == "1" {
		return fail(r, Warn, "is switched off (disable_ipv6); the agent switches it on for its own interface only", "")
	}
	r.Grade, r.Finding = OK, "is on"
	return r
}

func (m Machine) ipv4(status *api.Status) Result {
	r := Result{Topic: "IPv4 addresses"}
	if status == nil || status.Network == nil || status.Network.IPv4Prefix == "" {
		r.Grade, r.Finding = OK, "no network with IPv4 to compare with"
		return r
	}
	pool, err := netip.ParsePrefix(status.Network.IPv4Prefix)
	if err != nil {
		return fail(r, Bad, err.Error(), "")
	}
	clash, err := m.Clash(pool, status.Self.Interface)
	if err != nil {
		return fail(r, Warn, err.Error(), "")
	}
	if clash != "" {
		return fail(r, Warn, fmt.Sprintf("the network's %v overlaps with %s; IPv4 stays off on this machine, IPv6 and names work", pool, clash),
			"change that route, or make the network with another pool (gridwire init --ipv4)")
	}
	r.Grade, r.Finding = OK, pool.String()+" is free here"
	return r
}

func agent(status *api.Status) Result {
	r := Result{Topic: "agent"}
	switch {
	case status == nil:
		return fail(r, Warn, "is not running", "systemctl enable --now gridwire   (or: gridwire agent)")
	case status.Network == nil:
		return fail(r, Warn, "runs, and this machine is no member yet", "gridwire join TOKEN")
	}
	up := 0
	for _, p := range status.Peers {
		if p.State == "connected" || p.State == "idle" {
			up++
		}
	}
	r.Grade, r.Finding = OK, fmt.Sprintf("runs; %d of %d links are up", up, len(status.Peers))
	if up < len(status.Peers) {
		r.Grade = Warn
		r.Remedy = "gridwire status, gridwire explain NAME"
	}
	if status.Self.NAT == "blocked" {
		return fail(r, Bad, "no member answers by UDP: this network blocks it", "allow outgoing UDP on this network's firewall")
	}
	return r
}

func fail(r Result, g Grade, finding, remedy string) Result {
	r.Grade, r.Finding, r.Remedy = g, finding, remedy
	return r
}
