//go:build linux

package lab

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// Options say what kind of internet to build. The zero value is a plain one with no delay.
type Options struct {
	Dir      string        // state and logs of every host, kept at Close; empty: a temporary folder, removed at Close
	Binary   string        // path of gridwire; only what runs it needs it
	Internet netip.Prefix  // IPv4 addresses of the internet, /16 to /26; default 198.51.100.0/24
	IPv6     bool          // the internet has IPv6 too
	Delay    time.Duration // one way between two ports of the internet (the round trip is twice that)
	LogLevel string        // of agents; default "debug"
	Log      io.Writer     // progress, one line for each thing made; nil: none
}

// Lab is one internet. Its methods may be called from several goroutines; those of one host or router from one at a time.
type Lab struct {
	opts   Options
	self   identity
	keeper *keeper
	wan    *wan

	mu      sync.Mutex // guards what follows
	names   map[string]bool
	nodes   int
	hosts   []*Host
	routers []*Router
	agents  []*Agent
	closed  bool
}

var tools = []string{"ip", "nft", "conntrack", "ping"}

// New makes an internet with nobody in it. It fails if the machine lacks a right or a tool, naming it.
func New(o Options) (*Lab, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := Sweep(); err != nil {
		return nil, err
	}
	self, err := claim()
	if err != nil {
		return nil, err
	}
	l := &Lab{opts: o, self: self, names: map[string]bool{}}
	if l.opts.Dir == "" {
		l.opts.Dir = filepath.Join(self.dir(), "state")
	}
	if l.keeper, err = startKeeper(self); err != nil {
		return nil, errors.Join(err, self.sweep())
	}
	if err = os.MkdirAll(l.opts.Dir, 0o755); err == nil {
		l.wan, err = newWAN(l)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.logf("internet %v", l.opts.Internet)
	return l, nil
}

func (o *Options) check() error {
	if os.Geteuid() != 0 {
		return errors.New("make a lab: network namespaces need root; run this as root or with sudo")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("make a lab: %w (apt-get install --no-install-recommends iproute2 nftables conntrack iputils-ping)", err)
		}
	}
	if !o.Internet.IsValid() {
		o.Internet = netip.MustParsePrefix("198.51.100.0/24")
	}
	o.Internet = o.Internet.Masked()
	if bits := o.Internet.Bits(); !o.Internet.Addr().Is4() || bits < 16 || bits > 26 {
		return fmt.Errorf("make a lab: internet %v: want an IPv4 prefix of /16 to /26", o.Internet)
	}
	if o.LogLevel == "" {
		o.LogLevel = "debug"
	}
	if o.Delay < 0 || o.Delay > 10*time.Second {
		return fmt.Errorf("make a lab: delay %v: want 0 to 10 s", o.Delay)
	}
	return nil
}

// Close ends every process of the lab, agents in the orderly way first, and removes all namespaces. Calling it again does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	agents, closed := l.agents, l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return nil
	}
	errs := make(chan error, len(agents))
	for _, a := range agents { // awaited just below
		go func() { errs <- a.Stop() }()
	}
	var all []error
	for range agents {
		all = append(all, <-errs)
	}
	if l.wan != nil {
		l.wan.close()
	}
	if err := l.keeper.stop(); err != nil {
		all = append(all, l.self.sweep()) // somebody ended the keeper before its time
	}
	return errors.Join(all...)
}

// Dir returns the folder with the hosts' state and logs.
func (l *Lab) Dir() string { return l.opts.Dir }

// Public makes a host with a public address of its own and no firewall.
func (l *Lab) Public(name string) (*Host, error) { return l.newHost(name, l.wan, lease{}) }

// WAN returns the internet as a place to plug a host into.
func (l *Lab) WAN() Segment { return l.wan }

// Hosts returns all hosts in the order in which they were made.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Host(nil), l.hosts...)
}

func (l *Lab) logf(format string, args ...any) {
	if l.opts.Log != nil {
		fmt.Fprintf(l.opts.Log, "lab: "+format+"\n", args...)
	}
}

// A name becomes part of a namespace's name and of a path, and is often a node's name as well.
var nameOK = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// reserve takes a name, and a number for addresses and interfaces.
func (l *Lab) reserve(name string) (int, error) {
	if !nameOK.MatchString(name) {
		return 0, fmt.Errorf("make %q: a name in the lab has 1 to 32 lower-case letters, digits and inner hyphens", name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, fmt.Errorf("make %s: the lab is closed", name)
	}
	if l.names[name] {
		return 0, fmt.Errorf("make %s: the lab has that name already", name)
	}
	if l.nodes >= 999 {
		return 0, fmt.Errorf("make %s: a lab holds at most 999 hosts, routers and switches", name)
	}
	l.names[name] = true
	l.nodes++
	return l.nodes, nil
}
