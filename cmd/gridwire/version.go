package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "gridwire %s %s/%s %s\n", agent.Version, runtime.GOOS, runtime.GOARCH, runtime.Version())
			return nil
		},
	}
}
