package main

import (
	"log/slog"
	"os"

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
			return agent.Run(cmd.Context(), cfg, log)
		},
	}
	config.Flags(cmd.Flags())
	return cmd
}
