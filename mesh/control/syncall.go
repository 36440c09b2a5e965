package control

import (
	"context"
	"sync"
)

// SyncAll compares records with every member that there is a connection to, all at once, and returns when all have taken in what this node
// has, or ctx ends. GossipSub may not have a connection of the last moments in its mesh yet, and somebody who is about to leave cannot
// wait for the exchange that makes up for that.
func (c *Control) SyncAll(ctx context.Context) {
	var wait sync.WaitGroup
	for _, l := range c.table.Load().list {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, syncTimeout)
			defer cancel()
			fresh, err := exchange{c}.syncOn(ctx, l) // whether or not another exchange is going on: its digest may be older than the news
			if err != nil {
				c.log.Debug("could not compare records with a member", "node", l.id.Short(), "err", err)
			}
			exchange{c}.learned(l.id, fresh)
		})
	}
	wait.Wait()
}
