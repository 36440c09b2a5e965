// Package osconf points the operating system's resolver at this node for the network's domain, and puts everything back.
//
// It owns nothing but what it wrote itself, and knows its own by a mark: resolver settings of one interface, a record, a rule, or marked
// lines in a file. It never answers or forwards a question, never changes another program's lines (two it may silence by a mark in front:
// `options rotate`, and the search list if Search wants a longer one), and never leaves a machine without a name server: what was there
// before stays behind ours.
//
//	system           mechanism                                     only our domain?  if the agent is killed
//	systemd-resolved per-link servers and routing domains, D-Bus   yes               gone with the interface
//	NetworkManager   a file in dnsmasq.d and a reload, D-Bus       yes (dns=dnsmasq) our domain fails, the rest works
//	NetworkManager   the resolv.conf it wrote (dns=default)        no                the next name server answers after 1 s
//	dhcpcd, dhclient the same                                      no                the same
//	resolvconf       resolvconf -a gw0.gridwire (also openresolv)  no                the same
//	resolv.conf      marked lines at its top                       no                the same
//	macOS            /etc/resolver/DOMAIN                          yes               our domain fails, the rest works
//	Windows          a rule in the name resolution policy table    yes               our domain fails, the rest works
//
// The rights it takes: root; for systemd-resolved, instead, a polkit rule that allows org.freedesktop.resolve1.set-default-route,
// .set-domains, .set-dnssec, .set-dns-over-tls, .set-llmnr, .set-mdns, .set-dns-servers and .revert to the agent's user. CAP_NET_ADMIN
// is not enough: resolved does not believe what dbus-daemon says of capabilities (tried with version 252).
//
// Where it says "no", the machine sends us all its questions (Manager.NeedsUpstream): our server has to forward them to
// Manager.Upstream before Apply is called.
package osconf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
)

// Settings say what is to be asked of whom.
type Settings struct {
	Interface    string       // the overlay's, "gw0": marks what is ours
	Index        int          // its number; only systemd-resolved wants it
	Servers      []netip.Addr // our overlay addresses, port 53
	Domain       string       // "farm.internal"
	ReverseZones []string     // "4.64.10.in-addr.arpa", "...ip6.arpa"
	Search       bool         // complete short names with Domain too, not only route it here
}

// State is what a Manager has achieved: for status, and for our server's forwarding.
type State struct {
	Applied  bool         // the operating system asks us
	Reason   string       // why not, a sentence; empty while Applied
	Upstream []netip.Addr // whom the machine would ask without us; empty unless the Manager needs one
}

// Manager is the one mechanism that this machine uses. Its methods may be called from several goroutines; they take turns.
type Manager interface {
	// Name is what administrators call the mechanism: "systemd-resolved", "resolvconf", "/etc/resolv.conf".
	Name() string
	// NeedsUpstream reports that the mechanism cannot tell domains apart: all questions of this machine will come to us.
	NeedsUpstream() bool
	// Upstream returns the name servers that the machine would use without us, never one of ours; none where it names none (and so would ask
	// itself, which goes on doing so behind us). It may be called before Apply, and
	// should be, so that the first question after Apply finds a forwarder.
	Upstream() ([]netip.Addr, error)
	// Apply points the system at us. Called again, it replaces the former settings. An error means that nothing was changed or that it
	// was put back; ErrChanged, that another program's work is in the way; after such a step back it may be called again, for instance
	// when the machine's network has changed, and starts from what it finds then.
	Apply(context.Context, Settings) error
	// Revert puts everything back, and does nothing where there is nothing to put back. An error says what was left, and why.
	Revert(context.Context) error
	// Watch returns nil when ctx ends. Until then it applies the settings again when the system's resolver has restarted, and calls
	// report, with no lock held, whenever the State becomes another.
	Watch(ctx context.Context, report func(State)) error
}

// Errors that a caller may branch on.
var (
	ErrChanged     = errors.New("another program has changed it since")
	ErrUnavailable = errors.New("not available at the moment") // the mechanism in charge does not answer yet: try again later
	ErrUnsupported = errors.New("not possible on this system")
	ErrRights      = errors.New("this program lacks a right") // what follows says which
)

// Env is the part of a machine that this package touches. System returns the real one.
type Env struct {
	Root     string                              // above etc, run and proc; "/" on a real machine
	Bus      func(context.Context) (Bus, error)  // connects to the system's D-Bus; nil where there is none
	Run      Runner                              // runs a program
	Exists   func(iface string) bool             // whether an interface exists: who wrote marks for it is alive
	Shared   func(path string) bool              // the file is not for this program to change: it is others' machine. nil: none is
	Registry func(path string) (Registry, error) // opens a folder below HKEY_LOCAL_MACHINE; Windows only
	Refresh  func(context.Context) error         // tells the system that the registry has changed; Windows only
	Log      *slog.Logger
}

// Runner runs a program with this input and returns its standard output. The error of a program that failed contains what it said,
// that of one that is not installed wraps fs.ErrNotExist or exec.ErrNotFound.
type Runner func(ctx context.Context, input, program string, args ...string) (string, error)

// Bus is a connection to a message bus. No call starts a service that is not running.
type Bus interface {
	// Call calls a method ("org.freedesktop.resolve1.Manager.RevertLink") and stores the answer's values in results, pointers.
	// The error of a refused call is a *BusError.
	Call(ctx context.Context, dest, path, method string, args []any, results ...any) error
	// Property reads one; its value is a plain Go value.
	Property(ctx context.Context, dest, path, iface, name string) (any, error)
	// Follow returns a channel that has a value after each such signal that came since it was last read; it is closed when the
	// connection is lost or closed. A signal's first argument has to be arg0, unless that is empty.
	Follow(ctx context.Context, path, iface, member, arg0 string) (<-chan struct{}, error)
	Close() error
}

// BusError is an error that the other side of a method call returned.
type BusError struct {
	Name    string // "org.freedesktop.DBus.Error.AccessDenied"
	Message string
}

func (e *BusError) Error() string { return e.Message + " (" + e.Name + ")" }

// Registry is a folder of the Windows registry.
type Registry interface {
	Folders() ([]string, error) // the names of those in it; none if it does not exist itself
	// Read returns a folder's values, uint32, string or []string; others are left out. A folder that is not there has none.
	Read(folder string) (map[string]any, error)
	Write(folder string, values map[string]any) error // makes the folder if need be
	Delete(folder string) error                       // no error if it is gone already
	Close() error
}

// check refuses what must not get into a configuration file, and returns the settings in the form in which they are written.
func (s Settings) check() (Settings, error) {
	if err := checkInterface(s.Interface); err != nil {
		return s, err
	}
	if len(s.Servers) == 0 {
		return s, errors.New("no name server address given")
	}
	servers := make([]netip.Addr, 0, len(s.Servers))
	for _, a := range s.Servers {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return s, fmt.Errorf("%v cannot be a name server's address", a)
		}
		servers = append(servers, a.Unmap())
	}
	s.Servers = servers
	var err error
	if s.Domain, err = checkDomain(s.Domain); err != nil {
		return s, err
	}
	zones := make([]string, 0, len(s.ReverseZones))
	for _, z := range s.ReverseZones {
		if z, err = checkDomain(z); err != nil {
			return s, err
		}
		if !strings.HasSuffix(z, ".in-addr.arpa") && !strings.HasSuffix(z, ".ip6.arpa") {
			return s, fmt.Errorf("%s is not a reverse zone", z)
		}
		zones = append(zones, z)
	}
	s.ReverseZones = zones
	return s, nil
}

// domains returns all that is routed to us, the domain first.
func (s Settings) domains() []string { return append([]string{s.Domain}, s.ReverseZones...) }

// single returns the address for a machine that cannot tell domains apart: one only, because glibc reads three name servers, and the
// former ones must be among them. IPv6 if there is one: with the interface gone there is often no route to it, and a program that asks
// goes on to the next server at once, whereas a private IPv4 address goes to the default router, and the answer never comes.
func (s Settings) single() netip.Addr {
	for _, a := range s.Servers {
		if a.Is6() {
			return a
		}
	}
	return s.Servers[0]
}

// checkInterface accepts what Linux does as an interface name (15 bytes), less anything with a meaning in a path, a shell or a mark.
func checkInterface(name string) error {
	if name == "" || len(name) > 15 || name[0] == '.' || name[0] == '-' {
		return fmt.Errorf("%q is not an interface name", name)
	}
	for i := range len(name) {
		if !strings.Contains(alnum+"._-", name[i:i+1]) {
			return fmt.Errorf("%q is not an interface name", name)
		}
	}
	return nil
}

const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

// checkDomain returns a name in lower case without its last dot. It refuses the root, which would send us all questions, and what
// RFC 1123 section 2.1 does not allow in a host name (underscores, which services use, excepted).
func checkDomain(name string) (string, error) {
	n := strings.ToLower(strings.TrimSuffix(name, "."))
	if n == "" || len(n) > 253 {
		return "", fmt.Errorf("%q is not a domain", name)
	}
	for label := range strings.SplitSeq(n, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", fmt.Errorf("%q is not a domain: wrong label %q", name, label)
		}
		for i := range len(label) {
			if !strings.Contains(alnum[:26]+"0123456789-_", label[i:i+1]) {
				return "", fmt.Errorf("%q is not a domain: wrong label %q", name, label)
			}
		}
	}
	return n, nil
}

func (e Env) shared(name string) bool { return e.Shared != nil && e.Shared(name) }

// Servers returns the name servers of resolv.conf that are not ours, in order; none where it has none.
func Servers(e Env) []netip.Addr {
	text, _ := e.read(resolvConf)
	return nameservers(foreign(text))
}

func (e Env) log() *slog.Logger {
	if e.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return e.Log
}
