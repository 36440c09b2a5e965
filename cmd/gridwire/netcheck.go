package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
)

func netcheckCommand(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "netcheck",
		Short: "Show this machine's NAT type, mapped addresses and reachability, as other members see them",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := &api.Netcheck{}
			if err := g.client().Get(cmd.Context(), "/v1/netcheck", n); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, n)
			}
			tw := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
			fmt.Fprintf(tw, "NAT\t%s\n", n.NAT)
			fmt.Fprintf(tw, "UDP port\t%d\n", n.Port)
			fmt.Fprintf(tw, "local addresses\t%s\n", dash(strings.Join(n.Local, ", ")))
			fmt.Fprintf(tw, "mapped addresses\t%s\n", dash(strings.Join(n.Mapped, ", ")))
			fmt.Fprintf(tw, "reachable by strangers\t%s\n", yesNo(n.Reachable))
			fmt.Fprintf(tw, "IPv6\t%s\n", yesNo(n.IPv6))
			for _, s := range n.Servers {
				if s.Silent {
					fmt.Fprintf(tw, "member %s\tno answer\n", s.Address)
					continue
				}
				fmt.Fprintf(tw, "member %s\tsees %s, %s\n", s.Address, s.Mapped, rttText(s.RTT))
			}
			for _, c := range n.Control {
				fmt.Fprintf(tw, "control connection\t%s %s, %s\n", c.Name, c.Remote, rttText(c.RTT))
			}
			if err := tw.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(out, "\n%s\n", n.Meaning)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func explainCommand(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain NAME",
		Short: "Say why the link to a member is as it is, and what would make it better",
		Args:  exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e := &api.Explain{}
			if err := g.client().Post(cmd.Context(), "/v1/explain", api.NameRequest{Name: args[0]}, e); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, e)
			}
			fmt.Fprintf(out, "%s: %s, path %s %s\n", e.Peer.Name, e.Peer.State, pathText(e.Peer), e.Peer.Path.Remote)
			fmt.Fprintf(out, "NAT here: %s; NAT there: %s\n", e.SelfNAT, e.PeerNAT)
			if len(e.Pairs) > 0 {
				fmt.Fprintln(out, "\ncandidate pairs of the newest attempt:")
				for _, p := range e.Pairs {
					mark := " "
					if p.Nominated {
						mark = "*"
					}
					fmt.Fprintf(out, " %s %s -> %s  %s, %d sent, %d answered\n", mark, p.Local, p.Remote, p.State, p.Sent, p.Answered)
				}
			}
			fmt.Fprintf(out, "\n%s\n", e.Meaning)
			for _, a := range e.Advice {
				fmt.Fprintf(out, "- %s\n", a)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
