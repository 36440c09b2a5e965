package osconf

import (
	"context"
	"log/slog"
)

// System is the machine this program runs on.
func System(log *slog.Logger) Env {
	return Env{Root: "/", Run: run, Exists: interfaceExists, Log: log}
}

// Detect returns the one mechanism that macOS has.
func Detect(e Env) (Manager, error) { return newKeeper(&resolverDir{e}), nil }

// Restore removes the files of agents that were killed: those with the mark of an interface that exists no more.
func Restore(_ context.Context, e Env) (done []string, err error) {
	return e.removeDead(resolverFolder)
}

// Left says what Restore would find to put back. It changes nothing.
func Left(e Env) []string { return e.leftIn(resolverFolder) }
