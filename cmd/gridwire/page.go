package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
)

func pageCommand(g *globals) *cobra.Command {
	var readOnly bool
	cmd := &cobra.Command{
		Use:   "page",
		Short: "Print the address of this machine's health page",
		Long: `Prints the address of the health page, for a browser on this machine. The address carries a token, with which the page can also change
things (let a machine in, try a link again); it is another one at each start of the agent. --read-only leaves it out.

From elsewhere, forward the port: ssh -L 9587:127.0.0.1:9587 MACHINE`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := &api.PageInfo{}
			if err := g.client().Post(cmd.Context(), "/v1/page", struct{}{}, p); err != nil {
				return err
			}
			if p.Address == "" {
				return fmt.Errorf("the health page is off (--page off, or its port was taken: see the agent's log)")
			}
			if !readOnly {
				p.Address += "#token=" + p.Token
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), p.Address)
			return err
		},
	}
	cmd.Flags().BoolVar(&readOnly, "read-only", false, "without the token that lets the page change things")
	return cmd
}
