package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gridwire/gridwire/dns/osconf"
)

// System is this machine.
func System(log *slog.Logger) Machine {
	env := osconf.System(log)
	return Machine{
		Detect:  func() (osconf.Manager, error) { return osconf.Detect(env) },
		Restore: func(ctx context.Context) ([]string, error) { return osconf.Restore(ctx, env) },
		Check:   checkInterface,
	}
}

// checkInterface lets an agent name only addresses that an interface of this machine has.
func checkInterface(s osconf.Settings) (osconf.Settings, error) {
	iface, err := net.InterfaceByName(s.Interface)
	if err != nil {
		return s, fmt.Errorf("%s is no interface of this machine: %w", s.Interface, err)
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return s, fmt.Errorf("read the addresses of %s: %w", s.Interface, err)
	}
	for _, want := range s.Servers {
		has := slices.ContainsFunc(addrs, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr() == want
		})
		if !has {
			return s, fmt.Errorf("%v is no address of %s: the helper points this machine's resolver to its own addresses only", want, s.Interface)
		}
	}
	s.Index = iface.Index
	return s, nil
}

// ServeStdin serves the one connection that is this process's standard input, as systemd starts it for each (Accept=yes).
func ServeStdin(ctx context.Context, log *slog.Logger) error {
	conn, err := net.FileConn(os.Stdin)
	if err != nil {
		return fmt.Errorf("standard input is no connection of an agent: this command is started by gridwire-resolver.socket; without systemd use --listen: %w", err)
	}
	_ = os.Stdin.Close() // conn is a copy: the connection ends with it
	return Serve(ctx, conn, System(log))
}

// ServeSocket makes a socket for the members of a group, and serves all connections to it until ctx ends.
func ServeSocket(ctx context.Context, path, group string, log *slog.Logger) error {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return fmt.Errorf("another helper answers on %s", path)
	}
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen for agents: %w", err)
	}
	defer l.Close()
	if err := giveTo(path, group); err != nil {
		return err
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept an agent: %w", err)
		}
		wait.Go(func() {
			if err := Serve(ctx, conn, System(log)); err != nil {
				log.Warn("a connection of an agent ended badly", "err", err)
			}
		})
	}
}

func giveTo(path, group string) error {
	gid, err := strconv.Atoi(group)
	if err != nil {
		g, err := user.LookupGroup(group)
		if err != nil {
			return fmt.Errorf("whose agents may connect: %w", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("the ID of group %s: %w", group, err)
		}
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return fmt.Errorf("give the socket to group %s: %w", group, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return fmt.Errorf("set the mode of the socket: %w", err)
	}
	return nil
}
