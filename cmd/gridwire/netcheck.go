package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
)

func netcheckCommand(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "netcheck",
		Short: "Show this machine's NAT type, mapped addresses and reachability, as other members see them now",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := &api.Netcheck{}
			if err := g.client().Get(cmd.Context(), "/v1/netcheck", n); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), n)
			}
			return printNetcheck(cmd.OutOrStdout(), n)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// shownMembers is how many members the text lists; --json has all.
const shownMembers = 10

func printNetcheck(w io.Writer, n *api.Netcheck) error {
	printWrapped(w, n.Meaning)
	for _, a := range n.Advice {
		printItem(w, a)
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(tw, "NAT\t%s\n", n.NAT)
	fmt.Fprintf(tw, "  mapping (RFC 4787, 4.1)\t%s\n", n.Mapping)
	fmt.Fprintf(tw, "  filtering (RFC 4787, 5)\t%s\n", n.Filtering)
	fmt.Fprintf(tw, "  hairpinning\tnot needed: members on one LAN use their own addresses\n")
	fmt.Fprintf(tw, "UDP\t%s, port %d\n", udpText(n), n.Port)
	fmt.Fprintf(tw, "reachable by strangers\t%s\n", yesNo(n.Reachable))
	fmt.Fprintf(tw, "own addresses\t%s\n", dash(strings.Join(n.Local, ", ")))
	fmt.Fprintf(tw, "seen from outside as\t%s\n", dash(strings.Join(n.Mapped, ", ")))
	if len(n.Advertised) > 0 {
		fmt.Fprintf(tw, "advertised as\t%s\n", strings.Join(n.Advertised, ", "))
	}
	fmt.Fprintf(tw, "IPv6\t%s\n", ipv6Text(n))
	for _, s := range n.Servers {
		who := "asked " + dash(s.Name)
		if s.Silent {
			fmt.Fprintf(tw, "%s\tat %s: no answer\n", who, s.Address)
			continue
		}
		fmt.Fprintf(tw, "%s\tat %s: sees %s, %s\n", who, s.Address, s.Mapped, rttText(s.RTT))
	}
	for _, c := range n.Control {
		fmt.Fprintf(tw, "control connection\t%s at %s, %s\n", c.Name, c.Remote, rttText(c.RTT))
	}
	printLatencies(tw, n.Members)
	return tw.Flush()
}

func printLatencies(w io.Writer, members []api.NetcheckLatency) {
	for i, m := range members {
		if i == shownMembers {
			fmt.Fprintf(w, "\tand %d more: gridwire status\n", len(members)-i)
			return
		}
		fmt.Fprintf(w, "latency\t%s: %s\n", m.Name, latencyText(m))
	}
}

func latencyText(m api.NetcheckLatency) string {
	if m.RTT == 0 {
		return m.State
	}
	return rttText(m.RTT)
}

func udpText(n *api.Netcheck) string {
	switch {
	case n.UDPBlocked:
		return "no answer from anybody"
	case len(n.Servers) == 0:
		return "nobody to ask"
	case n.Asked != nil && time.Since(*n.Asked) > time.Minute:
		return fmt.Sprintf("passed when asked last, %s", n.Asked.Local().Format("15:04:05"))
	}
	return "passes"
}

func ipv6Text(n *api.Netcheck) string {
	switch {
	case n.IPv6Works:
		return "works"
	case n.IPv6:
		return "this machine has an address; no member answered over it (they may have none)"
	}
	return "none here; not needed"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
