package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent"
	"github.com/gridwire/gridwire/mesh"
)

func initCommand(g *globals) *cobra.Command {
	var node, domain, ipv4 string
	cmd := &cobra.Command{
		Use:   "init NETWORK",
		Short: "Make a new network; this machine becomes its first member and issuer",
		Args:  exactArgs("NETWORK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := initRequest(args[0], node, domain, ipv4)
			if err != nil {
				return usageError{err}
			}
			req.State = g.state
			res, err := agent.Init(req, time.Now())
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "network   %s (%s)\n", res.Network.Name, res.Network.ID)
			fmt.Fprintf(out, "domain    %s\n", res.Network.Domain)
			fmt.Fprintf(out, "node      %s\n", res.Name)
			for _, a := range res.Addrs {
				fmt.Fprintf(out, "address   %s\n", a)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), `
Next, on this machine:     gridwire agent        (or: systemctl enable --now gridwire)
Then, for each new member: gridwire invite --name NAME

This network has one issuer, this machine. Members' certificates last 30 days and renew themselves from an
issuer: if this machine is lost and there is no other issuer, the network ends on %s.
Give another member the right once it has joined:  gridwire issuer add NAME

The root key is in %s.
It is needed only to appoint and dismiss issuers. Whoever has it owns the network. Copy it to a medium that you
keep offline (two, in two places), check the copies, then remove it here:
  cp %[2]s /media/usb/ && cmp %[2]s /media/usb/root.key && shred -u %[2]s*
`, res.Expires.Format("2 January 2006"), res.RootKey)
			return nil
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "this machine's `NAME` (default: its host name)")
	cmd.Flags().StringVar(&domain, "domain", "", "`DOMAIN` of the network (default NETWORK.internal)")
	cmd.Flags().StringVar(&ipv4, "ipv4", "", "IPv4 pool, a private `PREFIX` of /8 to /26, or 'off' (default: a /16 of 10.64.0.0/10 by the network's hash)")
	return cmd
}

func initRequest(network, node, domain, ipv4 string) (agent.InitRequest, error) {
	req := agent.InitRequest{}
	var err error
	if req.Network, err = mesh.ParseName(network); err != nil {
		return req, fmt.Errorf("network %w", err)
	}
	if node == "" {
		node = string(agent.HostName())
		if node == "" {
			return req, fmt.Errorf("this machine's host name is no DNS label; say --node NAME")
		}
	}
	if req.Node, err = mesh.ParseName(node); err != nil {
		return req, fmt.Errorf("--node: %w", err)
	}
	if domain == "" {
		domain = string(req.Network) + ".internal"
	}
	if req.Domain, err = mesh.ParseDomain(domain); err != nil {
		return req, fmt.Errorf("--domain: %w", err)
	}
	switch ipv4 {
	case "":
	case "off":
		req.NoIPv4 = true
	default:
		p, err := netip.ParsePrefix(ipv4)
		if err != nil || !p.Addr().Is4() {
			return req, fmt.Errorf("--ipv4 %q is no IPv4 prefix like 10.77.0.0/16", ipv4)
		}
		req.IPv4 = p.Masked()
		if err := agent.CheckPool(req.IPv4); err != nil {
			return req, fmt.Errorf("--ipv4: %w", err)
		}
	}
	return req, nil
}
