package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
)

func gatewayCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:       "gateway on|off",
		Short:     "Serve devices that cannot run gridwire (see export), or stop serving them",
		ValidArgs: []string{"on", "off"},
		Args:      exactArgs("on|off"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "on" && args[0] != "off" {
				return usagef("say: gridwire gateway on, or: gridwire gateway off (not %q)", args[0])
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), change)
			defer cancel()
			var resp api.GatewayResponse
			if err := g.client().Post(ctx, "/v1/gateway", api.GatewayRequest{On: args[0] == "on"}, &resp); err != nil {
				return err
			}
			for _, w := range resp.Warnings {
				printWrapped(cmd.ErrOrStderr(), "warning: "+w)
			}
			switch {
			case args[0] == "off":
				fmt.Fprintln(cmd.OutOrStdout(), "This machine serves no devices.")
			case len(resp.Devices) == 0:
				fmt.Fprintln(cmd.OutOrStdout(), "This machine serves devices. Make one, on an issuer:  gridwire export phone --qr")
			default:
				fmt.Fprintf(cmd.OutOrStdout(), "This machine serves devices: %s.\n", strings.Join(resp.Devices, ", "))
			}
			return nil
		},
	}
}

// deviceHint says what can be done with a name that is no member's but a device's: nothing of ours runs there that could answer.
func deviceHint(ctx context.Context, g *globals, st *api.Status, name string, missing error) error {
	var members []api.Member
	if st.Network == nil || g.client().Get(ctx, "/v1/members", &members) != nil {
		return missing
	}
	name = strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(name), "."), "."+st.Network.Domain)
	for _, m := range members {
		if m.Name == name && m.Standing == "device" && len(m.Address) > 0 {
			addr, _, _ := strings.Cut(m.Address[0], "/")
			return fmt.Errorf("%s is a device with nothing of gridwire on it (%s as far as its gateways say); ask the device itself: ping %s", name, m.State, addr)
		}
	}
	return missing
}

// printDevices prints those that this node serves, as part of status.
func printDevices(w io.Writer, st *api.Status) {
	if len(st.Devices) == 0 {
		return
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "DEVICE\tADDRESS\tSTATE\tLAST HEARD\tRECEIVED\tSENT\tENDPOINT")
	for _, d := range st.Devices {
		heard := "-"
		if d.LastHeard != nil {
			heard = time.Since(*d.LastHeard).Round(time.Second).String() + " ago"
		}
		addr := d.Addresses[len(d.Addresses)-1] // as for peers
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Name, addressText([]string{addr}), d.State, heard,
			bytesText(d.ReceiveBytes), bytesText(d.TransmitBytes), dash(d.Endpoint))
	}
	_ = tw.Flush()
}
