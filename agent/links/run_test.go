package links

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

// A status that is asked for while the agent leaves its network must not wait for an answer that nobody gives any more.
func TestSnapshotAfterTheEnd(t *testing.T) {
	r := New(Config{Core: NewCore(mesh.NodeID{1}, 1, nil, 1), Interface: "nosuch0", Addr: netip.IPv6Loopback(), Log: slog.New(slog.DiscardHandler)})
	if err := r.Run(t.Context()); err == nil {
		t.Fatal("it ran on an interface that is not there")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if s := r.Snapshot(ctx); s != nil || ctx.Err() != nil {
		t.Errorf("%v, %v", s, ctx.Err())
	}
}
