package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/skip2/go-qrcode"
	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/mesh"
)

func exportCommand(g *globals) *cobra.Command {
	var req api.ExportRequest
	var qr bool
	cmd := &cobra.Command{
		Use:   "export NAME",
		Short: "Print a WireGuard configuration for a device that cannot run gridwire, such as a telephone (run on an issuer)",
		Long: `Prints a configuration for wg-quick and for the WireGuard apps. The device comes into the network through a gateway, a member where
somebody has said ` + "`gridwire gateway on`" + `; with several gateways there is one configuration for each, of which the device uses one at a time.

The private key in it is made here, shown once, and stored nowhere. The gateway decrypts what the device sends and receives: it can read
and alter it. Traffic between members that run gridwire themselves is encrypted from end to end.

The device is a year in the network. Then, or before:  gridwire export NAME --extend`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := mesh.ParseName(args[0])
			if err != nil {
				return usagef("%w", err)
			}
			req.Name = name
			if req.Extend && (req.Replace || qr || len(req.Gateways)+len(req.Endpoints) > 0) {
				return usagef("--extend leaves the device's configuration as it is: no other flag goes with it")
			}
			key, err := ecdh.X25519().GenerateKey(rand.Reader)
			if err != nil {
				return fmt.Errorf("make the device's key: %w", err)
			}
			if !req.Extend {
				req.WireGuard = mesh.WGKey(key.PublicKey().Bytes())
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), change)
			defer cancel()
			var resp api.ExportResponse
			if err := g.client().Post(ctx, "/v1/export", req, &resp); err != nil {
				return err
			}
			for _, w := range resp.Warnings {
				printWrapped(cmd.ErrOrStderr(), "warning: "+w)
			}
			if req.Extend {
				fmt.Fprintf(cmd.OutOrStdout(), "%s may use the network until %s. Its configuration stays as it is.\n", resp.Name, resp.Expires.Local().Format("2 January 2006"))
				return nil
			}
			return printExport(cmd.OutOrStdout(), cmd.ErrOrStderr(), &resp, key.Bytes(), qr)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&req.Gateways, "gateway", nil, "`MEMBER` that serves it; repeatable (default: all that are gateways)")
	f.StringArrayVar(&req.Endpoints, "endpoint", nil, "`HOST:PORT` (or GATEWAY=HOST:PORT) where the device finds the gateway, in place of what the gateway knows; repeatable")
	f.BoolVar(&req.Replace, "replace", false, "revoke the device that has this name now")
	f.BoolVar(&req.Extend, "extend", false, "let the device that has this name go on for another year")
	f.BoolVar(&qr, "qr", false, "show it as a QR code, too, for the app on a telephone")
	return cmd
}

// printExport prints the configurations to out, and to errOut what the user has to know.
func printExport(out, errOut io.Writer, resp *api.ExportResponse, private []byte, qr bool) error {
	for i, p := range resp.Profiles {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "# %s, a device in the network %s, through %s, until %s.\n", resp.Name, resp.Network, p.Gateway, resp.Expires.Local().Format("2 January 2006"))
		fmt.Fprintf(out, "# %s can read and alter what this device sends and receives in the network.\n", p.Gateway)
		text := profileText(resp, p, private)
		fmt.Fprint(out, text)
		if !qr {
			continue
		}
		if err := printQR(out, text); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(resp.Profiles))
	for _, p := range resp.Profiles {
		names = append(names, p.Gateway)
	}
	who := strings.Join(names, " or ")
	printWrapped(errOut, fmt.Sprintf("The private key is shown this once and stored nowhere. Whoever has it is %s until %s, or until you say: gridwire revoke %s",
		resp.Name, resp.Expires.Local().Format("2 January 2006"), strings.TrimSuffix(resp.Name, "."+resp.Domain)))
	printWrapped(errOut, fmt.Sprintf("The device's traffic ends its encryption at the gateway: %s can read and alter it.", who))
	if len(names) > 1 {
		printWrapped(errOut, fmt.Sprintf("There is one configuration for each gateway (%s): put all of them on the device, and switch one of them on at a time.", strings.Join(names, ", ")))
	}
	return nil
}

// deviceMTU fits into every path that IPv6 fits into: the device cannot find a larger one out, and a telephone changes its network often.
const deviceMTU = 1280

// deviceKeepalive keeps the device's NAT mapping open, so that members reach it; it is what WireGuard's own documentation recommends.
const deviceKeepalive = 25 * time.Second

// profileText is a configuration for wg-quick(8), which the apps read, too.
func profileText(resp *api.ExportResponse, p api.Profile, private []byte) string {
	var b strings.Builder
	fmt.Fprintln(&b, "[Interface]")
	fmt.Fprintln(&b, "PrivateKey = "+base64.StdEncoding.EncodeToString(private))
	fmt.Fprintln(&b, "Address = "+strings.Join(p.Addresses, ", "))
	fmt.Fprintln(&b, "DNS = "+strings.Join(append(append([]string{}, p.DNS...), resp.Domain), ", "))
	fmt.Fprintf(&b, "MTU = %d\n\n", deviceMTU)
	fmt.Fprintln(&b, "[Peer]")
	fmt.Fprintln(&b, "PublicKey = "+p.PublicKey)
	fmt.Fprintln(&b, "AllowedIPs = "+strings.Join(p.AllowedIPs, ", "))
	fmt.Fprintln(&b, "Endpoint = "+p.Endpoint)
	fmt.Fprintf(&b, "PersistentKeepalive = %d\n", int(deviceKeepalive.Seconds()))
	return b.String()
}

// printQR draws text as a QR code of half blocks.
func printQR(w io.Writer, text string) error {
	code, err := qrcode.New(text, qrcode.Low)
	if err != nil {
		return fmt.Errorf("%d characters are too many for a QR code: %w", len(text), err)
	}
	_, err = fmt.Fprint(w, code.ToSmallString(false))
	return err
}
