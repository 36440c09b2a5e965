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
			if asJSON {
				return printJSON(cmd.OutOrStdout(), e)
			}
			return printExplain(cmd.OutOrStdout(), e, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printExplain says the answer first and then what it rests on.
func printExplain(w io.Writer, e *api.Explain, now time.Time) error {
	printWrapped(w, e.Peer.Name+": "+e.Meaning)
	for _, a := range e.Advice {
		printItem(w, a)
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(tw, "state\t%s\n", stateText(e, now))
	up := e.Peer.State == "connected" || e.Peer.State == "idle"
	if e.Peer.Path.Kind == "direct" {
		label := "path"
		if !up {
			label = "last path"
		}
		fmt.Fprintf(tw, "%s\tdirect, %s -> %s\n", label, address(e.Peer.Path.LocalType, e.Peer.Path.Local), address(e.Peer.Path.RemoteType, e.Peer.Path.Remote))
	}
	if up {
		fmt.Fprintf(tw, "RTT, loss\t%s, %.0f %%\n", rttText(e.Peer.RTT), e.Peer.Loss*100)
		if e.Peer.MTU > 0 {
			fmt.Fprintf(tw, "MTU\t%d bytes (packets inside the tunnel, as the path carries them)\n", e.Peer.MTU)
		}
	} else if e.LastSeen != nil {
		fmt.Fprintf(tw, "last seen\t%s\n", e.LastSeen.Local().Format(time.DateTime))
	}
	if e.Standing == "member" {
		fmt.Fprintf(tw, "NAT here, there\t%s, %s\n", dash(e.SelfNAT), dash(e.PeerNAT))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if e.Exchange != nil {
		printExchange(w, e.Exchange, e.Peer.Name)
	}
	if len(e.Pairs) > 0 {
		fmt.Fprintln(w, "\npairs tried in the newest checks (* chosen):")
		for _, p := range e.Pairs {
			mark := " "
			if p.Nominated {
				mark = "*"
			}
			fmt.Fprintf(w, " %s %s -> %s  %s: %d sent, %d answered\n", mark, address(p.LocalType, p.Local), address(p.RemoteType, p.Remote), pairText(p), p.Sent, p.Answered)
		}
	}
	if len(e.Changes) > 0 {
		fmt.Fprintln(w, "\nwhat happened lately:")
		for _, c := range e.Changes {
			text := c.At.Local().Format(time.DateTime) + "  " + c.What
			if c.Path != "" {
				text += " " + c.Path
			}
			if c.Reason != "" {
				text += ": " + c.Reason
			}
			printItem(w, text)
		}
	}
	return nil
}

func stateText(e *api.Explain, now time.Time) string {
	text := e.Peer.State
	if e.Standing != "member" {
		return e.Standing
	}
	if e.Since != nil {
		text += fmt.Sprintf(" since %s (%s)", e.Since.Local().Format(time.DateTime), spanText(now.Sub(*e.Since)))
	}
	if e.Peer.State == "connected" && e.Peer.TimeToConnect > 0 {
		text += fmt.Sprintf("; it took %s to connect", spanText(time.Duration(e.Peer.TimeToConnect*float64(time.Second))))
	}
	return text
}

func printExchange(w io.Writer, x *api.Exchange, peer string) {
	fmt.Fprintf(w, "\nthe two sides talked %s:\n", signalText(x, peer))
	for _, s := range x.Steps {
		fmt.Fprintf(w, "  %8s  %s\n", fmt.Sprintf("%.0f ms", s.After*1000), s.What)
	}
	if x.Outcome != "" && x.Outcome != "agreed" {
		printItem(w, "outcome: "+x.Outcome)
	}
	fmt.Fprintf(w, "addresses offered from here: %s\n", candidateText(x.Local))
	fmt.Fprintf(w, "addresses offered by %s: %s\n", peer, candidateText(x.Remote))
}

// signalText says by way of whom the two sides talked.
func signalText(x *api.Exchange, peer string) string {
	way := func(by string) string {
		if by == "directly" {
			return "directly"
		}
		return "by way of " + by
	}
	switch {
	case x.SentBy == "" && x.HeardBy == "":
		return "to nobody yet; this side's attempt"
	case x.SentBy == x.HeardBy || x.HeardBy == "":
		return way(x.SentBy)
	case x.SentBy == "":
		return way(x.HeardBy)
	}
	return fmt.Sprintf("%s, and %s answered %s", way(x.SentBy), peer, way(x.HeardBy))
}

func candidateText(cs []api.Candidate) string {
	var out []string
	for _, c := range cs {
		out = append(out, address(c.Type, c.Address))
	}
	return dash(strings.Join(out, ", "))
}

func address(kind, addr string) string { return strings.TrimSpace(dash(addr) + " " + parens(kind)) }

func parens(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

// pairText puts ICE's word for a pair's state into what it means once the checks are over.
func pairText(p api.Pair) string {
	switch {
	case p.State == "succeeded":
		return "works"
	case p.Answered > 0:
		return "answers"
	case p.Sent > 0:
		return "no answer (" + p.State + ")"
	}
	return "not tried (" + p.State + ")"
}

// printItem is printWrapped for an entry of a list.
func printItem(w io.Writer, text string) { printHanging(w, "- ", text) }

// spanText writes a duration in one or two units.
func spanText(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
