// Package config turns the configuration file, the environment and the flags into one checked struct, in that order of rising precedence.
//
// Every mistake (an unknown key, a bad value, a contradiction) is an error before anything starts. It reads files and starts nothing.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
)

// Defaults, as DESIGN section 4 promises them to scripts.
const (
	DefaultState     = "/var/lib/gridwire"
	DefaultSocket    = "/run/gridwire/agent.sock"
	DefaultFile      = "/etc/gridwire/config.toml"
	DefaultPort      = 51820
	DefaultInterface = "gw0"
	DefaultMetrics   = "127.0.0.1:9586"
	DefaultPage      = "127.0.0.1:9587"
)

// What an issuer may be told about its certificates' life. Below the minimum, members would do little else than renew.
const (
	minLifetime = 30 * time.Second
	maxLifetime = 366 * 24 * time.Hour
)

var defaultLifetime = fmt.Sprintf("%dh", pki.DefaultLifetime/time.Hour)

// Config is the agent's checked configuration.
type Config struct {
	State     string
	Socket    string
	Token     string    // enrol with this first, unless a member already
	Name      mesh.Name // wished for at enrolment; empty: the invitation's, else the host's
	Port      uint16    // shared UDP port; 0: DefaultPort, else any free one, remembered
	Interface string
	Advertise []string // HOST:PORT under which strangers reach this node
	Metrics   []string // addresses and "overlay"; none: off
	Page      string   // address, or "off"
	MTU       int      // of the overlay interface
	LogLevel  slog.Level
	Lifetime  time.Duration // of the certificates that this node gives, where it is an issuer
	DNS       DNS
	Networks  Networks
}

// raw is what a file, the environment or flags say, before it is checked. The toml names are the flags' names.
type raw struct {
	State     string   `toml:"state"`
	Socket    string   `toml:"socket"`
	Join      string   `toml:"join"`
	Name      string   `toml:"name"`
	Listen    uint16   `toml:"listen"`
	Interface string   `toml:"interface"`
	Advertise []string `toml:"advertise"`
	Metrics   string   `toml:"metrics"`
	Page      string   `toml:"page"`
	MTU       int      `toml:"mtu"`
	LogLevel  string   `toml:"log-level"`
	Lifetime  string   `toml:"certificate-lifetime"`
	DNS       rawDNS   `toml:"dns"`
	Networks  Networks `toml:"networks"`
}

// Flags registers the agent's flags. State and socket are registered by the root command, for all commands.
func Flags(fs *pflag.FlagSet) {
	fs.String("config", "", "configuration `FILE` (default "+DefaultFile+", if there)")
	fs.String("join", "", "enrol with this invitation `TOKEN` first; nothing happens if this node is a member already")
	fs.String("name", "", "this node's `NAME` (default: the invitation's, else the host name)")
	fs.Uint16("listen", 0, fmt.Sprintf("shared UDP `PORT` (default %d, else any free one, remembered)", DefaultPort))
	fs.String("interface", DefaultInterface, "name of the overlay `INTERFACE`")
	fs.StringSlice("advertise", nil, "`HOST:PORT` under which this node can be reached from anywhere (a forwarded port); repeatable")
	fs.String("metrics", DefaultMetrics, "Prometheus metrics: an `ADDR`:PORT, 'overlay', both with a comma between, or 'off'")
	fs.String("page", DefaultPage, "the health page: an `ADDR`:PORT, or 'off'. Whoever reaches it can read it")
	fs.Int("mtu", 1420, "MTU of the overlay interface in bytes, 1280 to 65535")
	fs.String("log-level", "info", "debug, info, warn or error")
	fs.String("resolver", "on", "point this machine's resolver here for the network's domain, and for nothing else: 'on' or 'off'")
	fs.String("certificate-lifetime", defaultLifetime, "on an issuer: how long the certificates that it gives are valid, a `TIME` like 168h. A "+
		"member renews its own from two thirds of it; whom no revocation reaches is out when it ends")
}

// Load reads the file, then the environment (GRIDWIRE_STATE, GRIDWIRE_SOCKET, GRIDWIRE_LISTEN, ... named like the flags), then the flags that
// were set.
func Load(flags *pflag.FlagSet, getenv func(string) string) (*Config, error) {
	r := raw{
		State: DefaultState, Socket: DefaultSocket, Interface: DefaultInterface, Metrics: DefaultMetrics,
		Page: DefaultPage, MTU: 1420, LogLevel: "info", Lifetime: defaultLifetime, DNS: defaultDNS,
	}
	if err := r.file(flags, getenv); err != nil {
		return nil, err
	}
	if err := r.environment(getenv); err != nil {
		return nil, err
	}
	if err := r.flags(flags); err != nil {
		return nil, err
	}
	return r.check()
}

func (r *raw) file(flags *pflag.FlagSet, getenv func(string) string) error {
	path, optional := DefaultFile, true
	if p := getenv("GRIDWIRE_CONFIG"); p != "" {
		path, optional = p, false
	}
	if f := flags.Lookup("config"); f != nil && f.Changed {
		path, optional = f.Value.String(), false
	}
	meta, err := toml.DecodeFile(path, r)
	if optional && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return fmt.Errorf("configuration file %s: unknown key %q; the keys are named like the flags of `gridwire agent --help`", path, unknown[0])
	}
	return nil
}

func (r *raw) environment(getenv func(string) string) error {
	for name, target := range map[string]*string{
		"STATE": &r.State, "SOCKET": &r.Socket, "JOIN": &r.Join, "NAME": &r.Name, "INTERFACE": &r.Interface,
		"METRICS": &r.Metrics, "PAGE": &r.Page, "LOG_LEVEL": &r.LogLevel, "CERTIFICATE_LIFETIME": &r.Lifetime,
	} {
		if v := getenv("GRIDWIRE_" + name); v != "" {
			*target = v
		}
	}
	if v := getenv("GRIDWIRE_RESOLVER_HELPER"); v != "" {
		r.DNS.Helper = v
	}
	if v := getenv("GRIDWIRE_RESOLVER"); v != "" {
		on, err := onOff("GRIDWIRE_RESOLVER", v)
		if err != nil {
			return err
		}
		r.DNS.Configure = on
	}
	if v := getenv("GRIDWIRE_ADVERTISE"); v != "" {
		r.Advertise = strings.Split(v, ",")
	}
	if v := getenv("GRIDWIRE_LISTEN"); v != "" {
		p, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			return fmt.Errorf("GRIDWIRE_LISTEN=%q is no port number: 0 to 65535", v)
		}
		r.Listen = uint16(p)
	}
	if v := getenv("GRIDWIRE_MTU"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("GRIDWIRE_MTU=%q is no number", v)
		}
		r.MTU = n
	}
	return nil
}

func (r *raw) flags(flags *pflag.FlagSet) error {
	for name, target := range map[string]*string{
		"state": &r.State, "socket": &r.Socket, "join": &r.Join, "name": &r.Name, "interface": &r.Interface,
		"metrics": &r.Metrics, "page": &r.Page, "log-level": &r.LogLevel, "certificate-lifetime": &r.Lifetime,
	} {
		if f := flags.Lookup(name); f != nil && f.Changed {
			*target = f.Value.String()
		}
	}
	if f := flags.Lookup("listen"); f != nil && f.Changed {
		p, err := flags.GetUint16("listen")
		if err != nil {
			return fmt.Errorf("--listen: %w", err)
		}
		r.Listen = p
	}
	if f := flags.Lookup("mtu"); f != nil && f.Changed {
		n, err := flags.GetInt("mtu")
		if err != nil {
			return fmt.Errorf("--mtu: %w", err)
		}
		r.MTU = n
	}
	if f := flags.Lookup("resolver"); f != nil && f.Changed {
		on, err := onOff("--resolver", f.Value.String())
		if err != nil {
			return err
		}
		r.DNS.Configure = on
	}
	if f := flags.Lookup("advertise"); f != nil && f.Changed {
		a, err := flags.GetStringSlice("advertise")
		if err != nil {
			return fmt.Errorf("--advertise: %w", err)
		}
		r.Advertise = a
	}
	return nil
}

// interfaceName is what the kernel takes: IFNAMSIZ is 16 with the final zero.
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)

func (r *raw) check() (*Config, error) {
	c := &Config{
		State: r.State, Socket: r.Socket, Token: strings.TrimSpace(r.Join), Port: r.Listen, Interface: r.Interface,
		Advertise: r.Advertise, MTU: r.MTU, Page: r.Page, Networks: r.Networks,
	}
	if r.Name != "" {
		n, err := mesh.ParseName(r.Name)
		if err != nil {
			return nil, fmt.Errorf("--name: %w", err)
		}
		c.Name = n
	}
	if !interfaceName.MatchString(r.Interface) || r.Interface == "." || r.Interface == ".." {
		return nil, fmt.Errorf("--interface %q: an interface name has 1 to 15 letters, digits, '_', '.' or '-'", r.Interface)
	}
	for _, a := range r.Advertise {
		if err := hostPort(a); err != nil {
			return nil, fmt.Errorf("--advertise %q: %w", a, err)
		}
	}
	var err error
	if c.Metrics, err = metricsAt(r.Metrics); err != nil {
		return nil, err
	}
	if r.Page != "off" {
		if err := listenAddr(r.Page); err != nil {
			return nil, fmt.Errorf("--page %q: %w; or say 'off'", r.Page, err)
		}
	}
	if r.MTU < 1280 || r.MTU > 65535 {
		return nil, fmt.Errorf("--mtu %d: want 1280 (below it IPv6 loses its addresses) to 65535", r.MTU)
	}
	if err := c.LogLevel.UnmarshalText([]byte(r.LogLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", r.LogLevel)
	}
	if c.Lifetime, err = time.ParseDuration(r.Lifetime); err != nil || c.Lifetime < minLifetime || c.Lifetime > maxLifetime {
		return nil, fmt.Errorf("--certificate-lifetime %q: want a time from %v to %v, like 168h", r.Lifetime, minLifetime, maxLifetime)
	}
	if c.DNS, err = r.DNS.check(); err != nil {
		return nil, err
	}
	return c, nil
}

func hostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return errors.New("want HOST:PORT, an IPv6 address in brackets")
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
		return fmt.Errorf("port %q is not 1 to 65535", port)
	}
	return nil
}

func listenAddr(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("want ADDRESS:PORT")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q is not 0 to 65535", port)
	}
	return nil
}

// Env returns the environment's word for a setting that every command has (STATE, SOCKET), or the default.
func Env(name, fallback string) string {
	if v := os.Getenv("GRIDWIRE_" + name); v != "" {
		return v
	}
	return fallback
}
