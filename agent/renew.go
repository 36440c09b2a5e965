package agent

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	renewRetry  = time.Minute     // how often renewal is tried once it is due: a third of a certificate's life is left for it
	bundleRetry = 5 * time.Second // how often an issuer is looked for that exchanges an offline bundle
)

// renewPace is renewRetry, or less for a certificate that lives for less than half an hour.
func renewPace(life time.Duration) time.Duration { return max(min(renewRetry, life/30), time.Second) }

// renewer keeps this node's certificate valid.
type renewer struct{ *node }

// renewal renews this node's certificate from two thirds of its life on, at any reachable issuer, with the same keys: no packet is lost.
// An offline bundle is exchanged for fresh keys at the first issuer seen.
func (n renewer) renewal(ctx context.Context) error {
	views, stop := n.dir.Watch()
	defer stop()
	complained := false
	for {
		m := n.membership.Load()
		_, leaf, _, err := m.Leaf()
		if err != nil {
			return err
		}
		pace, standing := renewPace(leaf.NotAfter.Sub(leaf.Issued)), n.stands(leaf.Issuer)
		// Spread over members that were admitted together, and never asleep for longer than a clock may jump.
		wait := min(leaf.RenewAt().Sub(n.dir.Now())+rand.N(pace), 10*time.Minute)
		if m.Bundle || !standing || !n.dir.Now().Before(leaf.RenewAt()) {
			err := n.renew(ctx, m)
			switch {
			case err == nil && m.Bundle:
				return errStop // the node starts anew with its own keys
			case err == nil:
				complained = false
				wait = time.Second // whatever happens, not again at once
			case ctx.Err() != nil:
				return nil
			default:
				level := slog.LevelWarn
				if complained {
					level = slog.LevelDebug
				}
				n.log.Log(ctx, level, "cannot renew this node's certificate yet; trying again", "every", pace, "expires", leaf.NotAfter.Format(time.RFC3339), "err", err)
				complained, wait = true, pace
				if m.Bundle {
					wait = bundleRetry
				}
				wait += rand.N(wait / 4)
			}
		}
		if !n.restUntilDismissal(ctx, wait, leaf.Issuer, standing, views) {
			return nil
		}
	}
}

// restUntilDismissal waits, but no longer than until the issuer of this node's certificate is dismissed, where it was standing. Then all whom
// that had admitted want another: they spread over a time by their number. It returns false when ctx has ended.
func (n renewer) restUntilDismissal(ctx context.Context, wait time.Duration, issuer mesh.KeyID, standing bool, views <-chan *mesh.View) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case v := <-views:
			if standing && !n.stands(issuer) {
				standing = false
				timer.Reset(min(wait, rand.N(time.Duration(1+v.Len())*20*time.Millisecond)))
			}
		}
	}
}

func (n renewer) renew(ctx context.Context, m *enrol.Membership) error {
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
	n.routing.nudge()
	_, leaf, _, err := renewed.Leaf()
	if err != nil {
		return err
	}
	n.log.Info("renewed this node's certificate", "until", leaf.NotAfter.Format(time.RFC3339))
	if err := n.router.Readdress(leaf.Addrs, overlayPrefixes(n.root.Network, leaf.Addrs)); err != nil {
		n.log.Warn("the renewed certificate has other addresses, and this machine could not take them", "err", err)
	}
	n.names.nudge()
	return nil
}

// stands reports whether an issuer still has its right, as far as is known. A certificate by one that has been dismissed is exchanged
// at once: it counts only because a revocation list says so.
func (n renewer) stands(issuer mesh.KeyID) bool {
	if _, ok := n.dir.View().Me(); !ok {
		return true // the directory has not taken in what this node starts with
	}
	return slices.ContainsFunc(n.dir.Issuers(), func(i *pki.Issuer) bool { return i.KeyID == issuer })
}

// issuersToAsk lists the issuers: this node itself first, then those that are connected, then the others.
func (n renewer) issuersToAsk() []*mesh.Member {
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
func (n renewer) sendEnrol(ctx context.Context, to mesh.NodeID, f *wire.EnrolFrame) (*wire.EnrolResponse, error) {
	m := n.membership.Load()
	if to == m.ID() {
		return n.enrol.Handle(ctx, noAddr, true, f), nil
	}
	if _, err := n.dir.Judge(m.Chain, n.dir.Now()); err != nil {
		return enrol.SendAsStranger(n.base.host.OpenEnrol, n.peers)(ctx, to, f)
	}
	return n.control.SendEnrol(ctx, to, f)
}

func (n renewer) peers() []*mesh.Member { return slices.Collect(n.dir.View().Peers()) }
