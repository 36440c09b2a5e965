package agent

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	renewRetry  = time.Minute     // how often renewal is tried once it is due: a third of a certificate's life is left for it
	bundleRetry = 5 * time.Second // how often an issuer is looked for that exchanges an offline bundle
)

// renewPace is renewRetry, or less for a certificate that lives for less than half an hour.
func renewPace(life time.Duration) time.Duration { return max(min(renewRetry, life/30), time.Second) }

// renewal renews this node's certificate from two thirds of its life on, at any reachable issuer, with the same keys: no packet is lost.
// An offline bundle is exchanged for fresh keys at the first issuer seen.
func (n *node) renewal(ctx context.Context) error {
	complained := false
	for {
		m := n.membership.Load()
		_, leaf, _, err := m.Leaf()
		if err != nil {
			return err
		}
		wait, pace := leaf.RenewAt().Sub(n.dir.Now()), renewPace(leaf.NotAfter.Sub(leaf.Issued))
		if m.Bundle {
			wait = 0
		}
		if wait > 0 {
			// Spread over members that were admitted together, and never asleep for longer than a clock may jump.
			wait = min(wait+rand.N(pace), 10*time.Minute)
		} else {
			err := n.renew(ctx, m)
			switch {
			case err == nil:
				complained = false
				if m.Bundle {
					return errStop // the node starts anew with its own keys
				}
				continue
			case ctx.Err() != nil:
				return nil
			case !complained:
				n.log.Warn("cannot renew this node's certificate yet; trying again", "every", pace, "expires", leaf.NotAfter.Format(time.RFC3339), "err", err)
				complained = true
			}
			wait = pace
			if m.Bundle {
				wait = bundleRetry
			}
			wait += rand.N(wait / 4)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *node) renew(ctx context.Context, m *enrol.Membership) error {
	issuers := n.issuersToAsk()
	if m.Bundle {
		next, err := enrol.NextKeys(n.store)
		if err != nil {
			return err
		}
		fresh, err := enrol.Rekey(ctx, m, next, issuers, n.sendEnrol, n.dir.Now)
		if err != nil {
			return err
		}
		fresh.Items, _ = n.startItems()
		if err := enrol.Save(n.store, fresh); err != nil {
			return err
		}
		n.log.Info("exchanged the offline bundle for keys of this machine's own")
		return nil
	}
	chain, err := enrol.Renew(ctx, m, issuers, n.sendEnrol, n.dir.Now)
	if err != nil {
		return err
	}
	renewed := *m
	renewed.Chain = chain
	if err := enrol.Save(n.store, &renewed); err != nil {
		return err
	}
	n.membership.Store(&renewed)
	n.self.nudge()
	_, leaf, _, err := renewed.Leaf()
	if err != nil {
		return err
	}
	n.log.Info("renewed this node's certificate", "until", leaf.NotAfter.Format(time.RFC3339))
	if err := n.router.Readdress(leaf.Addrs, overlayPrefixes(n.root.Network, leaf.Addrs)); err != nil {
		n.log.Warn("the renewed certificate has other addresses, and this machine could not take them", "err", err)
	}
	return nil
}

// issuersToAsk lists the issuers: this node itself first, then those that are connected, then the others.
func (n *node) issuersToAsk() []*mesh.Member {
	connected := map[mesh.NodeID]bool{}
	for _, c := range n.control.Connections() {
		connected[c.ID] = c.Proven
	}
	var self, near, far []*mesh.Member
	for m := range n.dir.View().All() {
		switch {
		case !m.Issuer:
		case m.ID == n.membership.Load().ID():
			self = append(self, m)
		case connected[m.ID]:
			near = append(near, m)
		default:
			far = append(far, m)
		}
	}
	return slices.Concat(self, near, far)
}

// sendEnrol carries a renewal to a member; an issuer asks itself. Where the others do not accept this node at the moment, because its
// certificate has run out or was replaced, it asks as a stranger does.
func (n *node) sendEnrol(ctx context.Context, to mesh.NodeID, f *wire.EnrolFrame) (*wire.EnrolResponse, error) {
	m := n.membership.Load()
	if to == m.ID() {
		return n.enrol.Handle(ctx, noAddr, true, f), nil
	}
	if _, err := n.dir.Judge(m.Chain, n.dir.Now()); err != nil {
		return enrol.SendAsStranger(n.base.host.OpenEnrol, n.peers)(ctx, to, f)
	}
	return n.control.SendEnrol(ctx, to, f)
}

func (n *node) peers() []*mesh.Member { return slices.Collect(n.dir.View().Peers()) }
