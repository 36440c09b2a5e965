//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/e2e/lab"
)

// demo is the lab, who is in it, and the screen.
type demo struct {
	lab      *lab.Lab
	out      *screen
	binary   string
	alice    *machine // the founder
	dana     *machine // reachable by everybody, as alice is
	bob      *machine // behind a home router
	carol    *machine // behind a home router and her carrier's NAT
	laptop   *machine // behind a hotel's router
	erin     *machine // who comes late
	link     string   // to the folder with the machines' commands
	staying  bool
	web      *exec.Cmd      // the web server in a workload's namespace
	forwards sync.WaitGroup // what passes connections on to machines; it ends with run
	observe  string         // the folder with what Prometheus and Grafana need; empty: nobody watches
}

// machine is a host with a gridwire on it.
type machine struct {
	*lab.Host
	nats  []string   // between it and the internet, from the inside out, each as "X's"
	outer netip.Addr // where the internet sees it
	agent *lab.Agent
	api   *api.Client
	pc    *lab.Machine // set: it has a resolver of its own, which its agent configures
}

func newMachine(h *lab.Host, outer netip.Addr, nats ...string) *machine {
	return &machine{Host: h, nats: nats, outer: outer, api: api.NewClient(h.Socket())}
}

func (d *demo) public(name string) (*machine, error) {
	h, err := d.lab.Public(name)
	if err != nil {
		return nil, err
	}
	return newMachine(h, h.Addr()), nil
}

// home makes a machine behind a router of its own, as homes have it: packets that nobody inside asked for are dropped.
func (d *demo) home(name, owner string) (*machine, error) {
	r, err := d.lab.Router(name+"-router", lab.NATConfig{Kind: lab.PortRestricted}, nil)
	if err != nil {
		return nil, err
	}
	h, err := r.Host(name)
	if err != nil {
		return nil, err
	}
	return newMachine(h, r.Addr(), owner), nil
}

// doubleNAT makes a machine behind a home router that is itself behind a carrier's NAT.
func (d *demo) doubleNAT(name, owner string) (*machine, error) {
	carrier, err := d.lab.Router("carrier", lab.NATConfig{Kind: lab.PortRestricted, CarrierGrade: true}, nil)
	if err != nil {
		return nil, err
	}
	r, err := d.lab.Router(name+"-router", lab.NATConfig{Kind: lab.PortRestricted}, carrier)
	if err != nil {
		return nil, err
	}
	h, err := r.Host(name)
	if err != nil {
		return nil, err
	}
	return newMachine(h, carrier.Addr(), owner, "the carrier's"), nil
}

func (d *demo) build() (err error) {
	if d.alice, err = d.public("alice"); err != nil {
		return err
	}
	if d.dana, err = d.public("dana"); err != nil {
		return err
	}
	if d.bob, err = d.home("bob", "bob's"); err != nil {
		return err
	}
	if d.carol, err = d.doubleNAT("carol", "carol's"); err != nil {
		return err
	}
	if d.laptop, err = d.home("laptop", "the hotel's"); err != nil {
		return err
	}
	d.laptop.pc, err = d.laptop.Machine(lab.MachineConfig{ResolvConf: hotelDNS, Hosts: "files dns"})
	return err
}

// picture draws the internet as it was built.
func (d *demo) picture() {
	columns := [][]string{
		{"╷", "alice", d.alice.outer.String(), "the founder"},
		{"╷", "dana", d.dana.outer.String(), "a server"},
		{"╷", "bob's router", d.bob.outer.String(), "│", "bob", "a farmer"},
		{"╷", "carrier's NAT", d.carol.outer.String(), "│", "carol's router", "│", "carol", "a farmer"},
		{"╷", "hotel's router", d.laptop.outer.String(), "│", "laptop", "a developer"},
	}
	const each = 18
	label := fmt.Sprintf(" the internet, %d ms there and back ", 2*delay.Milliseconds())
	bar := len(columns)*each - utf8.RuneCountInString(label)
	d.out.line("  " + strings.Repeat("─", bar/2) + d.out.style(bold, label) + strings.Repeat("─", bar-bar/2))
	for row := range len(columns[3]) {
		line := "  "
		for _, c := range columns {
			cell := ""
			if row < len(c) {
				cell = c[row]
			}
			left := (each - utf8.RuneCountInString(cell)) / 2
			line += strings.Repeat(" ", left) + d.out.style(d.sgr(cell, row), cell) + strings.Repeat(" ", each-left-utf8.RuneCountInString(cell))
		}
		d.out.line(line)
	}
}

// sgr is how a cell of the picture looks: members stand out, addresses do not.
func (d *demo) sgr(cell string, row int) string {
	for _, m := range []*machine{d.alice, d.dana, d.bob, d.carol, d.laptop} {
		if cell == m.Label() {
			return cyan
		}
	}
	if row == 2 {
		return dim
	}
	return plain
}

// gridwire runs a command on the machine, shows it, and returns its answer.
func (d *demo) gridwire(ctx context.Context, m *machine, args ...string) (string, error) {
	return d.gridwireAs(ctx, m, "gridwire "+strings.Join(args, " "), args...)
}

// gridwireAs shows it in other words: paths of the lab are long.
func (d *demo) gridwireAs(ctx context.Context, m *machine, shown string, args ...string) (string, error) {
	d.out.command(m.Label(), shown, "")
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return m.Gridwire(ctx, args...)
}

// start starts the machine's agent and returns when it did.
func (d *demo) start(m *machine, args ...string) (time.Time, error) {
	if d.observe != "" {
		args = append(args, "--metrics", "127.0.0.1:9586,overlay")
	}
	c := lab.AgentConfig{Args: args}
	if m.pc != nil {
		c.Args, c.Wrap = append(args, "--resolver", "on"), m.pc.Wrap()
	}
	began := time.Now()
	var err error
	m.agent, err = m.StartAgentWith(c)
	return began, err
}

// ready waits until the machine's agent is ready and says how long that took.
func (d *demo) ready(ctx context.Context, m *machine, since time.Time, what string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := m.agent.WaitReady(ctx); err != nil {
		return err
	}
	d.out.fact(m.Label(), what, seconds(time.Since(since)))
	return nil
}

func (m *machine) status(ctx context.Context) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st := &api.Status{}
	return st, m.api.Get(ctx, "/v1/status", st)
}

func seconds(t time.Duration) string { return fmt.Sprintf("%.2f s", t.Seconds()) }
