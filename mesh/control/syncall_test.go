package control

import (
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh/wire"
)

// A member that leaves as soon as it is connected is gone for the other at once: GossipSub has not grafted that connection yet.
func TestLeavingAtOnceIsHeard(t *testing.T) {
	inWorld(t, 20*time.Millisecond, func(t *testing.T, w *world) {
		a, b := w.add(false), w.add(false)
		a.start()
		b.start(a)
		until(t, 2*time.Second, "connected", func() bool { return a.connected(b) && b.connected(a) })
		farewell, err := wire.SignRecord(&wire.Record{
			Version: 1, Chain: b.chain, Sequence: 2, Boot: 1, Time: time.Now().UnixMilli(), Tombstone: true, SealKey: make([]byte, 32),
		}, b.key)
		check(t, err)
		check(t, b.ctl.Publish(t.Context(), recordItem(farewell)))
		b.ctl.SyncAll(t.Context())
		b.stop()
		if a.knows(b) {
			t.Error("the member that left is still one for the other")
		}
	})
}
