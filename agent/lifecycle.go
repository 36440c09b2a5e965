package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// stopLimit bounds how long one part may take to stop; all of them together have to fit into two seconds.
const stopLimit = 1500 * time.Millisecond

// part is something that runs until its context ends.
type part struct {
	name string // put before its errors; empty: they are sentences for the user already
	run  func(context.Context) error
}

type running struct {
	part
	cancel context.CancelFunc
	done   chan struct{}
}

// runParts starts the parts in order and waits until ctx ends or one of them does; then it stops them in reverse order, each with the
// reason, and returns the first error. A part that does not stop in time is left behind and named.
func runParts(ctx context.Context, log *slog.Logger, parts []part) error {
	type end struct {
		name string
		err  error
	}
	ended := make(chan end, len(parts))
	var started []running
	for _, p := range parts {
		pctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := running{part: p, cancel: cancel, done: make(chan struct{})}
		started = append(started, r)
		go func() { // waited for below
			err := p.run(pctx)
			close(r.done)
			ended <- end{p.name, err}
		}()
	}
	var first error
	select {
	case <-ctx.Done():
		log.Debug("stopping", "reason", context.Cause(ctx))
	case e := <-ended:
		first = e.err
		if first == nil {
			first = fmt.Errorf("%s ended by itself", cmp.Or(e.name, "the agent"))
		} else if !errors.Is(first, errStop) && e.name != "" {
			first = fmt.Errorf("%s: %w", e.name, first)
		}
	}
	deadline := time.NewTimer(stopLimit)
	defer deadline.Stop()
	for i := len(started) - 1; i >= 0; i-- {
		r := started[i]
		r.cancel()
		select {
		case <-r.done:
			log.Debug("stopped", "part", r.name)
		case <-deadline.C:
			log.Warn("did not stop in time and is left behind", "part", r.name)
			deadline.Reset(50 * time.Millisecond)
		}
	}
	return first
}

// errStop ends a node without being a failure: it left the network, or starts anew with other keys.
var errStop = errors.New("stopped on purpose")
