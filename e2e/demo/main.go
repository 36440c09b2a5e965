//go:build linux

// Command demo shows a mesh forming across real NATs on this machine (`make demo`), or a real Prometheus watching it (`make observe`).
//
// It makes an internet of network namespaces (e2e/lab), runs the real gridwire in it, and prints what it sees: never what it expects. Each
// claim on the screen is checked where it is printed, and the exit status is 1 if one does not hold. It owns nothing that outlives it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// delay is one way between any two ports of the demo's internet: neighbours in one country.
const delay = 10 * time.Millisecond

func main() {
	observe := flag.String("observe", "", "show a real Prometheus that watches the mesh, with the configuration in this `folder` (deploy)")
	server := flag.String("serve", "", "be the web server in a workload's namespace, at this `address`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := 0
	if *server == "" {
		code = run(ctx, *observe)
	} else if err := serve(ctx, *server); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	stop()
	os.Exit(code)
}

func run(ctx context.Context, observe string) int {
	out := newScreen(os.Stdout)
	binary, err := program()
	if err != nil {
		out.failed(err)
		return 1
	}
	l, err := lab.New(lab.Options{Binary: binary, Delay: delay, LogLevel: "info"})
	if err != nil {
		out.failed(err)
		return 1
	}
	playing, end := context.WithCancel(ctx)
	defer end()
	d := &demo{lab: l, out: out, binary: binary, observe: observe}
	if observe != "" {
		err = d.watch(playing)
	} else if err = d.play(playing); err == nil && isTerminal(os.Stdin) {
		err = d.stay(playing)
	}
	end()
	d.forwards.Wait()
	if ctx.Err() != nil {
		err = errInterrupted
	}
	if err != nil && !errors.Is(err, errInterrupted) {
		out.failed(err)
		out.note("What every agent and router saw is in %s", dump(l))
	}
	out.blank()
	if cerr := errors.Join(d.close(), l.Close()); cerr != nil {
		out.failed(fmt.Errorf("clean up: %w", cerr))
		return 1
	}
	out.note("Cleaned up: no namespace, process or file of the demo is left.")
	switch {
	case errors.Is(err, errInterrupted) && !d.staying:
		return 130
	case err != nil && !errors.Is(err, errInterrupted):
		return 1
	}
	return 0
}

var errInterrupted = errors.New("interrupted")

// program is the gridwire to show: GRIDWIRE_BIN, or the one beside this program.
func program() (string, error) {
	path := os.Getenv("GRIDWIRE_BIN")
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find the folder of this program: %w", err)
		}
		path = filepath.Join(filepath.Dir(self), "gridwire")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("there is no gridwire to show (make build): %w", err)
	}
	return filepath.Abs(path)
}

// dump writes everything that helps to understand a failure to a file that outlives the lab, and returns its name.
func dump(l *lab.Lab) string {
	f, err := os.CreateTemp("", "gridwire-demo-*.log")
	if err != nil {
		return fmt.Sprintf("(no file: %v)", err)
	}
	defer f.Close()
	l.Dump(f)
	return f.Name()
}
