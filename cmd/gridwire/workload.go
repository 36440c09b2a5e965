package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/workload/attach"
	"github.com/gridwire/gridwire/mesh"
)

func workloadCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "workload", Short: "Name and attach workloads on this node: containers, VMs, services", Args: exactArgs()}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return usagef("say: gridwire workload add NAME | list | remove NAME")
	}
	cmd.AddCommand(workloadAdd(g), workloadList(g), workloadRemove(g))
	return cmd
}

func workloadAdd(g *globals) *cobra.Command {
	var r attach.Request
	cmd := &cobra.Command{
		Use:   "add NAME (--netns PATH | --address ADDR) [--port http=8080/tcp]...",
		Short: "Make a namespace, or an address, part of the mesh under a name",
		Long: `Make something on this node part of the mesh: NAME.NODE.DOMAIN, which every member reaches directly, with nothing translated in between.

With --netns, a network namespace (a container's, a VM's) gets an interface with addresses of this node's, and routes to the whole mesh. It
takes root. With --address, something that already has an address in this node's authorised prefixes gets the name.`,
		Example: `  gridwire workload add web --netns /run/netns/web --port http=8080/tcp
  gridwire workload add db --netns /proc/4711/ns/net --port postgresql=5432
  gridwire workload add nas --address 192.0.2.10 --port smb=445`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			if err := checkWorkload(r.WorkloadRequest); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), change)
			defer cancel()
			w, err := addWorkload(ctx, g.client(), r)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", w.DNSName, addressText(w.Addresses))
			if w.Health != "up" {
				fmt.Fprintf(cmd.ErrOrStderr(), "It is not announced yet: %s.\n", w.Reason)
			}
			if w.Note != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "Note: %s.\n", w.Note)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&r.Netns, "netns", "", "network namespace: a `PATH` (/run/netns/web, /proc/PID/ns/net), or a name that ip netns lists")
	cmd.Flags().StringVar(&r.Address, "address", "", "`ADDR` in this node's authorised prefixes that is reachable from here")
	cmd.Flags().StringArrayVar(&r.Ports, "port", nil, "a port it serves, `[NAME=]NUMBER[/PROTOCOL]`, such as http=8080/tcp; found by name as SRV record")
	cmd.Flags().StringVar(&r.Ifname, "ifname", "gw0", "`NAME` of the interface in the namespace")
	return cmd
}

// checkWorkload finds mistakes in the words before anything is asked or made.
func checkWorkload(r api.WorkloadRequest) error {
	if _, err := mesh.ParseName(r.Name); err != nil {
		return usageError{fmt.Errorf("workload: %w", err)}
	}
	switch {
	case r.Netns == "" && r.Address == "":
		return usagef("say what %s is: --netns PATH or --address ADDR", r.Name)
	case r.Netns != "" && r.Address != "":
		return usagef("--netns and --address exclude each other: a namespace gets its addresses from this node")
	}
	for _, p := range r.Ports {
		if _, err := mesh.ParsePort(p); err != nil {
			return usageError{err}
		}
	}
	return nil
}

func addWorkload(ctx context.Context, c *api.Client, r attach.Request) (*api.Workload, error) {
	if r.Address != "" {
		w := &api.Workload{}
		return w, c.Post(ctx, "/v1/workloads/add", r.WorkloadRequest, w)
	}
	res, err := attach.Attach(ctx, c, r)
	if err != nil {
		return nil, err
	}
	return &res.Workload, nil
}

func workloadList(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List this node's workloads and whether they are there", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []api.Workload
			if err := g.client().Get(cmd.Context(), "/v1/workloads", &all); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), all)
			}
			return printWorkloads(cmd.OutOrStdout(), all)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printWorkloads(w io.Writer, all []api.Workload) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tHEALTH\tADDRESSES\tPORTS\tRECEIVED\tSENT\tWHAT")
	for _, x := range all {
		what := "address"
		if x.Kind == "netns" {
			what = x.Netns
		}
		if x.Owner != nil {
			what = "container " + x.Owner.Container[:min(12, len(x.Owner.Container))]
		}
		health := x.Health
		if x.Reason != "" {
			health += " (" + x.Reason + ")"
		}
		rx, tx := "-", "-"
		if x.Kind == "netns" {
			rx, tx = bytesText(x.ReceiveBytes), bytesText(x.TransmitBytes)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.DNSName, health, addressText(x.Addresses), dash(strings.Join(x.Ports, ",")), rx, tx, what)
	}
	return tw.Flush()
}

func workloadRemove(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Take a workload out of the mesh; its namespace loses the interface", Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), change)
			defer cancel()
			if err := g.client().Post(ctx, "/v1/workloads/remove", api.WorkloadRef{Name: args[0]}, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is removed\n", args[0])
			return nil
		},
	}
}
