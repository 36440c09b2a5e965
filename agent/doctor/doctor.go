// Package doctor checks whether this machine lets the agent do its work, and says in plain words what to do where it does not.
//
// Check only reads: files, interfaces, routes, and the rules of the host's firewall. What it can mend without taking a decision that is the
// owner's (a firewall's rules are), a Result carries as Fix. It works with and without an agent, as root and not; what it may not look at it
// says.
package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/route"
)

// Grade is how a check ended.
type Grade string

// The grades.
const (
	OK   Grade = "ok"
	Warn Grade = "warn" // works, but not as well as it could, or not for long
	Bad  Grade = "fail"
)

// Result is one check's outcome.
type Result struct {
	Topic   string                      `json:"topic"`
	Grade   Grade                       `json:"grade"`
	Finding string                      `json:"finding"`
	Remedy  string                      `json:"remedy,omitempty"` // a command or a sentence; empty where nothing is to be done
	Fix     func(context.Context) error `json:"-"`                // does it; nil where the owner has to
}

// Machine is what the checks look at; tests hand in another one.
type Machine struct {
	ReadFile func(string) ([]byte, error)
	ReadDir  func(string) ([]fs.DirEntry, error)
	Stat     func(string) (fs.FileInfo, error)
	Chmod    func(string, fs.FileMode) error
	// Run returns a command's standard output, fs.ErrNotExist (wrapped) when the program is not installed.
	Run        func(ctx context.Context, name string, args ...string) (string, error)
	Clash      func(pool netip.Prefix, iface string) (string, error)
	Interfaces func() ([]Interface, error)
	Free       func(path string) (bytes uint64, err error)
	Left       func(state, socket string) (Leftovers, error) // what killed agents left
	Now        func() time.Time
	Root       bool
}

// Interface is a network interface of the machine.
type Interface struct {
	Name  string
	MTU   int
	Up    bool
	Addrs []netip.Prefix
}

// System is the machine this program runs on.
func System() Machine {
	return Machine{
		ReadFile:   os.ReadFile,
		ReadDir:    os.ReadDir,
		Stat:       os.Stat,
		Chmod:      os.Chmod,
		Run:        run,
		Clash:      route.Clash,
		Interfaces: interfaces,
		Free:       free,
		Left:       left,
		Now:        time.Now,
		Root:       os.Geteuid() == 0,
	}
}

// run also finds programs where an ordinary user's PATH does not lead.
func run(ctx context.Context, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err != nil {
			path, err = exec.LookPath(dir + name)
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).Output()
	return string(out), err
}

func interfaces() ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list this machine's interfaces: %w", err)
	}
	var out []Interface
	for _, i := range all {
		row := Interface{Name: i.Name, MTU: i.MTU, Up: i.Flags&net.FlagUp != 0}
		addrs, _ := i.Addrs() // an interface that has just gone has none
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				row.Addrs = append(row.Addrs, p)
			}
		}
		out = append(out, row)
	}
	return out, nil
}

// Subject is the installation that is looked at.
type Subject struct {
	State  string      // its folder
	Socket string      // its control socket
	Status *api.Status // the agent's answer; nil or empty: none
	Asked  error       // why there is no answer
}

// running reports whether an agent answers, member or not.
func (s Subject) running() bool { return s.Status != nil && s.Asked == nil }

// forbidden reports whether an agent runs that this user may not ask.
func (s Subject) forbidden() bool {
	return s.Asked != nil && strings.Contains(s.Asked.Error(), "no permission")
}

// member reports whether the agent answers as a member.
func (s Subject) member() bool { return s.running() && s.Status.Network != nil }

// Check runs every check, each in the file of its concern.
func Check(ctx context.Context, m Machine, s Subject) []Result {
	out := []Result{m.rights(s), m.tun(), m.kernel(ctx), m.clock(s)}
	out = append(out, m.stateFolder(s.State), m.disk(s.State))
	out = append(out, m.firewall(ctx, s)...)
	out = append(out, m.ipv6(), m.ipv4(s), m.mtu(s), m.otherVPNs(s))
	out = append(out, agent(s), m.leftovers(s))
	if s.member() {
		out = append(out, m.certificate(s), versions(s))
	}
	return out
}

func ok(topic, finding string) Result { return Result{Topic: topic, Grade: OK, Finding: finding} }

func fail(r Result, g Grade, finding, remedy string) Result {
	r.Grade, r.Finding, r.Remedy = g, finding, remedy
	return r
}

func (m Machine) command(name string, args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := m.Run(ctx, name, args...)
		return err
	}
}
