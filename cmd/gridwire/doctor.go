package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/doctor"
)

func doctorCommand(g *globals) *cobra.Command {
	var fix bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine: rights, /dev/net/tun, clock, firewall, address clashes, IPv6",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, _ := getStatus(cmd.Context(), g) // without an agent the machine itself can still be checked
			bad := 0
			for _, c := range doctor.Check(cmd.Context(), doctor.System(), g.state, st) {
				fmt.Fprintf(cmd.OutOrStdout(), "%-7s %s: %s\n", c.Grade, c.Topic, c.Finding)
				if c.Remedy != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "        -> %s\n", c.Remedy)
				}
				if fix && c.Fix != nil {
					if err := c.Fix(cmd.Context()); err != nil {
						fmt.Fprintf(cmd.OutOrStdout(), "        could not be mended: %v\n", err)
					} else {
						fmt.Fprintln(cmd.OutOrStdout(), "        mended")
						continue
					}
				}
				if c.Grade == doctor.Bad {
					bad++
				}
			}
			if bad > 0 {
				return fmt.Errorf("%d problem(s)", bad)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&fix, "fix", false, "mend what can be mended without a decision of yours")
	return cmd
}
