package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/cmd/gridwire/watch"
)

// watchStatus shows the live table on a terminal, else the plain one again and again.
func watchStatus(cmd *cobra.Command, g *globals) error {
	if _, err := getStatus(cmd.Context(), g); err != nil {
		return err // before the screen changes: no agent, no permission
	}
	out, ok := cmd.OutOrStdout().(*os.File)
	if !ok || !term.IsTerminal(out.Fd()) || os.Getenv("TERM") == "dumb" {
		return repeatStatus(cmd.Context(), g, cmd.OutOrStdout())
	}
	return watch.Run(cmd.Context(), watch.Config{
		Status: func(ctx context.Context) (*api.Status, error) { return getStatus(ctx, g) },
		History: func(ctx context.Context) (*api.History, error) {
			h := &api.History{}
			return h, g.client().Get(ctx, "/v1/history?minutes=60", h)
		},
		Explain: func(ctx context.Context, name string) (string, error) {
			e := &api.Explain{}
			if err := g.client().Post(ctx, "/v1/explain", api.NameRequest{Name: name}, e); err != nil {
				return "", err
			}
			var b unbroken
			err := printExplain(&b, e, time.Now())
			return b.String(), err
		},
		In: os.Stdin, Out: out, Env: os.Environ(),
	})
}

// repeatStatus prints the plain table each second. An agent that restarts meanwhile is waited for.
func repeatStatus(ctx context.Context, g *globals, out io.Writer) error {
	for {
		fmt.Fprintf(out, "--- %s\n", time.Now().Format(time.DateTime))
		if st, err := getStatus(ctx, g); err != nil {
			fmt.Fprintln(out, err)
		} else {
			printStatus(out, st)
		}
		fmt.Fprintln(out)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}
