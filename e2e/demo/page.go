//go:build linux

package main

import (
	"context"
	"net"
)

// page opens the laptop's health page to browsers on this machine until the demo ends. It is read-only there: the token that
// `gridwire page` prints changes when the agents restart, which they do in the last act.
func (d *demo) page(ctx context.Context) error {
	inside := func(ctx context.Context, listen string, at func(net.Addr)) error {
		return d.laptop.Forward(ctx, listen, "127.0.0.1:9587", at)
	}
	at, err := forward(ctx, &d.forwards, inside, "127.0.0.1:9587")
	if err != nil {
		return err
	}
	d.out.blank()
	d.out.line("  The same for a browser on this machine, while the demo runs: " + d.out.style(cyan, "http://"+at.String()+"/"))
	return nil
}
