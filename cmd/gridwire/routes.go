package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/gridwire/gridwire/agent/api"
)

// printRoutes prints the networks behind members, this node's own included.
func printRoutes(w io.Writer, routes []api.Route) {
	if len(routes) == 0 {
		return
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "NETWORK\tSTATE\tBY WAY OF\tOR")
	for _, r := range routes {
		others := slices.DeleteFunc(slices.Clone(r.Routers), func(name string) bool { return name == r.Via })
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", r.Prefix, r.State, dash(r.Via), dash(strings.Join(others, ", ")))
	}
	_ = tw.Flush()
	for _, r := range routes {
		if r.Reason != "" {
			fmt.Fprintln(w)
			printWrapped(w, r.Prefix+": "+r.Reason)
		}
	}
}
