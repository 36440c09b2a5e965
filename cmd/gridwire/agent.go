package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/libp2p/go-libp2p/gologshim"
	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent"
	"github.com/gridwire/gridwire/agent/config"
)

func agentCommand(*globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent in the foreground",
		Long: `Run the agent in the foreground until SIGTERM or Ctrl-C. It needs CAP_NET_ADMIN (the overlay interface) and
CAP_NET_BIND_SERVICE, and /dev/net/tun. A machine that is no member yet waits for 'gridwire join' or 'gridwire init'.

Every flag can be set in the configuration file and in the environment (GRIDWIRE_LISTEN, GRIDWIRE_ADVERTISE, ...), too.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return usageError{err}
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: cfg.LogLevel}))
			gologshim.SetDefaultHandler(quiet{log.Handler()}) // before the first line of libp2p
			return agent.Run(cmd.Context(), cfg, log)
		},
	}
	config.Flags(cmd.Flags())
	return cmd
}

// quiet passes a library's lines on one level down: what is an error to libp2p (a connection that broke) is everyday life to an agent.
type quiet struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }

// WithGroup implements slog.Handler.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
