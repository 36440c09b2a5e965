package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/mesh/enrol"
)

// change bounds a command that changes the network.
const change = 15 * time.Second

func membersCommand(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List everybody the network knows of, online or not",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var members []api.Member
			if err := g.client().Get(cmd.Context(), "/v1/members", &members); err != nil {
				return err
			}
			slices.SortFunc(members, func(a, b api.Member) int { return strings.Compare(a.Name, b.Name) })
			if asJSON {
				return printJSON(cmd.OutOrStdout(), members)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(tw, "NAME\tSTANDING\tLINK\tISSUER\tEXPIRES\tADDRESSES\tTAGS\tNETWORKS")
			for _, m := range members {
				issuer, expires := "-", "-"
				if m.Issuer {
					issuer = "yes"
				}
				if m.Expires != nil {
					expires = m.Expires.Local().Format("2 Jan 2006")
				}
				if m.Name == "" { // revoked, and its record never came here
					m.Name = "(node " + m.ID[:8] + ")"
				}
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.Standing, dash(m.State), issuer, expires,
					addressText(m.Address), dash(strings.Join(m.Tags, ",")), dash(strings.Join(m.Routes, ",")))
			}
			return tw.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func revokeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "Put a member out of the network, for good (run on an issuer)",
		Args:  exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), change)
			defer cancel()
			if err := g.client().Post(ctx, "/v1/revoke", api.NameRequest{Name: args[0]}, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is revoked. Members that are connected drop it now; the others when they next meet one that knows.\n", args[0])
			return nil
		},
	}
}

func leaveCommand(g *globals) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Leave the network: tell the others and wipe this machine's keys",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := getStatus(cmd.Context(), g)
			if err != nil {
				return err
			}
			if st.Network == nil {
				return fmt.Errorf("this machine is no member of a network: there is nothing to leave")
			}
			if st.Self.Issuer && !yes {
				return refusal{fmt.Errorf("this machine is an issuer of %s: its right to admit and renew is wiped with its keys. If that is meant: gridwire leave --yes", st.Network.Name)}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), change)
			defer cancel()
			if err := g.client().Post(ctx, "/v1/leave", struct{}{}, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s has left %s; its keys are wiped\n", st.Self.Name, st.Network.Name)
			if root := filepath.Join(g.state, enrol.FileRootKey); exists(root) {
				fmt.Fprintf(cmd.ErrOrStderr(), "The root key of %s stays in %s: it is the network's. Move it to where you keep it, or, if the network is to end, shred it.\n",
					st.Network.Name, root)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "leave also if this machine is an issuer")
	return cmd
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func issuerCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "issuer", Short: "Let another member admit, renew and revoke", Args: exactArgs()}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return usagef("say: gridwire issuer add NAME | list | remove NAME")
	}
	var asJSON bool
	list := &cobra.Command{
		Use: "list", Short: "List the issuers", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var issuers []api.Issuer
			if err := g.client().Get(cmd.Context(), "/v1/issuers", &issuers); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), issuers)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(tw, "NAME\tIPV4\tUNTIL\tKEY")
			for _, i := range issuers {
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", i.Name, dash(i.IPv4), i.Expires.Local().Format("2 Jan 2006"), i.KeyID)
			}
			return tw.Flush()
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(list,
		issuerChange(g, "add", "Make a member an issuer (needs the root key on this machine)", "is an issuer now: it admits, renews and revokes"),
		issuerChange(g, "remove", "Take the right away (needs the root key); certificates it issued stay valid until they are renewed elsewhere", "is no issuer any more"))
	return cmd
}

func issuerChange(g *globals, verb, short, done string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), change)
			defer cancel()
			if err := g.client().Post(ctx, "/v1/issuers/"+verb, api.NameRequest{Name: args[0]}, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", args[0], done)
			return nil
		},
	}
}
