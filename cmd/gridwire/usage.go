package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
)

// maxReport bounds the file that verify reads; a busy node's report of 45 days has about 100 MB.
const maxReport = 512 << 20

func usageCommand(g *globals) *cobra.Command {
	var since string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Show bytes by peer and workload, and whether the peers bear them out",
		Long: "Show what this node has sent and received, by peer (WireGuard's overhead included) and by workload. Each full hour the two ends of a link\n" +
			"exchange signed statements of what they counted. --json prints a report with all of them, which anybody can check: gridwire usage verify FILE",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, err := parseSince(since, time.Now())
			if err != nil {
				return err
			}
			var r api.UsageReport
			if err := g.client().Post(cmd.Context(), "/v1/usage", api.UsageRequest{Since: from}, &r); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			printUsage(cmd.OutOrStdout(), &r)
			return nil
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "from this `TIME` on: 2026-05-01, 2026-05-01T12:00:00Z, or how long ago, like 36h or 7d (default: this month, UTC)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report, with all statements, as JSON")
	cmd.AddCommand(usageVerifyCommand(g))
	return cmd
}

// parseSince reads a time of day, a date or how long ago.
func parseSince(s string, now time.Time) (time.Time, error) {
	now = now.UTC()
	if s == "" {
		return time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, usagef("--since %q is no time: say 2026-05-01, 2026-05-01T12:00:00Z, or how long ago, like 36h or 7d", s)
}

func printUsage(w io.Writer, r *api.UsageReport) {
	fmt.Fprintf(w, "%s in %s, from %s to %s UTC\n\n", r.Node.Name, r.Network.Name, minute(r.From), minute(r.To))
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "PEER\tRECEIVED\tSENT\tHOURS AGREED\tDIVERGING\tREFUSED\tUNCONFIRMED")
	for _, p := range r.Peers {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", peerName(p), bytesText(p.ReceiveBytes), bytesText(p.TransmitBytes), p.Agreed, count(p.Diverging),
			count(p.Refused), count(p.Unconfirmed))
	}
	_ = tw.Flush()
	if len(r.Workloads) > 0 {
		fmt.Fprintln(w)
		tw = tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(tw, "WORKLOAD\tRECEIVED\tSENT")
		for _, p := range r.Workloads {
			fmt.Fprintf(tw, "%s\t%s\t%s\n", p.Name, bytesText(p.ReceiveBytes), bytesText(p.TransmitBytes))
		}
		_ = tw.Flush()
	}
	names := map[string]string{}
	for _, p := range r.Peers {
		names[p.ID] = peerName(p)
	}
	for _, h := range r.Hours {
		if h.State == api.UsageDiverging || h.State == api.UsageRefused {
			fmt.Fprintln(w)
			printWrapped(w, fmt.Sprintf("%s with %s, the hour from %s: %s", h.State, names[h.Peer.String()], minute(h.From), h.Why))
		}
	}
	if len(r.Gaps) > 0 {
		fmt.Fprintln(w)
	}
	for _, g := range r.Gaps {
		how := "the agent did not run; nothing is missing"
		if !g.Orderly {
			how = "the agent ended without notice: up to 10 seconds of traffic before are missing"
		}
		fmt.Fprintf(w, "gap from %s to %s: %s\n", minute(g.From), minute(g.To), how)
	}
}

// peerName is a row's name, or something like it for one that has gone.
func peerName(p api.UsageRow) string {
	if p.Name == "" {
		return "(node " + p.ID[:min(len(p.ID), 8)] + ")"
	}
	return p.Name
}

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

func count(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func usageVerifyCommand(g *globals) *cobra.Command {
	var network string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a report of `gridwire usage --json`, offline",
		Long: "Check a report: that every statement in it is signed by a member of the network, and that the two ends of each link bear each other out.\n" +
			"This needs neither an agent nor a connection. The exit status is 1 if the report is forged, or if two ends differ.",
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readReport(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			f, err := api.VerifyUsage(data)
			if err != nil {
				return fmt.Errorf("the report %s proves nothing: %w", args[0], err)
			}
			if network == "" {
				network = g.network(cmd.Context())
			}
			id := f.Network.ID.String()
			if network != "" && !strings.EqualFold(network, id) {
				return fmt.Errorf("the report %s is of another network: %s (%s), not %s", args[0], f.Network.Name, id, network)
			}
			printFindings(cmd.OutOrStdout(), f, network != "")
			if n := f.Diverging(); n > 0 {
				return fmt.Errorf("the two ends differ about %d hours", n)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&network, "network", "", "the `ID` of the network that the report must be of, as `gridwire status --json` shows it (default: this machine's)")
	return cmd
}

func readReport(name string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("reading the report: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxReport+1))
	if err != nil {
		return nil, fmt.Errorf("reading the report %s: %w", name, err)
	}
	if len(data) > maxReport {
		return nil, fmt.Errorf("the report %s is larger than %d bytes", name, maxReport)
	}
	return data, nil
}

// network returns the ID of this machine's network, if an agent answers.
func (g *globals) network(ctx context.Context) string {
	st, err := getStatus(ctx, g)
	if err != nil || st.Network == nil {
		return ""
	}
	return st.Network.ID
}

func printFindings(w io.Writer, f *api.UsageFindings, known bool) {
	if len(f.Links) == 0 {
		fmt.Fprintf(w, "report in %s, network %s\n\n", f.Network.Name, f.Network.ID)
		printWrapped(w, "It holds no signed hour, so there is nothing to check: the two ends of a link sign each other's counters after each full hour (UTC). "+
			"All else in it is the node's own word.")
		return
	}
	fmt.Fprintf(w, "report of %s in %s, network %s\n", dash(string(f.Node)), f.Network.Name, f.Network.ID)
	if !known {
		fmt.Fprintln(w, "Compare the network's ID with the one that you know: anybody can make a network.")
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "PEER\tRECEIVED\tSENT\tHOURS AGREED\tDIVERGING\tUNCONFIRMED\tWITH A GAP\tCLAIMED: RECEIVED\tSENT")
	for _, l := range f.Links {
		name := string(l.Name)
		if name == "" {
			name = "(node " + l.Peer.Short() + ")"
		}
		claim := f.Claims[l.Peer]
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", name, bytesText(l.Received), bytesText(l.Sent), l.Hours[api.UsageAgreed],
			count(l.Hours[api.UsageDiverging]), count(l.Hours[api.UsageUnconfirmed]), count(l.Gaps), bytesText(claim.ReceiveBytes), bytesText(claim.TransmitBytes))
	}
	_ = tw.Flush()
	for _, l := range f.Links {
		for _, d := range l.Disputes {
			fmt.Fprintln(w)
			printWrapped(w, fmt.Sprintf("diverging with %s, the hour from %s: %s", dash(string(l.Name)), minute(d.From), d.Why))
		}
	}
	fmt.Fprintln(w)
	printWrapped(w, "RECEIVED and SENT are what the peers bear out: both ends have signed it, and their counters agree but for measured losses and 1 %. "+
		"CLAIMED is the node's own word, with hours that are not over or not confirmed. Where two ends diverge one of them does not tell the truth; which one "+
		"cannot be seen from this. Two ends that lie together are not detected, and neither are hours that the node has left out.")
}
