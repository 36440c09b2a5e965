// Command gridwire is the command line of an encrypted WireGuard mesh that belongs to its members.
//
// It is thin: it reads flags, asks the agent over its control socket or calls one function, and prints. Answers go to stdout, everything
// else to stderr. Exit status: 0 success, 1 failure, 2 usage, 3 no agent, 4 refused, 5 timeout.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/mesh/enrol"
)

// The exit statuses that scripts rely on.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitNoAgent = 3
	exitRefused = 4
	exitTimeout = 5
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintln(stderr, "gridwire: "+msg)
	}
	return exitCode(err)
}

// usageError is a mistake in the command's words.
type usageError struct{ error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// refusal makes the command end with status 4.
type refusal struct{ error }

// timeout makes the command end with status 5.
type timeout struct{ error }

func exitCode(err error) int {
	var usage usageError
	var refused refusal
	var late timeout
	var apiErr *api.Error
	switch {
	case errors.As(err, &usage), isCobraUsage(err):
		return exitUsage
	case errors.Is(err, api.ErrNoAgent):
		return exitNoAgent
	case errors.As(err, &refused):
		return exitRefused
	case errors.As(err, &late):
		return exitTimeout
	case errors.As(err, &apiErr):
		switch apiErr.Code {
		case api.CodeUsage:
			return exitUsage
		case api.CodeRefused:
			return exitRefused
		case api.CodeTimeout:
			return exitTimeout
		}
		return exitFailure
	case isRefused(err):
		return exitRefused
	}
	return exitFailure
}

// isRefused reports whether enrolment said no (as against: could not be reached), or the token's text alone shows that it would.
func isRefused(err error) bool {
	return enrol.BadToken(err) || enrol.Final(err)
}

// isCobraUsage recognises cobra's own complaints, which have no type.
func isCobraUsage(err error) bool {
	for _, start := range []string{"unknown command", "unknown flag", "unknown shorthand", "flag needs an argument", "invalid argument", "accepts ", "requires at least", "bad flag syntax"} {
		if strings.HasPrefix(err.Error(), start) {
			return true
		}
	}
	return false
}
