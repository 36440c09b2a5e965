//go:build linux

// Command bench measures the numbers that gridwire promises, with the real binary in the lab's internet, and prints them as a Markdown
// table with the target of each:
//
//	go run ./e2e/bench [-only throughput,udp,join,restart,idle,scrape,memory,dns] [-pairs N] [-quick] [-binary PATH]
//
// It owns the lab that it makes and the bare WireGuard processes (its own binary, started again) that the data path is compared with. It
// needs root, iperf3 and the tools of e2e/lab. It is no test: a missed target is a line in the table, and the exit status stays 0;
// whether a number is good depends on the machine, which the table describes.
//
// Ratios are measured in interleaved pairs, one of each contender directly after the other and in alternating order, so that whatever
// else the machine does hits both. Bounds come from order statistics (stats.go): no assumption about the distribution is made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/e2e/lab"
)

// options are the flags.
type options struct {
	only   string
	pairs  int
	rounds int
	length time.Duration // of one run of iperf3
	window time.Duration // for which an idle agent is watched
	quick  bool
	binary string
	lock   string
	logs   string
}

// bench is one run of the program.
type bench struct {
	options
	rows  []row
	note  []string  // below the table, in the order in which they were found
	held  *os.File  // the lock, while this process has it
	since time.Time // when it got it
}

// measurements in the order in which they run. A name is what -only takes.
var measurements = []struct {
	name string
	run  func(context.Context, *bench) error
}{
	{"join", measureJoin},
	{"restart", measureRestart},
	{"idle", measureIdle},
	{"scrape", measureScrape},
	{"throughput", measureThroughput},
	{"udp", measureUDP},
	{"memory", measureMemory},
	{"dns", measureDNS},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == bareCommand {
		exit(bare(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == crowdCommand {
		exit(serveCrowd())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context) error {
	b, err := parse()
	if err != nil {
		return err
	}
	if b.binary == "" {
		dir, err := os.MkdirTemp("", "gridwire-bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b.binary = filepath.Join(dir, "gridwire")
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.binary, "github.com/gridwire/gridwire/cmd/gridwire")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as `make build` makes it
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build gridwire: %w\n%s", err, out)
		}
	}
	var failed []error
	for _, m := range measurements {
		if !b.wanted(m.name) {
			continue
		}
		b.progress("%s", m.name)
		err := m.run(ctx, b)
		b.release()
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", m.name, err))
		}
	}
	b.print(os.Stdout)
	return errors.Join(failed...)
}

func parse() (*bench, error) {
	b := &bench{}
	flag.StringVar(&b.only, "only", "", "measure only these, separated by commas: join, restart, idle, scrape, throughput, udp, memory, dns")
	flag.IntVar(&b.pairs, "pairs", 32, "interleaved pairs for each ratio")
	flag.IntVar(&b.rounds, "rounds", 15, "joins and restarts")
	flag.DurationVar(&b.length, "length", 3*time.Second, "of one run of iperf3, after one second that does not count")
	flag.DurationVar(&b.window, "window", 4*time.Minute, "for which idle agents are watched")
	flag.BoolVar(&b.quick, "quick", false, "a first impression in two minutes: few rounds and short windows")
	flag.StringVar(&b.binary, "binary", "", "the gridwire to measure; default: one built from this tree")
	flag.StringVar(&b.lock, "lock", "", "take this `FILE` (flock) for each measurement, to take turns with others on the machine")
	flag.StringVar(&b.logs, "logs", "", "keep the agents' logs and state in this `FOLDER`; default: they are removed")
	flag.Parse()
	if flag.NArg() > 0 {
		return nil, fmt.Errorf("what is %q? See -help", flag.Arg(0))
	}
	if b.quick {
		b.pairs, b.rounds, b.length, b.window = 4, 4, 2*time.Second, 30*time.Second
	}
	if b.pairs < 1 || b.rounds < 1 || b.length < time.Second || b.window < time.Second {
		return nil, errors.New("-pairs and -rounds must be at least 1, -length and -window at least 1s")
	}
	for _, name := range strings.FieldsFunc(b.only, comma) {
		if !slices.ContainsFunc(measurements, func(m struct {
			name string
			run  func(context.Context, *bench) error
		}) bool {
			return m.name == name
		}) {
			return nil, fmt.Errorf("-only %s: there is no such measurement", name)
		}
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab makes network namespaces: run this as root")
	}
	return b, lab.Sweep()
}

func comma(r rune) bool { return r == ',' }

func (b *bench) wanted(name string) bool {
	return b.only == "" || slices.Contains(strings.FieldsFunc(b.only, comma), name)
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// turn is for how long the lock is kept from one measurement to the next: whoever waits for it should not have to win it for each.
const turn = 30 * time.Second

// alone calls f while this process holds the lock, if there is one.
func (b *bench) alone(f func() error) error {
	if b.lock != "" && b.held == nil {
		file, err := os.OpenFile(b.lock, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
			return errors.Join(fmt.Errorf("wait for %s: %w", b.lock, err), file.Close())
		}
		b.held, b.since = file, time.Now()
	}
	err := f()
	if time.Since(b.since) > turn {
		b.release()
	}
	return err
}

// release lets others have the lock.
func (b *bench) release() {
	if b.held != nil {
		_ = b.held.Close() // and the lock with it
		b.held = nil
	}
}
