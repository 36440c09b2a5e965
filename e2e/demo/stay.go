//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// shortcut is a link to the folder with the machines' commands, so that they are short enough to type.
const shortcut = "/run/gw"

// stay prints what to try, and waits until somebody has seen enough.
func (d *demo) stay(ctx context.Context) error {
	d.staying = true
	frank, err := d.home("frank", "frank's")
	if err != nil {
		return err
	}
	machines := []*machine{d.alice, d.dana, d.bob, d.carol, d.laptop, d.erin, frank}
	at, err := d.commands(machines)
	if err != nil {
		return err
	}
	d.out.heading("Your turn. In another terminal (as root):")
	for _, c := range [][2]string{
		{at + "/laptop gridwire status", "the table; add --watch"},
		{at + "/laptop gridwire ping carol", "and which way it went"},
		{at + "/laptop gridwire explain carol", "why the link is as it is"},
		{at + "/laptop gridwire page", "the page again, with the right to change things"},
		{at + "/carol gridwire netcheck", "what two NATs look like from inside"},
		{at + "/laptop curl http://" + site, "the web server in its namespace"},
		{at + "/bob gridwire workload list", "what bob publishes"},
		{at + "/bob wg show " + d.bob.Interface(), "plain WireGuard"},
		{at + "/bob tcpdump -c 4 -ni eth0 udp", "what bob's provider sees"},
		{at + "/dana gridwire revoke erin", "put her out; then ask status again"},
		{at + "/alice gridwire agent", "the founder comes back"},
		{at + "/laptop", "a shell on the laptop"},
	} {
		d.out.line("  " + d.out.style(cyan, pad(c[0], 50)) + "  " + d.out.style(dim, c[1]))
	}
	d.out.blank()
	d.out.note("Frank's machine is no member yet. Let him in:")
	d.out.blank()
	d.out.line("  " + d.out.style(cyan, fmt.Sprintf("%s/frank gridwire agent --join $(%s/dana gridwire invite --name frank)", at, at)))
	d.out.blank()
	d.out.note("Logs: %s/*/agent.log", d.lab.Dir())
	d.out.blank()
	d.out.line("  " + d.out.style(bold, "Ctrl-C ends the demo and cleans up."))
	<-ctx.Done()
	return errInterrupted
}

// commands writes a command for each machine, which runs what follows it there, and returns the folder by its shortest name.
func (d *demo) commands(machines []*machine) (string, error) {
	dir, path := filepath.Join(d.lab.Dir(), "bin"), filepath.Join(d.lab.Dir(), "path")
	for _, f := range []string{dir, path} {
		if err := os.Mkdir(f, 0o755); err != nil {
			return "", fmt.Errorf("make the folder of the demo's commands: %w", err)
		}
	}
	if err := os.Symlink(d.binary, filepath.Join(path, "gridwire")); err != nil { // it may have another name
		return "", fmt.Errorf("put gridwire into the machines' PATH: %w", err)
	}
	for _, m := range machines {
		if err := os.WriteFile(filepath.Join(dir, m.Label()), []byte(script(m, path)), 0o755); err != nil {
			return "", fmt.Errorf("make the command %s: %w", m.Label(), err)
		}
	}
	// A link that leads nowhere is what a killed demo left; one that leads somewhere belongs to another demo that runs now.
	if _, err := os.Stat(shortcut); errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(shortcut) // it may not be there at all
	}
	if err := os.Symlink(dir, shortcut); err != nil {
		return dir, nil
	}
	d.link = shortcut
	return shortcut, nil
}

// script is a shell script; `ip netns exec` gives what it runs the machine's network.
func script(m *machine, path string) string {
	// Namespaces share the file system: state, socket and interface have to be the machine's own.
	return fmt.Sprintf(`#!/bin/sh
# Runs a command on the demo's machine %[1]s; without one: a shell.
[ "$(id -u)" = 0 ] || exec sudo "$0" "$@"
[ $# -gt 0 ] || set -- "${SHELL:-/bin/sh}"
export GRIDWIRE_STATE=%[2]s GRIDWIRE_SOCKET=%[3]s GRIDWIRE_INTERFACE=%[4]s GRIDWIRE_NAME=%[1]s
export PATH=%[5]s:"$PATH"
exec ip netns exec %[6]s %[7]s "$@"
`, m.Label(), quote(m.State()), quote(m.Socket()), m.Interface(), quote(path), m.Namespace(), m.wrap())
}

// wrap is what runs a command with the machine's own /etc, if it has one.
func (m *machine) wrap() string {
	if m.pc == nil {
		return ""
	}
	return strings.Join(m.pc.Wrap(), " ")
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// close ends what the lab does not know of, and removes what is outside its folder.
func (d *demo) close() error {
	stopWeb(d.web)
	if d.link == "" {
		return nil
	}
	return os.Remove(d.link)
}
