package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/links"
)

func findPeer(st *api.Status, name string) (*api.Peer, error) {
	if st.Network == nil {
		return nil, fmt.Errorf("this machine is no member of a network yet: gridwire join TOKEN")
	}
	name = strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(name), "."), "."+st.Network.Domain)
	for i := range st.Peers {
		if st.Peers[i].Name == name {
			return &st.Peers[i], nil
		}
	}
	return nil, &api.Error{Code: api.CodeMissing, Message: fmt.Sprintf("no member is named %q; see `gridwire members`", name)}
}

func pingCommand(g *globals) *cobra.Command {
	var count int
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "ping NAME",
		Short: "Ping a member through the overlay and say which path the packets take",
		Args:  exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 || limit <= 0 {
				return usagef("--count %d, --timeout %v: there has to be one ping at least, and time for it", count, limit)
			}
			st, err := getStatus(cmd.Context(), g)
			if err != nil {
				return err
			}
			peer, err := findPeer(st, args[0])
			if err != nil {
				return deviceHint(cmd.Context(), g, st, args[0], err)
			}
			if len(peer.Addresses) == 0 {
				return fmt.Errorf("%s has no overlay address", peer.Name)
			}
			_ = g.client().Post(cmd.Context(), "/v1/want", api.NameRequest{Name: peer.Name}, nil)
			addr, _, _ := strings.Cut(peer.Addresses[0], "/")
			answered := 0
			for i := range count {
				if i > 0 {
					select {
					case <-cmd.Context().Done():
						return cmd.Context().Err()
					case <-time.After(time.Second):
					}
				}
				rtt, err := links.Ping(cmd.Context(), addr, limit)
				if err != nil {
					fmt.Fprintf(cmd.OutOrStdout(), "no answer from %s (%s): %v\n", peer.Name, addr, err)
					continue
				}
				answered++
				fmt.Fprintf(cmd.OutOrStdout(), "answer from %s (%s): seq=%d time=%.2f ms %s\n", peer.Name, addr, i+1, float64(rtt)/1e6, pathNow(cmd.Context(), g, peer.Name))
			}
			if answered == 0 {
				return timeout{fmt.Errorf("%s did not answer; `gridwire explain %s` says more", peer.Name, peer.Name)}
			}
			return nil
		},
	}
	cmd.Flags().IntVarP(&count, "count", "c", 3, "how many")
	cmd.Flags().DurationVarP(&limit, "timeout", "W", 2*time.Second, "how long to wait for each answer")
	return cmd
}

func pathNow(ctx context.Context, g *globals, name string) string {
	st, err := getStatus(ctx, g)
	if err != nil {
		return ""
	}
	p, err := findPeer(st, name)
	if err != nil {
		return ""
	}
	if p.Path.Kind != "direct" {
		return "path unknown"
	}
	return fmt.Sprintf("via %s (%s)", p.Path.Remote, pathText(*p))
}
