//go:build linux

package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	dumpLimit = 3 * time.Second // for one command
	dumpLines = 80              // of each log
)

// Dump writes what one wants to see of a test that failed: of every agent its log's end, its status and what it says about peers
// that are not connected; of every host its addresses; of every router its connections and counters.
func (l *Lab) Dump(w io.Writer) {
	l.mu.Lock()
	agents, hosts, routers := slices.Clone(l.agents), slices.Clone(l.hosts), slices.Clone(l.routers)
	l.mu.Unlock()
	for _, h := range hosts {
		fmt.Fprintf(w, "======== %s (namespace %s, interface %s)\n", h.label, h.ns, h.wireguard)
		show(w, "ip", "-n", h.ns, "-brief", "address")
		show(w, "ip", "-n", h.ns, "route")
		dumpAgents(w, h, agents)
	}
	for _, r := range routers {
		fmt.Fprintf(w, "======== router %s (%v, namespace %s, WAN %v)\n", r.name, r.cfg.Kind, r.ns, r.Addr())
		show(w, "ip", "netns", "exec", r.ns, "conntrack", "-L")
		show(w, "ip", "netns", "exec", r.ns, "nft", "list", "ruleset")
	}
}

func dumpAgents(w io.Writer, h *Host, agents []*Agent) {
	for _, a := range agents {
		if a.host != h {
			continue
		}
		if !a.Running() {
			fmt.Fprintf(w, "---- agent %d, ended (%v), end of its log\n%s\n", a.PID(), a.exit(), tail(a.Log(), dumpLines))
			continue
		}
		fmt.Fprintf(w, "---- agent %d, running, end of its log\n%s\n", a.PID(), tail(a.Log(), dumpLines))
		dumpStatus(w, h)
	}
}

func dumpStatus(w io.Writer, h *Host) {
	ctx, cancel := context.WithTimeout(context.Background(), dumpLimit)
	defer cancel()
	out, err := h.Gridwire(ctx, "status", "--json")
	fmt.Fprintf(w, "---- status\n%s\n", out)
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	status, err := h.Status(ctx)
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	for _, p := range status.Peers {
		if p.State == "connected" {
			continue
		}
		why, err := h.Gridwire(ctx, "explain", p.Name)
		fmt.Fprintf(w, "---- explain %s\n%s\n", p.Name, why)
		if err != nil {
			fmt.Fprintln(w, err)
		}
	}
}

// show runs a command of this machine and writes what it says.
func show(w io.Writer, name string, args ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), dumpLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	fmt.Fprintf(w, "$ %s %s\n%s", name, strings.Join(args, " "), out)
	if err != nil {
		fmt.Fprintln(w, err)
	}
}

func splitLines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }
