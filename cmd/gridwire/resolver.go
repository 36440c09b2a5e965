package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/resolver"
)

// resolverCommand is the root helper. It is hidden because nobody but systemd, or another init system's script, calls it.
func resolverCommand() *cobra.Command {
	var listen, group string
	cmd := &cobra.Command{
		Use:    "resolver",
		Short:  "Root helper of agents that may not edit this machine's resolver settings themselves",
		Hidden: true,
		Long: `Points this machine's resolver at an agent of this machine, and puts everything back when the agent ends, however it ends. It does this
for the one agent on its standard input (gridwire-resolver.socket starts it so), or with --listen for all that connect.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if listen == "" {
				return resolver.ServeStdin(cmd.Context(), log)
			}
			return resolver.ServeSocket(cmd.Context(), listen, group, log)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "listen on this `SOCKET` instead of serving standard input")
	cmd.Flags().StringVar(&group, "group", "gridwire", "the `GROUP` whose agents may connect to it, by name or number")
	return cmd
}
