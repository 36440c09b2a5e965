package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/health"
)

func getStatus(ctx context.Context, g *globals) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st := &api.Status{}
	return st, g.client().Get(ctx, "/v1/status", st)
}

func statusCommand(g *globals) *cobra.Command {
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show this node, its network, every peer and its path",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON && watch {
				return usagef("--json and --watch contradict each other")
			}
			if watch {
				return watchStatus(cmd, g)
			}
			st, err := getStatus(cmd.Context(), g)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), st)
			}
			printStatus(cmd.OutOrStdout(), st)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&watch, "watch", false, "a table that updates, sorts and filters; where the output is no terminal, print it again each second")
	return cmd
}

func printStatus(w io.Writer, st *api.Status) {
	if st.Network == nil {
		fmt.Fprintln(w, "This machine is no member of a network yet: gridwire join TOKEN, or gridwire init NETWORK.")
		return
	}
	printVerdict(w, health.Judge(st, time.Now()))
	role := ""
	if st.Self.Issuer {
		role = ", issuer"
	}
	if st.Self.Gateway {
		role += ", gateway"
	}
	fmt.Fprintf(w, "%s in %s%s   %s\n", st.Self.Name, st.Network.Domain, role, addressText(st.Self.Addresses))
	fmt.Fprintf(w, "interface %s, UDP port %d, NAT: %s", st.Self.Interface, st.Self.ListenPort, st.Self.NAT)
	if st.Self.CertificateExpires != nil {
		fmt.Fprintf(w, ", certificate until %s", st.Self.CertificateExpires.Local().Format("2 Jan 2006"))
	}
	fmt.Fprint(w, "\n\n")
	if len(st.Peers) > 0 {
		printPeers(w, st.Peers)
		printDay(w, st.Peers, time.Now())
	}
	printDevices(w, st)
	printRoutes(w, st.Routes)
	for _, warning := range st.Warnings {
		fmt.Fprintln(w)
		printWrapped(w, "warning: "+warning)
	}
}

// printVerdict is the line for somebody who looks once.
func printVerdict(w io.Writer, v health.Finding) {
	printWrapped(w, v.Text)
	if v.Remedy != "" {
		printHanging(w, "-> ", v.Remedy)
	}
	fmt.Fprintln(w)
}

// printPeers prints a table that fits into 100 columns where names are short and addresses IPv4.
func printPeers(w io.Writer, peers []api.Peer) {
	slices.SortFunc(peers, func(a, b api.Peer) int { return strings.Compare(a.Name, b.Name) })
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "PEER\tADDRESS\tSTATE\tPATH\tRTT, LOSS\tRECEIVED\tSENT\tENDPOINT")
	for _, p := range peers {
		addr := ""
		if len(p.Addresses) > 0 {
			addr = p.Addresses[len(p.Addresses)-1] // the IPv4 address where there is one: it is the shorter one
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, addressText([]string{addr}), p.State, pathText(p), rttLossText(p),
			bytesText(p.ReceiveBytes), bytesText(p.TransmitBytes), dash(p.Path.Remote))
	}
	_ = tw.Flush()
	for _, p := range peers {
		if p.Reason != "" && p.State != "connected" {
			fmt.Fprintln(w)
			printWrapped(w, p.Name+": "+p.Reason)
		}
	}
}

// addressText leaves out the prefix lengths, which say nothing for single addresses.
func addressText(prefixes []string) string {
	out := make([]string, 0, len(prefixes))
	for _, p := range prefixes {
		addr, _, _ := strings.Cut(p, "/")
		out = append(out, addr)
	}
	return strings.Join(out, "  ")
}

// printWrapped breaks a sentence where a terminal of 100 columns would break it in the middle of a word.
func printWrapped(w io.Writer, text string) { printHanging(w, "", text) }

// unbroken is text that somebody else breaks into lines.
type unbroken struct{ strings.Builder }

// printHanging is printWrapped after a lead; further lines stand below the text.
func printHanging(w io.Writer, lead, text string) {
	width := 94 // leaves room for an indent
	if _, ok := w.(*unbroken); ok {
		width = math.MaxInt
	}
	indent := strings.Repeat(" ", max(len(lead), 2))
	line, empty := lead, true
	for _, word := range strings.Fields(text) {
		switch {
		case empty:
			line += word
		case len(line)+1+len(word) > width:
			fmt.Fprintln(w, line)
			line = indent + word
		default:
			line += " " + word
		}
		empty = false
	}
	fmt.Fprintln(w, line)
}

func pathText(p api.Peer) string {
	if p.Path.Kind != "direct" {
		return dash(p.Path.Kind)
	}
	switch p.Path.RemoteType {
	case "srflx", "prflx":
		return "direct, NAT" // the peer is behind one
	}
	return "direct"
}

func dash(s string) string {
	if s == "" || s == "none" {
		return "-"
	}
	return s
}

func rttText(seconds float64) string {
	if seconds == 0 {
		return "-"
	}
	return short(seconds*1000) + " ms"
}

// rttLossText names the loss only where there is some.
func rttLossText(p api.Peer) string {
	switch loss := p.Loss * 100; {
	case p.State != "connected":
		return "-"
	case loss >= 0.5:
		return fmt.Sprintf("%s, %.0f %%", rttText(p.RTT), loss)
	}
	return rttText(p.RTT)
}

func bytesText(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for ; v >= unit && i < 4; i++ {
		v /= unit
	}
	return fmt.Sprintf("%s %ciB", short(v), "KMGTP"[i])
}

// short writes three digits or more: what is behind the point of a large number is noise.
func short(v float64) string {
	if v < 99.95 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func waitCommand(g *globals) *cobra.Command {
	var peer string
	var all bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Return when a link (or this node, or every link) is up; exit status 5 at the timeout",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if peer != "" && all {
				return usagef("--peer and --all contradict each other")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			if err := waitUntil(ctx, g, peer, all); err != nil {
				return err
			}
			namesToo(ctx, g)
			return nil
		},
	}
	cmd.Flags().StringVar(&peer, "peer", "", "wait for the link to this `NAME`")
	cmd.Flags().BoolVar(&all, "all", false, "wait for the links to all members")
	cmd.Flags().DurationVar(&limit, "timeout", 30*time.Second, "give up after this time")
	return cmd
}

// waitUntil asks every 20 ms: the agent answers from memory. Without a name it waits for one connected link.
func waitUntil(ctx context.Context, g *globals, peer string, all bool) error {
	asked, missing := false, "the agent has not answered"
	for {
		st := &api.Status{}
		err := g.client().Get(ctx, "/v1/status", st)
		switch {
		case err == nil:
			missing = notUp(st, peer, all)
			if missing == "" {
				return nil
			}
			if peer != "" && !asked && st.Network != nil {
				asked = g.client().Post(ctx, "/v1/want", api.NameRequest{Name: peer}, nil) == nil
			}
		case ctx.Err() == nil:
			var refused *api.Error
			if errors.As(err, &refused) && refused.Code == api.CodeRefused {
				return err // waiting gives nobody a permission
			}
			missing = err.Error()
		}
		select {
		case <-ctx.Done():
			return timeout{fmt.Errorf("timeout: %s", missing)}
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// namesToo lets a command after `wait` use a name: the resolver may be told some milliseconds after the first link is up. Names that do not
// come soon do not come, and no link is missing then.
func namesToo(ctx context.Context, g *globals) {
	const soon = 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	for {
		names := &api.Names{}
		if g.client().Get(ctx, "/v1/names", names) != nil || names.Settled {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// notUp says what is still missing, or nothing.
func notUp(st *api.Status, peer string, all bool) string {
	if st.Network == nil {
		return "this machine is no member yet"
	}
	var down []string
	known := false
	for _, p := range st.Peers {
		up := p.State == "connected" || p.State == "idle"
		switch {
		case peer == "" && !all && up, peer == p.Name && up:
			return ""
		case peer == p.Name:
			known = true
		}
		if !up {
			down = append(down, p.Name+" is "+p.State)
		}
	}
	switch {
	case peer != "" && !known:
		return fmt.Sprintf("no member is named %q", peer)
	case all && len(down) == 0 && len(st.Peers) > 0:
		return ""
	case len(st.Peers) == 0:
		return "this network has no other member"
	}
	return strings.Join(down, ", ")
}
