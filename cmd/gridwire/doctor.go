package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/doctor"
)

func doctorCommand(g *globals) *cobra.Command {
	var fix, asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine: rights, /dev/net/tun, kernel, clock, firewall, addresses, other VPNs, disk, certificate, names",
		Long: `Check whether this machine lets the agent do its work. Each line begins with ok, warn or fail; what is to be done stands below it.
It works with and without an agent, as root and not; as root it sees more. Exit status 1 if a check failed.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			results := examine(cmd.Context(), g)
			if fix {
				mend(cmd.Context(), results)
			}
			bad := 0
			for _, r := range results {
				if r.Grade == doctor.Bad {
					bad++
				}
			}
			if asJSON {
				err := printJSON(cmd.OutOrStdout(), map[string]any{"ok": bad == 0, "checks": results})
				if err != nil {
					return err
				}
			} else {
				printDoctor(cmd.OutOrStdout(), results)
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d checks failed", bad, len(results))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&fix, "fix", false, "mend what can be mended without a decision of yours")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// examine runs every check. Without an agent the machine itself can still be looked at.
func examine(ctx context.Context, g *globals) []doctor.Result {
	s := doctor.Subject{State: g.state, Socket: g.socket}
	s.Status, s.Asked = getStatus(ctx, g)
	results := doctor.Check(ctx, doctor.System(), s)
	if s.Asked != nil && !errors.Is(s.Asked, api.ErrNoAgent) {
		return results // there is one, which this user may not ask
	}
	names := func(ctx context.Context) *api.Names { return getNames(ctx, g) }
	return append(results, doctor.SystemResolver(doctor.System()).Names(ctx, s.Status, names)...)
}

// getNames returns how names are, or nil where no agent says.
func getNames(ctx context.Context, g *globals) *api.Names {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	names := &api.Names{}
	if g.client().Get(ctx, "/v1/names", names) != nil {
		return nil
	}
	return names
}

// mend does what each result offers, and says in the result how that went.
func mend(ctx context.Context, results []doctor.Result) {
	for i := range results {
		r := &results[i]
		if r.Fix == nil {
			continue
		}
		if err := r.Fix(ctx); err != nil {
			r.Finding += fmt.Sprintf("; it could not be mended: %v", err)
			continue
		}
		r.Grade, r.Finding, r.Remedy = doctor.OK, r.Finding+"; mended", ""
	}
}

func printDoctor(w io.Writer, results []doctor.Result) {
	for _, r := range results {
		printHanging(w, fmt.Sprintf("%-5s ", r.Grade), r.Topic+": "+r.Finding)
		if r.Remedy != "" {
			fmt.Fprintf(w, "      -> %s\n", r.Remedy) // not wrapped: it is to be copied
		}
	}
}
