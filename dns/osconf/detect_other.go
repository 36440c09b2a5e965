//go:build !linux && !darwin && !windows

package osconf

import (
	"context"
	"log/slog"
)

// System is the machine this program runs on.
func System(log *slog.Logger) Env {
	return Env{Root: "/", Run: run, Exists: interfaceExists, Log: log}
}

// Detect returns what every Unix has.
func Detect(e Env) (Manager, error) { return newKeeper(&plain{env: e}), nil }

// Restore takes out what killed agents left: the lines with the mark of an interface that exists no more.
func Restore(_ context.Context, e Env) (done []string, err error) { return restorePlain(e) }

// Left says what Restore would find to put back. It changes nothing.
func Left(e Env) []string { return leftInPlain(e) }
