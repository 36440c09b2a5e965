package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent"
	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/enrol"
)

func inviteCommand(g *globals) *cobra.Command {
	var name string
	var req api.InviteRequest
	var qr bool
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Print a token with which a machine can join (run on an issuer)",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name != "" {
				n, err := mesh.ParseName(name)
				if err != nil {
					return usagef("--name: %w", err)
				}
				req.Name = n
			}
			if req.Uses < 1 {
				return usagef("--uses %d: want 1 or more", req.Uses)
			}
			if req.Expires <= 0 {
				return usagef("--expires %v: want a time from now, like 24h", req.Expires)
			}
			if req.Offline && name == "" {
				return usagef("--offline needs --name NAME: the bundle is that machine's identity")
			}
			if req.Uses > 1 && name != "" {
				return usagef("--uses %d with --name: a name belongs to one machine; leave one of them out", req.Uses)
			}
			var resp api.InviteResponse
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			if err := g.client().Post(ctx, "/v1/invite", req, &resp); err != nil {
				return err
			}
			errOut := cmd.ErrOrStderr()
			if req.Offline {
				fmt.Fprintln(errOut, "This bundle IS a private key: whoever reads it is "+name+" until it expires. Carry it to one machine, use it once, delete it.")
			}
			fmt.Fprintf(errOut, "Valid until %s. On the new machine:  gridwire agent --join TOKEN\n", resp.Expires.Local().Format("2 January 2006 15:04 MST"))
			if qr {
				if err := printQR(cmd.OutOrStdout(), resp.Token); err != nil {
					return err
				}
			}
			fmt.Fprintln(cmd.OutOrStdout(), resp.Token)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "`NAME` that the new machine gets (default: what it asks for)")
	f.StringArrayVar(&req.Tags, "tag", nil, "`TAG` in its certificate; repeatable")
	f.StringArrayVar(&req.Routes, "route", nil, "`PREFIX` behind it that it may serve; repeatable")
	f.IntVar(&req.Uses, "uses", 1, "how many machines may join with the token")
	f.DurationVar(&req.Expires, "expires", 24*time.Hour, "how long the token is valid")
	f.BoolVar(&req.Offline, "offline", false, "make a bundle that needs no issuer online; it is a private key")
	f.BoolVar(&qr, "qr", false, "show the token as a QR code, too")
	return cmd
}

func joinCommand(g *globals) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "join TOKEN",
		Short: "Make this machine a member; TOKEN may be - to read it from standard input",
		Args:  exactArgs("TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := api.JoinRequest{Token: args[0]}
			if req.Token == "-" {
				if _, err := fmt.Fscan(cmd.InOrStdin(), &req.Token); err != nil {
					return usagef("read the token from standard input: %w", err)
				}
			}
			if name != "" {
				n, err := mesh.ParseName(name)
				if err != nil {
					return usagef("--name: %w", err)
				}
				req.Name = n
			}
			if err := enrol.CheckToken(req.Token); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			resp := &api.JoinResponse{}
			err := g.client().Post(ctx, "/v1/join", req, resp)
			if errors.Is(err, api.ErrNoAgent) {
				log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
				resp, err = agent.JoinAlone(ctx, g.state, req, log)
				if err == nil {
					fmt.Fprintln(cmd.ErrOrStderr(), "No agent is running. Start it:  gridwire agent   (or: systemctl enable --now gridwire)")
				}
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is a member of %s (%s)\n", resp.Name, resp.Network, strings.Join(resp.Addrs, ", "))
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "this machine's `NAME` (default: the invitation's, else the host name)")
	return cmd
}
